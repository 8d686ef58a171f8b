"""Two trained seeds of a tiny arch2vec, and of contrastive encoders of one and of two spaces, for all analyses."""

import numpy as np
import pytest
import yaml

from lightning_nas.benchmarks.table import write_table
from lightning_nas.nn.complexity import count_parameters
from tests.contract import Project
from tests.datamodules.networks import BuildableSpace


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


@pytest.fixture(scope="session")
def contrastive(tmp_path_factory):
    """A folder with tables of two spaces and with the runs ``one0``, ``one1`` of the first, ``both0``, ``both1``."""
    from lightning_nas.cli import main

    folder = tmp_path_factory.mktemp("contrastive")
    rng = np.random.default_rng(0)
    for name, split in (("buildable", "test"), ("second", "valid")):
        sizes = [count_parameters(BuildableSpace().build(arch)) for arch in BuildableSpace()]
        columns = {f"toy/{split}@9": 80 + 10 * rng.random(81), f"other/{split}@9": np.array(sizes) / 100.0}
        write_table(folder / f"{name}.npz", {"space": name}, columns)
    spaces = [{"space": f"tests.datamodules.networks.{name}"} for name in ("BuildableSpace", "SecondSpace")]
    for name, networks in (("one", spaces[0]), ("both", spaces)):
        data = {
            "networks": networks, "images": "lightning_nas.datamodules.vision.DigitsDataModule", "num_images": 8,
            "num_initialisations": 2, "batch_size": 16, "workers": 1, "folder": str(folder / "jacobians"),
        }  # fmt: skip
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1}
        config = {
            "model": {
                "class_path": "lightning_nas.modules.contrastive.ContrastiveEncoder",
                "init_args": {"hidden_dim": 8, "embedding_dim": 4, "projection_dim": 4},
            },
            "data": {"class_path": "lightning_nas.datamodules.jacobians.JacobianDataModule", "init_args": data},
            "trainer": {"accelerator": "cpu", "devices": 1, "max_epochs": 1, **quiet},
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
        for seed in (0, 1):
            seeds = ["--seed_everything", str(seed), "--model.init_args.seed", str(seed)]
            main(["fit", "--config", str(folder / f"{name}.yaml"), "--run_dir", str(folder / f"{name}{seed}"), *seeds])
    return folder


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
