from itertools import combinations

import networkx as nx
import numpy as np
import pytest
import torch
from networkx.algorithms.isomorphism import categorical_node_match

from lightning_nas.nn.isomorphism import _mix, isomorphism_hashes
from lightning_nas.spaces.base import CellGraph

MATCH = categorical_node_match("op", None)


def batch(graphs, vertices=7):
    """Graphs given as (labels, arcs) in one padded batch."""
    ops = torch.full((len(graphs), vertices), -1)
    adjacency = torch.zeros(len(graphs), vertices, vertices, dtype=torch.bool)
    for i, (labels, arcs) in enumerate(graphs):
        ops[i, : len(labels)] = torch.tensor(labels)
        for u, v in arcs:
            adjacency[i, u, v] = True
    return CellGraph(ops, adjacency)


def as_networkx(labels, arcs):
    graph = nx.DiGraph(list(arcs))
    graph.add_nodes_from((i, {"op": label}) for i, label in enumerate(labels))
    return graph


def random_dag(rng, vertices, num_labels, density):
    labels = rng.integers(0, num_labels, vertices).tolist()
    return labels, [(u, v) for u, v in combinations(range(vertices), 2) if rng.random() < density]


def relabelled(rng, labels, arcs):
    """The same graph with its vertices in another topological order."""
    graph, order = as_networkx(labels, arcs), []
    while graph:
        sources = [v for v in graph if graph.in_degree(v) == 0]
        order.append(sources[rng.integers(len(sources))])
        graph.remove_node(order[-1])
    place = {v: i for i, v in enumerate(order)}
    return [labels[v] for v in order], [(place[u], place[v]) for u, v in arcs]


def test_isomorphic_graphs_have_equal_numbers():
    rng = np.random.default_rng(0)
    graphs = [random_dag(rng, rng.integers(2, 8), 3, 0.4) for _ in range(200)]
    twins = [relabelled(rng, *graph) for graph in graphs]
    assert sum(graph != twin for graph, twin in zip(graphs, twins, strict=True)) > 80
    assert all(nx.is_isomorphic(as_networkx(*a), as_networkx(*b), MATCH) for a, b in zip(graphs, twins, strict=True))
    assert torch.equal(isomorphism_hashes(batch(graphs)), isomorphism_hashes(batch(twins)))


@pytest.mark.parametrize(("vertices", "num_labels", "density"), [(3, 2, 0.5), (4, 1, 0.5), (4, 2, 0.85), (6, 1, 0.3)])
def test_equal_numbers_exactly_for_isomorphic_graphs(vertices, num_labels, density):
    rng = np.random.default_rng(vertices * 10 + num_labels)
    graphs = [random_dag(rng, vertices, num_labels, density) for _ in range(45)]
    hashes, networks = isomorphism_hashes(batch(graphs)).tolist(), [as_networkx(*g) for g in graphs]
    alike = 0
    for a, b in combinations(range(len(graphs)), 2):
        expected = nx.faster_could_be_isomorphic(networks[a], networks[b]) and nx.is_isomorphic(
            networks[a], networks[b], MATCH
        )
        assert (hashes[a] == hashes[b]) == expected
        alike += expected
    assert 5 <= alike < 990 // 2


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (([0, 1], [(0, 1)]), ([1, 0], [(0, 1)])),  # direction
        (([0, 1, 2], [(0, 1)]), ([0, 1, 2], [(0, 2)])),
        (([0, 0, 0, 0], [(0, 1), (1, 2), (2, 3)]), ([0, 0, 0, 0], [(0, 1), (0, 2), (2, 3)])),
        (([0, 0], [(0, 1)]), ([0, 0], [])),
        (([0, 0], []), ([0, 0, 0], [])),  # padding is no vertex
    ],
)
def test_different_graphs_by_hand(one, other):
    first, second = isomorphism_hashes(batch([one, other])).tolist()
    assert first != second


def test_numbers_do_not_depend_on_the_batch():
    rng = np.random.default_rng(2)
    graphs = batch([random_dag(rng, 6, 3, 0.4) for _ in range(9)])
    together = isomorphism_hashes(graphs)
    assert together.dtype == torch.int64
    assert torch.equal(isomorphism_hashes(CellGraph(*(part[3:5] for part in graphs))), together[3:5])
    assert torch.equal(isomorphism_hashes(CellGraph(graphs.ops, graphs.adjacency.float())), together)


def splitmix(x):
    """The finaliser of splitmix64 on Python's unbounded integers."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
    return x ^ (x >> 31)


def test_scrambling_is_splitmix64():
    numbers = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, 500)
    found = _mix(torch.from_numpy(numbers)).tolist()
    assert [f % 2**64 for f in found] == [splitmix(int(n) % 2**64) for n in numbers]


def test_different_cells_of_nasbench201_have_different_numbers(cells):
    graphs = cells.all_graphs()
    picked = torch.from_numpy(np.random.default_rng(0).permutation(len(cells))[:60])
    some = CellGraph(graphs.ops[picked], graphs.adjacency[picked])
    hashes = isomorphism_hashes(some).tolist()
    networks = []
    for ops, adjacency in zip(*some, strict=True):
        networks.append(as_networkx(ops.tolist(), adjacency.nonzero().tolist()))
    for a, b in combinations(range(60), 2):
        assert (hashes[a] == hashes[b]) == nx.is_isomorphic(networks[a], networks[b], MATCH)
