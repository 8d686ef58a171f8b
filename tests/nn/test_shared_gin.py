import numpy as np
import pytest
import torch
from torch import nn

from lightning_nas.nn.gin import GINEncoder
from lightning_nas.nn.shared_gin import FrozenGIN, GINShape, RunParameters, gin, share_vertices

R, N, V, K, H, L, D = 3, 6, 5, 3, 16, 3, 4
SEEDS = torch.tensor([0.11, 0.52, 0.93], dtype=torch.float64)


def random_graphs(groups=R, seed=0, symmetric=False):
    """Few labels and arcs, so that many vertices look alike; the last vertex of some graphs is padding."""
    rng = np.random.default_rng(seed)
    labels = torch.from_numpy(rng.integers(1, K + 1, (groups, N, V)))
    adjacency = torch.from_numpy(rng.random((groups, N, V, V)) < 0.4).triu(1)
    labels[:, ::2, -1] = 0
    adjacency[:, ::2, :, -1] = False
    return labels, adjacency | adjacency.mT if symmetric else adjacency


def plain(parameters, run):
    """The network of one run in torch modules, as float64, with its head."""
    encoder, head = GINEncoder(K, H, L), nn.Linear(H, D)
    *layers, weight, bias = (p[run].detach().double() for p in parameters)
    with torch.no_grad():
        for number, (layer, norm) in enumerate(zip(encoder.convolutions, encoder.norms, strict=True)):
            eps, first, scale1, shift1, second, scale2, shift2 = layers[7 * number : 7 * number + 7]
            layer.eps.data = eps[0].clone()
            layer.nn[0].weight.data, layer.nn[0].bias.data = first.T.clone(), torch.zeros(H).double()
            layer.nn[1].weight.data, layer.nn[1].bias.data = scale1[0].clone(), shift1[0].clone()
            layer.nn[3].weight.data, layer.nn[3].bias.data = second.T.clone(), torch.zeros(H).double()
            norm.weight.data, norm.bias.data = scale2[0].clone(), shift2[0].clone()
        head.weight.data, head.bias.data = weight.T.clone(), bias[0].clone()
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.momentum = None
            module.double().reset_running_stats()
    return encoder, head


def forward(encoder, head, labels, adjacency):
    one_hot = nn.functional.one_hot(labels, K + 1)[..., 1:].double()
    return head(encoder(one_hot, adjacency.double())).mean(dim=1)


@pytest.fixture
def parameters():
    """Not the first values, whose eps, scales and shifts are all 0 or 1."""
    rng = torch.Generator().manual_seed(1)
    parts = [p + 0.2 * torch.rand(p.shape, generator=rng) for p in GINShape(K, H, L, D).initial(SEEDS)]
    return [p.double() for p in parts]


@pytest.mark.parametrize("dense", [0, 10**6])
@pytest.mark.parametrize("symmetric", [False, True])
def test_equals_the_plain_network(parameters, monkeypatch, symmetric, dense):
    labels, adjacency = random_graphs(symmetric=symmetric)
    counted = torch.ones(R, N, dtype=torch.bool)
    counted[0, 2:4] = counted[2, 0] = False
    leaves = [p.clone().requires_grad_() for p in parameters]
    graphs = share_vertices(
        torch.where(counted[..., None], labels, 0), adjacency & counted[..., None, None], counted, L, K + 1
    )
    vertices = V * counted.sum(dim=1, keepdim=True).double()
    shares = [(share * vertices).round() / vertices for share in graphs.shares]
    graphs = graphs._replace(weights=[w.double() for w in graphs.weights], shares=shares)
    monkeypatch.setattr("lightning_nas.nn.shared_gin._DENSE", dense)
    statistics = []
    found = gin(leaves, graphs, statistics)
    push = torch.from_numpy(np.random.default_rng(5).normal(size=(R, N, D))) * counted[..., None]
    gradients = torch.autograd.grad((found * push).sum(), leaves)
    for run in range(R):
        encoder, head = plain(parameters, run)
        rows = counted[run]
        expected = forward(encoder, head, labels[run, rows], adjacency[run, rows])
        np.testing.assert_allclose(found[run, rows].detach(), expected.detach(), rtol=1e-6, atol=1e-7)
        (expected * push[run, rows]).sum().backward()
        theirs = []
        for layer, norm in zip(encoder.convolutions, encoder.norms, strict=True):
            theirs += [layer.eps.grad, layer.nn[0].weight.grad.T, layer.nn[1].weight.grad, layer.nn[1].bias.grad]
            theirs += [layer.nn[3].weight.grad.T, norm.weight.grad, norm.bias.grad]
        theirs += [head.weight.grad.T, head.bias.grad]
        for mine, other in zip(gradients, theirs, strict=True):
            np.testing.assert_allclose(mine[run].squeeze(), other.squeeze(), rtol=1e-5, atol=1e-7)
        norms = [
            m for layer, norm in zip(encoder.convolutions, encoder.norms, strict=True) for m in (layer.nn[1], norm)
        ]
        for (mean, variance), norm in zip(statistics, norms, strict=True):
            size = rows.sum() * V
            np.testing.assert_allclose(mean[run, 0], norm.running_mean, rtol=1e-5, atol=1e-7)
            np.testing.assert_allclose(variance[run, 0], norm.running_var * (size - 1) / size, rtol=1e-5, atol=1e-7)


def test_frozen_networks_on_other_graphs(parameters):
    parameters = [p.float() for p in parameters]
    everything = torch.ones(R, N, dtype=torch.bool)
    labels, adjacency = random_graphs()
    statistics = []
    gin(parameters, share_vertices(labels, adjacency, everything, L, K + 1), statistics)
    frozen = FrozenGIN(parameters, statistics)
    others = random_graphs(1, seed=7)
    shared = frozen.embed(share_vertices(*others, everything[:1], L, K + 1))
    apart = frozen.embed(share_vertices(*(part.expand(R, *part.shape[1:]) for part in others), everything, L, K + 1))
    assert torch.equal(shared, apart)
    for run in range(R):
        encoder, head = plain(parameters, run)
        forward(encoder, head, labels[run], adjacency[run])
        for module in encoder.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.running_var *= (N * V - 1) / (N * V)  # statistics of these vertices, not an estimate from them
        expected = forward(encoder.eval(), head, others[0][0], others[1][0])
        np.testing.assert_allclose(shared[run], expected.detach(), rtol=1e-4, atol=1e-5)


def test_vertices_are_merged_when_they_know_the_same():
    labels, adjacency = random_graphs()
    graphs = share_vertices(labels, adjacency, torch.ones(R, N, dtype=torch.bool), L, K + 1)
    for run in range(R):
        known = labels[run].tolist()  # what every vertex knows, as nested tuples
        for layer in range(L):
            known = [
                [
                    (known[n][v], tuple(sorted(known[n][u] for u in adjacency[run, n, v].nonzero()[:, 0].tolist())))
                    for v in range(V)
                ]
                for n in range(N)
            ]
            assert graphs.sizes[run, layer] == len({value for row in known for value in row})
        pairs = {
            (v, c) for a, b in zip(known, graphs.vertices[run].tolist(), strict=True) for v, c in zip(a, b, strict=True)
        }
        assert len(pairs) == graphs.sizes[run, -1]
        np.testing.assert_allclose(graphs.shares[-1][run].sum(), 1.0, rtol=1e-6)


def test_colours_of_the_whole_space(cells):
    ops, adjacency = cells.all_graphs()
    graphs = share_vertices(ops[None] + 1, adjacency[None], torch.ones(1, len(ops), dtype=torch.bool), 4, 8)
    assert graphs.sizes[0, -1] <= 16281
    assert graphs.vertices.shape == (1, 15625, 8)


def test_parts_and_fillers_change_nothing(parameters):
    labels, adjacency = random_graphs()
    graphs = share_vertices(labels, adjacency, torch.ones(R, N, dtype=torch.bool), L, K + 1)
    parameters = [p.float() for p in parameters]
    whole = gin(parameters, graphs)
    for run in range(R):
        for extra in (0, 9):
            sizes = [size + extra for size in graphs.sizes[run].tolist()]
            one = gin([p[run : run + 1] for p in parameters], graphs.part(torch.tensor([run]), sizes))
            np.testing.assert_allclose(one[0], whole[run], rtol=1e-4, atol=1e-5)


def test_steps_equal_adam():
    rng = torch.Generator().manual_seed(2)
    parts = [torch.randn(R, 5, 7, generator=rng), torch.randn(R, 1, 1, generator=rng)]
    mine = RunParameters(parts)
    theirs = [p.clone().requires_grad_() for p in parts]
    optimizer = torch.optim.Adam(theirs, lr=0.02)
    for _ in range(6):
        gradients = [torch.randn(p.shape, generator=rng) for p in parts]
        for leaf, gradient in zip(theirs, gradients, strict=True):
            leaf.grad = gradient
        optimizer.step()
        mine.step(gradients, 0.02)
    for one, other in zip(mine.leaves(), theirs, strict=True):
        np.testing.assert_allclose(one.detach(), other.detach(), rtol=1e-5, atol=1e-6)
    some = torch.tensor([2, 0])
    taken = mine.rows(some)
    before = mine.values.clone()
    taken.step([g[some] for g in gradients], 0.02)
    assert torch.equal(mine.values, before)
    mine.put(some, taken)
    assert torch.equal(mine.values[some], taken.values)
    assert torch.equal(mine.values[1], before[1])
    assert taken.steps.tolist() == [7, 7]


def test_first_values():
    shape = GINShape(K, 64, 2, D)
    parts = shape.initial(SEEDS)
    assert [tuple(p.shape[1:]) for p in parts] == shape.shapes
    eps, first, scale, shift, second, *_ = parts
    assert (eps == 0).all()
    assert (scale == 1).all()
    assert (shift == 0).all()
    for values, inputs in ((first, K), (second, 64), (parts[-2], 64), (parts[-1], 64)):
        assert values.abs().max() <= inputs**-0.5
    np.testing.assert_allclose(second.std(dim=(1, 2)), (3 * 64) ** -0.5, rtol=0.05)
    assert torch.equal(shape.initial(SEEDS.flip(0))[1], first.flip(0))
