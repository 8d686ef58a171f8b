from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_nas.benchmarks.store import ResultStore
from lightning_nas.errors import SpaceError
from lightning_nas.export import export_python
from lightning_nas.modules.classifier import ImageClassifier
from lightning_nas.nn.complexity import count_parameters
from lightning_nas.nn.nasbench101 import ConvBNReLU, NASBench101Cell, NASBench101Network, vertex_channels
from lightning_nas.nn.side_by_side import SideBySide
from lightning_nas.spaces.nasbench101 import NASBench101
from tests.benchmarks.stripes import RECIPE, make
from tests.nn.test_source import images, rebuilt, warm

SPACE = NASBench101()
INDICES = st.integers(0, len(SPACE) - 1)
MIXED = "conv3x3(0)+maxpool3x3(0,1)+conv1x1(1,2)+output(0,1,3)"


def wiring(cell):
    """Matrix and operations of a cell of the space."""
    ops, adjacency = SPACE.graph(cell)
    size = int((ops >= 0).sum())
    return adjacency[:size, :size].long().numpy(), [SPACE.vertex_labels[op] for op in ops[1 : size - 1]]


def expected_widths(matrix, channels_in, channels_out):
    """The rule by matrices: shares of the output first, then the widest successor until nothing changes."""
    joined = matrix[1:-1, -1]
    shares = joined * (channels_out // max(joined.sum(), 1))
    shares += joined * (np.cumsum(joined) <= channels_out % max(joined.sum(), 1))
    widths = np.array([channels_in, *shares, channels_out])
    for _ in matrix:
        widest = (matrix[:, :-1] * widths[:-1]).max(axis=1)
        widths[1:-1] = np.where(joined, widths[1:-1], widest[1:-1])
    return widths


def expected_parameters(cell, channels, cells_per_stage, num_stages, num_classes, in_channels):
    matrix, operations = wiring(cell)
    total, before = channels * (9 * in_channels + 2), channels
    for block in range(cells_per_stage * num_stages):
        width = channels << block // cells_per_stage
        widths = expected_widths(matrix, before, width)
        total += int((matrix[0] * (before * widths + 2 * widths)).sum())
        kernels = np.array([{"conv1x1-bn-relu": 1, "conv3x3-bn-relu": 9}.get(name, 0) for name in operations])
        inner = widths[1:-1]
        total += int((kernels * inner**2 + 2 * (kernels > 0) * inner).sum())
        before = width
    return total + (before + 1) * num_classes


@settings(max_examples=25)
@given(INDICES, st.integers(6, 40))
def test_number_of_parameters(index, channels):
    sizes = (channels, 2, 2, 10, 3)
    assert count_parameters(SPACE.build(SPACE[index], *sizes)) == expected_parameters(SPACE[index], *sizes)


@settings(max_examples=50)
@given(INDICES, st.integers(6, 130))
def test_widths(index, channels):
    matrix, _ = wiring(SPACE[index])
    widths = vertex_channels(matrix.tolist(), 16, channels)
    assert widths == expected_widths(matrix, 16, channels).tolist()
    joined = [v for v in range(1, len(matrix) - 1) if matrix[v, -1]]
    assert sum(widths[v] for v in joined) == (channels if joined else 0)
    for u, v in np.argwhere(matrix[1:-1, 1:-1]) + 1:
        assert widths[u] >= widths[v] > 0


def test_widths_by_hand():
    # 1 -> 2 -> 4, 3 -> 4: the output of 7 channels joins 2 and 3, and 1 is as wide as 2.
    matrix = [[0, 1, 0, 1, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]]
    assert vertex_channels(matrix, 3, 7) == [3, 4, 4, 3, 7]
    assert vertex_channels([[0, 1], [0, 0]], 3, 7) == [3, 7]
    with pytest.raises(SpaceError, match="concatenates 2 vertices to 1 channels"):
        vertex_channels(matrix, 3, 1)


@settings(max_examples=25)
@given(INDICES)
def test_the_cell_computes_its_graph(index):
    """Vertex by vertex, backwards from the output, with each width taken where it is needed."""
    matrix, operations = wiring(SPACE[index])
    torch.manual_seed(0)
    cell = NASBench101Cell(matrix.tolist(), operations, 3, 7).eval()
    x, last = torch.randn(2, 3, 5, 5), len(matrix) - 1
    widths = expected_widths(matrix, 3, 7)
    projections = dict(zip(np.flatnonzero(matrix[0]).tolist(), cell.projections, strict=True))

    def value(vertex):
        heard = [value(u) for u in range(1, vertex) if matrix[u, vertex]]
        if vertex == last:
            total = torch.cat(heard, dim=1) if heard else 0
        else:
            total = sum(message[:, : widths[vertex]] for message in heard)
        if vertex in projections:
            total = total + projections[vertex](x)
        return total if vertex == last else cell.operations[vertex - 1](total)

    torch.testing.assert_close(cell(x), value(last))


def test_blocks_are_the_benchmarks():
    convolution, norm, activation = ConvBNReLU(4, 6, 3)
    assert (convolution.bias, norm.momentum, norm.eps) == (None, 0.1, 1e-5)
    assert isinstance(activation, nn.ReLU)
    spread = ConvBNReLU(100, 100, 3)[0].weight.detach().std()
    assert spread == pytest.approx((9 * 100) ** -0.5, rel=0.05)


def test_momentum_of_the_running_statistics():
    network = SPACE.build(SPACE.parse(MIXED), 6, 1, 2, bn_momentum=0.003)
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert {norm.momentum for norm in norms} == {0.003}
    assert len(norms) == 1 + 2 * (2 + 3)  # the stem, then of each cell two convolutions and three projections


def test_stages_double_the_width_and_halve_the_image():
    shapes = []
    network = NASBench101Network([[0, 1, 0], [0, 0, 1], [0, 0, 0]], ["maxpool3x3"], 8, 2, 3, 5, 1).eval()
    for block in network.cells:
        block.register_forward_hook(lambda module, given, out: shapes.append((type(module).__name__, *out.shape[1:3])))
    assert network(torch.zeros(2, 1, 17, 17)).shape == (2, 5)
    cell = "NASBench101Cell"
    assert shapes == [
        (cell, 8, 17), (cell, 8, 17), ("MaxPool2d", 8, 9), (cell, 16, 9), (cell, 16, 9), ("MaxPool2d", 16, 5),
        (cell, 32, 5), (cell, 32, 5),
    ]  # fmt: skip


@settings(max_examples=10)
@given(INDICES)
def test_gradients_reach_every_weight(index):
    torch.manual_seed(0)
    network = SPACE.build(SPACE[index], channels=12, cells_per_stage=1, num_stages=2)
    network(torch.randn(8, 3, 8, 8)).square().sum().backward()
    assert all(weight.grad is not None for weight in network.parameters())


@pytest.mark.parametrize("cell", [MIXED, "output(0)", "conv1x1(0)+conv3x3(1)+conv1x1(0)+output(1,2,3)"])
def test_source(cell):
    torch.manual_seed(0)
    network = SPACE.build(SPACE.parse(cell), channels=6, cells_per_stage=2, num_stages=2, in_channels=1)
    written = rebuilt(warm(network, 16, 1, 8, 8), 20 * images(3, 1, 8, 8))  # deep, and its statistics still new
    assert written.weights.keys() == network.state_dict().keys()
    assert max(map(len, written.classes.splitlines())) <= 120


def test_export(tmp_path):
    torch.manual_seed(0)
    module = ImageClassifier(SPACE, MIXED, 3, (1, 6, 6), channels=6, cells_per_stage=1, num_stages=2)
    assert export_python(module, tmp_path).difference == 0.0
    assert f"nasbench101: {MIXED}" in (tmp_path / "network.py").read_text()


@pytest.mark.parametrize(("cell", "merged"), [("conv3x3(0)+maxpool3x3(1)+output(0,2)", True), (MIXED, False)])
def test_side_by_side_where_channels_stay_apart(cell, merged):
    """Networks whose cells concatenate or cut are called one after the other."""
    torch.manual_seed(0)
    networks = [SPACE.build(SPACE.parse(cell), 6, 1, 2, 4, 1) for _ in range(2)]
    twins = SideBySide(networks, (1, 8, 8)).eval()
    x = torch.randn(2, 5, 1, 8, 8)
    assert twins.merged == merged
    expected = torch.stack([network.eval()(images) for network, images in zip(networks, x, strict=True)])
    torch.testing.assert_close(twins(x), expected, rtol=1e-3, atol=1e-4)


def test_live_training(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))  # for its workers
    bench = make(tmp_path, SPACE, recipe=replace(RECIPE, epochs=4), channels=6, num_seeds=2)
    try:
        scores = bench.evaluate([SPACE.parse(MIXED), SPACE[0]])
    finally:
        bench.close()
    assert scores.valid[0] > 50  # a quarter is chance, which frozen statistics would leave it at after 48 batches
    assert scores.valid.isfinite().all()
    rows = ResultStore(bench.path).rows()
    assert {row.key.architecture for row in rows} == {MIXED, "output(0)"}
    assert not [row.error for row in rows if row.error]
