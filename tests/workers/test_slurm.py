"""Submitit's jobs as processes of this machine: the same code as on Slurm but for ``sbatch`` and ``scancel``."""

import os
import signal
import sys
from pathlib import Path

import pytest

from lightning_nas.benchmarks.store import ResultStore
from lightning_nas.errors import EvaluationError, UsageError
from lightning_nas.workers import slurm
from lightning_nas.workers.slurm import SlurmWorkers, SubmititExecutor
from tests.benchmarks.stripes import CONV, MIXED, SKIP, TroubledSpace, alive, until

submitit = pytest.importorskip("submitit")


@pytest.fixture
def workers(tmp_path, monkeypatch):
    # Submitit cancels local jobs by an interrupt, which children of a process that ignores it ignore, too.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(slurm, "_POLL_SECONDS", 0.05)
    monkeypatch.setattr(submitit.Job, "_results_timeout_s", 0)  # for slow network disks
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    yield lambda **changes: SlurmWorkers(**{"folder": str(tmp_path / "jobs"), "cluster": "local", **changes})
    signal.signal(signal.SIGINT, before)


def begun(folder, what="*"):
    return [int(path.name.split(".")[0]) for path in folder.glob(f"*.*.{what}")]


def test_jobs_find_what_local_workers_find_and_one_that_dies_is_submitted_once_more(tmp_path, make_live, workers):
    expected = make_live(store=str(tmp_path / "local.sqlite")).evaluate([MIXED])
    space = TroubledSpace(tmp_path, dies=CONV, dies_once=MIXED)
    scores = make_live(space=space, workers=workers(num_workers=2)).evaluate([CONV, MIXED])
    assert scores.valid[1] == expected.valid[0]
    assert scores.valid.isnan().tolist() == [True, False]
    assert len(begun(tmp_path, "dies")) == 2
    failed, done = sorted(ResultStore(tmp_path / "results.sqlite").rows(), key=lambda row: row.error is None)
    assert "its worker died twice (job" in failed.error
    assert "_log.err" in failed.error
    assert done.error is None


def test_closing_cancels_the_jobs_and_leaves_no_process_and_no_images(tmp_path, make_live, workers):
    bench = make_live(space=TroubledSpace(tmp_path, sleeps=CONV), workers=workers())
    score = bench.submit(CONV)
    until(lambda: begun(tmp_path, "sleeps"))
    assert list((tmp_path / "jobs").glob("job-*.pickle"))
    bench.close()
    assert score.cancelled()
    until(lambda: not any(map(alive, begun(tmp_path))))
    assert not list((tmp_path / "jobs").glob("job-*.pickle"))


def test_what_a_job_cannot_read_is_no_result(tmp_path, make_live, workers, monkeypatch):
    bench = make_live(space=TroubledSpace(tmp_path), workers=workers())
    bench.prepare()
    bench._trainings()
    monkeypatch.delenv("PYTHONPATH")  # the jobs do not find the space's module
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EvaluationError, match=r"(?s)No module named 'tests.*must be installed where they run"):
        bench.evaluate([SKIP])
    assert ResultStore(bench.path).count() == 0


class Job:
    """A job whose cluster has lost its commands, or not."""

    job_id = "7"

    def __init__(self, broken=False):
        self.broken = broken

    def done(self):
        if self.broken:
            raise OSError("stale file handle")
        return False

    def cancel(self, check):
        raise FileNotFoundError("scancel")


class Cluster:
    def submit(self, job):
        return job


def test_a_job_that_cannot_be_asked_or_cancelled_harms_no_other(monkeypatch):
    monkeypatch.setattr(slurm, "_POLL_SECONDS", 0.01)
    executor = SubmititExecutor(Cluster())
    unwanted, lost = executor.submit(Job()), executor.submit(Job(broken=True))
    unwanted.cancel()
    with pytest.raises(OSError, match="stale"):
        lost.result(20)
    executor.shutdown()
    assert unwanted.cancelled()
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(Job())


def test_options_reach_slurm(tmp_path, monkeypatch):
    for name in ("srun", "sbatch"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    asked = SlurmWorkers(str(tmp_path), "short", timeout_min=7, gpus_per_node=1, slurm={"qos": "low"})
    text = asked._submitit()._executor._make_submission_file_text("train", "0")
    for line in ("--partition=short", "--time=7", "--gpus-per-node=1", "--qos=low", "--cpus-per-task=1"):
        assert f"#SBATCH {line}\n" in text
    assert asked.device == "cuda"
    with pytest.raises(UsageError, match="qoss"):
        SlurmWorkers(str(tmp_path), slurm={"qoss": "low"}).prepare()


def test_without_slurm_or_submitit(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EvaluationError, match="cluster=local"):
        SlurmWorkers(str(tmp_path)).prepare()
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UsageError, match=r"lightning-nas\[slurm\]"):
        SlurmWorkers(str(tmp_path)).prepare()
    for wrong in ({"num_workers": 0}, {"gpus_per_node": 4}):
        with pytest.raises(UsageError, match=f"{next(iter(wrong))}={next(iter(wrong.values()))}"):
            SlurmWorkers(str(tmp_path), **wrong)
