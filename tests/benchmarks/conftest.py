"""Official files in small: records of three cells written in the layouts of NAS-Bench-201 and NATS-Bench.

The records are generated, in the layout of the official ones; where ``LIGHTNING_NAS_RECORDS`` names a ``.json.gz`` with
real records under the same keys, the tests run on those too.
"""

import gzip
import json
import os
from collections import defaultdict
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_nas.spaces.nasbench201 import NASBench201
from tests.benchmarks.stripes import make

OFFICIAL_NUMBERS = (0, 11, 284)
EVALUATIONS = {  # training set -> (evaluation sets, seconds of training and of validation in an epoch)
    "cifar10-valid": (("x-valid", "ori-test"), 12.5, 4.2),
    "cifar10": (("ori-test",), 25.0, 1.7),
    "cifar100": (("x-valid", "x-test", "ori-test"), 25.0, 0.8),
    "ImageNet16-120": (("x-valid", "x-test", "ori-test"), 75.0, 0.5),
}


class ThreeCells(NASBench201):
    """Three cells of the benchmark, so that a complete source is small."""

    @cached_property
    def order(self):
        return NASBench201().order[list(OFFICIAL_NUMBERS)]


def generated_records():
    """{"index|epochs|training set|seed": record}; every cell has its own set of seeds, as in the benchmark."""
    rng = np.random.default_rng(0)
    records = {}
    for number, seeds in zip(OFFICIAL_NUMBERS, ((777, 888, 999), (777, 888), (777,)), strict=True):
        for training, (evaluations, train_seconds, eval_seconds) in EVALUATIONS.items():
            for epochs, trained in ((12, (777, 111) if training == "cifar10-valid" else (111,)), (200, seeds)):
                for seed in trained:
                    keys = [f"{name}@{epoch}" for name in evaluations for epoch in range(epochs)]
                    # After 200 epochs only CIFAR-10 was validated at every epoch, the others at the last.
                    scored = [k for k in keys if k.startswith(("x-valid", "ori")) or k.endswith(f"@{epochs - 1}")]
                    if epochs == 200 and training not in ("cifar10-valid", "cifar10"):
                        scored = [k for k in keys if k.startswith("ori") or k.endswith("@199")]
                    records[f"{number}|{epochs}|{training}|{seed}"] = {
                        "params": 0.073306 + number / 1e3,
                        "flop": 7.78305 + number,
                        "latency": [0.01 + number / 1e4],
                        "epochs": epochs,
                        "train_acc": (100 * rng.random(epochs)).tolist(),
                        "train_loss": rng.random(epochs).tolist(),
                        "train_time": [train_seconds + number] * epochs,
                        "eval_acc": {k: 100 * rng.random() for k in scored},
                        "eval_loss": {k: rng.random() for k in scored},
                        "eval_time": dict.fromkeys(keys, eval_seconds),
                    }
    return records


def real_records():
    path = os.environ.get("LIGHTNING_NAS_RECORDS")
    if not path or not Path(path).is_file():
        pytest.skip("set LIGHTNING_NAS_RECORDS to a .json.gz of official records")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return json.load(file)


@pytest.fixture(scope="session", params=[generated_records, real_records], ids=["generated", "real"])
def records(request):
    return request.param()


@pytest.fixture(scope="session")
def generated():
    return generated_records()


@pytest.fixture(scope="session")
def real():
    return real_records()


@pytest.fixture(scope="session")
def three_cells():
    return ThreeCells()


def states(records, package, space=None, lengths=(12, 200)):
    """{row: {epochs: official state}} made with the package's own classes."""
    space = space or NASBench201()
    results = defaultdict(dict)
    for row, number in enumerate(OFFICIAL_NUMBERS):
        for epochs in lengths:
            results[row][epochs] = package.ArchResults(row, space.format(space[number]))
    for key, record in records.items():
        number, epochs, training, seed = key.split("|")
        row, steps = OFFICIAL_NUMBERS.index(int(number)), range(int(epochs))
        trial = package.ResultsCount(
            training, None, dict(zip(steps, record["train_acc"], strict=True)),
            dict(zip(steps, record["train_loss"], strict=True)), record["params"], record["flop"],
            {"arch_str": results[row][12].arch_str}, int(seed), int(epochs), record["latency"],
        )  # fmt: skip
        trial.train_times = dict(zip(steps, record["train_time"], strict=True))
        trial.eval_names = sorted({name.split("@")[0] for name in record["eval_acc"]})
        trial.eval_acc1es, trial.eval_losses = record["eval_acc"], record["eval_loss"]
        trial.eval_times = record.get("eval_time", {})
        results[row][int(epochs)].update(training, int(seed), trial)
    return {row: {n: result.state_dict() for n, result in both.items()} for row, both in results.items()}


@pytest.fixture
def write_pth(three_cells):
    """Writes the one-file format; ``change`` may damage its contents first."""
    package = pytest.importorskip("nas_201_api")

    def write(path, records, change=lambda contents: None):
        infos = {row: {"less": s[12], "full": s[200]} for row, s in states(records, package).items()}
        contents = {
            "meta_archs": [three_cells.format(arch) for arch in three_cells],
            "arch2infos": infos,
            "evaluated_indexes": list(infos),
        }
        change(contents)
        torch.save(contents, path)
        return path

    return write


@pytest.fixture
def write_nats(three_cells):
    """Writes the folder format."""
    package = pytest.importorskip("nats_bench")

    def write(folder, records, change=lambda contents: None):
        folder.mkdir()
        meta = {"meta_archs": [three_cells.format(arch) for arch in three_cells]}
        change(meta)
        package.pickle_save(meta, folder / "meta.pickle")
        for row, state in states(records, package).items():
            package.pickle_save({"12": state[12], "200": state[200]}, folder / f"{row:06d}.pickle")
        return folder

    return write


@pytest.fixture
def make_live(tmp_path, monkeypatch):
    """Makes small live benchmarks, whose workers can import the tests' modules, and closes them."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    made = []

    def factory(folder=tmp_path, **changes):
        made.append(make(folder, **changes))
        return made[-1]

    yield factory
    for one in made:
        one.close()
