import subprocess
import sys

import jsonargparse
import numpy as np
import pytest

from lightning_nas import data_cli
from lightning_nas.benchmarks.table import write_table
from lightning_nas.errors import BenchmarkDataError, SpaceError, UsageError

CELL = "|nor_conv_3x3~0|+|none~0|none~1|+|none~0|skip_connect~1|none~2|"


@pytest.fixture
def run(capsys, monkeypatch):
    """Types a command and returns what it printed."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(verb, *args):
        typed = data_cli.arguments(verb, [str(arg) for arg in args])
        jsonargparse.auto_cli(getattr(data_cli, verb), args=typed, prog=f"lightning-nas {verb}")
        return capsys.readouterr().out

    return run


@pytest.fixture
def columns(cells, tmp_path):
    """A made-up ``.npz`` source that reaches the published optima."""
    rng = np.random.default_rng(0)
    values = {"arch": np.array([cells.format(arch) for arch in cells])}
    for dataset, valid, test in (("cifar10", 91.61, 94.37), ("cifar100", 73.49, 73.51), ("imagenet16", 46.73, 47.31)):
        for name, best in (("val200_mean", valid), ("test200_mean", test), ("val12", 9.0), ("test12", 9.0)):
            values[f"{dataset}_{name}"] = np.append(rng.random(len(cells) - 1, np.float32), np.float32(best))
    np.savez(tmp_path / "columns.npz", **values)
    return tmp_path / "columns.npz"


def test_prepare_then_list(run, columns, tmp_path):
    printed = run("data", "prepare", "nasbench201", "--source", columns, "--data_dir", tmp_path / "tables")
    for expected in (
        "nasbench201.npz: 15,625 architectures",
        "published optima",
        "Source: columns.npz",
        "Licence: MIT",
    ):
        assert expected in printed
    assert "arXiv:2001.00326" in printed

    listed = run("data", "list", "--data_dir", tmp_path / "tables")
    for expected in ("nasbench201", "15,625", "cifar10, cifar100, imagenet16", "columns.npz"):
        assert expected in listed
    assert "Not there: nasbench201," not in listed
    assert "Not there: nasbench101," in listed


def test_list_says_where_to_get_what_is_missing(run, tmp_path, monkeypatch):
    listed = run("data", "list", "--data_dir", tmp_path / "none")
    assert f"Tables in {tmp_path}/none" in listed
    for expected in ("Not there: nasbench201", "NATS-tss-v1_0-3ffb9-simple, 1.1 GB", "https://github.com/D-X-Y", "MIT"):
        assert expected in listed
    command = "lightning-nas data prepare nasbench201 --source NAS-Bench-201-v1_1-096897.pth --trust_pickle"
    assert f"{command} --data_dir {tmp_path}/none\n" in listed
    monkeypatch.setenv("LIGHTNING_NAS_DATA", str(tmp_path / "none"))
    assert f"{command}\n" in run("data", "list")


def test_list_shows_own_tables_and_damaged_ones(run, tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_NAS_DATA", str(tmp_path))
    write_table(tmp_path / "mine.npz", {"space": "bits"}, {"digits/valid@3": np.zeros(4), "params": np.zeros(4)})
    (tmp_path / "nasbench201.npz").write_text("half")
    listed = run("data", "list")
    assert "mine" in listed
    assert "digits" in listed
    assert "Damaged: " in listed
    assert "nasbench201.npz: not a readable" in listed


@pytest.mark.parametrize("typed", [["--trust_pickle"], ["--trust_pickle", "true"], ["--trust_pickle=true"]])
def test_trust_is_a_flag(run, tmp_path, typed):
    (tmp_path / "x.pth").write_bytes(b"junk")
    with pytest.raises(BenchmarkDataError, match="cannot be read"):
        run("data", "prepare", "nasbench201", *typed, "--source", tmp_path / "x.pth", "--data_dir", tmp_path)
    with pytest.raises(UsageError, match="--trust_pickle"):
        run("data", "prepare", "nasbench201", "--source", tmp_path / "x.pth", "--data_dir", tmp_path)


@pytest.fixture
def some_cells(tmp_path):
    """A made-up ``.npz`` source with results of two NAS-Bench-101 cells."""
    adjacency = np.zeros((2, 7, 7), np.uint8)
    adjacency[:, 0, 1] = adjacency[:, 1, 6] = 1
    names = ["input", "conv1x1-bn-relu", "conv3x3-bn-relu", "maxpool3x3", "output"]
    ops = np.array([[0, 1, 1, 1, 1, 1, 4], [0, 3, 1, 1, 1, 1, 4]])
    errors = np.random.default_rng(0).uniform(0.1, 0.2, (2, 2, 3))
    path = tmp_path / "cells.npz"
    np.savez(path, ops=ops, op_names=names, adjacency=adjacency, val_error=errors[0], test_error=errors[1])
    return path


def test_prepare_a_part_of_nasbench101(run, some_cells, tmp_path):
    typed = ["data", "prepare", "nasbench101", "--source", some_cells, "--data_dir", tmp_path / "tables"]
    with pytest.raises(UsageError, match=r"holds 2 of 423,624 architectures.*add --name"):
        run(*typed)
    assert not list((tmp_path / "tables").glob("*"))
    printed = run(*typed, "--name", "nasbench101-two")
    for expected in ("nasbench101-two.npz: 2 of 423,624 architectures", "Licence: Apache-2.0", "arXiv:1902.09635",
                     "Checked: every architecture is one of the space"):  # fmt: skip
        assert expected in printed
    listed = run("data", "list", "--data_dir", tmp_path / "tables")
    assert "2 of 423,624" in listed
    assert "Not there: nasbench101, " in listed
    assert "lightning-nas data prepare nasbench101 --source nasbench_only108.tfrecord --data_dir" in listed
    with pytest.raises(BenchmarkDataError, match="holds 2 distinct connected architectures, expected at least 4"):
        run("data", "statistics", tmp_path / "tables" / "nasbench101-two.npz")


def test_parts_of_what_comes_whole_and_odd_names(run, tmp_path):
    with pytest.raises(UsageError, match="nasbench201 comes whole or not at all"):
        run("data", "prepare", "nasbench201", "--source", "x", "--allow_partial")
    with pytest.raises(UsageError, match=r"got the name '\.\./x'"):
        run("data", "prepare", "nasbench201", "--source", "x", "--name", "../x")


def test_unknown_tables_and_missing_arguments(run, capsys):
    with pytest.raises(UsageError, match="got the table 'nasbench2', expected one of nasbench201"):
        run("data", "prepare", "nasbench2", "--source", "x")
    with pytest.raises(SystemExit):
        run("data", "prepare", "nasbench201")
    assert "source" in capsys.readouterr().err


def test_help_explains_every_argument(run, capsys):
    with pytest.raises(SystemExit):
        run("data", "prepare", "--help")
    printed = " ".join(capsys.readouterr().out.split())
    assert "A pickle can run any code" in printed
    assert "needed for a table of some of the architectures" in printed
    assert "The downloaded file or unpacked folder" in printed


def test_listing_tables_does_not_import_torch(tmp_path):
    program = (
        "import sys, jsonargparse; from lightning_nas import data_cli;"
        "jsonargparse.auto_cli(data_cli.data, args=['list', '--data_dir', sys.argv[1]]);"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False).returncode == 0


def test_spaces_lists_all(run):
    printed = run("spaces")
    assert "nasbench201" in printed
    assert "15,625" in printed
    assert "4 nodes, 6 edges" in printed


def test_one_space(run):
    assert run("spaces", "nasbench201").startswith("nasbench201: 15,625 architectures")


def test_one_architecture_by_string_and_by_index(run, cells):
    printed = run("spaces", "nasbench201", "--architecture", CELL)
    index = cells.index(cells.parse(CELL))
    canonical = cells.canonical(cells.parse(CELL))
    for expected in (
        CELL,
        "316,346",
        "43.17 million",
        "24",
        f"{cells.format(canonical)} (index {cells.index(canonical)})",
    ):
        assert expected in printed
    assert run("spaces", "--space", "nasbench201", "--index", index) == printed


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        (["nasbench2"], UsageError, "got the space 'nasbench2', expected one of .*nasbench201"),
        (["nasbench201", "--index", "1", "--architecture", CELL], UsageError, "got both"),
        (["--index", "1"], UsageError, "need a space"),
        (["nasbench201", "--index", "15625"], SpaceError, "got the index 15625, expected 0 to 15624"),
        (["nasbench201", "--index", "-1"], SpaceError, "got the index -1"),
        (["nasbench201", "--architecture", "x"], SpaceError, "got 1 nodes"),
    ],
)
def test_wrong_requests(run, args, error, message):
    with pytest.raises(error, match=message):
        run("spaces", *args)


def test_statistics_are_shown_and_recorded(run, tmp_path):
    rng = np.random.default_rng(0)
    scores = rng.random((15625, 2))
    columns = {"d/test@3": scores, "d/valid@3": scores}
    write_table(tmp_path / "mine.npz", {"space": "nasbench201"}, columns)
    write_table(tmp_path / "yours.npz", {"space": "nasbench201"}, {"c/test@9": scores.mean(axis=1)})
    printed = run(
        "data", "statistics", "mine", "--against", "yours",
        "--columns", '["c/test@9"]', "--record", tmp_path / "results", "--data_dir", tmp_path,
    )  # fmt: skip
    assert "mean test accuracy, c/test@9  Spearman correlation: 1.000" in printed
    assert (tmp_path / "results" / "tables" / "mine.json").is_file()


def test_statistics_of_a_strange_space(run, tmp_path):
    write_table(tmp_path / "mine.npz", {"space": "bits"}, {"d/test@3": np.zeros(4)})
    with pytest.raises(UsageError, match="is a table of 'bits', expected a finite space of this package"):
        run("data", "statistics", tmp_path / "mine.npz", "--dataset", "d", "--epochs", 3)


def test_statistics_of_which_columns(run, tmp_path):
    scores = np.random.default_rng(0).random((15625, 2))
    columns = {f"{name}/{split}@{epochs}": scores for name, epochs in (("a", 2), ("b", 3), ("b", 10))
               for split in ("test", "valid")}  # fmt: skip
    path = write_table(tmp_path / "mine.npz", {"space": "nasbench201"}, columns).path
    for wrong in ([], ["--dataset", "c"], ["--dataset", "a", "--epochs", 3]):
        with pytest.raises(UsageError, match=r"expected one of a 2, b 3, b 10"):
            run("data", "statistics", path, *wrong)
    assert "two seeds" in run("data", "statistics", path, "--dataset", "b")
