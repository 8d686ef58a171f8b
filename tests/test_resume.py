"""SIGKILL, then the same command again: the results are those of an undisturbed run, bit for bit."""

import io
import os
import signal
import time

import pytest
import torch

from lightning_nas.benchmarks.tabular import TabularBenchmark
from lightning_nas.datamodules.cells import CellDataset
from tests.contract import Project, assert_identical, assert_same_searches, weights_in

FIT = ("fit", "--trainer.max_epochs", "3", "--ckpt_path", "last")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The run folder of an experiment that nothing happened to, fit and search."""
    project = Project(tmp_path_factory.mktemp("undisturbed"))
    process = project.fork(*FIT)
    process.join(120)
    assert process.exitcode == 0, (project.folder / "child.log").read_text()
    return project.run_dir


def die_at(function, number, when):
    """Replaces ``os.<function>``: the process dies by SIGKILL instead of the matching call of that number."""
    original = getattr(os, function)
    calls = []

    def deadly(*args):
        if when(*args):
            calls.append(args)
            if len(calls) == number:
                os.kill(os.getpid(), signal.SIGKILL)
        return original(*args)

    setattr(os, function, deadly)


def die_half_way(number):
    """The process dies by SIGKILL when half of that call's ``torch.save`` is in the file."""
    original, calls = torch.save, []

    def deadly(content, file):
        calls.append(content)
        if len(calls) == number:
            whole = io.BytesIO()
            original(content, whole)
            file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        original(content, file)

    torch.save = deadly


def target(name):
    return lambda source, destination: os.path.basename(destination) == name


def finish(process, code):
    process.join(120)
    assert process.exitcode == code


MOMENTS = {
    "first checkpoint half written": lambda: die_half_way(1),
    "second checkpoint half written": lambda: die_half_way(2),
    "second checkpoint written but not in place": lambda: die_at("replace", 2, target("last.ckpt")),
    # Three checkpoints and the first strategy's eight rounds come before.
    "second strategy's third round half written": lambda: die_half_way(14),
    "everything searched, nothing reported": lambda: die_at("replace", 1, target("search.json")),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_in_the_middle_of_a_write(project, undisturbed, moment):
    finish(project.fork(*FIT, before=MOMENTS[moment]), -signal.SIGKILL)
    last = project.run_dir / "checkpoints" / "last.ckpt"
    if last.exists():
        torch.load(last, weights_only=True)
    finish(project.fork(*FIT), 0)
    assert_identical(weights_in(project.run_dir), weights_in(undisturbed))
    assert_same_searches(project.run_dir, undisturbed)
    assert (project.run_dir / "summary.md").exists()


def kill_when(process, condition):
    """SIGKILL from outside as soon as the condition holds."""
    limit = time.monotonic() + 120
    while not condition():
        assert process.is_alive()
        assert time.monotonic() < limit
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    finish(process, -signal.SIGKILL)


def slow(kind, method):
    """Gives the killer time to hit something that takes milliseconds."""
    original = getattr(kind, method)

    def slowed(*args):
        time.sleep(0.03)
        return original(*args)

    setattr(kind, method, slowed)


def slow_rounds():
    slow(TabularBenchmark, "evaluate")


def test_killed_from_outside_during_fit(project, undisturbed):
    last = project.run_dir / "checkpoints" / "last.ckpt"
    kill_when(project.fork(*FIT, before=lambda: slow(CellDataset, "__getitems__")), last.exists)
    assert torch.load(last, weights_only=True)["epoch"] < 2
    finish(project.fork(*FIT), 0)
    assert_identical(weights_in(project.run_dir), weights_in(undisturbed))
    assert_same_searches(project.run_dir, undisturbed)


def test_killed_from_outside_during_search_and_again(project, undisturbed):
    search = ("search", "--ckpt_path", undisturbed / "checkpoints" / "last.ckpt")
    file = project.run_dir / "search" / "evolution.pt"

    def done():
        return file.exists() and int((torch.load(file)["history"]["status"][0] != 0).sum()) >= 5

    kill_when(project.fork(*search, before=slow_rounds), done)
    assert not (project.run_dir / "trials.csv").exists()
    kill_when(project.fork(*search, before=slow_rounds), (project.run_dir / "search" / "gp.pt").exists)
    finish(project.fork(*search), 0)
    assert_same_searches(project.run_dir, undisturbed)
    assert (project.run_dir / "trials.csv").read_text() == (undisturbed / "trials.csv").read_text()
