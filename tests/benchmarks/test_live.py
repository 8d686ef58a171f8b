import logging
import os
import signal
import subprocess
import sys
import textwrap
from contextlib import closing
from dataclasses import replace
from math import isnan
from pathlib import Path

import pytest
import torch

from lightning_nas.benchmarks import live
from lightning_nas.benchmarks.live import LiveBenchmark
from lightning_nas.benchmarks.store import Result, ResultStore
from lightning_nas.errors import BenchmarkDataError, EvaluationError, SpaceError, UsageError
from lightning_nas.nn.training import TrainingRecipe
from lightning_nas.search.history import SearchHistory, Status
from lightning_nas.search.loop import search_asynchronously, search_rounds
from lightning_nas.search.nosh import NOSH
from lightning_nas.search.pool import CandidatePool
from lightning_nas.search.random import RandomSearch
from lightning_nas.spaces.nasbench201 import NASBench201
from lightning_nas.spaces.subset import Subset
from lightning_nas.workers import local
from tests.benchmarks.stripes import CONV, MIXED, POOL, RECIPE, SKIP, Stripes, TroubledSpace, alive, make, until

ROOT = Path(__file__).parents[2]


@pytest.fixture
def no_workers(monkeypatch):
    def start():
        def refuse(*_):
            raise AssertionError("workers were started")

        monkeypatch.setattr(live, "TrainingQueue", refuse)

    return start


def test_workers_and_order_change_nothing_and_a_repeat_is_a_look_up(tmp_path, make_live, no_workers):
    archs = [CONV, MIXED, SKIP]
    one = make_live(store=str(tmp_path / "one.sqlite")).evaluate(archs)
    two = make_live(workers=2).evaluate(archs[::-1])
    assert torch.equal(one.valid, two.valid.flip(0))
    assert torch.equal(one.test, two.test.flip(0))
    assert len(set(one.valid.tolist())) > 1
    assert all(column.dtype == torch.float64 for column in one)
    assert (one.cost > 0).all()
    (row,) = [r for r in ResultStore(tmp_path / "one.sqlite").rows() if r.valid == one.valid[1] and r.params > 1500]
    assert row.key.epochs == len(row.curve) == 1
    assert row.flops > 10_000

    no_workers()
    again = make_live(workers=2).evaluate(archs)
    assert all(torch.equal(x.flip(0), y) for x, y in zip(two, again, strict=True))


def test_equal_and_isomorphic_cells_share_one_training(tmp_path, make_live):
    space = NASBench201()
    twin = next(a for a in space if a != space.canonical(a) and space.canonical(a) == space.canonical(CONV))
    progress = []
    bench = make_live()
    bench.on_result = lambda done, total: progress.append((done, total))
    valid = bench.evaluate([CONV, twin, CONV, SKIP]).valid
    assert valid[0] == valid[1] == valid[2]
    assert progress == [(0, 2), (1, 2), (2, 2)]
    stored = {row.key.architecture for row in ResultStore(bench.path).rows()}
    assert stored == {space.format(space.canonical(a)) for a in (CONV, SKIP)}


def test_the_store_keeps_recipes_seeds_and_epochs_apart(make_live):
    bench = make_live(recipe=replace(RECIPE, epochs=2))
    bench.evaluate([SKIP], epochs=1)
    bench.evaluate([SKIP])
    make_live(seed=1).evaluate([SKIP])
    make_live(channels=2).evaluate([SKIP])
    make_live().evaluate([SKIP])
    rows = ResultStore(bench.path).rows()
    assert len(rows) == len({row.key for row in rows}) == 5
    assert len({row.key.recipe for row in rows}) == 3


def test_a_longer_training_goes_on_where_a_shorter_one_ended(tmp_path, make_live):
    recipe = replace(RECIPE, epochs=3)
    whole = make_live(recipe=recipe, store=str(tmp_path / "whole.sqlite")).evaluate([MIXED])
    bench = make_live(recipe=recipe)
    bench.evaluate([MIXED], epochs=1)
    (file,) = bench.path.with_suffix(".unfinished").iterdir()
    assert len(torch.load(file, weights_only=True)["curve"]) == 1
    later = bench.evaluate([MIXED])
    assert torch.equal(later.valid, whole.valid)
    assert torch.equal(later.test, whole.test)
    assert not file.exists()


def test_scores_are_means_over_seeds_and_every_seed_is_kept(make_live):
    bench = make_live(num_seeds=2, seed=5)
    scores = bench.evaluate([CONV])
    rows = ResultStore(bench.path).rows()
    assert [row.key.seed for row in rows] == [5, 6]
    assert rows[0].valid != rows[1].valid
    for column in ("valid", "test", "cost"):
        assert getattr(scores, column).item() == pytest.approx(sum(getattr(row, column) for row in rows) / 2)
    assert set(ResultStore(bench.path).recipes()) == {row.key.recipe for row in rows}


@pytest.fixture
def trained(make_live, no_workers):
    """A benchmark over trainings that are in the store already, and only there."""
    recipe = replace(RECIPE, epochs=4)
    before = make_live(recipe=recipe, num_seeds=2)  # without the argument
    (whole,), (short,) = before._keys([CONV], None), before._keys([CONV], 2)
    (failed,) = before._keys([SKIP], None)
    store = ResultStore(before.path)
    for seed, curve in enumerate([(10.0, 40.0, 60.0, 20.0), (30.0, 30.0, 30.0, 90.0)]):
        for key in (whole, short):
            store.put(Result(key._replace(seed=seed), curve[key.epochs - 1], 70.0, 1.0, 5, 6, curve[: key.epochs]))
        store.put(Result(failed._replace(seed=seed), error="out of memory"))
    no_workers()
    return lambda average_last: make_live(recipe=recipe, num_seeds=2, average_last=average_last)


@pytest.mark.parametrize(("average_last", "expected"), [(1, 55.0), (2, 50.0), (3, 45.0)])
def test_validation_is_the_mean_over_the_last_epochs_of_the_same_trainings(trained, average_last, expected):
    valid, test, cost = trained(average_last).evaluate([CONV, SKIP])
    assert valid[0] == pytest.approx(expected)
    assert (test[0], cost[0]) == (70.0, 1.0)
    assert valid[1].isnan()
    assert trained(average_last).submit(CONV).result().valid == valid[0]


def test_a_short_training_is_averaged_over_what_there_is(trained):
    assert trained(3).evaluate([CONV], epochs=2).valid.item() == pytest.approx((25 + 30) / 2)


@pytest.mark.parametrize("average_last", [0, 2])
def test_more_epochs_to_average_than_there_are(tmp_path, average_last):
    with pytest.raises(UsageError, match=f"average_last={average_last}, expected 1 to the recipe's 1 epochs"):
        make(tmp_path, average_last=average_last).prepare()


def test_a_failing_training_scores_nan_and_is_kept_and_logged_once(tmp_path, make_live, caplog, no_workers):
    bench = make_live(space=TroubledSpace(tmp_path, raises=CONV))
    valid, test, cost = bench.evaluate([SKIP, CONV])
    assert valid.isnan().tolist() == test.isnan().tolist() == cost.isnan().tolist() == [False, True]
    bench.evaluate([CONV])
    warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "RuntimeError: no such cell" in warnings[0].getMessage()
    bench.close()

    mended = make_live(space=NASBench201(), retry_failed=True).evaluate([CONV])
    assert mended.valid.isfinite().all()
    no_workers()
    assert torch.equal(make_live().evaluate([CONV]).valid, mended.valid)


def test_a_diverging_training_scores_nan(make_live):
    bench = make_live(recipe=TrainingRecipe(epochs=2, batch_size=32, learning_rate=1e30))
    assert bench.evaluate([CONV]).valid.isnan().all()
    assert "lower learning_rate" in ResultStore(bench.path).rows()[0].error


def test_a_killed_worker_is_replaced_and_its_training_repeated(tmp_path, make_live):
    expected = make_live(store=str(tmp_path / "calm.sqlite")).evaluate([CONV, SKIP, MIXED])
    bench = make_live(space=TroubledSpace(tmp_path, dies_once=CONV), workers=2)
    result = bench.evaluate([CONV, SKIP, MIXED])
    assert (tmp_path / "died").exists()
    assert torch.equal(result.valid, expected.valid)


def test_a_cell_that_always_kills_its_worker_harms_no_other(tmp_path, make_live):
    bench = make_live(space=TroubledSpace(tmp_path, dies=CONV), workers=2)
    assert bench.evaluate([CONV, SKIP, MIXED, POOL]).valid.isnan().tolist() == [True, False, False, False]
    errors = {row.error for row in ResultStore(bench.path).rows()}
    assert errors == {None, "its worker died twice (killed, or out of memory?)"}


def session_members(session):
    """Processes of a session that are not yet dead (a zombie is)."""
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, its_session = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(its_session) == session and state not in "ZX":
            members.append(int(stat.parent.name))
    return members


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for survivors in /proc")
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_parent_loses_nothing_and_leaves_nobody(tmp_path, sign):
    script = f"""
        import sys, tempfile
        sys.path.insert(0, {str(ROOT)!r})
        from tests.benchmarks.stripes import *
        if __name__ == "__main__":
            tempfile.tempdir = {str(tmp_path)!r}
            space = TroubledSpace({str(tmp_path)!r}, sleeps=CONV)
            make({str(tmp_path)!r}, space, workers=2).evaluate([CONV, SKIP, POOL])
    """
    (tmp_path / "search.py").write_text(textwrap.dedent(script))
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "search.py")], start_new_session=True, stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: (tmp_path / "results.sqlite").exists())
        store = ResultStore(tmp_path / "results.sqlite")
        until(lambda: store.count() == 2)
        assert len(session_members(parent.pid)) >= 3  # the parent and two workers at least
        os.kill(parent.pid, sign)
        parent.wait(30)
        until(lambda: not session_members(parent.pid))
    finally:
        for survivor in session_members(parent.pid):
            os.kill(survivor, signal.SIGKILL)
    assert store.count() == 2
    assert not list(tmp_path.glob("lightning-nas-*"))


def test_submitted_architectures_train_side_by_side_and_once(tmp_path, make_live):
    expected = make_live(store=str(tmp_path / "calm.sqlite")).evaluate([CONV, SKIP])
    bench = make_live(space=TroubledSpace(tmp_path, waits=CONV), workers=2)
    assert bench.parallelism == 2
    slow, again, quick = (bench.submit(arch) for arch in (CONV, CONV, SKIP))
    assert quick.result(60).valid == expected.valid[1]
    assert not slow.done()
    (tmp_path / "go").touch()
    assert slow.result(60)[:2] == again.result(60)[:2] == (expected.valid[0], expected.test[0])
    assert ResultStore(bench.path).count() == len(list(tmp_path.glob("[0-9]*.*"))) == 2
    assert bench.submit(CONV).done()
    with pytest.raises(UsageError, match="epochs=2"):
        bench.submit(CONV, epochs=2)


def test_a_death_does_not_disturb_other_trainings(tmp_path, make_live):
    bench = make_live(space=TroubledSpace(tmp_path, waits=SKIP, dies_once=CONV), workers=2)
    waiting, dying = bench.submit(SKIP), bench.submit(CONV)
    assert dying.result(60).valid > 0
    assert not waiting.done()
    (tmp_path / "go").touch()
    waiting.result(60)
    assert len(list(tmp_path.glob("*.waits"))) == 1


def test_failures_of_submitted_architectures_are_logged(tmp_path, make_live, caplog):
    bench = make_live(space=TroubledSpace(tmp_path, raises=CONV))
    assert isnan(bench.submit(CONV).result(60).valid)
    assert "no such cell" in caplog.text


def test_closing_cancels_what_is_under_way(tmp_path, make_live):
    bench = make_live(space=TroubledSpace(tmp_path, sleeps=CONV))
    futures = [bench.submit(CONV), bench.submit(SKIP)]
    until(lambda: list(tmp_path.glob("*.sleeps")))
    bench.close()
    assert all(future.cancelled() for future in futures)


def test_an_asynchronous_search_of_real_trainings(tmp_path, make_live):
    space = TroubledSpace(tmp_path)
    bench = make_live(space=space, workers=2)
    history = SearchHistory.empty(2, 3)
    for current in search_asynchronously(RandomSearch(), history, CandidatePool(space), bench):
        assert (current.status == Status.RUNNING).sum() == min(2, 6 - current.finished.sum())
    scores = bench.evaluate(CandidatePool(space).architectures(history.indices))
    assert torch.equal(history.valid.flatten(), scores.valid)
    assert torch.equal(history.cost.flatten(), scores.cost)


def test_halving_pauses_and_goes_on_bit_for_bit_whoever_is_killed(tmp_path, make_live):
    """NOSH on two workers, one of which is killed, against trainings from the start without a pause."""
    recipe = replace(RECIPE, epochs=3)
    space, some = NASBench201(), [CONV, SKIP, POOL, MIXED, (3, 3, 3, 3, 3, 3), (1, 2, 3, 2, 1, 3)]
    cells = Subset(space, [space.canonical(cell) for cell in some])
    strategy, pool = NOSH((1, 3), num_initial=4, num_proposals=2), CandidatePool(cells)
    troubled = Subset(TroubledSpace(tmp_path, dies_once=CONV), cells.architectures)
    history = SearchHistory.empty(1, 9)
    bench = make_live(space=troubled, workers=2, recipe=recipe)
    for _ in search_rounds(strategy, history, CandidatePool(troubled), bench):
        pass
    bench.close()
    assert (tmp_path / "died").exists()
    assert history.epochs[0].tolist() == [1, 1, 1, 1, 3, 3, 1, 1, 3]
    assert history.charged[0].tolist() == [1, 1, 1, 1, 2, 2, 1, 1, 2]
    (tmp_path / "anew").mkdir()
    with closing(make(tmp_path / "anew", recipe=recipe)) as straight:
        for epochs in (3, 1):  # the longer ones first: nothing is there to go on from
            columns = (history.epochs[0] == epochs).nonzero()[:, 0]
            expected = straight.evaluate(pool.architectures(history.indices[0, columns]), epochs)
            assert torch.equal(history.valid[0, columns], expected.valid)
            assert torch.equal(history.test[0, columns], expected.test)


def test_close_leaves_no_worker_and_a_later_evaluation_starts_anew(tmp_path, make_live):
    bench = make_live(space=TroubledSpace(tmp_path), workers=2)
    bench.evaluate([SKIP, CONV])
    workers = {int(path.name.split(".")[0]) for path in tmp_path.glob("[0-9]*.*")}
    bench.close()
    until(lambda: not any(map(alive, workers)))
    assert bench.evaluate([POOL]).valid.isfinite().all()


def test_workers_that_cannot_start_are_an_error(make_live, monkeypatch):
    monkeypatch.setattr(local, "_start_worker", os._exit)
    with pytest.raises(EvaluationError, match="__main__"):
        make_live().evaluate([CONV])


def test_identity_is_what_fixes_the_answers(tmp_path):
    identity = make(tmp_path).identity()
    assert identity["space"] == "nasbench201"
    assert identity["epochs"] == 1
    assert identity == make(tmp_path, workers=3, store="elsewhere.sqlite").identity()
    assert "average_last" not in identity  # searches from before there was a choice go on
    for change in ({"seed": 1}, {"channels": 2}, {"recipe": TrainingRecipe(epochs=2)}, {"average_last": 2}):
        assert make(tmp_path, **change).identity() != identity


class Headless(NASBench201):
    def build(self, arch, auxiliary=False, **network):
        return super().build(arch, **network)


def test_prepare_finds_what_cannot_work(tmp_path):
    with pytest.raises(UsageError, match="num_workers=0"):
        make(tmp_path, workers=0).prepare()
    with pytest.raises(SpaceError, match=r"cannot build a network of.*not more stages"):
        make(tmp_path, num_stages=6).prepare()
    with pytest.raises(UsageError, match=r"auxiliary_weight=0\.4, expected 0: there is no auxiliary head"):
        make(tmp_path, space=Headless(), recipe=replace(RECIPE, auxiliary_weight=0.4)).prepare()
    for epochs in (0, 2):
        with pytest.raises(UsageError, match=f"epochs={epochs}, expected 1 to the recipe's 1"):
            make(tmp_path).evaluate([CONV], epochs=epochs)
    (tmp_path / "broken.sqlite").write_bytes(b"not a store" * 100)
    with pytest.raises(BenchmarkDataError, match="not a readable result store"):
        make(tmp_path, store=str(tmp_path / "broken.sqlite")).prepare()


def test_the_store_is_named_after_the_data(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_NAS_DATA", str(tmp_path))
    assert make(tmp_path, store=None).path == tmp_path / "stripes.sqlite"


def test_the_store_may_be_in_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert make(tmp_path, store="~/x.sqlite").path == make(tmp_path, store="x.sqlite").path == tmp_path / "x.sqlite"


def test_nothing_to_evaluate(make_live, no_workers):
    no_workers()
    assert [(len(column), column.dtype) for column in make_live().evaluate([])] == [(0, torch.float64)] * 3


def test_without_images_to_select_by(make_live, monkeypatch):
    bench = make_live()
    monkeypatch.setattr(bench.data, "purpose", "evaluation", raising=False)
    with pytest.raises(UsageError, match="expected purpose='search'"):
        bench.prepare()


def test_a_worker_imports_nothing_slow(tmp_path):
    """Lightning, or the compiler that torch.optim imports, would each cost every worker more than a training."""
    script = f"""
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        from tests.benchmarks.stripes import *
        from lightning_nas.workers.base import run_alone
        from lightning_nas.benchmarks.store import ResultKey
        bench = make({str(tmp_path)!r})
        bench.prepare()
        (result,) = run_alone(bench._job(), ResultKey("nasbench201", bench.space.format(CONV), "r", 0, 1))
        assert result.error is None
        slow = {{"pytorch_lightning", "torch._dynamo", "sklearn", "distributed", "submitit"}}
        assert not slow & set(sys.modules)
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False).returncode == 0


def test_the_command_line_reads_it_and_trains_digits(tmp_path):
    from jsonargparse import ArgumentParser

    parser = ArgumentParser()
    parser.add_argument("--benchmark", type=live.Benchmark)
    arguments = {
        "space": {"class_path": "lightning_nas.spaces.nasbench201.NASBench201"},
        "data": {"class_path": "lightning_nas.datamodules.vision.DigitsDataModule"},
        "recipe": {"epochs": 1},
        "channels": 4,
        "workers": 1,
        "store": str(tmp_path / "digits.sqlite"),
    }
    config = {"benchmark": {"class_path": "lightning_nas.benchmarks.live.LiveBenchmark", "init_args": arguments}}
    bench: LiveBenchmark = parser.instantiate(parser.parse_object(config)).benchmark
    try:
        assert bench.evaluate([MIXED]).valid.item() > 10
    finally:
        bench.close()


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (3, "local.LocalWorkers"),
        (None, "local.LocalWorkers"),
        ({"class_path": "lightning_nas.workers.dask.DaskWorkers"}, "dask.DaskWorkers"),
        (
            {"class_path": "lightning_nas.workers.slurm.SlurmWorkers", "init_args": {"folder": "jobs"}},
            "slurm.SlurmWorkers",
        ),
    ],
    ids=str,
)
def test_the_command_line_takes_all_kinds_of_workers(given, kind):
    from jsonargparse import ArgumentParser

    parser = ArgumentParser()
    parser.add_class_arguments(LiveBenchmark, "live", skip={"space", "data"}, instantiate=False)
    made = parser.instantiate(parser.parse_object({"live": {"workers": given}})).live
    workers = LiveBenchmark(NASBench201(), Stripes(), store="s.sqlite", workers=made.workers).workers
    assert f"{type(workers).__module__}.{type(workers).__name__}" == f"lightning_nas.workers.{kind}"


def test_an_interrupt_stops_the_workers(make_live):
    bench = make_live()

    def interrupt(done, total):
        if done:
            raise KeyboardInterrupt

    bench.on_result = interrupt
    with pytest.raises(KeyboardInterrupt):
        bench.evaluate([SKIP, POOL, CONV])
    assert bench._queue is None
    assert ResultStore(bench.path).count() >= 1
