import numpy as np
import pytest
import torch

from lightning_nas.errors import EncodingError
from lightning_nas.spaces.base import CellGraph
from lightning_nas.spaces.darts import DARTSCell, DARTSNetwork
from lightning_nas.spaces.nasbench101 import NASBench101
from lightning_nas.spaces.nasbench201 import NASBench201
from lightning_nas.spaces.sequences import (
    BlindDARTSSequence,
    GraphSequence,
    graphs_of,
    layout,
    sequence_length,
    tokens_of,
    vocabulary_size,
)
from lightning_nas.spaces.subset import Subset


def by_hand(ops, adjacency):
    """Column by column, as NAO's code does."""
    tokens = []
    for vertex in range(1, len(ops)):
        if ops[vertex] < 0:
            tokens += [0] * (vertex + 1)
        else:
            tokens += [int(adjacency[source][vertex]) + 1 for source in range(vertex)] + [int(ops[vertex]) + 2]
    return tokens


@pytest.mark.parametrize("space", [NASBench201(), NASBench101(), DARTSCell(num_cells=2000)], ids=lambda s: s.name)
def test_whole_spaces_come_back(space):
    graphs = space.all_graphs()
    ops, adjacency = graphs.ops.long(), graphs.adjacency.bool()
    for part in torch.arange(len(space)).split(100_000):
        cells = CellGraph(ops[part], adjacency[part])
        tokens = tokens_of(cells)
        assert tokens.shape == (len(part), sequence_length(space.num_vertices))
        assert 0 <= int(tokens.min()) <= int(tokens.max()) < vocabulary_size(len(space.vertex_labels))
        back = graphs_of(tokens, space.num_vertices)
        assert torch.equal(back.ops, cells.ops)
        assert torch.equal(back.adjacency, cells.adjacency)


@pytest.mark.parametrize("space", [NASBench201(), NASBench101(), DARTSCell(num_cells=50)], ids=lambda s: s.name)
def test_tokens_are_those_of_a_loop(space):
    for index in (0, 1, 7, 42, len(space) - 1):
        graph = space.graph(space[index])
        assert tokens_of(graph).tolist() == by_hand(*graph)


def test_different_cells_have_different_sequences():
    space = NASBench101()
    ops, adjacency = space.all_graphs()
    some = torch.arange(0, len(space), 7)
    tokens = tokens_of(CellGraph(ops[some].long(), adjacency[some].bool()))
    assert len(torch.unique(tokens, dim=0)) == len(some)


def test_sizes_are_the_published_ones():
    assert [sequence_length(v) for v in (7, 8, 35)] == [27, 35, 629]
    assert [vocabulary_size(len(s.vertex_labels)) for s in (NASBench101(), NASBench201())] == [7, 9]
    labels = (layout(8).source < 0).nonzero().flatten().tolist()
    assert labels == [1, 4, 8, 13, 19, 26, 34]


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        ([2, 3, 1, 2], "expected the 5"),
        ([3, 3, 1, 2, 4], "token 3 at place 0"),
        ([2, 2, 1, 2, 4], "token 2 at place 1"),
        ([2, 3, 1, 0, 4], "token 0 at place 3"),
        ([2, 3, 1, 2, 0], "token 1 at place 2"),
    ],
)
def test_what_is_no_sequence_is_refused(tokens, said):
    with pytest.raises(EncodingError, match=said):
        graphs_of(torch.tensor([tokens]), 3)


def test_the_blind_sequence_of_darts_shows_operations_alone():
    rng = np.random.default_rng(0)
    pairs = Subset(DARTSNetwork(), [DARTSNetwork().sample(rng) for _ in range(200)])
    encoding = BlindDARTSSequence()
    assert encoding.sizes(pairs) == (13, 629)
    tokens = encoding.tokens(pairs)
    varying = (tokens != tokens[0]).any(dim=0)
    assert tokens.shape == (200, 629)
    assert int(varying.sum()) == 16
    own = (layout(35).source < 0).nonzero().flatten().tolist()
    assert set(varying.nonzero().flatten().tolist()) <= set(own)
    # Vertices 1 … 24 have labels, those after them are padding; no token says that there is an arc in a place for arcs.
    assert (tokens[:, own[24:]] == 0).all()
    arcs = [place for place in range(own[23] + 1) if place not in own]
    assert (tokens[:, arcs] == 1).all()
    assert tokens[0, [own[0], own[9], own[10], own[21], own[22], own[23]]].tolist() == [2, 10, 11, 10, 11, 12]


def test_wiring_changes_the_other_sequence_of_darts():
    rng = np.random.default_rng(1)
    arch = DARTSNetwork().sample(rng)
    rewired = [
        other for other in DARTSNetwork().neighbors(arch)
        if [cell[::2] for cell in other] == [cell[::2] for cell in arch]
    ]  # fmt: skip
    pairs = Subset(DARTSNetwork(), [arch, *rewired])
    assert len(rewired) > 10
    assert len(torch.unique(GraphSequence().tokens(pairs), dim=0)) == len(pairs)
    assert len(torch.unique(BlindDARTSSequence().tokens(pairs), dim=0)) == 1
    assert GraphSequence().sizes(pairs) == (13, 252)


def test_sequences_are_those_of_the_space():
    space = NASBench201()
    some = torch.tensor([4, 1000])
    tokens = GraphSequence().tokens(space, some)
    assert torch.equal(tokens, GraphSequence().tokens(space)[some])
    assert torch.equal(GraphSequence().encode_members(space, some), tokens.float())
    with pytest.raises(EncodingError, match="expected 'darts'"):
        BlindDARTSSequence().tokens(space, some)
    with pytest.raises(EncodingError, match="numbered"):
        GraphSequence().encode(DARTSNetwork())
