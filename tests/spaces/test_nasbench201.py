import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_nas.errors import SpaceError
from lightning_nas.nn.cells import EDGES
from lightning_nas.nn.complexity import count_flops, count_parameters
from lightning_nas.spaces.base import CellGraph
from lightning_nas.spaces.nasbench201 import OPERATIONS, NASBench201

SPACE = NASBench201()
ARCHS = st.tuples(*[st.integers(0, 4)] * 6)


def edit(text, position, replacement):
    at = position % (len(text) + 1)
    return text[:at] + replacement + text[at + 1 :]


def test_official_order():
    # The three cells whose complete records NATS-Bench publishes as examples.
    published = {
        0: "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|",
        11: "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|none~0|nor_conv_3x3~1|avg_pool_3x3~2|",
        284: "|skip_connect~0|+|skip_connect~0|skip_connect~1|+|none~0|nor_conv_1x1~1|none~2|",
    }
    assert {index: SPACE.format(SPACE[index]) for index in published} == published
    assert len(set(map(tuple, SPACE.codes.tolist()))) == len(SPACE) == 5**6


@given(ARCHS)
def test_notation_and_numbering_round_trip(arch):
    assert SPACE.parse(SPACE.format(arch)) == arch
    assert SPACE[SPACE.index(arch)] == arch


@given(ARCHS, st.integers(0, 200), st.text(max_size=3))
def test_edited_strings_are_read_exactly_or_refused(arch, position, replacement):
    text = edit(SPACE.format(arch), position, replacement)
    try:
        edited = SPACE.parse(text)
    except SpaceError:
        return
    assert SPACE.format(edited) == text.strip()


@given(st.text() | st.text("|~+012noe_ sk", max_size=40))
def test_any_other_text_is_refused(text):
    with pytest.raises(SpaceError):
        SPACE.parse(text)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "got 1 nodes"),
        ("|none~0|+|none~0|none~1|", "got 2 nodes"),
        ("none~0+|none~0|none~1|+|none~0|none~1|none~2|", "node 1 is 'none~0' and does not begin and end"),
        ("|none~0|+|none~0|+|none~0|none~1|none~2|", "node 2 has 1 inputs"),
        ("|none~0|+|none~1|none~0|+|none~0|none~1|none~2|", "node 2, input 0 is 'none~1', expected 'operation~0'"),
        ("|none~0|+|none~0|none|+|none~0|none~1|none~2|", "node 2, input 1 is 'none'"),
        ("|none~0|+|none~0|pool~1|+|none~0|none~1|none~2|", "'pool' at position 2, expected one of none, skip"),
        ("|none~0|+|none~0|none~1|+|none~0|none~1|none~²|", "node 3, input 2"),
    ],
)
def test_messages_say_what_and_where(text, complaint):
    with pytest.raises(SpaceError) as caught:
        SPACE.parse(text)
    assert complaint in str(caught.value)


@given(ARCHS)
def test_24_mutual_neighbours(arch):
    neighbors = set(SPACE.neighbors(arch))
    assert len(neighbors) == 24
    assert arch not in neighbors
    assert all(arch in set(SPACE.neighbors(other)) for other in neighbors)
    assert set(SPACE.neighbor_table()[SPACE.index(arch)].tolist()) == set(map(SPACE.index, neighbors))


@given(ARCHS)
def test_graph_round_trip(arch):
    graph = SPACE.graph(arch)
    assert SPACE.from_graph(graph) == arch
    everything = SPACE.all_graphs()
    assert torch.equal(everything.ops[SPACE.index(arch)], graph.ops)
    assert torch.equal(everything.adjacency[SPACE.index(arch)], graph.adjacency)


@given(ARCHS)
def test_graph_is_the_line_graph_of_the_cell(arch):
    cell = nx.DiGraph(EDGES)
    operation = dict(zip(EDGES, arch, strict=True))
    expected = nx.relabel_nodes(nx.line_graph(cell), {edge: 1 + i for i, edge in enumerate(EDGES)})
    expected.add_edges_from((0, 1 + i) for i, (tail, _) in enumerate(EDGES) if tail == 0)
    expected.add_edges_from((1 + i, 7) for i, (_, head) in enumerate(EDGES) if head == 3)

    graph = SPACE.graph(arch)
    drawn = nx.from_numpy_array(graph.adjacency.numpy(), create_using=nx.DiGraph)
    assert set(drawn.edges) == set(expected.edges)
    assert torch.equal(graph.adjacency, graph.adjacency.triu(1))
    for i, edge in enumerate(EDGES):
        assert SPACE.vertex_labels[graph.ops[1 + i]] == OPERATIONS[operation[edge]]


@given(ARCHS)
def test_path_encoding_lists_the_operations_on_every_path(arch):
    graph = SPACE.graph(arch)
    drawn = nx.from_numpy_array(graph.adjacency.numpy(), create_using=nx.DiGraph)
    expected = set()
    for path in nx.all_simple_paths(drawn, 0, 7):
        names = [SPACE.vertex_labels[graph.ops[vertex]] for vertex in path[1:-1]]
        digits = [OPERATIONS.index(name) for name in names]
        shorter = sum(5**k for k in range(1, len(digits)))
        expected.add(shorter + sum(d * 5**k for k, d in enumerate(reversed(digits))))
    encoding = SPACE.path_encoding(torch.tensor([arch]))
    assert set(encoding[0].nonzero().flatten().tolist()) == expected
    assert encoding.shape == (1, 155)


@given(st.lists(st.integers(-1, 7), min_size=8, max_size=8), st.booleans())
def test_a_graph_is_valid_exactly_when_it_can_be_read_back(labels, rewired):
    adjacency = SPACE.graph(SPACE[0]).adjacency.clone()
    adjacency[0, 7] |= rewired
    graph = CellGraph(torch.tensor(labels), adjacency)
    try:
        readable = SPACE.graph(SPACE.from_graph(graph)).ops.tolist() == labels
    except SpaceError:
        readable = False
    assert SPACE.is_valid(CellGraph(graph.ops[None], adjacency[None])).tolist() == [readable]


def test_published_validity_overlooks_wiring_and_the_first_operation():
    graph = SPACE.graph(SPACE[0])
    odd = graph.ops.clone()
    odd[1] = 0
    graphs = CellGraph(torch.stack([graph.ops, odd]), torch.zeros(2, 8, 8, dtype=torch.bool))
    assert SPACE.is_valid_published(graphs).tolist() == [True, True]
    assert SPACE.is_valid(graphs).tolist() == [False, False]


@pytest.mark.parametrize("shape", [(7,), (9,), (1, 8)])
def test_graphs_of_another_size_are_refused(shape):
    with pytest.raises(SpaceError, match="wiring"):
        SPACE.from_graph(CellGraph(torch.zeros(shape, dtype=torch.long), torch.zeros(shape[-1], shape[-1])))


def test_connected_cells_have_a_route_without_none():
    connected = SPACE.connected
    for index in range(0, 15625, 97):
        edges = [edge for edge, code in zip(EDGES, SPACE[index], strict=True) if OPERATIONS[code] != "none"]
        graph = nx.DiGraph([*edges, (0, 0), (3, 3)])
        assert bool(connected[index]) == nx.has_path(graph, 0, 3)
    assert 0 < int((~connected).sum()) < 15625


def test_6466_classes():
    classes = SPACE.canonical_classes
    assert len(set(classes.tolist())) == 6466
    assert classes.max() == 6465


@given(ARCHS)
def test_canonical_is_idempotent_and_comes_first(arch):
    canonical = SPACE.canonical(arch)
    assert SPACE.canonical(canonical) == canonical
    classes = SPACE.canonical_classes
    own = classes[SPACE.index(arch)]
    assert SPACE.index(canonical) == int((classes == own).nonzero()[0])


def test_cells_that_compute_the_same_are_alike():
    none, skip, conv = 0, 1, 3
    direct = (none, none, none, conv, none, none)  # 0 -> 3
    over_node_1 = (conv, none, none, none, skip, none)  # 0 -> 1 -> 3
    assert SPACE.canonical(direct) == SPACE.canonical(over_node_1)
    # The benchmark's own definition keeps the dead signal that the convolution's input is summed with.
    over_node_2 = (none, skip, none, none, none, conv)  # 0 -> 2 -> 3
    assert SPACE.canonical(over_node_2) != SPACE.canonical(direct)


@settings(max_examples=8)
@given(ARCHS)
def test_size_of_the_built_network(arch):
    ones, threes = arch.count(2), arch.count(3)
    network = SPACE.build(arch)
    assert count_parameters(network) == 73306 + 28000 * ones + 243040 * threes
    expected = 7.78305 + 3.93216 * ones + 35.38944 * threes
    assert count_flops(network, (3, 32, 32)) == round(1e6 * expected)


def test_build_takes_the_networks_size():
    network = SPACE.build(SPACE[7], channels=4, cells_per_stage=1, num_stages=2, num_classes=7, in_channels=1)
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 7)


def test_sampling_and_mutation_are_reproducible():
    def draw():
        rng = np.random.default_rng(3)
        start = SPACE.sample(rng)
        return start, SPACE.mutate(start, rng)

    assert draw() == draw()
    start, mutant = draw()
    assert sum(a != b for a, b in zip(start, mutant, strict=True)) == 1


@pytest.mark.data
def test_classes_are_those_of_the_real_table(real_table):
    pairs = set(zip(SPACE.canonical_classes.tolist(), real_table["canonical_class"].tolist(), strict=True))
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}) == 6466


@pytest.mark.data
@settings(max_examples=8)
@given(index=st.integers(0, 15624))
def test_sizes_are_those_of_the_real_table(real_table, index):
    network = SPACE.build(SPACE[index])
    assert count_parameters(network) == real_table["params"][index]
    assert count_flops(network, (3, 32, 32)) == pytest.approx(float(real_table["flops"][index]), rel=1e-6)
