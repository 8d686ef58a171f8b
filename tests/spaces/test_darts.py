import itertools
import pickle
import re
from collections import Counter

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from lightning_nas import export
from lightning_nas.benchmarks.job import TrainingJob
from lightning_nas.benchmarks.store import ResultKey
from lightning_nas.errors import SpaceError, UsageError
from lightning_nas.modules.classifier import ImageClassifier
from lightning_nas.nn.complexity import count_flops, count_parameters
from lightning_nas.nn.darts import OPERATIONS
from lightning_nas.nn.isomorphism import isomorphism_hashes
from lightning_nas.nn.training import TrainingData, TrainingRecipe
from lightning_nas.spaces import darts_sample
from lightning_nas.spaces.base import CellGraph
from lightning_nas.spaces.config import describe_space, make_space
from lightning_nas.spaces.darts import DARTSCell, DARTSNetwork
from lightning_nas.spaces.darts_cells import edits, graphs_of
from lightning_nas.spaces.darts_sample import draw_cells, imagenet_flops
from tests.benchmarks.stripes import Stripes
from tests.contract import quiet_trainer

SPACE, PAIRS = DARTSCell(num_cells=300), DARTSNetwork()
RL = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('dil_conv_3x3', 1), ('max_pool_3x3', 0), ('dil_conv_3x3', 1), "
    "('skip_connect', 0), ('sep_conv_3x3', 1), ('dil_conv_5x5', 1), ('sep_conv_3x3', 0)], normal_concat=range(2, 6))"
)
BO = (
    "Genotype(normal=[('sep_conv_5x5', 1), ('max_pool_3x3', 0), ('skip_connect', 0), ('dil_conv_3x3', 1), "
    "('sep_conv_5x5', 1), ('sep_conv_3x3', 0), ('dil_conv_5x5', 2), ('sep_conv_3x3', 0)], normal_concat=[2, 3, 4, 5])"
)
SEEDS = st.integers(0, 2**32 - 1)


def cell(seed):
    return tuple(draw_cells(1, np.random.default_rng(seed))[0].tolist())


def batch(*graphs):
    return CellGraph(torch.stack([g.ops for g in graphs]), torch.stack([g.adjacency for g in graphs]))


def changed(graph, *arcs, ops=None):
    """With some arcs flipped, or other labels."""
    adjacency, labels = graph.adjacency.clone(), graph.ops.clone()
    for tail, head in arcs:
        adjacency[tail, head] ^= True
    for vertex, label in (ops or {}).items():
        labels[vertex] = label
    return CellGraph(labels, adjacency)


def drawn(graph):
    picture = nx.from_numpy_array(graph.adjacency.numpy(), create_using=nx.DiGraph)
    nx.set_node_attributes(picture, dict(enumerate(graph.ops.tolist())), "label")
    return picture


def isomorphic(one, other):
    return nx.is_isomorphic(drawn(one), drawn(other), node_match=lambda a, b: a["label"] == b["label"])


def test_members_are_distinct_small_and_the_beginning_of_a_larger_sample():
    assert len(SPACE) == len(set(SPACE)) == 300
    assert [SPACE.index(arch) for arch in SPACE] == list(range(300))
    assert max(map(SPACE.flops, SPACE)) < 600e6
    assert list(DARTSCell(20)) == list(SPACE)[:20]
    assert list(DARTSCell(20, seed=1)) != list(SPACE)[:20]
    few = DARTSCell(20, max_flops=300e6)
    assert max(map(few.flops, few)) < 300e6
    graphs = SPACE.all_graphs()
    assert len(isomorphism_hashes(graphs).unique()) == 300
    assert torch.equal(SPACE.indices_of(graphs), torch.arange(300))
    assert SPACE.is_valid(graphs).all()


def test_operations_and_predecessors_are_drawn_uniformly():
    codes = draw_cells(60_000, np.random.default_rng(0)).view(-1, 4, 2, 2)
    for block in range(4):
        pairs = Counter(map(tuple, codes[:, block, :, 1].tolist()))
        assert pairs.keys() == set(itertools.combinations(range(2 + block), 2))
        assert max(pairs.values()) - min(pairs.values()) < 0.05 * 60_000
        for edge in range(2):
            counts = codes[:, block, edge, 0].bincount(minlength=8)
            assert (counts / 60_000 - 1 / 8).abs().max() < 0.01


@pytest.mark.parametrize(("text", "published"), [(RL, 533), (BO, 580)])
def test_the_count_is_the_published_one(text, published):
    """Table 5 of arch2vec, in millions."""
    assert round(SPACE.flops(SPACE.parse(text)) / 1e6) == published


def test_the_count_is_that_of_the_network_built():
    for seed in range(2):
        arch = cell(seed)
        network = SPACE.build(arch, channels=48, num_layers=14, num_classes=1000, stem="imagenet")
        normalised = []
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.register_forward_hook(lambda _, __, output, seen=normalised: seen.append(output[0].numel()))
        counted = count_flops(network, (3, 224, 224))
        assert SPACE.flops(arch) == counted + 2 * sum(normalised)
        assert imagenet_flops(torch.tensor([arch, arch])).tolist() == [SPACE.flops(arch)] * 2


@given(SEEDS)
def test_notation_and_graphs_round_trip(seed):
    arch = cell(seed)
    assert SPACE.parse(SPACE.format(arch)) == SPACE.from_graph(SPACE.graph(arch)) == arch
    pair = (arch, cell(seed + 1))
    assert PAIRS.parse(PAIRS.format(pair)) == PAIRS.from_graph(PAIRS.graph(pair)) == pair
    assert PAIRS.is_valid(batch(PAIRS.graph(pair))).all()


@given(SEEDS)
def test_the_graph_is_that_of_the_genotype(seed):
    arch = cell(seed)
    expected = nx.DiGraph((2 + edge, 10) for edge in range(8))
    for edge, source in enumerate(arch[1::2]):
        tails = [source] if source < 2 else [2 * source - 2, 2 * source - 1]
        expected.add_edges_from((tail, 2 + edge) for tail in tails)
    graph = SPACE.graph(arch)
    assert set(drawn(graph).edges) == set(expected.edges)
    names = [SPACE.vertex_labels[label] for label in graph.ops]
    assert names == ["c_{k-2}", "c_{k-1}", *(OPERATIONS[code] for code in arch[::2]), "c_k"]
    assert torch.equal(graph.adjacency, graph.adjacency.triu(1))


@pytest.mark.parametrize("space", [SPACE, PAIRS])
@given(text=st.text() | st.text("Genotype(normal=[]', 0123)", max_size=60))
def test_other_text_is_refused(space, text):
    with pytest.raises(SpaceError):
        space.parse(text)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda text: "", "expected Genotype"),
        (lambda text: text[:-1], "expected Genotype"),
        (lambda text: "(" * 5000 + text, "expected Genotype"),
        (lambda text: text.replace("normal=", "normals="), "has normals, normal_concat, expected"),
        (lambda text: text.replace("'sep_conv_3x3'", "__import__('os')"), "expected Genotype"),
        (lambda text: text.replace("'skip_connect'", "'pool'"), "normal, pair 4: got the operation 'pool'"),
        (lambda text: text.replace("('skip_connect', 0)", "('sep_conv_3x3', 4)"), "got the predecessor 4"),
        (lambda text: text.replace("('skip_connect', 0)", "('skip_connect', True)"), "got the predecessor True"),
        (lambda text: text.replace("('skip_connect', 0)", "('none', 1)"), "pairs 4 and 5 both have the predecessor 1"),
        (lambda text: text.replace("('skip_connect', 0), ", ""), "normal has 7 entries, expected 8"),
        (lambda text: text.replace("('skip_connect', 0), ", "3, "), "normal, pair 4 is 3"),
        (lambda text: text.replace("range(2, 6)", "[2, 3]"), r"got normal_concat=[2, 3], expected [2, 3, 4, 5]"),
    ],
)  # fmt: skip
def test_messages_say_what_and_where(change, complaint):
    with pytest.raises(SpaceError, match=re.escape(complaint)):
        SPACE.parse(change(RL))


def test_genotypes_of_two_cells_and_of_one():
    both = RL[:-1] + ", " + BO.removeprefix("Genotype(").replace("normal", "reduce")
    with pytest.raises(SpaceError, match="normal and reduce cells differ"):
        SPACE.parse(both)
    assert PAIRS.parse(both) == (SPACE.parse(RL), SPACE.parse(BO))
    assert PAIRS.parse("genotypes." + both) == PAIRS.parse(both)
    with pytest.raises(SpaceError, match="only the cell normal"):
        PAIRS.parse(RL)
    assert SPACE.parse(RL.replace("normal", "reduce")) == SPACE.parse(RL)
    swapped = RL.replace("('sep_conv_3x3', 0), ('dil_conv_3x3', 1)", "('dil_conv_3x3', 1), ('sep_conv_3x3', 0)", 1)
    assert SPACE.parse(swapped) == SPACE.parse(RL)


@pytest.mark.parametrize("arch", [(), (0,) * 16, (0, 0, 0, 1) * 3, (8, 0, 0, 1, *(0, 0, 0, 1) * 3), (0, 1, 0, 0) * 4])
def test_what_is_no_cell_is_refused(arch):
    for ask in (SPACE.format, SPACE.graph, SPACE.build, SPACE.index, SPACE.flops, lambda a: list(SPACE.neighbors(a))):
        with pytest.raises(SpaceError, match="expected 16 integers"):
            ask(arch)
    with pytest.raises(SpaceError, match="expected 16 integers"):
        PAIRS.format((SPACE[0], arch))


def test_a_stranger_has_no_index():
    with pytest.raises(SpaceError, match=r"not among the 300 that were sampled"):
        SPACE.index(SPACE.parse(RL))
    assert SPACE.indices_of(batch(SPACE.graph(SPACE.parse(RL)))).tolist() == [-1]
    with pytest.raises(IndexError):
        SPACE[300]


def test_members_are_found_in_any_order_of_vertices():
    rng = np.random.default_rng(0)
    graphs = []
    for arch in list(SPACE)[:50]:
        order = torch.from_numpy(rng.permutation(11))
        graph = SPACE.graph(arch)
        graphs.append(CellGraph(graph.ops[order], graph.adjacency[order][:, order]))
    assert SPACE.indices_of(batch(*graphs)).tolist() == list(range(50))


def test_68_edits_that_can_be_undone():
    codes = draw_cells(30, np.random.default_rng(0))
    for arch, options in zip(codes.tolist(), edits(codes).tolist(), strict=True):
        assert len(set(map(tuple, options))) == 68
        assert arch not in options
        for option in options[::7]:
            SPACE.graph(tuple(option))  # is a cell
            assert arch in edits(torch.tensor(option)).tolist()


def test_edits_are_all_cells_that_differ_at_one_edge():
    arch = cell(3)
    edges = list(zip(arch[::2], arch[1::2], strict=True))
    expected = set()
    for edge, operation, source in itertools.product(range(8), range(8), range(5)):
        block = edge // 2
        other = edges[edge ^ 1]
        one_edit = (operation == edges[edge][0]) != (source == edges[edge][1])
        if source < block + 2 and source != other[1] and one_edit:
            new = list(edges)
            new[2 * block : 2 * block + 2] = sorted([(operation, source), other], key=lambda e: e[1])
            expected.add(tuple(itertools.chain(*new)))
    assert set(map(tuple, edits(torch.tensor(arch)).tolist())) == expected


@pytest.fixture
def crowded(monkeypatch):
    seeds = draw_cells(3, np.random.default_rng(1))
    near = edits(seeds).flatten(0, 1)
    codes = torch.cat([seeds, near, edits(near[:8]).flatten(0, 1)])
    hashes = isomorphism_hashes(graphs_of(codes))
    _, first = np.unique(hashes.numpy(), return_index=True)
    kept = torch.from_numpy(np.sort(first))
    sample = darts_sample.Sample(codes[kept].to(torch.int8), hashes[kept])
    monkeypatch.setattr("lightning_nas.spaces.darts.sample_cells", lambda *_: sample)
    return DARTSCell(num_cells=len(kept))


def test_neighbours_are_members_one_edit_away(crowded):
    table = crowded.neighbor_table()
    counts = (table >= 0).sum(dim=1)
    assert counts.max() == table.shape[1] > 20
    rows = {i: set(row[row >= 0].tolist()) for i, row in enumerate(table)}
    assert all(len(rows[i]) == counts[i] and i not in rows[i] for i in rows)
    for i in range(0, len(crowded), 97):
        assert {crowded.index(arch) for arch in crowded.neighbors(crowded[i])} == rows[i]
        near = [SPACE.graph(tuple(option)) for option in edits(torch.tensor(crowded[i])).tolist()]
        for j in sorted(rows[i])[:3]:
            assert any(isomorphic(crowded.graph(crowded[j]), graph) for graph in near)
    assert crowded.mutate(crowded[0], np.random.default_rng(0)) in set(crowded.neighbors(crowded[0]))


def test_lonely_members_have_no_neighbours_but_mutate():
    lonely = DARTSCell(3)
    assert lonely.neighbor_table().tolist() == [[-1]] * 3
    assert list(lonely.neighbors(lonely[0])) == []
    assert lonely.mutate(lonely[0], np.random.default_rng(0)) in set(lonely)


# From here on: one cell, damaged. Block 1 (vertices 4, 5) reads input 0 and block 0 (vertices 2, 3).
TURNED = [0, 1, 3, 2, *range(4, 11)]  # block 0 the other way round
GOOD = SPACE.graph((4, 0, 5, 1, 6, 0, 7, 2, 1, 0, 0, 3, 3, 1, 2, 4))


@pytest.mark.parametrize(
    ("graph", "strict", "published"),
    [
        (GOOD, True, True),
        (CellGraph(GOOD.ops[TURNED], GOOD.adjacency[TURNED][:, TURNED]), True, True),
        (changed(GOOD, ops={0: 1}), False, False),
        (changed(GOOD, ops={1: 0}), False, False),
        (changed(GOOD, ops={10: 5}), False, False),
        (changed(GOOD, ops={4: 10}), False, False),
        (changed(GOOD, ops={4: 1}), False, False),
        (changed(GOOD, ops={4: -1}), False, False),
        (changed(GOOD, (0, 4)), False, False),  # reads nothing
        (changed(GOOD, (1, 4)), False, True),  # reads two inputs
        (changed(GOOD, (3, 5)), False, True),  # half a block
        (changed(GOOD, (0, 5)), False, True),  # a block and an input
        (changed(GOOD, (0, 3), (1, 3)), False, True),  # both of block 0 read input 0
        (changed(GOOD, (4, 5)), False, True),  # an arc inside a block
        (changed(GOOD, (0, 3), (1, 3), (0, 2), (2, 3), (0, 2)), False, True),
        (changed(GOOD, (4, 10)), False, True),  # feeds no output
        (changed(GOOD, (0, 10)), False, True),  # an input that does
        (changed(GOOD, (0, 1)), False, True),
    ],
)
def test_validity(graph, strict, published):
    several = batch(graph, GOOD)
    assert SPACE.is_valid(several).tolist() == [strict, True]
    assert SPACE.is_valid_published(several).tolist() == [published, True]
    if strict:
        assert SPACE.from_graph(graph) == SPACE.from_graph(GOOD)
    else:
        with pytest.raises(SpaceError, match="is no cell"):
            SPACE.from_graph(graph)


@settings(max_examples=40)
@given(SEEDS, st.integers(0, 10), st.integers(0, 10))
def test_a_flipped_arc_is_a_cell_only_where_graphs_agree(seed, tail, head):
    """No graph passes the strict test that is not the graph of some cell, up to the order within blocks."""
    graph = SPACE.graph(cell(seed))
    other = changed(graph, (min(tail, head), max(tail, head)))
    if SPACE.is_valid(batch(other)).item():
        assert isomorphic(other, SPACE.graph(SPACE.from_graph(other)))
    assert not SPACE.is_valid(batch(other)).item()


def test_validity_of_pairs():
    graph = PAIRS.graph((SPACE[0], SPACE[1]))
    bridge, broken = graph.adjacency.clone(), graph.adjacency.clone()
    bridge[3, 14] = True
    broken[13, 21] ^= True
    graphs = batch(graph, CellGraph(graph.ops, bridge), CellGraph(graph.ops, broken))
    assert PAIRS.is_valid(graphs).tolist() == [True, False, False]
    for damaged in list(map(CellGraph, graphs.ops, graphs.adjacency))[1:]:
        with pytest.raises(SpaceError):
            PAIRS.from_graph(damaged)
    with pytest.raises(SpaceError, match="expected 22 vertices"):
        PAIRS.from_graph(SPACE.graph(SPACE[0]))


def test_pairs_are_sampled_and_edited():
    arch = PAIRS.sample(np.random.default_rng(0))
    assert PAIRS.cells(arch) == arch
    assert arch[0] != arch[1]
    neighbors = list(PAIRS.neighbors(arch))
    assert len(set(neighbors)) == 136
    assert all((one == arch[0]) != (two == arch[1]) for one, two in neighbors)
    assert PAIRS.mutate(arch, np.random.default_rng(0)) in neighbors
    with pytest.raises(SpaceError, match="expected two cells"):
        PAIRS.cells(arch[:1])


def test_embeddings_of_pairs_are_those_of_their_cells():
    def embed(graphs):
        return torch.stack([graphs.ops.float().mean(dim=1), graphs.adjacency.float().sum(dim=(1, 2))], dim=1)

    archs = [PAIRS.sample(np.random.default_rng(seed)) for seed in range(4)]
    embeddings = PAIRS.embed(archs, embed)
    assert embeddings.shape == (4, 4)
    for (normal, reduction), embedding in zip(archs, embeddings, strict=True):
        alone = embed(batch(SPACE.graph(normal), SPACE.graph(reduction)))
        assert torch.equal(embedding, alone.flatten())


@pytest.mark.parametrize("space", [SPACE, PAIRS, DARTSCell(5, 500e6, seed=2)])
def test_a_space_is_its_settings(space):
    space.neighbors(space.sample(np.random.default_rng(0)))
    again = pickle.loads(pickle.dumps(space))
    assert make_space(describe_space(space)) == space == again
    assert len(pickle.dumps(space)) < 200
    assert DARTSCell(5) != DARTSCell(6)


def test_published_sizes():
    assert count_parameters(SPACE.build(SPACE.parse(RL))) == pytest.approx(3.3e6, rel=0.02)
    assert count_parameters(SPACE.build(SPACE.parse(BO))) == pytest.approx(3.6e6, rel=0.02)


def test_networks_of_any_size():
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    small = {"channels": 4, "num_classes": 3, "in_channels": 1}
    assert SPACE.build(SPACE[0], cells_per_stage=1, num_stages=2, **small)(x).shape == (2, 3)
    staged, thirds = (SPACE.build(SPACE[0], **small, **n) for n in ({"cells_per_stage": 1}, {"num_layers": 5}))
    assert staged.state_dict().keys() == thirds.state_dict().keys()
    pair = PAIRS.build((SPACE[0], SPACE[1]), num_layers=2, **small)
    assert [edge for block in pair.cells for edge in block.sources] == 2 * list(SPACE[1][1::2])


@pytest.mark.parametrize("arguments", [{"num_cells": 0}, {"seed": -1}])
def test_settings_out_of_range(arguments):
    with pytest.raises(SpaceError, match=r"expected num_cells >= 1"):
        DARTSCell(**arguments)


def test_more_cells_than_there_are(monkeypatch):
    monkeypatch.setattr(darts_sample, "_PATIENCE", 2)
    with pytest.raises(SpaceError, match=r"found 0 cells below 100 million multiply-adds, expected num_cells=10"):
        len(DARTSCell(10, max_flops=100e6).codes)


@pytest.fixture
def kept(monkeypatch, tmp_path):
    monkeypatch.setenv("LIGHTNING_NAS_DATA", str(tmp_path))
    monkeypatch.setattr(darts_sample, "_KEPT", 50)
    darts_sample.sample_cells.cache_clear()
    yield tmp_path
    darts_sample.sample_cells.cache_clear()


def test_large_samples_are_kept(kept, monkeypatch):
    first = list(DARTSCell(60))
    (file,) = kept.iterdir()
    darts_sample.sample_cells.cache_clear()
    monkeypatch.setattr(darts_sample, "_sample", lambda *_: pytest.fail("sampled again"))
    assert list(DARTSCell(60)) == first
    assert file.name == "darts-cells-60-600000000-0.v1.npz"


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(file.read_bytes()[:-40]),
        lambda file: file.write_bytes(b"nothing"),
        lambda file: np.savez(file, codes=np.zeros((60, 16), dtype=np.int8)),
        lambda file: np.savez(file, **{**np.load(file), "codes": np.zeros((60, 16), dtype=np.int8)}),
        lambda file: np.savez(file, **{**np.load(file), "codes": np.load(file)["codes"][:5]}),
    ],
)
def test_a_damaged_file_is_made_anew(kept, caplog, damage):
    first = list(DARTSCell(60))
    (file,) = kept.iterdir()
    damage(file)
    darts_sample.sample_cells.cache_clear()
    assert list(DARTSCell(60)) == first
    assert "sampled anew" in caplog.text
    caplog.clear()
    darts_sample.sample_cells.cache_clear()
    assert list(DARTSCell(60)) == first
    assert not caplog.text


def test_a_folder_that_cannot_be_written_only_costs_time(kept, caplog, monkeypatch):
    (kept / "file").touch()
    monkeypatch.setenv("LIGHTNING_NAS_DATA", str(kept / "file"))
    assert len(list(DARTSCell(60))) == 60
    assert "are not kept" in caplog.text


@pytest.fixture(scope="module")
def classifier():
    """All that is for training alone is on."""
    torch.manual_seed(0)
    return ImageClassifier(
        DARTSCell(5), RL, 3, (1, 8, 8), channels=4, cells_per_stage=0, num_stages=2, drop_path=0.2, auxiliary_weight=0.4
    )


def test_retraining(classifier, tmp_path):
    images, labels = torch.randn(24, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 3
    before = {name: weight.clone() for name, weight in classifier.named_parameters() if weight.requires_grad}
    trainer = quiet_trainer(tmp_path, max_epochs=2)
    trainer.fit(classifier, DataLoader(TensorDataset(images, labels), batch_size=8))
    after = dict(classifier.named_parameters())
    moved = {name for name, weight in before.items() if not torch.equal(weight, after[name])}
    assert {"network.stem.0.weight", "network.auxiliary.9.weight", "network.classifier.weight"} <= moved


@pytest.mark.parametrize("form", ["python", "program", "onnx"])
def test_export(classifier, tmp_path, form):
    if form == "onnx":
        pytest.importorskip("onnxscript")
    exported = getattr(export, f"export_{form}")(classifier, tmp_path)
    assert exported.path.is_file()


def test_live_training():
    """Two seeds of a small network, as a worker trains them."""
    stripes = Stripes()
    stripes.setup("fit")
    data = TrainingData(*(getattr(stripes, n) for n in ("train", "valid", "test", "mean", "std")))
    network = {"channels": 4, "cells_per_stage": 0, "num_stages": 2, "num_classes": 4, "in_channels": 1}
    recipe = TrainingRecipe(epochs=1, batch_size=16, learning_rate=0.1, test_shift=0)
    results = TrainingJob(SPACE, network, data, recipe, num_seeds=2).run(ResultKey(SPACE.name, BO, "r", 0, 1))
    assert [result.error for result in results] == [None, None]
    assert results[0].params == count_parameters(SPACE.build(SPACE.parse(BO), **network))


def test_live_training_by_the_recipe_of_darts():
    stripes = Stripes()
    stripes.setup("fit")
    data = TrainingData(*(getattr(stripes, n) for n in ("train", "valid", "test", "mean", "std")))
    network = {"channels": 4, "cells_per_stage": 0, "num_stages": 2, "num_classes": 4, "in_channels": 1}
    more = {"cutout": 2, "drop_path": 0.2, "auxiliary_weight": 0.4, "gradient_clip": 5.0}
    recipe = TrainingRecipe(epochs=1, batch_size=16, learning_rate=0.1, test_shift=0, **more)
    (result,) = TrainingJob(SPACE, network, data, recipe).run(ResultKey(SPACE.name, BO, "r", 0, 1))
    assert result.error is None
    assert result.params == count_parameters(SPACE.build(SPACE.parse(BO), **network))  # without the auxiliary head


def test_retraining_for_imagenet():
    sizes = {"channels": 4, "cells_per_stage": 0, "num_stages": 2}
    module = ImageClassifier(SPACE, BO, 3, (1, 32, 32), **sizes, stem="imagenet")
    assert module.network.second_stem(module.network.stem(torch.zeros(2, 1, 32, 32))).shape == (2, 4, 4, 4)
    assert module.hparams["stem"] == "imagenet"
    with pytest.raises(UsageError, match="got stem='mnist', expected one of cifar, imagenet"):
        ImageClassifier(SPACE, BO, 3, (1, 32, 32), **sizes, stem="mnist")
