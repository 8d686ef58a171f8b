"""Two processes find what one finds, and leave one copy of each file."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lightning_nas.callbacks.search import SearchCallback
from tests.contract import Project, assert_same_searches, histories_in

ROOT = Path(__file__).resolve().parent.parent
TWO = ("--trainer.devices", "2", "--trainer.strategy", "ddp_fork")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A project in which one process has trained and searched with five runs."""
    project = Project(tmp_path_factory.mktemp("alone"))
    process = project.fork("fit")
    process.join(120)
    assert process.exitcode == 0, (project.folder / "child.log").read_text()
    return project


def files(run_dir):
    return sorted(
        path.relative_to(run_dir).as_posix() for path in run_dir.rglob("*")
        if path.is_file() and "tfevents" not in path.name
    )  # fmt: skip


def trials(run_dir):
    with open(run_dir / "trials.csv", newline="") as file:
        return list(csv.DictReader(file))


def search(project, run_dir, alone, *arguments, **given):
    process = project.fork(
        "search", "--ckpt_path", alone.run_dir / "checkpoints" / "last.ckpt", *arguments, run_dir=run_dir, **given
    )
    process.join(120)
    assert process.exitcode == 0, (project.folder / "child.log").read_text()


def keep_embeddings(folder):
    """Makes the callback write down what it searches with; runs in the process that searches."""
    original = SearchCallback._search

    def watch(self, trainer, pl_module, embeddings, embedded):
        torch.save(embeddings, folder / f"embeddings-{trainer.world_size}-{trainer.global_rank}.pt")
        assert embedded.tolist() == [1.0] * 81
        original(self, trainer, pl_module, embeddings, embedded)

    SearchCallback._search = watch


def test_both_processes_hold_the_embeddings_of_all_cells(project, alone):
    for flags in ((), TWO):
        run_dir = project.folder / str(len(flags))
        search(project, run_dir, alone, *flags, before=lambda: keep_embeddings(project.folder))
    whole, first, second = (torch.load(project.folder / f"embeddings-{name}.pt") for name in ("1-0", "2-0", "2-1"))
    assert len(whole) == 81
    assert whole.std() > 1e-4
    torch.testing.assert_close(first, whole)
    torch.testing.assert_close(second, whole)


def test_five_runs_over_two_processes(project, alone):
    search(project, project.folder / "two", alone, *TWO)
    assert_same_searches(project.folder / "two", alone.run_dir)
    assert trials(project.folder / "two") == trials(alone.run_dir)
    own = {"config.yaml", "checkpoints/last.ckpt"}
    assert set(files(project.folder / "two")) - {"search_config.yaml"} == set(files(alone.run_dir)) - own


@pytest.mark.parametrize("num_runs", [1, 5])
def test_two_processes_continue_a_search(project, alone, num_runs):
    """With one run, the second process has none and must still keep in step."""
    few, all_ = (project.write(f"{n}.yaml", num_runs=num_runs, num_queries=n) for n in (5, 8))
    search(project, project.folder / "two", alone, *TWO, config=few)
    assert {len(history["indices"][0]) for history in histories_in(project.folder / "two").values()} == {5}
    search(project, project.folder / "two", alone, *TWO, config=all_)
    straight = alone.run_dir
    if num_runs == 1:
        straight = project.folder / "one"
        search(project, straight, alone, config=all_)
    assert_same_searches(project.folder / "two", straight)


def test_fit_and_its_search_over_two_processes(project):
    process = project.fork("fit", *TWO)
    process.join(120)
    assert process.exitcode == 0, (project.folder / "child.log").read_text()
    search(project, project.folder / "search", project)
    assert_same_searches(project.run_dir, project.folder / "search")
    assert files(project.run_dir).count("checkpoints/last.ckpt") == 1
    assert len([row for row in trials(project.run_dir) if row["strategy"] == "gp"]) == 5 * 8


def test_the_real_launcher(project, alone):
    """``--trainer.strategy ddp`` starts the second process from the command line, as a user does."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from lightning_nas.cli import main; main()"
    script = project.folder / "lightning-nas"
    script.write_text(code)
    arguments = [
        "search", "--config", project.config, "--run_dir", project.folder / "two", "--ckpt_path",
        alone.run_dir / "checkpoints" / "last.ckpt", "--trainer.devices", "2", "--trainer.strategy", "ddp",
        "--trainer.accelerator", "cpu",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, script, *map(str, arguments)], capture_output=True, text=True, timeout=300, cwd=project.folder
    )
    assert done.returncode == 0, done.stderr
    assert "MEMBER: 2/2" in done.stderr
    assert done.stdout.count("Next:") == 1  # one process reports
    assert_same_searches(project.folder / "two", alone.run_dir)
    assert len([name for name in files(project.folder / "two") if name.endswith("trials.csv")]) == 1


def test_an_asynchronous_search_over_two_processes(project, alone):
    """Five runs over two processes: one of them has more evaluations to wait for, also when the search goes on."""
    few, all_ = (project.write(f"{n}.yaml", num_queries=n, asynchronous=True) for n in (5, 8))
    search(project, project.folder / "one", alone, config=all_)
    search(project, project.folder / "two", alone, *TWO, config=few)
    search(project, project.folder / "two", alone, *TWO, config=all_)
    assert_same_searches(project.folder / "two", project.folder / "one")
    assert trials(project.folder / "two") == trials(project.folder / "one")
