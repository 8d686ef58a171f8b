from itertools import combinations, product

import networkx as nx
import pytest
import torch

from lightning_nas.metrics import validity_and_uniqueness
from lightning_nas.spaces.base import CellGraph
from tests.nn.test_isomorphism import MATCH, as_networkx, batch


class Chosen:
    """A space whose members are told by a mask."""

    def __init__(self, valid):
        self.is_valid = lambda graphs: valid


def uniqueness(graphs, valid):
    return validity_and_uniqueness(Chosen(valid), graphs)["uniqueness"]


def validity(space, graphs):
    return validity_and_uniqueness(space, graphs)["validity"]


def test_uniqueness_by_hand():
    path, fork = ([0, 1, 2], [(0, 1), (1, 2)]), ([0, 1, 1], [(0, 1), (0, 2)])
    twin = ([0, 1, 1], [(0, 2), (0, 1)])
    graphs = batch([path, path, fork, twin, ([5, 5, 5], [])])
    everything = torch.ones(5, dtype=torch.bool)
    assert uniqueness(graphs, everything) == pytest.approx(3 / 5)
    assert uniqueness(graphs, torch.tensor([True, True, True, True, False])) == pytest.approx(2 / 4)
    assert uniqueness(graphs, torch.tensor([False, True, True, False, True])) == 1
    assert uniqueness(graphs, ~everything) == 0


def test_validity_by_hand(cells):
    archs = [cells[i] for i in range(4)]
    ops, adjacency = (torch.stack(parts) for parts in zip(*(cells.graph(a) for a in archs), strict=True))
    assert validity(cells, CellGraph(ops, adjacency)) == 1
    ops, adjacency = ops.clone(), adjacency.clone()
    ops[1, 0] = 3  # no input
    adjacency[2, 0, 1] = False  # another wiring
    ops[3, 4] = 6  # an output in the middle
    assert validity(cells, CellGraph(ops, adjacency)) == pytest.approx(1 / 4)
    assert validity(cells, CellGraph(ops[1:], adjacency[1:])) == 0


def test_all_small_graphs_are_counted_right():
    # All labelled DAGs on 3 vertices with 2 labels: classes counted by networkx.
    graphs = [
        (labels, arcs)
        for labels in product(range(2), repeat=3)
        for k in range(4)
        for arcs in combinations([(0, 1), (0, 2), (1, 2)], k)
    ]
    classes = []
    for graph in graphs:
        network = as_networkx(*graph)
        if not any(nx.is_isomorphic(network, other, MATCH) for other in classes):
            classes.append(network)
    everything = torch.ones(len(graphs), dtype=torch.bool)
    assert uniqueness(batch(graphs), everything) == pytest.approx(len(classes) / len(graphs))
