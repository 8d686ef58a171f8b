from itertools import product

import networkx as nx
import pytest
import torch

from lightning_nas.errors import EncodingError
from lightning_nas.search.pool import CandidatePool
from lightning_nas.spaces.base import CellGraph, FiniteSpace, SearchSpace
from lightning_nas.spaces.categorical import CategoricalSpace
from lightning_nas.spaces.encodings import AdjacencyEncoding, GraphEncoding, OneHotEncoding, PathEncoding
from lightning_nas.spaces.nasbench101 import NASBench101


class Other(CategoricalSpace):
    """A categorical space that is not NAS-Bench-201."""

    name, choices = "other", (("a", "b"), ("x", "y", "z"))
    graph = from_graph = build = None


class Foreign(SearchSpace):
    """A space that is not categorical."""

    name = "foreign"
    sample = neighbors = parse = format = graph = from_graph = build = None


def test_one_hot_distances_count_differing_positions(cells):
    features = OneHotEncoding().encode(cells)
    some = torch.arange(0, 15625, 997)
    distances = torch.cdist(features[some], features[some]).square()
    differing = (cells.codes[some][:, None] != cells.codes[some][None]).sum(dim=-1)
    assert torch.allclose(distances, 2.0 * differing, atol=1e-4)


def test_one_hot_of_uneven_choices():
    assert OneHotEncoding().encode(Other()).tolist()[4] == [0, 1, 0, 1, 0]


def test_path_encoding_covers_the_space(cells):
    features = PathEncoding().encode(cells)
    assert features.shape == (15625, 155)
    # Four routes; the two of length two may carry the same operations.
    assert set(features.sum(dim=1).tolist()) == {3.0, 4.0}
    assert features.any(dim=0).all()


def test_path_encoding_of_nasbench101_is_that_of_networkx():
    space = NASBench101()
    members = torch.arange(0, len(space), 9001)
    features = PathEncoding().encode_members(space, members)
    assert features.shape == (len(members), 364)
    names = [sequence for length in range(6) for sequence in product((1, 2, 3), repeat=length)]
    for row, index in enumerate(members.tolist()):
        ops, adjacency = space.graph(space[index])
        drawn = nx.DiGraph(adjacency.nonzero().tolist())
        (output,) = (ops == 4).nonzero().flatten().tolist()
        expected = {tuple(ops[path[1:-1]].tolist()) for path in nx.all_simple_paths(drawn, 0, output)}
        assert {names[place] for place in features[row].nonzero().flatten().tolist()} == expected


class Wired(FiniteSpace):
    """Three graphs of up to four vertices; the second is padded."""

    name, vertex_labels, num_vertices = "wired", ("in", "a", "b", "out"), 4
    members = (
        ((0, 1, 2, 3), ((0, 1), (1, 2), (2, 3))),
        ((0, 1, 3, -1), ((0, 1), (1, 2), (0, 2))),
        ((0, 2, 2, 3), ((0, 1), (0, 2), (1, 3), (2, 3))),
    )
    neighbors = parse = format = from_graph = build = None

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return self.members[index]

    def index(self, arch):
        return self.members.index(arch)

    def graph(self, arch):
        adjacency = torch.zeros(4, 4, dtype=torch.bool)
        adjacency[tuple(zip(*arch[1], strict=True))] = True
        return CellGraph(torch.tensor(arch[0]), adjacency)


def test_graphs_as_they_are():
    features = GraphEncoding().encode(Wired())
    assert features.shape == (3, 4 * 4 + 16)
    assert features.dtype == torch.float32
    for row, (ops, arcs) in zip(features, Wired.members, strict=True):
        labels, adjacency = row[:16].view(4, 4), row[16:].view(4, 4)
        for vertex, label in enumerate(ops):
            assert labels[vertex].tolist() == [float(k == label) for k in range(4)]
        assert {tuple(arc) for arc in adjacency.nonzero().tolist()} == set(arcs)


def test_arcs_and_labels_that_vary():
    features = AdjacencyEncoding().encode(Wired())
    columns = [[float((u, v) in arcs) for _, arcs in Wired.members] for u in range(4) for v in range(u + 1, 4)]
    columns += [[float(ops[v] == k) for ops, _ in Wired.members] for v in range(4) for k in range(4)]
    assert features.T.tolist() == [column for column in columns if len(set(column)) > 1]
    assert features.dtype == torch.float32


def test_adjacency_of_fixed_wiring_is_one_hot(cells):
    # The same columns, grouped by vertex and in another order of the labels.
    features, other = AdjacencyEncoding().encode(cells), OneHotEncoding().encode(cells)
    assert sorted(features.T.tolist()) == sorted(other.T.tolist())


@pytest.mark.parametrize("encoding", [AdjacencyEncoding(), GraphEncoding(), OneHotEncoding(), PathEncoding()])
def test_some_members(cells, encoding):
    some = torch.tensor([7, 3, 15000])
    everything = encoding.encode(cells)
    assert torch.equal(encoding.encode_members(cells, some), everything[some])
    assert torch.equal(encoding.encode_members(cells, None), everything)


def test_columns_do_not_depend_on_the_members():
    # Within these two members much more is constant.
    features = AdjacencyEncoding().encode_members(Wired(), torch.tensor([0, 0]))
    assert torch.equal(features[0], AdjacencyEncoding().encode(Wired())[0])


def test_a_pool_hands_raw_features_over_as_they_are():
    pool = CandidatePool(Wired())
    assert torch.equal(pool.features(GraphEncoding()), GraphEncoding().encode(Wired()))
    assert not torch.equal(pool.features(AdjacencyEncoding()), AdjacencyEncoding().encode(Wired()))


@pytest.mark.parametrize(
    ("encoding", "space"),
    [
        (OneHotEncoding(), Foreign()),
        (PathEncoding(), Other()),
        (AdjacencyEncoding(), Foreign()),
        (GraphEncoding(), Foreign()),
    ],
)
def test_other_spaces_are_refused_by_name(encoding, space):
    with pytest.raises(EncodingError, match=f"{type(encoding).__name__}: got the space '{space.name}', expected"):
        encoding.encode(space)
