from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lightning_nas.benchmarks.tabular import TabularBenchmark
from lightning_nas.benchmarks.tabulation import Tabulation, shards_of
from lightning_nas.errors import BenchmarkDataError, UsageError
from lightning_nas.nn.training import TrainingRecipe
from lightning_nas.workers.base import ExecutorWorkers
from tests.benchmarks.stripes import make
from tests.benchmarks.widths import Widths

RECIPE = TrainingRecipe(epochs=2, batch_size=16, learning_rate=0.05, shift=0, test_shift=0)


@pytest.fixture
def tabulation(tmp_path):
    pools = []

    def tabulation(num_shards=3, space=None, output="t.npz", **changes):
        pools.append(ThreadPoolExecutor(1))
        arguments = {"num_seeds": 2, "recipe": RECIPE, "workers": ExecutorWorkers(pools[-1])} | changes
        return Tabulation(make(tmp_path, space or Widths(), **arguments), tmp_path / output, num_shards)

    yield tabulation
    for pool in pools:
        pool.shutdown()


def test_the_table_is_what_the_benchmark_says(tabulation):
    work = tabulation()
    assert work.missing() == [0, 1, 2]
    assert len(work.distinct) == 6
    for shard in (2, 0, 1):
        work.evaluate(shard)
    assert work.missing() == []
    table = work.assemble({"licence": "mine"})
    assert len(table) == 9
    assert table.meta["licence"] == "mine"
    assert table.meta["made_by"] == work.benchmark.identity()
    assert table["stripes/test@2"].shape == (9, 2)
    space = work.benchmark.space
    results = work.benchmark.results(list(space))  # every architecture, duplicates included, from the store
    for column, name in (("stripes/test@2", "test"), ("stripes/valid@2", "valid"), ("stripes/cost@2", "cost")):
        expected = [[getattr(result, name) for result in seeds] for seeds in results]
        np.testing.assert_allclose(table[column], expected, atol=1e-4)
    np.testing.assert_allclose(table["stripes/valid@1"], [[r.curve[0] for r in seeds] for seeds in results], atol=1e-4)
    np.testing.assert_allclose(table["stripes/cost@1"] * 2, table["stripes/cost@2"], atol=2e-4)
    assert table["params"].tolist() == [seeds[0].params for seeds in results]
    assert table["flops"].tolist() == [seeds[0].flops for seeds in results]
    work.remove_shards()
    assert not work.folder.exists()


def test_a_tabular_benchmark_reads_it(tabulation):
    work = tabulation()
    for shard in work.missing():
        work.evaluate(shard)
    table = work.assemble({})
    benchmark = TabularBenchmark(Widths(), str(table.path), "stripes", epochs=1, test_epochs=2)
    archs = [(2, 0), (0, 2), (1, 1)]
    valid, test, cost = benchmark.evaluate(archs)
    assert valid[0] == valid[1]
    live = work.benchmark.evaluate(archs)
    np.testing.assert_allclose(test, live.test, atol=1e-4)
    np.testing.assert_allclose(cost * 2, live.cost, atol=1e-3)


def test_what_is_there_is_not_trained_again(tabulation, monkeypatch):
    work = tabulation()
    work.evaluate(1)
    again, trained = tabulation(), []
    results = again.benchmark.results
    monkeypatch.setattr(again.benchmark, "results", lambda archs: trained.extend(archs) or results(archs))
    for shard in again.missing():
        again.evaluate(shard)
    space = again.benchmark.space
    expected = {space.index(arch) for arch in trained} | {*again.indices(1).tolist()}
    assert len(trained) == 4
    assert expected == {*again.distinct.tolist()}


def test_a_finished_table_is_known_and_another_is_refused(tabulation):
    work = tabulation()
    assert not work.finished
    for shard in work.missing():
        work.evaluate(shard)
    first = work.assemble({}).meta["md5"]
    work.remove_shards()
    work.remove_shards()  # by another part
    assert work.finished
    assert tabulation().finished
    assert len(first) == 32
    with pytest.raises(BenchmarkDataError, match=r"t\.npz: holds another table"):
        _ = tabulation(recipe=TrainingRecipe(epochs=1)).finished


def test_shards_of_another_benchmark_or_number_are_refused(tabulation):
    tabulation().evaluate(0)
    with pytest.raises(BenchmarkDataError, match=r"0\.npz: was made by another benchmark"):
        tabulation(recipe=TrainingRecipe(epochs=3)).missing()
    with pytest.raises(BenchmarkDataError, match=r"holds other architectures than shard 0 of 2"):
        tabulation(num_shards=2).missing()


def test_a_damaged_shard_is_named(tabulation):
    work = tabulation()
    work.evaluate(0)
    work.path(0).write_bytes(work.path(0).read_bytes()[:-50])
    with pytest.raises(BenchmarkDataError, match=r"0\.npz"):
        work.missing()


class Broken(Widths):
    def build(self, arch, **network):
        if arch == (1, 1):
            raise RuntimeError("no such network")
        return super().build(arch, **network)


def test_failed_trainings_leave_no_shard_and_can_be_repeated(tabulation):
    work = tabulation(space=Broken())
    shard = next(k for k in range(3) if Widths().index((1, 1)) in work.indices(k))
    with pytest.raises(BenchmarkDataError, match=rf"1 of the 2 architectures of shard {shard}.*11 .*no such network"):
        work.evaluate(shard)
    assert not work.path(shard).exists()
    mended = tabulation(retry_failed=True)
    mended.evaluate(shard)
    assert mended.path(shard).is_file()


def test_spaces_without_end_and_too_many_shards_are_refused(tabulation):
    with pytest.raises(UsageError, match="got 7 shards, expected 1 to the 6 distinct"):
        tabulation(num_shards=7)
    work = tabulation()
    endless = type("Endless", (), {"name": "endless"})()
    work.benchmark.space = endless
    with pytest.raises(UsageError, match="'endless' has no end"):
        Tabulation(work.benchmark, work.output, 1)


@pytest.mark.parametrize("part", ["0/2", "3/2", "2", "a/b", "-1/2"])
def test_parts_are_checked(part):
    with pytest.raises(UsageError, match="expected 'k/n'"):
        shards_of(part, range(4))


def test_parts_share_everything_out():
    parts = [list(shards_of(f"{k}/3", range(10))) for k in (1, 2, 3)]
    assert sorted(shard for part in parts for shard in part) == list(range(10))
