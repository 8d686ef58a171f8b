"""Slopes trained live on digits, and what all benchmarks that train side by side have in common."""

import pytest
import torch

from lightning_nas.benchmarks.side_by_side import grouped, with_runs
from lightning_nas.benchmarks.slopes import SlopeBenchmark
from lightning_nas.benchmarks.tabular import TabularBenchmark
from lightning_nas.benchmarks.tabulation import Tabulation
from lightning_nas.datamodules.vision import DigitsDataModule
from lightning_nas.errors import UsageError
from lightning_nas.nn.slope_networks import SlopeRecipe
from lightning_nas.spaces.sigmoid_slope import SigmoidSlope

SPACE = SigmoidSlope(0.01, 2.01, 5)


def make_benchmark(**changes):
    given = {
        "data": DigitsDataModule(num_train=300, num_valid=200), "space": SPACE, "num_seeds": 2, "group_size": 2,
        "recipe": SlopeRecipe(epochs=4, batch_size=50, learning_rate=0.03, width=20),
    }  # fmt: skip
    return SlopeBenchmark(**given | changes)


def test_slopes_matter_and_epochs_are_kept():
    benchmark = make_benchmark()
    seen = []
    benchmark.on_result = lambda done, total: seen.append((done, total))
    scores = benchmark.evaluate(list(SPACE))
    assert seen == [(0, 5), (2, 5), (4, 5), (5, 5)]
    assert scores.valid[1] > scores.valid[0] + 10
    assert (benchmark.evaluate(list(SPACE), 1).valid < scores.valid).all()
    assert (scores.cost > 0).all()
    assert ((scores.test > 5) & (scores.test < 100)).all()
    with pytest.raises(UsageError, match="epochs=5"):
        benchmark.evaluate([0.01], 5)


def test_parameters_are_counted():
    assert make_benchmark(recipe=SlopeRecipe()).num_parameters(0.01) == 64 * 100 + 100 + 100 * 100 + 100 + 1000 + 10


def test_nothing_is_trained_twice(tmp_path, monkeypatch):
    first = make_benchmark(store=str(tmp_path / "slopes.sqlite"))
    scores = first.evaluate([SPACE[0], SPACE[2]])
    second = make_benchmark(store=str(tmp_path / "slopes.sqlite"))
    monkeypatch.setattr(second, "train", None)
    again = second.evaluate([SPACE[2], SPACE[0]])
    assert torch.equal(again.valid, scores.valid.flip(0))
    assert torch.equal(again.test, scores.test.flip(0))


def test_a_table_of_all_slopes(tmp_path):
    benchmark = make_benchmark()
    work = Tabulation(benchmark, tmp_path / "slopes.npz", 2)
    for shard in work.missing():
        work.evaluate(shard)
    work.assemble({"licence": "none"})
    table = TabularBenchmark(SPACE, str(tmp_path / "slopes.npz"), "digits", 4, 4)
    expected = benchmark.evaluate(list(SPACE))
    torch.testing.assert_close(table.lookup(torch.arange(5)).valid, expected.valid, rtol=1e-6, atol=0)
    torch.testing.assert_close(table.lookup(torch.arange(5)).test, expected.test, rtol=1e-6, atol=0)


def test_runs_are_grouped_by_architecture():
    archs, seeds = with_runs([1, 2], [5, 6, 7])
    found = grouped(torch.tensor([10 * arch + seed for arch, seed in zip(archs, seeds, strict=True)]), 2)
    assert found.tolist() == [[15, 16, 17], [25, 26, 27]]
