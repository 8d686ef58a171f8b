import copy

import numpy as np
import pytest
import torch

from lightning_nas.nn.gin import GINEncoder, VertexBatchNorm, refine


def oracle(encoder, features, adjacency):
    """Vertex by vertex, neighbour by neighbour, in float64, with running statistics."""

    def norm(x, layer):
        mean, var = layer.running_mean.double().numpy(), layer.running_var.double().numpy()
        return (x - mean) / np.sqrt(var + layer.eps) * array(layer.weight) + array(layer.bias)

    def array(parameter):
        return parameter.detach().double().numpy()

    hidden = features.double().numpy()
    for convolution, outer in zip(encoder.convolutions, encoder.norms, strict=True):
        first, inner, _, second = convolution.nn
        result = np.zeros((*hidden.shape[:2], len(array(second.bias))))
        for b in range(len(hidden)):
            for v in range(hidden.shape[1]):
                heard = (1 + float(convolution.eps)) * hidden[b, v]
                for u in range(hidden.shape[1]):
                    heard = heard + float(adjacency[b, v, u]) * hidden[b, u]
                x = norm(array(first.weight) @ heard + array(first.bias), inner)
                x = array(second.weight) @ np.maximum(x, 0) + array(second.bias)
                result[b, v] = np.maximum(norm(x, outer), 0)
        hidden = result
    return hidden


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(5, 6, 4, generator=generator)
    arcs = (torch.rand(5, 6, 6, generator=generator) < 0.4).triu(1).float()
    return features, arcs + arcs.mT


@pytest.mark.parametrize("num_layers", [1, 3])
def test_encoder_against_loops(batch, num_layers):
    torch.manual_seed(1)
    encoder = GINEncoder(4, hidden_dim=7, num_layers=num_layers)
    with torch.no_grad():
        for convolution in encoder.convolutions:
            convolution.eps.fill_(0.3)
        for _ in range(5):
            encoder(*batch)  # running statistics worth the name
        ours = encoder.eval()(*batch)
    assert ours.shape == (5, 6, 7)
    assert ours.std() > 0.01
    np.testing.assert_allclose(ours.numpy(), oracle(encoder, *batch), rtol=1e-3, atol=1e-5)


def test_a_vertex_hears_as_far_as_there_are_layers():
    line = torch.diag(torch.ones(5), 1)
    line = (line + line.T)[None]
    torch.manual_seed(0)
    encoder = GINEncoder(2, hidden_dim=16, num_layers=3).eval()
    features = torch.zeros(1, 6, 2, requires_grad=True)
    encoder(features + 0.1, line)[0, 0].sum().backward()
    reached = features.grad[0].abs().sum(dim=1) > 0
    assert reached.tolist() == [True] * 4 + [False] * 2


def test_batch_normalisation_runs_over_all_vertices_of_all_graphs():
    x = torch.randn(9, 6, 3, generator=torch.Generator().manual_seed(0)) * 5 + 2
    ours = VertexBatchNorm(3)(x)
    mean, std = x.numpy().reshape(-1, 3).mean(0), x.numpy().reshape(-1, 3).std(0)
    np.testing.assert_allclose(ours.detach().numpy(), (x.numpy() - mean) / std, rtol=1e-3, atol=1e-4)


def test_graphs_of_a_batch_do_not_hear_each_other(batch):
    torch.manual_seed(0)
    encoder = GINEncoder(4, hidden_dim=8, num_layers=2).eval()
    features, adjacency = batch
    torch.testing.assert_close(encoder(features, adjacency)[2:3], encoder(features[2:3], adjacency[2:3]))


def test_the_weight_of_the_own_vertex_is_learned():
    assert {f"convolutions.{i}.eps" for i in range(3)} <= {name for name, _ in GINEncoder(2, 4, 3).named_parameters()}


def parts_of(encoder, features, adjacency, size=512):
    """Of all graphs, by their distinct rows of features."""
    rows, colours = torch.unique(features.flatten(0, 1), dim=0, return_inverse=True)
    return list(encoder.chunks(colours.view(features.shape[:2]), rows, adjacency.bool(), size))


@pytest.mark.parametrize("labels", [1, 2, 50])
@pytest.mark.parametrize("num_layers", [1, 2, 4])
def test_chunks_are_the_encoder(labels, num_layers):
    """With few labels many vertices are alike for several layers; with many none are from the start."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(labels)
    features = torch.eye(labels)[torch.randint(labels, (40, 6), generator=generator)]
    arcs = (torch.rand(40, 6, 6, generator=generator) < 0.3).triu(1)
    arcs[:, :, 5] = False  # a vertex without arcs
    adjacency = (arcs | arcs.mT).float()
    encoder = GINEncoder(labels, hidden_dim=8, num_layers=num_layers)
    with torch.no_grad():
        for layer in encoder.convolutions:
            layer.eps.uniform_(-0.5, 0.5)
        for _ in range(3):
            encoder(features, adjacency)
        expected = encoder.eval()(features, adjacency)
    parts = parts_of(encoder, features, adjacency, size=16)
    assert [len(part) for part in parts] == [16, 16, 8]
    torch.testing.assert_close(torch.cat(parts), expected, rtol=1e-4, atol=1e-5)


def test_refinement_against_multisets():
    generator = torch.Generator().manual_seed(0)
    colours = torch.randint(3, (30, 5), generator=generator)
    arcs = (torch.rand(30, 5, 5, generator=generator) < 0.4).triu(1)
    linked = arcs | arcs.mT
    for _ in range(3):
        refined = refine(colours, linked)
        seen = {}
        for b in range(30):
            for v in range(5):
                what = (int(colours[b, v]), *sorted(colours[b, linked[b, v]].tolist()))
                seen.setdefault(what, set()).add(int(refined[b, v]))
        assert all(len(names) == 1 for names in seen.values())
        assert len(set.union(*seen.values())) == len(seen)
        assert set(refined.flatten().tolist()) == set(range(len(seen)))
        colours = refined


def test_a_layer_is_that_of_torch_geometric(batch):
    """So are its names: checkpoints of either load into the other."""
    from torch_geometric.nn import DenseGINConv

    torch.manual_seed(0)
    layer = GINEncoder(4, hidden_dim=7, num_layers=1).convolutions[0].eval()
    reference = DenseGINConv(copy.deepcopy(layer.nn), train_eps=True).eval()
    reference.load_state_dict(layer.state_dict())
    with torch.no_grad():
        layer.eps.fill_(0.25)
        reference.eps.fill_(0.25)
    torch.testing.assert_close(layer(*batch), reference(*batch))
