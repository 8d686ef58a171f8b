import numpy as np
import pytest
import torch

from lightning_nas.benchmarks.table import write_table
from lightning_nas.benchmarks.tabular import TabularBenchmark
from lightning_nas.datamodules.pairs import PairDataModule
from lightning_nas.errors import UsageError
from lightning_nas.spaces.encodings import OneHotEncoding
from tests.contract import TinySpace


@pytest.fixture
def benchmark(tmp_path):
    rng = np.random.default_rng(0)
    columns = {f"toy/valid@{epoch}": 50 + 5 * epoch + 10 * rng.random(81) for epoch in (1, 2, 3)}
    write_table(tmp_path / "curves.npz", {"space": "tiny"}, columns | {"toy/test@3": columns["toy/valid@3"]})
    return TabularBenchmark(TinySpace(), str(tmp_path / "curves.npz"), "toy", epochs=3, test_epochs=3)


def made(benchmark, **arguments):
    data = PairDataModule(benchmark, **{"num_known": [20], "num_val": 10} | arguments)
    data.setup("fit")
    return data


def test_all_pairs_of_one_level_the_better_one_first(benchmark):
    data = made(benchmark)
    accuracies = benchmark.lookup(data.pairs).valid
    assert (accuracies[:, 0] - accuracies[:, 1] >= 0.1).all()
    known = benchmark.lookup(data.known).valid
    assert len(data.pairs) == int(((known[:, None] - known) >= 0.1).sum())
    assert len({tuple(pair) for pair in data.pairs.tolist()}) == len(data.pairs)
    torch.testing.assert_close(data.weights, torch.ones(len(data.pairs)))
    assert not set(data.known.tolist()) & set(data.held_out.tolist())


def test_a_pyramid_trains_the_best_on(benchmark):
    data = made(benchmark, num_known=[20, 10, 5], epochs=[1, 2, 3])
    for level, (count, above) in enumerate(((20, 10), (10, 5)), start=1):
        there = data.standings.level[0] >= level
        assert int(there.sum()) == count
        scores = benchmark.lookup(data.known, level).valid
        went_on = data.standings.level[0] > level
        assert int(went_on.sum()) == above
        assert scores[went_on].min() > scores[there & ~went_on].max()
    level = dict(zip(data.known.tolist(), data.standings.level[0].tolist(), strict=True))
    for better, worse in data.pairs.tolist():
        assert level[better] >= level[worse]
    same = torch.tensor([level[a] == level[b] for a, b in data.pairs.tolist()])
    assert float(data.weights[same].sum()) == pytest.approx(float(data.weights[~same].sum()), rel=1e-4)
    unbalanced = made(benchmark, num_known=[20, 10, 5], epochs=[1, 2, 3], balance=False)
    torch.testing.assert_close(unbalanced.weights, torch.ones(len(unbalanced.pairs)))


def test_batches_hold_what_they_say(benchmark):
    data = made(benchmark, features=OneHotEncoding(), batch_size=16)
    space = benchmark.space
    assert data.num_features == 12
    index, graph, features, weight = next(iter(data.train_dataloader()))
    assert index.shape == (16, 2)
    assert features.shape == (16, 2, 12)
    assert weight.shape == (16,)
    for row, column in ((0, 0), (3, 1)):
        expected = space.graph(space[int(index[row, column])])
        assert torch.equal(graph.ops[row, column], expected.ops)
        assert torch.equal(graph.adjacency[row, column], expected.adjacency)
    (index, graph, _, accuracy), *rest = data.val_dataloader()
    assert not rest
    assert torch.equal(index, data.held_out)
    torch.testing.assert_close(accuracy, benchmark.lookup(index).valid.float())
    everything = torch.cat([batch[0] for batch in data.predict_dataloader()])
    assert torch.equal(everything, torch.arange(81))


def test_isomorphic_architectures_are_known_once(cells, tmp_path):
    rng = np.random.default_rng(0)
    accuracies = rng.random(len(cells))
    write_table(tmp_path / "cells.npz", {"space": "nasbench201"}, {"toy/valid@3": accuracies, "toy/test@3": accuracies})
    benchmark = TabularBenchmark(cells, str(tmp_path / "cells.npz"), "toy", epochs=3, test_epochs=3)
    data = made(benchmark, num_known=[2000], num_val=1000)
    both = torch.cat([data.known, data.held_out])
    assert len(cells.representatives[both].unique()) == 3000
    assert not torch.equal(both, cells.representatives[both])  # whichever was drawn first


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_known": [20, 30], "epochs": [1, 2]}, {"num_known": [20, 10]}, {"num_known": [1]}, {"batch_size": 0},
        {"num_known": [80]}, {"num_val": 1},
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_is_said(benchmark, arguments):
    with pytest.raises(UsageError, match="expected"):
        PairDataModule(benchmark, **arguments)


def test_accuracies_that_are_all_alike_make_no_pairs(benchmark):
    with pytest.raises(UsageError, match="no two of the 20 architectures"):
        made(benchmark, noise=100.0)
