import itertools

import networkx as nx
import numpy as np
import pytest
import torch
from torch import nn

from lightning_nas.nn.auxiliary import HasAuxiliary
from lightning_nas.nn.complexity import count_flops, count_parameters
from lightning_nas.nn.darts import (
    OPERATIONS,
    FactorizedReduce,
    GenotypeCell,
    GenotypeNetwork,
    flops_by_operation,
    in_stages,
    in_thirds,
    make_operation,
)
from lightning_nas.nn.drop_path import DropPath, set_drop_path
from lightning_nas.nn.side_by_side import SideBySide
from lightning_nas.nn.source import network_source

# The cells of "DARTS, second order" and of arch2vec's two searches, (operation, predecessor).
DARTS_V2 = (
    [
        ("sep_conv_3x3", 0), ("sep_conv_3x3", 1), ("sep_conv_3x3", 0), ("sep_conv_3x3", 1),
        ("sep_conv_3x3", 1), ("skip_connect", 0), ("skip_connect", 0), ("dil_conv_3x3", 2),
    ],
    [
        ("max_pool_3x3", 0), ("max_pool_3x3", 1), ("skip_connect", 2), ("max_pool_3x3", 1),
        ("max_pool_3x3", 0), ("skip_connect", 2), ("skip_connect", 2), ("max_pool_3x3", 1),
    ],
)  # fmt: skip
ARCH2VEC_RL = (
    [
        ("sep_conv_3x3", 0), ("dil_conv_3x3", 1), ("max_pool_3x3", 0), ("dil_conv_3x3", 1),
        ("skip_connect", 0), ("sep_conv_3x3", 1), ("dil_conv_5x5", 1), ("sep_conv_3x3", 0),
    ],
) * 2  # fmt: skip
ARCH2VEC_BO = (
    [
        ("sep_conv_5x5", 1), ("max_pool_3x3", 0), ("skip_connect", 0), ("dil_conv_3x3", 1),
        ("sep_conv_5x5", 1), ("sep_conv_3x3", 0), ("dil_conv_5x5", 2), ("sep_conv_3x3", 0),
    ],
) * 2  # fmt: skip


def random_cell(rng, operations=OPERATIONS):
    cell = []
    for block in range(4):
        sources = rng.choice(2 + block, 2, replace=False)
        cell += [(str(rng.choice(operations)), int(source)) for source in sources]
    return cell


def images(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("genotype", "cifar", "imagenet"),
    [
        (DARTS_V2, 3_349_342, 4.7),  # the published network's weights without auxiliary head, and millions on ImageNet
        (ARCH2VEC_RL, 3_298_150, 4.8),
        (ARCH2VEC_BO, 3_616_966, 5.2),
    ],
)
def test_weights_of_published_networks(genotype, cifar, imagenet):
    assert count_parameters(GenotypeNetwork(*genotype, in_thirds(20))) == cifar
    network = GenotypeNetwork(*genotype, in_thirds(14), 48, 1000, stem="imagenet")
    assert count_parameters(network) / 1e6 == pytest.approx(imagenet, abs=0.05)


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
@pytest.mark.parametrize("seed", range(3))
def test_counted_multiply_adds_are_those_of_the_network(stem, seed):
    rng = np.random.default_rng(seed)
    normal, reduction = random_cell(rng), random_cell(rng)
    arguments = {"channels": 6, "num_classes": 7, "stem": stem}
    network = GenotypeNetwork(normal, reduction, in_thirds(5), in_channels=2, **arguments).eval()
    shape = (2, 24, 40) if stem == "cifar" else (2, 88, 72)  # of 11 x 9 behind the stem: odd sides, too
    shared, costs = flops_by_operation(in_thirds(5), image_shape=shape, **arguments)
    expected = shared + sum(
        int(costs[kind, OPERATIONS.index(name), int(source < 2)])
        for kind, cell in enumerate((normal, reduction)) for name, source in cell
    )  # fmt: skip
    assert expected == count_flops(network, shape)

    normalised = []
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda _, __, output: normalised.append(output[0].numel()))
    network(images(1, *shape))
    more_shared, more = flops_by_operation(in_thirds(5), image_shape=shape, per_normalised=2, **arguments)
    extra = sum(
        int((more - costs)[kind, OPERATIONS.index(name), int(source < 2)])
        for kind, cell in enumerate((normal, reduction)) for name, source in cell
    )  # fmt: skip
    assert more_shared - shared + extra == 2 * sum(normalised)


@pytest.mark.parametrize("name", OPERATIONS[1:])
def test_operations_keep_or_halve_the_image(name):
    x = images(2, 4, 9, 6)
    assert make_operation(name, 4)(x).shape == x.shape
    assert make_operation(name, 4, stride=2)(x).shape == (2, 4, 5, 3)


def positive(operation):
    """With weights that no ReLU stops."""
    with torch.no_grad():
        for weight in operation.parameters():
            weight.abs_()
    return operation.eval()


@pytest.mark.parametrize(("name", "reach"), [("sep_conv_3x3", 2), ("sep_conv_5x5", 4), ("dil_conv_5x5", 4)])
def test_receptive_fields(name, reach):
    operation = positive(make_operation(name, 2))
    x = images(1, 2, 15, 15).abs().requires_grad_()
    operation(x)[0, :, 7, 7].sum().backward()
    rows = x.grad[0].abs().sum(dim=(0, 2)).nonzero().flatten()
    assert (rows.min(), rows.max()) == (7 - reach, 7 + reach)


def test_dilated_convolutions_skip_pixels():
    x = images(1, 2, 15, 15).abs().requires_grad_()
    positive(make_operation("dil_conv_3x3", 2))(x)[0, :, 7, 7].sum().backward()
    assert x.grad[0].abs().sum(dim=(0, 2)).nonzero().flatten().tolist() == [5, 7, 9]


def test_average_pooling_does_not_count_the_border():
    assert make_operation("avg_pool_3x3", 1)(torch.ones(1, 1, 4, 4)).unique().item() == pytest.approx(1)


@pytest.mark.parametrize("side", [6, 7])
def test_factorized_reduction_reads_the_even_pixels_and_the_odd_ones(side):
    reduce = FactorizedReduce(1, 2).eval()
    nn.init.ones_(reduce.straight.weight)
    nn.init.ones_(reduce.shifted.weight)
    x = torch.arange(1.0, 1 + side**2).view(1, 1, side, side)
    even, odd = reduce(x)[0] / torch.rsqrt(torch.tensor(1 + reduce.normalisation.eps))
    torch.testing.assert_close(even, x[0, 0, ::2, ::2])
    expected = torch.zeros_like(even)
    expected[: side // 2, : side // 2] = x[0, 0, 1::2, 1::2]
    torch.testing.assert_close(odd, expected)


@pytest.mark.parametrize("reduction", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_a_cell_computes_what_its_graph_says(reduction, seed):
    edges = random_cell(np.random.default_rng(seed))
    torch.manual_seed(seed)
    cell = GenotypeCell(edges, (5, 3), 4, reduction, older_is_larger=True).eval()
    older, newer = images(2, 5, 12, 12), images(2, 3, 6, 6)
    values = {0: cell.older(older), 1: cell.newer(newer)}
    graph = nx.MultiDiGraph((source, 2 + number // 2, {"edge": number}) for number, (_, source) in enumerate(edges))
    for block in sorted(nx.topological_sort(graph))[2:]:
        values[block] = sum(
            0.0 if edges[data["edge"]][0] == "none" else cell.edges[data["edge"]](values[source])
            for source, _, data in graph.in_edges(block, data=True)
        )
    if all(isinstance(values[block], torch.Tensor) for block in range(2, 6)):
        torch.testing.assert_close(cell(older, newer), torch.cat([values[block] for block in range(2, 6)], dim=1))
    assert cell(older, newer).shape == ((2, 16, 3, 3) if reduction else (2, 16, 6, 6))


@pytest.mark.parametrize("reduction", [False, True])
def test_blocks_of_nothing_are_zero(reduction):
    edges = [("none", 0), ("none", 1), ("max_pool_3x3", 0), ("none", 2)] + [("none", 2), ("skip_connect", 3)] * 2
    output = GenotypeCell(edges, (2, 2), 2, reduction, older_is_larger=False).eval()(*[images(2, 2, 7, 7)] * 2)
    assert output.shape == ((2, 8, 4, 4) if reduction else (2, 8, 7, 7))
    assert not output[:, :2].any()
    assert torch.equal(output[:, 2:4], output[:, 4:6])
    assert output[:, 2:4].any()


def test_reductions_double_the_width_and_halve_the_image():
    network = GenotypeNetwork(*DARTS_V2, in_thirds(8), channels=4, num_classes=5, in_channels=1)
    shapes = [tuple(output.shape[1:]) for output in network._features(images(2, 1, 16, 16))]
    assert shapes == [(16, 16, 16)] * 2 + [(32, 8, 8)] * 3 + [(64, 4, 4)] * 3
    assert network(images(2, 1, 16, 16)).shape == (2, 5)


def test_the_stem_of_imagenet_takes_an_eighth():
    network = GenotypeNetwork(*DARTS_V2, in_thirds(3), channels=4, num_classes=5, stem="imagenet").eval()
    first = network.stem(images(1, 3, 64, 64))
    assert first.shape == (1, 4, 16, 16)
    assert network.second_stem(first).shape == (1, 4, 8, 8)
    assert network(images(1, 3, 64, 64)).shape == (1, 5)


def test_places_of_reductions():
    for cells, stages in itertools.product((0, 1, 4, 6), (1, 2, 3, 4)):
        places = in_stages(cells, stages)
        assert (len(places), sum(places)) == (cells * stages + stages - 1, stages - 1)
        assert stages != 3 or places == in_thirds(len(places))


def test_the_auxiliary_head_is_behind_two_thirds():
    torch.manual_seed(0)
    with_head = GenotypeNetwork(*DARTS_V2, in_thirds(6), channels=4, auxiliary=True).eval()
    torch.manual_seed(0)
    without = GenotypeNetwork(*DARTS_V2, in_thirds(6), channels=4).eval()
    assert isinstance(with_head, HasAuxiliary)
    x = images(3, 3, 16, 16)
    scores, auxiliary = with_head.with_auxiliary(x)
    assert torch.equal(scores, without(x))
    assert torch.equal(auxiliary, with_head.auxiliary(without._features(x)[4]))
    assert with_head.branch_off == 4
    assert auxiliary.shape == (3, 10)


def test_paths_are_dropped_but_for_identities():
    edges = [("skip_connect", 0), ("skip_connect", 1), ("avg_pool_3x3", 0), ("sep_conv_3x3", 1)] * 2
    cell = GenotypeCell(edges, (2, 2), 2, False, older_is_larger=False)
    assert len([module for module in cell.modules() if isinstance(module, DropPath)]) == 1
    set_drop_path(cell, 0.999999)
    output = cell(*[images(2, 2, 6, 6)] * 2)
    assert output[:, :2].any()
    assert not output[:, 2:4].any()


def test_gradients_reach_every_weight():
    network = GenotypeNetwork(*DARTS_V2, in_thirds(3), channels=4)
    network(images(4, 3, 8, 8)).square().sum().backward()
    assert all(weight.grad is not None for weight in network.cells.parameters())


NOTHING = [("none", 0), ("none", 1), ("max_pool_3x3", 0), ("dil_conv_5x5", 2), *DARTS_V2[0][4:]]


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_seeds_side_by_side_compute_what_they_compute_alone(stem):
    networks = [GenotypeNetwork(NOTHING, DARTS_V2[1], in_thirds(3), 4, 3, 1, stem=stem) for _ in range(2)]
    twins = SideBySide(networks, (1, 16, 16)).eval()
    x = images(2, 5, 1, 16, 16)
    alone = torch.stack([network.eval()(one) for network, one in zip(networks, x, strict=True)])
    torch.testing.assert_close(twins(x), alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_as_python_source(stem):
    network = GenotypeNetwork(NOTHING, DARTS_V2[1], in_thirds(3), 4, 3, 1, stem=stem).eval()
    source = network_source(network)
    scope = {"torch": torch, "nn": nn}
    exec(f"{source.imports}\n{source.classes}\nnetwork = {source.constructor}", scope)
    scope["network"].load_state_dict(source.weights)
    x = images(3, 1, 16, 16)
    assert torch.equal(scope["network"].eval()(x), network(x))
