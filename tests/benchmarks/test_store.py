import csv
import math
import multiprocessing
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import textwrap

import pytest

from lightning_nas.benchmarks.store import Result, ResultKey, ResultStore
from lightning_nas.errors import BenchmarkDataError, RunFolderError
from lightning_nas.files import fingerprint


def key(number=0, **changes):
    return ResultKey("toy", f"cell{number}", "r1", 0, 12)._replace(**changes)


def result(number=0, valid=90.0):
    return Result(key(number), valid, valid - 1, 1.5, 1000, 20000, (50.0, valid))


@pytest.fixture
def store(tmp_path):
    return ResultStore(tmp_path / "new" / "results.sqlite")


def test_what_goes_in_comes_out(store):
    row = result()
    store.put(row)
    assert store.get([key(), key(1)]) == {key(): row}
    assert store.rows() == [row]
    assert store.count() == 1


def test_every_part_of_the_key_counts(store):
    keys = [key(), key(space="b"), key(architecture="c"), key(recipe="d"), key(seed=1), key(epochs=3)]
    for number, one in enumerate(keys):
        store.put(Result(one, valid=float(number)))
    assert [store.get(keys)[one].valid for one in keys] == [0, 1, 2, 3, 4, 5]


def test_the_first_success_stays_and_a_failure_gives_way(store):
    store.put(Result(key(), error="died", params=5))
    (failed,) = store.rows()
    assert math.isnan(failed.valid)
    assert math.isnan(failed.cost)
    assert (failed.error, failed.params, failed.flops) == ("died", 5, None)
    store.put(result(valid=80.0))
    store.put(result(valid=70.0))
    store.put(Result(key(), error="died again"))
    assert [(row.valid, row.error) for row in store.rows()] == [(80.0, None)]


def test_recipes_explain_their_fingerprint(store):
    details = {"lr": 0.1, "net": {"channels": 8}}
    assert store.describe(details) == store.describe(details) == fingerprint({"net": {"channels": 8}, "lr": 0.1})
    assert store.recipes() == {fingerprint(details): details}


def test_export_is_csv(store, tmp_path):
    store.put(result(1))
    store.put(Result(key(0), error="no, thanks"))
    store.export(tmp_path / "out.csv")
    with open(tmp_path / "out.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["architecture"] for row in rows] == ["cell0", "cell1"]
    assert (rows[0]["valid"], rows[0]["error"]) == ("", "no, thanks")
    assert (rows[1]["valid"], rows[1]["curve"]) == ("90.0", "[50.0, 90.0]")


def test_a_reopened_or_pickled_store_sees_the_rows(store):
    store.put(result())
    assert ResultStore(store.path).count() == pickle.loads(pickle.dumps(store)).count() == 1


def fill(path, first, barrier):
    barrier.wait()
    store = ResultStore(path)
    for number in range(first, first + 60):
        store.put(result(number))


def test_two_processes_make_and_fill_one_store(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(2)
    path = tmp_path / "shared.sqlite"
    processes = [context.Process(target=fill, args=(path, first, barrier)) for first in (0, 40)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert ResultStore(path).count() == 100


def test_kill_9_loses_no_finished_put(tmp_path):
    script = f"""
        from lightning_nas.benchmarks.store import *
        store = ResultStore({str(tmp_path / "s.sqlite")!r})
        for number in range(10**6):
            store.put(Result(ResultKey("toy", str(number), "r", 0, 1), valid=1.0))
            print(number, flush=True)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True)
    for _ in range(20):
        last = int(process.stdout.readline())
    os.kill(process.pid, signal.SIGKILL)
    last = max([last, *map(int, process.stdout.read().split())])
    process.wait()
    assert ResultStore(tmp_path / "s.sqlite").count() in (last + 1, last + 2)


def test_a_foreign_file_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "notes.sqlite"
    path.write_text("These are my notes, no database at all. " * 50)
    with pytest.raises(BenchmarkDataError, match=r"not a readable result store.*move the file away"):
        ResultStore(path)
    assert path.read_text().startswith("These are my notes")


def test_another_programs_database_is_refused(tmp_path):
    path = tmp_path / "mail.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE mail (subject TEXT)")
    connection.close()
    with pytest.raises(BenchmarkDataError, match="another program"):
        ResultStore(path)


def test_another_version_is_refused(store):
    with sqlite3.connect(store.path) as connection:
        connection.execute("PRAGMA user_version = 7")
    connection.close()
    with pytest.raises(BenchmarkDataError, match="version 7, expected 1"):
        ResultStore(store.path)


def test_a_damaged_file_is_refused(store):
    for number in range(300):
        store.put(result(number))
    content = bytearray(store.path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 6000] = b"\xa5" * 6000
    store.path.write_bytes(content)
    with pytest.raises(BenchmarkDataError, match="not a readable result store"):
        ResultStore(store.path)


def test_a_file_that_vanished_is_not_made_anew_by_a_worker(store):
    store.path.unlink()
    with pytest.raises(RunFolderError, match="cannot use the result store"):
        store.put(result())
    assert not store.path.exists()


def test_a_folder_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot write there"):
        ResultStore(tmp_path / "file" / "results.sqlite")
