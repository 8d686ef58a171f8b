"""Two trained seeds of a tiny arch2vec for all analyses."""

import pytest

from tests.contract import Project


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A project with the run folders ``run0`` and ``run1``; results go elsewhere."""
    project = Project(tmp_path_factory.mktemp("trained"))
    config = project.write("train.yaml", change=lambda config: config["trainer"].pop("callbacks"))
    children = [
        project.fork("fit", "--seed_everything", seed, "--model.init_args.seed", seed, config=config,
                     run_dir=project.folder / f"run{seed}")
        for seed in (0, 1)
    ]  # fmt: skip
    for child in children:
        child.join(180)
        assert child.exitcode == 0, (project.folder / "child.log").read_text()
    return project


@pytest.fixture
def analyze(trained, tmp_path, monkeypatch):
    """Types ``lightning-nas analyze NAME --run … --output tmp_path/out ARGS`` in an empty folder."""
    from lightning_nas.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def analyze(name, *args, runs=("run0", "run1")):
        folders = [str(trained.folder / run) for run in runs]
        main(["analyze", name, "--run", *folders, "--output", str(tmp_path / "out"), *map(str, args)])

    return analyze
