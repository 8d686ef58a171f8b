import json
import os
from collections import Counter
from itertools import combinations, permutations, product
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networkx.algorithms.isomorphism import categorical_node_match
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from lightning_nas.errors import SpaceError
from lightning_nas.nn.complexity import count_parameters
from lightning_nas.nn.isomorphism import isomorphism_hashes
from lightning_nas.spaces.base import CellGraph
from lightning_nas.spaces.nasbench101 import NASBench101

SPACE = NASBench101()
SIZES = {2: 1, 3: 6, 4: 84, 5: 2441, 6: 62010, 7: 359082}
FIRST = dict(zip(SIZES, np.cumsum([0, *SIZES.values()]).tolist(), strict=False))  # index of the first cell of a size
INDICES = st.one_of(*(st.integers(FIRST[size], FIRST[size] + count - 1) for size, count in SIZES.items()))
MATCH = categorical_node_match("op", None)
INCEPTION = {  # the example of the benchmark's own documentation, with the parameters that it counts
    "module_adjacency": [
        [0, 1, 1, 1, 0, 1, 0], [0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0],
    ],
    "module_operations": [
        "input", "conv1x1-bn-relu", "conv3x3-bn-relu", "conv3x3-bn-relu", "conv3x3-bn-relu", "maxpool3x3", "output"
    ],
}  # fmt: skip


def as_networkx(ops, adjacency):
    """Without padding."""
    graph = nx.DiGraph((u, v) for u, v in torch.as_tensor(adjacency).nonzero().tolist())
    graph.add_nodes_from((v, {"op": int(op)}) for v, op in enumerate(ops) if op >= 0)
    return graph


def as_graph(graph, order):
    """The vertices of a networkx graph in an order, as 7 with padding."""
    place = {vertex: i for i, vertex in enumerate(order)}
    ops, adjacency = torch.full((7,), -1), torch.zeros(7, 7, dtype=torch.bool)
    for vertex, i in place.items():
        ops[i] = graph.nodes[vertex]["op"]
    for u, v in graph.edges:
        adjacency[place[u], place[v]] = True
    return CellGraph(ops, adjacency)


def random_order(rng, graph):
    """Any order in which arcs lead forward."""
    graph, order = graph.copy(), []
    while graph:
        order.append(rng.choice([v for v in graph if graph.in_degree(v) == 0]).item())
        graph.remove_node(order[-1])
    return order


def pruned(graph, first, last):
    """What is on paths from one vertex to another."""
    if not {first, last} <= set(graph):
        return nx.DiGraph()
    return graph.subgraph((nx.descendants(graph, first) | {first}) & (nx.ancestors(graph, last) | {last}))


def is_cell(graph, first, last):
    """The benchmark's definition, written down with networkx."""
    if not {first, last} <= set(graph) or not nx.is_directed_acyclic_graph(graph):
        return False
    kept = pruned(graph, first, last)
    labels = [kept.nodes[v]["op"] for v in kept if v not in (first, last)]
    ends = (graph.nodes[first]["op"], graph.nodes[last]["op"]) == (0, 4)
    return ends and first in kept and kept.size() <= 9 and len(kept) <= 7 and all(0 < label < 4 for label in labels)


def batch(graphs):
    return CellGraph(*map(torch.stack, zip(*graphs, strict=True)))


@pytest.fixture(scope="module")
def everything():
    return SPACE.all_graphs()


@pytest.fixture(scope="module")
def table():
    return SPACE.neighbor_table()


# ---- the members ----


def test_423624_cells_by_vertices(everything):
    sizes = (everything.ops >= 0).sum(dim=1)
    assert Counter(sizes.tolist()) == SIZES
    assert len(SPACE) == len(everything.ops) == 423_624
    order = sizes * 10 + everything.adjacency.sum(dim=(1, 2))
    assert (order.diff() >= 0).all()  # by vertices, then arcs


def test_members_are_whole_and_forward(everything):
    ops, adjacency = everything
    assert ops.dtype == torch.int64
    assert adjacency.dtype == torch.bool
    assert not adjacency.tril().any()
    assert adjacency.sum(dim=(1, 2)).max() == 9
    real, last = ops >= 0, (ops >= 0).sum(dim=1) - 1
    assert torch.equal(real, torch.arange(7) <= last[:, None])
    assert (ops[:, 0] == 0).all()
    assert (ops.gather(1, last[:, None]) == 4).all()
    assert (((ops > 0) & (ops < 4)).sum(dim=1) == last - 1).all()
    heard, hears = adjacency.any(dim=2), adjacency.any(dim=1)
    assert torch.equal(hears, real & (torch.arange(7) > 0))
    assert torch.equal(heard, real & (torch.arange(7) < last[:, None]))


def test_small_cells_are_the_classes_that_networkx_finds():
    """Every labelled graph of up to 5 vertices: equal members exactly for isomorphic graphs."""
    for size, expected in list(SIZES.items())[:4]:
        pairs = list(combinations(range(size), 2))
        graphs, networks = [], []
        for arcs in product((False, True), repeat=len(pairs)):
            chosen = [pair for pair, there in zip(pairs, arcs, strict=True) if there]
            wiring = nx.DiGraph(chosen)
            wiring.add_nodes_from(range(size))
            if len(chosen) > 9 or len(pruned(wiring, 0, size - 1)) < size:
                continue
            for labels in product((1, 2, 3), repeat=size - 2):
                network = wiring.copy()
                nx.set_node_attributes(network, dict(enumerate((0, *labels, 4))), "op")
                networks.append(network)
                graphs.append(as_graph(network, range(size)))
        members = SPACE.indices_of(batch(graphs)).tolist()
        classes = {}  # by what is easily seen: labels with numbers of arcs
        for network, member in zip(networks, members, strict=True):
            seen = tuple(sorted((op, network.in_degree(v), network.out_degree(v)) for v, op in network.nodes("op")))
            known = next((k for other, k in classes.get(seen, []) if nx.is_isomorphic(network, other, MATCH)), None)
            if known is None:
                classes.setdefault(seen, []).append((network, member))
            else:
                assert known == member
        found = [member for some in classes.values() for _, member in some]
        assert len(found) == expected
        assert sorted(found) == list(range(FIRST[size], FIRST[size] + expected))


def test_random_members_differ_where_the_hash_says_so(everything):
    """The hash of the metrics takes no two of these for one, and networkx agrees where it is likeliest not to."""
    rng = np.random.default_rng(0)
    picked = np.sort(rng.choice(len(SPACE), 20_000, replace=False))
    hashes = isomorphism_hashes(CellGraph(everything.ops[picked], everything.adjacency[picked]))
    assert len(set(hashes.tolist())) == len(picked)
    alike = {}
    for index in picked[-3000:].tolist():
        ops, adjacency = everything.ops[index], everything.adjacency[index]
        degrees = torch.stack((ops, adjacency.sum(dim=0), adjacency.sum(dim=1)), dim=1)
        alike.setdefault(tuple(sorted(map(tuple, degrees.tolist()))), []).append(as_networkx(ops, adjacency))
    pairs = [pair for some in alike.values() for pair in combinations(some[:6], 2)]
    assert len(pairs) > 100
    assert not any(nx.is_isomorphic(*pair, MATCH) for pair in pairs)


@settings(max_examples=60)
@given(INDICES, st.integers(0, 2**32))
def test_any_order_and_loose_ends_are_the_same_member(index, seed):
    rng = np.random.default_rng(seed)
    graph = as_networkx(*SPACE.graph(SPACE[index]))
    output = len(graph) - 1
    while len(graph) < 7:  # loose ends: nothing leads on from them, or nothing leads to them
        new = 10 + len(graph)
        away = bool(rng.integers(2))
        others = [v for v in graph if v not in ((output,) if away else (0,))]
        graph.add_node(new, op=int(rng.integers(1, 4)))
        other = rng.choice(others).item()
        graph.add_edge(*((other, new) if away else (new, other)))
    order = [v for v in random_order(rng, graph) if v not in (0, output)]
    found = SPACE.indices_of(batch([as_graph(graph, [0, *order, output])]))
    assert found.tolist() == [index]


@settings(max_examples=40)
@given(INDICES, st.integers(0, 2**32))
def test_interior_vertices_may_have_any_order(index, seed):
    graph = as_networkx(*SPACE.graph(SPACE[index]))
    interior = np.random.default_rng(seed).permutation(np.arange(1, len(graph) - 1)).tolist()
    assert SPACE.from_graph(as_graph(graph, [0, *interior, len(graph) - 1])) == SPACE[index]


def test_the_representative_has_the_smallest_number():
    for index in np.random.default_rng(0).choice(len(SPACE), 30).tolist():
        graph = as_networkx(*SPACE.graph(SPACE[index]))
        numbers = []
        for order in permutations(range(1, len(graph) - 1)):
            place = {v: i for i, v in enumerate((0, *order, len(graph) - 1))}
            if all(place[u] < place[v] for u, v in graph.edges):
                arcs = sum(1 << place[v] * (place[v] - 1) // 2 + place[u] for u, v in graph.edges)
                labels = tuple(graph.nodes[v]["op"] for v in order)
                numbers.append((arcs, labels[::-1]))
        arcs, labels = min(numbers)
        assert SPACE[index] == (arcs, *labels[::-1])


# ---- numbering and notation ----


def test_all_members_are_found_again(everything):
    assert torch.equal(SPACE.indices_of(everything), torch.arange(len(SPACE)))
    assert SPACE.is_valid(everything).all()
    whole = (everything.ops >= 0).all(dim=1)
    assert torch.equal(SPACE.is_valid_published(everything), whole)
    assert torch.equal(SPACE.representatives, torch.arange(len(SPACE)))


@given(INDICES)
def test_round_trips(index):
    arch = SPACE[index]
    assert SPACE.index(arch) == index
    assert SPACE.canonical(arch) == arch
    assert all(type(part) is int for part in arch)
    assert SPACE.parse(SPACE.format(arch)) == arch
    assert SPACE.from_graph(SPACE.graph(arch)) == arch


def test_single_graphs_are_those_of_all(everything):
    for index in (0, 1, 7, 91, 2532, 64_542, 423_623):
        graph = SPACE.graph(SPACE[index])
        assert torch.equal(graph.ops, everything.ops[index])
        assert torch.equal(graph.adjacency, everything.adjacency[index])
    assert SPACE[-1] == SPACE[423_623]
    with pytest.raises(IndexError):
        SPACE[423_624]


def test_notation():
    assert SPACE.format(SPACE[0]) == "output(0)"
    cell = SPACE.parse(" maxpool3x3(0) + conv3x3-bn-relu(0, 1) + output(1,2) ")
    assert SPACE.format(cell) == "maxpool3x3(0)+conv3x3(0,1)+output(1,2)"
    loose = SPACE.parse("conv1x1(0)+maxpool3x3(0)+conv3x3(0,2)+output(2,3)")
    assert loose == cell


def test_json_as_the_benchmark_has_it():
    cell = SPACE.parse(json.dumps(INCEPTION))
    matrix, ops = INCEPTION["module_adjacency"], INCEPTION["module_operations"]
    assert SPACE.parse(json.dumps({"matrix": matrix, "ops": ops})) == cell
    assert SPACE.parse(json.dumps([matrix, ops])) == cell
    graph = as_networkx([NASBench101.vertex_labels.index(op) for op in ops], matrix)
    assert nx.is_isomorphic(graph, as_networkx(*SPACE.graph(cell)), MATCH)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "vertex 1 is '', expected a cell like 'conv3x3"),
        ("conv3x3(0)", "got labels ['input', 'conv3x3-bn-relu'], expected 'input' first and 'output' at the last"),
        ("conv5x5(0)+output(1)", "vertex 1 is 'conv5x5', expected one of input, conv1x1-bn-relu"),
        ("conv3x3(0)+output(1,2)", "vertex 2 hears '2' in 'output(1,2)', expected vertices before it: 0 … 1"),
        ("conv3x3(0)+output(1 0)", "vertex 2 hears '1 0'"),
        ("output()", "the graph has no arcs"),
        ("conv3x3()+output(1)", "no path from input to output"),
        ("input(0)+output(1)", "got labels ['input', 'input', 'output'], expected one of conv1x1-bn-relu"),
        ("+".join(["conv3x3(0)"] * 6) + "+output(1)", "got 8 vertices, expected up to 7"),
        ("conv1x1(0)+conv1x1(0,1)+conv1x1(0,1,2)+conv1x1(0,1,2,3)+output(4)", "the graph has 11 arcs"),
        ("{", "cannot read '{'"),
        ('{"a": 1}', 'expected {"module_adjacency": …, "module_operations": …}'),
        ("[[[0, 1], [0, 0]], []]", "0 operations, and not as many rows"),
        ('[[[0, 2], [0, 0]], ["input", "output"]]', "of as many numbers 0 and 1"),
        ('[[[0, 1], [1, 0]], ["input", "output"]]', "the graph has a cycle or no path"),
        ('[[[0, 1], [0, 0]], ["input", "sum"]]', "vertex 1 is 'sum'"),
    ],
)
def test_messages_say_what_and_where(text, complaint):
    with pytest.raises(SpaceError) as caught:
        SPACE.parse(text)
    assert complaint in str(caught.value)


@given(st.text() | st.text("(),+0123[]{}conv3xutp ", max_size=40))
def test_any_other_text_is_refused_or_read(text):
    try:
        cell = SPACE.parse(text)
    except SpaceError:
        return
    assert SPACE.parse(SPACE.format(cell)) == cell


@pytest.mark.parametrize(
    "arch", [(), (0,), (1, 1), (7,), (7, 4), (7, 0), (2**21, 1), (-1,), (5,), (14, 1, 1), (7, 1, 1), (7, 1.5)]
)
def test_strangers(arch):
    with pytest.raises(SpaceError, match="expected a tuple"):
        SPACE.index(arch)
    with pytest.raises(SpaceError, match="expected a tuple"):
        SPACE.build(arch)


# ---- validity ----


@settings(max_examples=150)
@given(st.lists(st.integers(0, 4), min_size=5, max_size=5), st.integers(0, 2**21 - 1), st.sampled_from((4, 4, 4, 2)))
def test_validity_of_decoded_graphs(labels, arcs, last_label):
    ops = [0, *labels, last_label]
    adjacency = np.zeros((7, 7), dtype=bool)
    adjacency[np.triu_indices(7, 1)] = [arcs >> bit & 1 for bit in range(21)]
    graph = as_networkx(ops, adjacency)
    graphs = CellGraph(torch.tensor([ops]), torch.from_numpy(adjacency[None]))
    touched = max((v for arc in graph.edges for v in arc), default=0)
    assert SPACE.is_valid_published(graphs).tolist() == [is_cell(graph, 0, 6)]
    valid = is_cell(graph, 0, touched)
    assert SPACE.is_valid(graphs).tolist() == [valid]
    if valid:
        member = as_networkx(*SPACE.graph(SPACE[int(SPACE.indices_of(graphs))]))
        assert nx.is_isomorphic(member, pruned(graph, 0, touched), MATCH)
    else:
        with pytest.raises(SpaceError):
            SPACE.from_graph(CellGraph(graphs.ops[0], graphs.adjacency[0]))


def test_a_small_cell_may_be_decoded_with_labels_behind_it():
    ops, adjacency = SPACE.graph(SPACE.parse("conv3x3(0)+output(0,1)"))
    labelled = ops.clone()
    labelled[3:] = 0
    graphs = CellGraph(torch.stack([ops, labelled]), torch.stack([adjacency, adjacency]).float())
    assert SPACE.is_valid(graphs).tolist() == [True, True]
    assert SPACE.is_valid_published(graphs).tolist() == [False, False]


def test_padding_has_no_arcs():
    ops, adjacency = SPACE.graph(SPACE.parse("conv3x3(0)+output(0,1)"))
    ops, adjacency = ops[[0, 3, 1, 2, 4, 5, 6]], adjacency[[0, 3, 1, 2, 4, 5, 6]][:, [0, 3, 1, 2, 4, 5, 6]]
    assert SPACE.indices_of(batch([CellGraph(ops, adjacency)])).tolist() == [SPACE.index((7, 2))]
    adjacency[0, 1] = True
    assert SPACE.indices_of(batch([CellGraph(ops, adjacency)])).tolist() == [-1]


def test_graphs_of_other_sizes():
    small = CellGraph(torch.tensor([[0, 4]]), torch.tensor([[[False, True], [False, False]]]))
    assert SPACE.indices_of(small).tolist() == [0]
    with pytest.raises(SpaceError, match="got graphs of 8 vertices, expected up to 7"):
        SPACE.is_valid(CellGraph(torch.zeros(1, 8, dtype=torch.long), torch.zeros(1, 8, 8)))
    nothing = CellGraph(torch.zeros(0, 7, dtype=torch.long), torch.zeros(0, 7, 7))
    assert SPACE.is_valid(nothing).shape == (0,)


# ---- neighbours ----


def edited(graph):
    """All that one edit makes of a cell, by the definition, with networkx."""
    output = len(graph) - 1
    whole = lambda g: len(pruned(g, 0, output)) == len(g)  # noqa: E731
    for vertex, label in product(range(1, output), (1, 2, 3)):
        other = graph.copy()
        other.nodes[vertex]["op"] = label
        yield other
    for u, v in permutations(graph, 2):
        other = graph.copy()
        if graph.has_edge(u, v):
            other.remove_edge(u, v)
            if whole(other):
                yield other
        elif u != output and v != 0 and not nx.has_path(graph, v, u):
            other.add_edge(u, v)
            yield other
        if u != output and v != 0 and not nx.has_path(graph, v, u):
            for label in (1, 2, 3):
                other = graph.copy()
                other.add_node("new", op=label)
                other.add_edges_from(((u, "new"), ("new", v)))
                yield other
    for vertex in range(1, output):
        if graph.in_degree(vertex) == graph.out_degree(vertex) == 1:
            other = graph.copy()
            other.remove_node(vertex)
            if whole(other):
                yield other


@pytest.mark.parametrize("size", SIZES)
def test_neighbours_are_what_one_edit_makes(size, table):
    for index in np.random.default_rng(size).integers(FIRST[size], FIRST[size] + SIZES[size], 4).tolist():
        cell = as_networkx(*SPACE.graph(SPACE[index]))
        cells = [g for g in edited(cell) if len(g) <= 7 and g.size() <= 9]
        orders = [[v for v in nx.topological_sort(g) if v != size - 1] + [size - 1] for g in cells]
        graphs = batch([as_graph(g, order) for g, order in zip(cells, orders, strict=True)])
        expected = set(SPACE.indices_of(graphs).tolist()) - {index}
        assert -1 not in expected
        listed = [SPACE.index(arch) for arch in SPACE.neighbors(SPACE[index])]
        assert set(listed) == expected
        assert len(listed) == len(expected)
        row = table[index].tolist()
        assert row[: len(listed)] == sorted(listed)
        assert set(row[len(listed) :]) <= {-1}


def test_neighbours_are_mutual_and_lead_everywhere(table):
    tails, columns = np.nonzero(table.numpy() >= 0)
    heads = table.numpy()[tails, columns]
    assert np.array_equal(np.sort(tails * len(SPACE) + heads), np.sort(heads * len(SPACE) + tails))
    assert (tails != heads).all()
    graph = coo_array((np.ones(len(tails), dtype=np.int8), (tails, heads)), shape=(len(SPACE),) * 2)
    assert connected_components(graph, directed=False)[0] == 1


def test_sampling_and_mutation_are_reproducible():
    def draw():
        rng = np.random.default_rng(3)
        start = SPACE.sample(rng)
        return start, SPACE.mutate(start, rng)

    assert draw() == draw()
    start, mutant = draw()
    assert mutant in set(SPACE.neighbors(start))


# ---- networks and the real cells ----


def test_size_of_the_documented_network():
    assert count_parameters(SPACE.build(SPACE.parse(json.dumps(INCEPTION)))) == 2_694_282


@settings(max_examples=10)
@given(INDICES)
def test_every_cell_can_be_built(index):
    network = SPACE.build(SPACE[index], channels=6, cells_per_stage=1, num_stages=2, num_classes=7, in_channels=1)
    assert network.eval()(torch.zeros(2, 1, 8, 8)).shape == (2, 7)


def test_too_narrow_a_network_is_refused():
    cell = SPACE.parse("+".join(["conv1x1(0)"] * 3) + "+output(1,2,3)")
    with pytest.raises(SpaceError, match="concatenates 3 vertices to 2 channels"):
        SPACE.build(cell, channels=2)


@pytest.fixture(scope="module")
def real_cells():
    path = os.environ.get("LIGHTNING_NAS_NASBENCH101")
    if not path or not Path(path).is_file():
        pytest.skip("set LIGHTNING_NAS_NASBENCH101 to an .npz with 'ops', 'op_names' and 'adjacency' of real cells")
    with np.load(path) as file:
        names = [str(name) for name in file["op_names"]]
        label = {name: next(i for i, known in enumerate(SPACE.vertex_labels) if name in known) for name in names}
        ops = np.array([label[name] for name in names])[file["ops"]]
        return CellGraph(torch.from_numpy(ops), torch.from_numpy(file["adjacency"].astype(bool)))


def test_real_cells_are_members(real_cells):
    members = SPACE.indices_of(real_cells)
    assert (members >= 0).all()
    assert SPACE.is_valid(real_cells).all()
    for place in range(0, len(members), 97):
        member = as_networkx(*SPACE.graph(SPACE[members[place]]))
        real = as_networkx(real_cells.ops[place], real_cells.adjacency[place])
        last = max(v for arc in real.edges for v in arc)
        assert nx.is_isomorphic(member, pruned(real, 0, last), MATCH)
