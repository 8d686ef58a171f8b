import gzip
import json
import os
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_nas.benchmarks.natsbench_size import prepare
from lightning_nas.benchmarks.tabular import TabularBenchmark
from lightning_nas.errors import BenchmarkDataError, RunFolderError, UsageError
from lightning_nas.spaces.natsbench_size import WIDTHS, NATSBenchSize
from tests.benchmarks.conftest import EVALUATIONS, OFFICIAL_NUMBERS, states

SPACE = NATSBenchSize()
OPTIMA = {"cifar10": 90.712, "cifar100": 70.920, "imagenet16": 46.733}


class ThreeNetworks(NATSBenchSize):
    """Three networks of the benchmark, so that a complete source is small."""

    @cached_property
    def order(self):
        return np.array(OFFICIAL_NUMBERS)


def generated_records():
    rng = np.random.default_rng(0)
    records = {}
    for number in OFFICIAL_NUMBERS:
        for training, (evaluations, train_seconds, eval_seconds) in EVALUATIONS.items():
            for epochs, seeds in ((1, (777,)), (12, (777, 888)), (90, (777,))):
                for seed in seeds:
                    keys = [f"{name}@{epoch}" for name in evaluations for epoch in range(epochs)]
                    records[f"{number}|{epochs:02d}|{training}|{seed}"] = {
                        "params": 0.0117 + number / 1e3, "flop": 4.48 + number, "latency": [0.01], "epochs": epochs,
                        "train_acc": (100 * rng.random(epochs)).tolist(), "train_loss": rng.random(epochs).tolist(),
                        "train_time": [train_seconds] * epochs, "eval_acc": {k: 100 * rng.random() for k in keys},
                        "eval_loss": {k: rng.random() for k in keys}, "eval_time": dict.fromkeys(keys, eval_seconds),
                    }  # fmt: skip
    return records


def real_records():
    path = os.environ.get("LIGHTNING_NAS_SIZE_RECORDS")
    if not path or not Path(path).is_file():
        pytest.skip("set LIGHTNING_NAS_SIZE_RECORDS to a .json.gz of official records of the size space")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return json.load(file)


@pytest.fixture(scope="module", params=[generated_records, real_records], ids=["generated", "real"])
def records(request):
    return request.param()


@pytest.fixture
def write_folder(tmp_path):
    package = pytest.importorskip("nats_bench")

    def write(records, change=lambda names: names):
        folder = tmp_path / "NATS-sss"
        folder.mkdir()
        names = change([SPACE.format(SPACE[number]) for number in OFFICIAL_NUMBERS])
        package.pickle_save({"meta_archs": names}, folder / "meta.pickle")
        for row, state in states(records, package, SPACE, (1, 12, 90)).items():
            package.pickle_save({f"{n:02d}": state[n] for n in (1, 12, 90)}, folder / f"{row:06d}.pickle")
        return folder

    return write


def plain(path, **changes):
    rng = np.random.default_rng(0)
    columns = {"channels": np.array(WIDTHS, dtype=np.uint8)[SPACE.codes.numpy()]}
    for dataset, best in OPTIMA.items():
        values = rng.random(len(SPACE), dtype=np.float32) * (best - 1)
        values[7] = best
        columns[f"{dataset}_val90"] = values
    np.savez(path, **{name: values for name, values in {**columns, **changes}.items() if values is not None})
    return path


def test_lookup_returns_the_official_numbers(write_folder, records, tmp_path):
    space = ThreeNetworks()
    table = prepare(write_folder(records), tmp_path / "small.npz", trust_pickle=True, space=space)
    for dataset, training, tests in (
        ("cifar10", "cifar10", "ori-test"), ("cifar100", "cifar100", "x-test"),
        ("imagenet16", "ImageNet16-120", "x-test"),
    ):  # fmt: skip
        benchmark = TabularBenchmark(space, str(table.path), dataset, epochs=90, test_epochs=90)
        got = benchmark.lookup(torch.arange(3))
        for row, number in enumerate(OFFICIAL_NUMBERS):
            fitted = "cifar10-valid" if dataset == "cifar10" else training
            valid = records[f"{number}|90|{fitted}|777"]["eval_acc"]["x-valid@89"]
            test = records[f"{number}|90|{training}|777"]["eval_acc"][f"{tests}@89"]
            assert got.valid[row] == pytest.approx(valid, rel=1e-6)
            assert got.test[row] == pytest.approx(test, rel=1e-6)
    assert {"cifar10/valid@1", "cifar10/valid@12", "imagenet16/test@90", "params", "flops"} <= set(table.columns)
    assert table["params"].tolist() == [round(1e6 * records[f"{n}|90|cifar10|777"]["params"]) for n in OFFICIAL_NUMBERS]


def test_plain_columns_become_validation_columns(tmp_path):
    table = prepare(plain(tmp_path / "plain.npz"), tmp_path / "out" / "natsbench_size.npz")
    with np.load(tmp_path / "plain.npz") as file:
        assert np.array_equal(table["cifar100/valid@90"], file["cifar100_val90"])
    assert (table.meta["space"], len(table)) == ("natsbench_size", 32768)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cifar100_val90": None}, "has no column cifar100_val90"),
        ({"channels": np.full((32768, 5), 8, np.uint8)}, "row 1 is '8:8:8:8:8', expected '8:8:8:8:16'"),
        ({"channels": np.full((9, 5), 8, np.uint8)}, "one row for each"),
        ({"imagenet16_val90": np.full(32768, np.nan, np.float32)}, "no number for imagenet16/valid@90 in 32768 rows"),
        ({"cifar10_val90": np.full(32768, 50.0, np.float32)}, "is 50.000, expected the published 90.71"),
        ({"meta": np.array("x")}, "prepared table already"),
    ],
)
def test_a_source_that_is_something_else_is_refused(tmp_path, changes, message):
    with pytest.raises(BenchmarkDataError, match=message):
        prepare(plain(tmp_path / "plain.npz", **changes), tmp_path / "table.npz")
    assert not (tmp_path / "table.npz").exists()


def test_folders_are_checked_before_they_are_read(write_folder, tmp_path):
    with pytest.raises(BenchmarkDataError, match="no such file or folder"):
        prepare(tmp_path / "gone", tmp_path / "table.npz")
    folder = write_folder(generated_records(), change=lambda names: names[::-1])
    with pytest.raises(UsageError, match="--trust_pickle"):
        prepare(folder, tmp_path / "table.npz", space=ThreeNetworks())
    with pytest.raises(BenchmarkDataError, match="row 0 is"):
        prepare(folder, tmp_path / "table.npz", trust_pickle=True, space=ThreeNetworks())
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError):
        prepare(folder, tmp_path / "file" / "table.npz", trust_pickle=True, space=ThreeNetworks())


def test_the_real_columns():
    source = os.environ.get("LIGHTNING_NAS_NATS_SIZE")
    if not source or not Path(source).is_file():
        pytest.skip("set LIGHTNING_NAS_NATS_SIZE to the .npz of the size space's validation accuracies")
    with np.load(source) as file:
        assert np.array_equal(np.array(WIDTHS)[SPACE.codes.numpy()], file["channels"])
        assert max(range(len(SPACE)), key=file["cifar10_val90"].__getitem__) == SPACE.index(
            SPACE.parse("64:64:64:64:64")
        )
