import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_nas.analysis.edit_distance import EditDistances, as_cell, edit_distance, hamming_distances
from lightning_nas.spaces.base import CellGraph
from tests.contract import TinySpace


def as_networkx(graph):
    network = nx.DiGraph()
    network.add_nodes_from((v, {"op": op}) for v, op in enumerate(graph.ops.tolist()) if op >= 0)
    network.add_edges_from(graph.adjacency.nonzero().tolist())
    return network


def exact(a, b):
    return nx.graph_edit_distance(as_networkx(a), as_networkx(b), node_match=lambda x, y: x["op"] == y["op"])


@st.composite
def graphs(draw, most=5):
    size = draw(st.integers(1, most))
    ops = draw(st.lists(st.integers(0, 2), min_size=size, max_size=size))
    arcs = draw(st.lists(st.booleans(), min_size=size * size, max_size=size * size))
    adjacency = torch.tensor(arcs).view(size, size).triu(diagonal=1)
    return CellGraph(torch.tensor(ops), adjacency)


@given(graphs(), graphs())
def test_as_networkx_finds_it(a, b):
    found = edit_distance(as_cell(a), as_cell(b))
    assert found.exact
    assert found.value == exact(a, b)
    assert edit_distance(as_cell(b), as_cell(a)) == found


def test_cells_of_a_space():
    space = TinySpace()
    rng = np.random.default_rng(0)
    left, right = torch.from_numpy(rng.integers(0, len(space), (2, 15)))
    found = EditDistances(space.all_graphs())(left, right)
    expected = [exact(space.graph(space[a]), space.graph(space[b])) for a, b in zip(left, right, strict=True)]
    assert found.values.tolist() == expected
    assert found.exact.all()


def test_padding_is_no_vertex():
    small = CellGraph(torch.tensor([0, 1]), torch.tensor([[0, 1], [0, 0]], dtype=torch.bool))
    adjacency = torch.zeros(4, 4, dtype=torch.bool)
    adjacency[0, 1] = True
    assert as_cell(CellGraph(torch.tensor([0, 1, -1, -1]), adjacency)) == as_cell(small)


def test_an_unfinished_search_says_so():
    rng = np.random.default_rng(1)
    labels, arcs = rng.integers(0, 3, (2, 7)), np.triu(rng.random((2, 7, 7)) < 0.5, 1)
    a, b = (as_cell(CellGraph(torch.from_numpy(labels[i]), torch.from_numpy(arcs[i]))) for i in (0, 1))
    best = edit_distance(a, b)
    hasty = edit_distance(a, b, max_steps=3)
    assert best.exact
    assert not hasty.exact
    assert hasty.value >= best.value


def test_isomorphic_drawings_differ_in_entries_alone():
    arcs = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]], dtype=torch.bool)
    both = CellGraph(torch.tensor([[0, 1, 2, 3], [0, 2, 1, 3]]), arcs.expand(2, -1, -1))
    assert EditDistances(both)(torch.tensor([0]), torch.tensor([1])).values.item() == 0
    first, second = (CellGraph(both.ops[i : i + 1], both.adjacency[i : i + 1]) for i in (0, 1))
    assert hamming_distances(first, second, 4).item() == 4


@pytest.mark.parametrize("change", ["op", "arc"])
def test_entries_of_one_change(change):
    space = TinySpace()
    graph = space.graph(space[0])
    ops, adjacency = graph.ops.clone(), graph.adjacency.clone()
    if change == "op":
        ops[1] = 2
    else:
        adjacency[0, 5] = True
    one, other = (CellGraph(g.ops[None], g.adjacency[None]) for g in (graph, CellGraph(ops, adjacency)))
    assert hamming_distances(one, other, 5).item() == {"op": 2, "arc": 1}[change]
