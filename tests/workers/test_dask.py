import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lightning_nas.benchmarks.store import ResultStore
from lightning_nas.errors import EvaluationError, UsageError
from lightning_nas.workers.dask import DaskWorkers
from tests.benchmarks.stripes import CONV, MIXED, POOL, RECIPE, SKIP, TroubledSpace, until

distributed = pytest.importorskip("distributed")

ARCHS = [CONV, SKIP, MIXED, POOL]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A scheduler and two workers without nannies, each a process; workers may be killed and are then replaced."""
    folder = tmp_path_factory.mktemp("cluster")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}

    def dask(*arguments):
        log = (folder / f"{arguments[0]}.log").open("a")
        command = [sys.executable, "-m", "dask", *arguments]
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)

    file = folder / "scheduler.json"
    scheduler = dask("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", f"--scheduler-file={file}")
    workers = []

    def address(at_least=2):
        workers[:] = [worker for worker in workers if worker.poll() is None]
        while len(workers) < at_least:
            workers.append(dask("worker", f"--scheduler-file={file}", "--nthreads=1", "--no-nanny", "--no-dashboard"))
        until(file.exists)
        with distributed.Client(scheduler_file=str(file), set_as_default=False) as client:
            client.wait_for_workers(at_least, 60)
            return client.scheduler.address

    def kill(pid):
        (victim,) = (worker for worker in workers if worker.pid == pid)
        victim.kill()
        victim.wait(30)

    address.kill = kill
    yield address
    for process in (*workers, scheduler):
        process.kill()  # not terminate(): a worker that is still starting may ignore that
        process.wait(30)


def workers_that_began(folder, what="*"):
    return [int(path.name.split(".")[0]) for path in folder.glob(f"*.*.{what}")]


def test_a_cluster_finds_what_local_workers_find_though_a_worker_is_killed(tmp_path, make_live, cluster):
    expected = make_live(store=str(tmp_path / "local.sqlite")).evaluate(ARCHS)
    space = TroubledSpace(tmp_path, waits=CONV)
    bench = make_live(space=space, workers=DaskWorkers(cluster()))
    assert bench.parallelism == 2
    scores = [bench.submit(arch) for arch in ARCHS]
    until(lambda: workers_that_began(tmp_path, "waits"))
    (victim,) = workers_that_began(tmp_path, "waits")
    cluster.kill(victim)
    (tmp_path / "go").touch()
    assert [score.result(60).valid for score in scores] == expected.valid.tolist()
    assert len(workers_that_began(tmp_path, "waits")) == 2
    assert [row.error for row in ResultStore(bench.path).rows()] == [None] * 4
    assert bench.parallelism == 1


def test_images_are_sent_again_when_the_last_worker_that_had_them_is_gone(tmp_path, make_live, cluster):
    expected = make_live(store=str(tmp_path / "local.sqlite")).evaluate([CONV])
    bench = make_live(space=TroubledSpace(tmp_path, waits=CONV), workers=DaskWorkers(cluster(1)))
    score = bench.submit(CONV)
    until(lambda: workers_that_began(tmp_path, "waits"))
    (victim,) = workers_that_began(tmp_path)
    cluster.kill(victim)
    (tmp_path / "go").touch()
    cluster(1)
    assert score.result(60).valid == expected.valid.item()


def test_unfinished_trainings_go_on_where_all_reach_the_folder(tmp_path, make_live, cluster):
    recipe = replace(RECIPE, epochs=2)
    whole = make_live(recipe=recipe, store=str(tmp_path / "local.sqlite")).evaluate([MIXED])
    bench = make_live(recipe=recipe, workers=DaskWorkers(cluster(1), folder=str(tmp_path / "shared")))
    bench.evaluate([MIXED], epochs=1)
    assert len(list((tmp_path / "shared" / "unfinished").iterdir())) == 1
    assert torch.equal(bench.evaluate([MIXED]).valid, whole.valid)
    assert not list((tmp_path / "shared" / "unfinished").iterdir())


def test_a_cluster_of_ones_own_ends_with_the_benchmark(tmp_path, make_live, monkeypatch, capfd):
    import psutil

    monkeypatch.setattr("dask.system.CPU_COUNT", 1)
    bench = make_live(space=TroubledSpace(tmp_path, sleeps=CONV), workers=DaskWorkers())
    score = bench.submit(CONV)
    until(lambda: workers_that_began(tmp_path))
    processes = [psutil.Process(pid) for pid in workers_that_began(tmp_path)]
    bench.close()
    assert score.cancelled()
    assert not any(process.is_running() for process in processes)
    assert capfd.readouterr() == ("", "")


def test_what_is_missing_is_said(monkeypatch):
    with pytest.raises(EvaluationError, match=r"no scheduler answers at tcp://127.0.0.1:9"):
        DaskWorkers("tcp://127.0.0.1:9", timeout=0.2).prepare()
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UsageError, match=r"lightning-nas\[dask\]"):
        DaskWorkers().prepare()
