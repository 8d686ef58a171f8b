"""Fixtures shared by all tests."""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import settings

from lightning_nas.benchmarks.table import Table, read_table, write_table
from lightning_nas.spaces.nasbench201 import NASBench201

# Before anything starts worker threads: the suite runs on small machines, several workers side by side.
torch.set_num_threads(1)

# A shell ignores Ctrl-C for what it starts in the background, and so would the processes whose Ctrl-C is tested.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine must not fail a test, nor a lucky draw hide a failure from the next run.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def seeded():
    """Weights and draws that a test does not seed itself are the same in every run."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def cells() -> NASBench201:
    """The NAS-Bench-201 space, whose tables are computed once for all tests."""
    return NASBench201()


@pytest.fixture(scope="session")
def real_table() -> Table:
    """The real NAS-Bench-201 table; tests that need it are marked ``data`` and skip where it is not prepared."""
    folder = os.environ.get("LIGHTNING_NAS_DATA")
    path = Path(folder or ".") / "nasbench201.npz"
    if not folder or not path.is_file():
        pytest.skip(
            "set LIGHTNING_NAS_DATA to a folder with nasbench201.npz ('lightning-nas data prepare nasbench201')"
        )
    return read_table(path)


@pytest.fixture(scope="session")
def contrastive(tmp_path_factory):
    """Tables of two spaces, and contrastive encoders: ``one0``, ``one1`` of the first, ``both0``, ``both1``."""
    from lightning_nas.cli import main
    from lightning_nas.nn.complexity import count_parameters
    from tests.datamodules.networks import BuildableSpace

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
def blank_figures(monkeypatch):
    """Searches leave empty figures: drawing them takes longer than all else in a small test."""

    def save_figure(figure, path):
        for kind in ("png", "pdf"):
            path.with_suffix(f".{kind}").touch()
        return []

    monkeypatch.setattr("lightning_nas.plots.save_figure", save_figure)
    monkeypatch.setattr("lightning_nas.plots._legend", lambda *_: None)  # it looks for a place by laying all out


@pytest.fixture
def project(tmp_path, monkeypatch, blank_figures):
    """The tiny experiment with its table, ready for the command line (see ``tests/contract.py``)."""
    from tests.contract import Project

    monkeypatch.setattr(sys, "argv", ["lightning-nas"])  # the command line writes there, for further processes
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return Project(tmp_path)
