from collections import Counter

import networkx as nx
import numpy as np
import pytest
import torch

from lightning_nas.errors import EncodingError
from lightning_nas.spaces.darts import DARTSCell, DARTSNetwork
from lightning_nas.spaces.functional import FunctionalEncoding, PathSequence, live_graphs, live_paths
from lightning_nas.spaces.nasbench101 import NASBench101
from lightning_nas.spaces.nasbench201 import NASBench201
from lightning_nas.spaces.subset import Subset

SPACES = [NASBench201(), NASBench101(), DARTSCell(num_cells=300)]


def by_networkx(space, graph):
    """Counts of labels on every live path, sorted, and on all of them together, every vertex once."""
    drawn = nx.DiGraph()
    drawn.add_nodes_from(v for v, label in enumerate(graph.ops.tolist()) if label >= 0)
    drawn.add_edges_from(graph.adjacency.nonzero().tolist())
    (output,) = (v for v in drawn if graph.ops[v] == len(space.vertex_labels) - 1)
    names = [space.vertex_labels[label] for label in graph.ops.tolist()]
    found, live = [], set()
    for source in (v for v in drawn if drawn.in_degree(v) == 0 and v != output):
        for path in nx.all_simple_paths(drawn, source, output):
            if not any(names[v] == "none" for v in path):
                counts = Counter(graph.ops[path[:-1]].tolist())
                found.append([counts[label] for label in range(len(space.vertex_labels))])
                live |= set(path[:-1])
    together = Counter(graph.ops[sorted(live)].tolist())
    return sorted(found), [together[label] for label in range(len(space.vertex_labels))]


@pytest.mark.parametrize("space", SPACES, ids=lambda s: s.name)
def test_paths_are_those_of_networkx(space):
    members = torch.arange(0, len(space), max(1, len(space) // 40))
    graphs = space.graphs_at(members)
    dead = [label for label, name in enumerate(space.vertex_labels) if name == "none"]
    counts, live = live_paths(graphs, len(space.vertex_labels), dead)
    for row, index in enumerate(members.tolist()):
        expected, together = by_networkx(space, space.graph(space[index]))
        assert live[row].tolist() == together
        assert sorted(counts[row][counts[row].sum(dim=1) > 0].tolist()) == expected


@pytest.mark.parametrize("space", SPACES, ids=lambda s: s.name)
def test_some_members_are_encoded_as_in_the_whole_space(space):
    if len(space) > 100_000:
        space_members = torch.tensor([0, 1, 4000, 200_000])
        first = FunctionalEncoding().encode_members(space, space_members)
        assert torch.equal(first[1:3], FunctionalEncoding().encode_members(space, space_members[1:3]))
        return
    everything = FunctionalEncoding().encode(space)
    members = torch.tensor([5, 17, 2])
    assert torch.equal(FunctionalEncoding().encode_members(space, members), everything[members])


def test_cells_that_carry_nothing_are_all_alike():
    space = NASBench201()
    features = FunctionalEncoding().encode(space)
    assert torch.equal(features[:, 0].bool(), space.connected)
    assert not features[~space.connected].any()


def test_operations_off_the_live_paths_do_not_count():
    space = NASBench201()
    encode = lambda text: FunctionalEncoding().encode_members(space, torch.tensor([space.index(space.parse(text))]))  # noqa: E731
    one = encode("|none~0|+|none~0|none~1|+|nor_conv_3x3~0|avg_pool_3x3~1|skip_connect~2|")
    other = encode("|none~0|+|none~0|nor_conv_1x1~1|+|nor_conv_3x3~0|none~1|nor_conv_3x3~2|")
    assert torch.equal(one, other)
    assert not torch.equal(one, encode("|none~0|+|none~0|none~1|+|nor_conv_1x1~0|none~1|none~2|"))


def test_a_sequence_has_the_labels_along_the_paths():
    space = NASBench201()
    text = "|nor_conv_3x3~0|+|none~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_1x1~1|nor_conv_3x3~2|"
    (tokens,) = PathSequence(4).tokens(space, torch.tensor([space.index(space.parse(text))])).tolist()
    paths = (tokens[start : start + 7] for start in range(0, 28, 7))
    names = [[space.vertex_labels[token - 1] for token in path if token] for path in paths]
    assert names == [
        ["input", "nor_conv_3x3", "avg_pool_3x3", "nor_conv_3x3"],
        ["input", "nor_conv_3x3", "nor_conv_1x1"],
        ["input", "skip_connect"],
        [],
    ]


@pytest.mark.parametrize("space", SPACES, ids=lambda s: s.name)
def test_sequences_hold_what_is_counted(space):
    members = torch.arange(0, len(space), max(1, len(space) // 40))
    tokens = PathSequence(6).tokens(space, members)
    num_tokens, length = PathSequence(6).sizes(space)
    assert tokens.shape == (len(members), length)
    assert 0 <= int(tokens.min()) <= int(tokens.max()) < num_tokens
    counts = (tokens.view(len(members), 6, -1, 1) == torch.arange(1, num_tokens)).sum(dim=2)
    expected = FunctionalEncoding(6).encode_members(space, members)[:, 2 + num_tokens - 1 :]
    assert torch.equal(counts.flatten(1).float(), expected)


def test_what_cannot_be_is_said():
    with pytest.raises(EncodingError, match="at least 1"):
        PathSequence(0)
    pairs = Subset(DARTSNetwork(), [DARTSNetwork().sample(np.random.default_rng(0))])
    with pytest.raises(EncodingError, match="at most 14 vertices"):
        PathSequence().tokens(pairs)
    with pytest.raises(EncodingError, match="numbered"):
        FunctionalEncoding().encode(DARTSNetwork())
    with pytest.raises(EncodingError, match="at least 1"):
        FunctionalEncoding(0)


def test_live_graphs_are_what_the_paths_say(cells):
    """A vertex stays where some live path leads through it; the labels on all live paths are those that stay."""
    members = torch.arange(0, len(cells), 37)
    whole, pruned = cells.graphs_at(members), live_graphs(cells, members)
    dead = [cells.vertex_labels.index("none")]
    _, labels = live_paths(whole, len(cells.vertex_labels), dead)
    kept = torch.nn.functional.one_hot(pruned.ops + 1, len(cells.vertex_labels) + 1)[..., 1:].sum(dim=1)
    torch.testing.assert_close(kept[:, :-1], labels[:, :-1])
    assert torch.equal(kept[:, -1] > 0, labels.any(dim=1))  # the output stays where anything arrives
    gone = pruned.ops < 0
    assert gone.any()
    assert not (pruned.adjacency & (gone[:, :, None] | gone[:, None, :])).any()
    assert torch.equal(pruned.adjacency, whole.adjacency & ~gone[:, :, None] & ~gone[:, None, :])
    assert torch.equal(live_graphs(cells).ops[members], pruned.ops)
