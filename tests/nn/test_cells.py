import networkx as nx
import pytest
import torch

from lightning_nas.nn.cells import EDGES, NASBench201Cell, StagedNetwork

MIXED = ["nor_conv_3x3", "skip_connect", "avg_pool_3x3", "nor_conv_1x1", "none", "nor_conv_3x3"]


def test_edges_are_those_of_a_complete_graph_in_the_order_of_the_string():
    assert sorted(EDGES, key=lambda edge: edge[::-1]) == list(EDGES)
    assert set(EDGES) == set(nx.DiGraph((i, j) for j in range(4) for i in range(j)).edges)


@pytest.mark.parametrize("operations", [MIXED, ["skip_connect"] * 6, ["none"] * 6])
def test_the_output_is_the_sum_over_all_paths_of_the_graph(operations):
    cell = NASBench201Cell(operations, 4).eval()
    graph = nx.DiGraph()
    for (tail, head), operation in zip(EDGES, cell.edges, strict=True):
        graph.add_edge(tail, head, apply=operation)
    x = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    values = {0: x}
    for node in list(nx.topological_sort(graph))[1:]:
        values[node] = sum(data["apply"](values[tail]) for tail, _, data in graph.in_edges(node, data=True))
    torch.testing.assert_close(cell(x), values[3])


def test_skip_connections_alone_count_paths():
    x = torch.ones(1, 2, 3, 3)
    paths = nx.DiGraph(EDGES)
    number = len(list(nx.all_simple_paths(paths, 0, 3)))
    assert torch.equal(NASBench201Cell(["skip_connect"] * 6, 2)(x), number * x)


def test_stages_double_the_width_and_halve_the_image():
    widths = []

    def make_cell(channels):
        widths.append(channels)
        return torch.nn.Identity()

    network = StagedNetwork(make_cell, channels=8, cells_per_stage=2, num_stages=3, num_classes=5, in_channels=1)
    assert widths == [8, 8, 16, 16, 32, 32]
    assert network.cells(network.stem(torch.zeros(2, 1, 16, 16))).shape == (2, 32, 4, 4)
    assert network(torch.zeros(2, 1, 16, 16)).shape == (2, 5)


def test_gradients_reach_every_weight():
    network = StagedNetwork(lambda c: NASBench201Cell(MIXED, c), channels=4, cells_per_stage=1, num_stages=2)
    network(torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
