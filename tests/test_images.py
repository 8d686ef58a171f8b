"""The engineer's path: images of one's own, a search that is killed and goes on, a network to take home."""

import json
import os
import runpy
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import lightning_nas
from lightning_nas.search.history import SearchHistory, Status

QUICK = [
    "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "4", "--trainer.enable_progress_bar", "false",
    "--trainer.callbacks.benchmark.init_args.channels", "4", "--trainer.callbacks.strategies.bayesian.num_initial", "4",
]  # fmt: skip


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Runs commands in a folder of their own; cached images and results stay there."""
    monkeypatch.chdir(tmp_path)
    environment = os.environ | {"LIGHTNING_NAS_DATA": str(tmp_path / "data"), "OMP_NUM_THREADS": "1"}

    def start(*args):
        command = [sys.executable, "-m", "lightning_nas.cli", *map(str, args)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def run(*args):
        process = start(*args)
        out, _ = process.communicate(timeout=500)
        assert process.returncode == 0, out
        return out

    run.start = start
    return run


def pictures(folder, classes=3, each=20):
    """Images of another size each, with a bright bar whose place is the class."""
    rng = np.random.default_rng(0)
    for label in range(classes):
        (folder / f"bar_{label}").mkdir(parents=True)
        for number in range(each):
            picture(rng, label, classes).save(folder / f"bar_{label}" / f"{number}.png")


def picture(rng, label, classes=3, wider=0, taller=0):
    """With so many pixels more than those of the square, on both sides of it."""
    side = int(rng.integers(20, 30))
    pixels = rng.integers(0, 80, (side + 2 * taller, side + 2 * wider), dtype=np.uint8)
    pixels[taller + side * label // classes : taller + side * (label + 1) // classes] += 150
    return Image.fromarray(pixels)


def same_outputs(run_dir):
    """The exported network computes what the trained one does."""
    onnxruntime = pytest.importorskip("onnxruntime")
    model = lightning_nas.load(run_dir)
    images = torch.randn(5, *model.image_shape, generator=torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession(run_dir / "export" / "network.onnx")
    (scores,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        expected = model(images).numpy()
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    assert expected.std() > 1e-3


def test_a_folder_of_images_to_a_network_in_three_commands(project, tmp_path, monkeypatch, capsys):
    pictures(tmp_path / "pictures")
    said = project(
        "fit", "--config", "images", "--ckpt_path", "last", *QUICK, "--trainer.callbacks.num_queries", "6",
        "--images", "ImageFolderDataModule", "--images.folder", "pictures", "--images.image_size", "12",
    )  # fmt: skip
    assert "lightning-nas retrain --genotype runs/images" in said
    found = json.loads(Path("runs/images/genotype.json").read_text())
    assert found["benchmark"]["data"]["data"].startswith("folder-")
    # Without --data, it trains on what it was searched for.
    project(
        "retrain", "--genotype", "runs/images", "--trainer.max_epochs", "12", "--trainer.enable_progress_bar", "false"
    )
    report = json.loads(Path("runs/retrain/retrain.json").read_text())
    assert report["architecture"] == found["architecture"]
    assert report["data"]["checksum"] == found["benchmark"]["data"]["checksum"]
    assert report["data"]["purpose"] == "evaluation"
    assert report["test_accuracy"] > 60  # three classes
    project("export", "runs/retrain")
    same_outputs(Path("runs/retrain"))
    monkeypatch.setattr(sys, "argv", ["network.py", "picture.png"])
    rng, first = np.random.default_rng(1), []
    sizes = ({"wider": 20}, {"taller": 20}, {})
    for label, size in product(range(3), sizes):
        picture(rng, label, **size).save("picture.png")
        runpy.run_path("runs/retrain/export/network.py", run_name="__main__")
        first.append(capsys.readouterr().out.split()[0])
    right = [name == f"bar_{place // len(sizes)}" for place, name in enumerate(first)]
    assert sum(right) >= 8, first  # were pictures stretched, it would be 7


def test_a_search_on_real_images_is_killed_goes_on_and_ends_with_a_network(project, tmp_path):
    folder = os.environ.get("LIGHTNING_NAS_IMAGES")
    if not folder:
        pytest.skip("set LIGHTNING_NAS_IMAGES to a folder with cifar10_jpeg.npz")
    search = (
        "fit", "--config", "images", "--ckpt_path", "last", *QUICK, "--trainer.callbacks.num_queries", "16",
        "--trainer.callbacks.benchmark.init_args.workers", "2",
        "--trainer.callbacks.benchmark.init_args.recipe.epochs", "2",
        "--images", "NpzDataModule", "--images.path", f"{folder}/cifar10_jpeg.npz", "--images.augment", "standard",
        "--images.num_train", "1000", "--images.num_valid", "500", "--images.num_test", "500",
    )  # fmt: skip
    state = Path("runs/images/search/bayesian.pt")
    first = project.start(*search)
    deadline = time.monotonic() + 300
    while not state.exists() or finished(state) < 5:
        assert first.poll() is None, first.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    before, trained = history(state), results(tmp_path)
    done = (before.status == Status.DONE).sum()
    assert 5 <= done < 16
    project(*search)
    after = history(state)
    assert (after.status == Status.DONE).sum() == 16
    asked = int(before.count)
    assert torch.equal(after.indices[:, :asked], before.indices[:, :asked])
    kept = before.status == Status.DONE
    assert torch.equal(after.valid[kept], before.valid[kept])
    assert torch.equal(after.arrival[kept], before.arrival[kept])
    assert trained.items() <= results(tmp_path).items()  # nothing was trained twice
    project(
        "retrain", "--genotype", "runs/images", "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "10",
        "--trainer.enable_progress_bar", "false",
    )  # fmt: skip
    project("export", "runs/retrain", "--format", "onnx")
    same_outputs(Path("runs/retrain"))


def history(path):
    return SearchHistory.from_state_dict(torch.load(path, weights_only=True)["history"])


def finished(path):
    return int((history(path).status == Status.DONE).sum())


def results(folder):
    """When each architecture was trained."""
    (store,) = (folder / "data").glob("*.sqlite")
    with closing(sqlite3.connect(store)) as connection:
        return dict(connection.execute("SELECT architecture, created FROM results"))
