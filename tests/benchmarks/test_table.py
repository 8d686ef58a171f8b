import json
import os
from pathlib import Path

import numpy as np
import pytest

from lightning_nas.benchmarks.table import Table, data_dir, find_table, read_table, write_table
from lightning_nas.errors import BenchmarkDataError, RunFolderError
from lightning_nas.files import opened_npz

SEEDS = np.array([[1.0, np.nan], [3.0, 5.0], [np.nan, 7.0]])


@pytest.fixture
def table(tmp_path):
    columns = {"mean": np.array([1.0, 2.0, 3.0]), "seeds": SEEDS, "none": SEEDS * [[1], [np.nan], [1]]}
    return write_table(tmp_path / "t.npz", {"space": "bits", "licence": "mine"}, columns)


def test_round_trip(table):
    again = read_table(table.path)
    assert again == table
    assert len(again) == 3
    assert again.meta == {"space": "bits", "licence": "mine", "rows": 3}
    assert again.columns == ("mean", "seeds", "none")
    np.testing.assert_array_equal(again["seeds"], SEEDS)


def test_mean_over_the_seeds_that_are_there(table):
    assert table.mean_over_seeds("mean").tolist() == [1, 2, 3]
    assert table.mean_over_seeds("seeds").tolist() == [1, 4, 7]
    assert table.mean_over_seeds("seeds").dtype == np.float32


def test_rows_without_a_number_are_refused(table):
    with pytest.raises(BenchmarkDataError, match=r"'none' holds no number in 1 of 3 rows \(the first is row 1\)"):
        table.mean_over_seeds("none")
    with pytest.raises(BenchmarkDataError, match=r"1 of 3 rows \(the first is row 2\)"):
        table.mean_over_seeds("seeds", seed=0)


def test_one_seed(tmp_path):
    table = write_table(tmp_path / "t.npz", {"space": "bits"}, {"c": np.array([[1.0, 2.0], [3.0, 4.0]])})
    assert table.mean_over_seeds("c", seed=1).tolist() == [2, 4]
    for seed in (2, -1):
        with pytest.raises(BenchmarkDataError, match=f"has 2 seeds, got seed={seed}"):
            table.mean_over_seeds("c", seed=seed)


def test_a_seed_of_a_mean(table):
    with pytest.raises(BenchmarkDataError, match="has only the mean over seeds, got seed=0"):
        table.mean_over_seeds("mean", seed=0)


def test_a_missing_column_lists_those_there_are(table):
    with pytest.raises(BenchmarkDataError, match=r"no column 'valid@12'; expected one of mean, none, seeds"):
        table["valid@12"]


def test_columns_of_unequal_length(tmp_path):
    with pytest.raises(BenchmarkDataError, match=r"columns of \[2, 3\] rows, expected one common number"):
        write_table(tmp_path / "t.npz", {"space": "bits"}, {"a": np.zeros(2), "b": np.zeros(3)})
    assert os.listdir(tmp_path) == []


def test_a_column_shorter_than_the_header_says(table):
    lying = Table(table.path, {"rows": 4}, table.columns)
    with pytest.raises(BenchmarkDataError, match="'mean' has 3 rows, expected 4"):
        lying["mean"]


def test_missing_tables_say_how_to_get_them(tmp_path, monkeypatch):
    message = r"nasbench201.npz: no such table; download NATS.*1\.1 GB.*data prepare nasbench201 --source NATS"
    with pytest.raises(BenchmarkDataError, match=message) as elsewhere:
        read_table(tmp_path / "nasbench201.npz")
    assert f"--trust_pickle --data_dir {tmp_path}'" in str(elsewhere.value)
    monkeypatch.setenv("LIGHTNING_NAS_DATA", str(tmp_path))
    with pytest.raises(BenchmarkDataError, match="--trust_pickle'"):
        read_table(tmp_path / "nasbench201.npz")
    with pytest.raises(BenchmarkDataError, match="no such table; published tables are nasbench201"):
        read_table(tmp_path / "mine.npz")


def test_every_truncation_is_a_damaged_table(table):
    whole = table.path.read_bytes()
    for keep in range(0, len(whole), 37):
        table.path.write_bytes(whole[:keep])
        with pytest.raises(BenchmarkDataError, match=r"t.npz: not a readable .npz"):
            read_table(table.path)


def test_flipped_bytes_are_found_when_the_column_is_read(table):
    whole = bytearray(table.path.read_bytes())
    start = whole.index(b"seeds.npy") + 20
    whole[start : start + 60] = bytes(60)
    table.path.write_bytes(whole)
    with pytest.raises(BenchmarkDataError, match=r"not a readable \.npz"):
        read_table(table.path)["seeds"]


def write_meta(path, text):
    with path.open("wb") as file:
        np.savez(file, meta=np.array(text), c=np.zeros(1))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_text("hello"), "not a readable .npz"),
        (lambda path: path.mkdir(), "not a readable .npz"),
        (lambda path: np.save(path.open("wb"), np.zeros(3)), "a single array"),
        (lambda path: np.savez(path.open("wb"), c=np.zeros(3)), "no 'meta'"),
        (lambda path: np.savez(path.open("wb"), meta=np.array([{}])), "not a readable .npz"),
        (lambda path: write_meta(path, "{half"), "not a readable .npz"),
        (lambda path: write_meta(path, "[]"), "'meta' names no space and rows"),
        (lambda path: write_meta(path, json.dumps({"rows": 1})), "'meta' names no space and rows"),
    ],
)
def test_files_that_are_no_tables(tmp_path, write, message):
    path = tmp_path / "t.npz"
    write(path)
    with pytest.raises(BenchmarkDataError, match=message):
        read_table(path)


def test_pickles_inside_are_never_read(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    path = tmp_path / "t.npz"
    np.savez(path, meta=np.array('{"space": "bits", "rows": 1}'), c=np.array([Bomb()]))
    with pytest.raises(BenchmarkDataError, match=r"not a readable \.npz"):
        read_table(path)["c"]
    assert not (tmp_path / "exploded").exists()


def test_a_missing_file_stays_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError), opened_npz(tmp_path / "none.npz"):
        pass


def test_a_crash_in_the_middle_leaves_the_old_table(table, monkeypatch):
    def crash(file, **columns):
        file.write(b"PK half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez_compressed", crash)
    with pytest.raises(KeyboardInterrupt):
        write_table(table.path, {"space": "bits"}, {"mean": np.zeros(3)})
    assert read_table(table.path)["mean"].tolist() == [1, 2, 3]
    assert os.listdir(table.path.parent) == ["t.npz"]


def test_a_folder_that_cannot_be_written(table):
    with pytest.raises(RunFolderError, match="cannot write there"):
        write_table(table.path / "below_a_file" / "t.npz", {"space": "bits"}, {"c": np.zeros(1)})


def test_the_folder_of_tables(monkeypatch, tmp_path):
    monkeypatch.setenv("LIGHTNING_NAS_DATA", str(tmp_path))
    assert data_dir() == tmp_path
    assert data_dir("/elsewhere").as_posix() == "/elsewhere"
    monkeypatch.setenv("HOME", "/home/someone")
    assert data_dir("~/data").as_posix() == "/home/someone/data"
    monkeypatch.delenv("LIGHTNING_NAS_DATA")
    assert data_dir().as_posix() == "/home/someone/.cache/lightning_nas"


def test_results_shared_by_isomorphic_architectures(tmp_path):
    columns = {"c": np.array([[1.0, 2.0], [3.0, 5.0]]), "row": np.array([1, 0, 1])}
    table = write_table(tmp_path / "t.npz", {"space": "bits"}, columns)
    assert len(table) == 3
    assert table.columns == ("c",)
    assert table["c"].tolist() == [[3, 5], [1, 2], [3, 5]]
    assert table.mean_over_seeds("c").tolist() == [4, 1.5, 4]


def test_rows_beyond_the_results_are_damage(tmp_path):
    table = write_table(tmp_path / "t.npz", {"space": "bits"}, {"c": np.arange(2.0), "row": np.array([0, 2, 1])})
    with pytest.raises(BenchmarkDataError, match=r"'row' names the rows 0 to 2 of column 'c', which has 2"):
        table["c"]


def test_a_prepared_table_wins_over_a_shipped_one(tmp_path, monkeypatch):
    shipped, prepared = tmp_path / "shipped", tmp_path / "prepared"
    monkeypatch.setattr("lightning_nas.benchmarks.table.SHIPPED", shipped)
    for folder in (shipped, prepared):
        write_table(folder / "both.npz", {"space": "bits"}, {"c": np.zeros(2)})
    write_table(shipped / "ours.npz", {"space": "bits"}, {"c": np.zeros(2)})
    assert find_table("both", prepared) == prepared / "both.npz"
    assert find_table("ours", prepared) == shipped / "ours.npz"
    assert find_table("neither", prepared) == prepared / "neither.npz"
    assert find_table("some/where.npz", prepared) == Path("some/where.npz")
