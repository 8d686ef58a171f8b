import base64
import dataclasses
import json
import os
import struct
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.summary.writer.record_writer import RecordWriter

from lightning_nas.benchmarks import nasbench101, nasbench101_records
from lightning_nas.benchmarks.nasbench101 import prepare
from lightning_nas.benchmarks.tabular import TabularBenchmark
from lightning_nas.errors import BenchmarkDataError, UsageError
from lightning_nas.spaces.base import CellGraph
from lightning_nas.spaces.nasbench101 import NASBench101

EPOCHS = (4, 12, 36, 108)
CHOSEN = (400_000, 0, 3, 70_000, 90)


class FewCells(NASBench101):
    """Five cells of 2 to 7 vertices, in an order of their own, so that a complete source is small."""

    def __len__(self):
        return len(CHOSEN)

    def __getitem__(self, index):
        return super().__getitem__(CHOSEN[index])

    def index(self, arch):
        return CHOSEN.index(super().index(arch))

    def graph(self, arch):
        return NASBench101().graph(arch)

    def indices_of(self, graphs):
        found = NASBench101().indices_of(graphs)
        return torch.tensor([CHOSEN.index(i) if i in CHOSEN else -1 for i in found.tolist()])


SPACE = FewCells()


def drawing(index, rng):
    """Labels and adjacency string of a cell, drawn in another order of its vertices."""
    ops, arcs = NASBench101().graph(NASBench101()[index])
    size = int((ops >= 0).sum())
    arcs = arcs[:size, :size].numpy()
    orders = [(0, *p, size - 1) for p in permutations(range(1, size - 1))] if size > 2 else [(0, 1)]
    forward = [p for p in orders if not np.tril(arcs[np.ix_(p, p)]).any()]
    order = list(forward[rng.integers(len(forward))])
    labels = [NASBench101.vertex_labels[code] for code in ops[order].tolist()]
    return ",".join(labels), "".join("01"[int(x)] for x in arcs[np.ix_(order, order)].ravel())


def varint(number):
    parts = []
    while number > 127:
        number, low = number >> 7, number & 127
        parts.append(low | 128)
    return bytes([*parts, number])


def metrics(training):
    """The wire format by hand: field number and kind, then the value."""
    evaluations = b""
    for share in (0.0, 0.5, 1.0):
        values = [training["epochs"] * share, training["seconds"] * share, 0.9 * share + 0.1]
        values += [training["valid"] if share == 1 else 0.1, training["test"] if share == 1 else 0.1]
        body = b"".join(bytes([8 * n + 1]) + struct.pack("<d", v) for n, v in enumerate(values, start=1))
        body += b"\x32\x07/ckpt-7" if share == 1 else b""
        evaluations += b"\x0a" + varint(len(body)) + body
    return evaluations + b"\x10" + varint(training["params"]) + b"\x19" + struct.pack("<d", 9.5)


def made_trainings(rng):
    """What an official file holds, in shuffled order: cells, repeats and epochs mixed."""
    found = []
    for index in CHOSEN:
        labels, arcs = drawing(index, rng)
        for epochs in EPOCHS:
            found += [
                {
                    "hash": f"{index:032x}", "index": index, "epochs": epochs, "repeat": repeat, "arcs": arcs,
                    "labels": labels, "valid": rng.random(), "test": rng.random(),
                    "seconds": epochs * (10 + rng.random()), "params": 300_000 + index,
                }
                for repeat in range(3)
            ]  # fmt: skip
    return [found[i] for i in rng.permutation(len(found))]


def write(path, trainings):
    with path.open("wb") as file:
        writer = RecordWriter(file)
        for t in trainings:
            text = base64.b64encode(metrics(t)).decode()
            writer.write(json.dumps([t["hash"], t["epochs"], t["arcs"], t["labels"], text]).encode())
    return path


@pytest.fixture(scope="module")
def trainings():
    return made_trainings(np.random.default_rng(0))


@pytest.fixture
def source(tmp_path, trainings):
    return write(tmp_path / "small.tfrecord", trainings)


def repeats(trainings, index, epochs, name):
    """In the order of the file."""
    return [t[name] for t in trainings if (t["index"], t["epochs"]) == (index, epochs)]


@pytest.mark.parametrize("block", [100, 1 << 22])
def test_the_table_holds_the_official_numbers(source, trainings, tmp_path, monkeypatch, block):
    monkeypatch.setattr(nasbench101_records, "_BLOCK", block)
    table = prepare(source, tmp_path / "out" / "nasbench101.npz", space=SPACE)
    assert len(table) == 5
    assert "member" not in table.columns
    for row, index in enumerate(CHOSEN):
        for epochs in EPOCHS:
            for name, own, scale in (("valid", "valid", 100), ("test", "test", 100), ("cost", "seconds", 1)):
                expected = np.float32(scale * np.array(repeats(trainings, index, epochs, own)))
                np.testing.assert_array_equal(table[f"cifar10/{name}@{epochs}"][row], expected)
        assert table["params"][row] == 300_000 + index


@pytest.mark.parametrize("epochs", EPOCHS)
def test_benchmarks_take_the_mean_or_one_repeat(source, trainings, tmp_path, epochs):
    path = str(prepare(source, tmp_path / "nasbench101.npz", space=SPACE).path)
    for seed in (None, 0, 2):
        benchmark = TabularBenchmark(SPACE, path, epochs=epochs, test_epochs=108, seed=seed)
        got = benchmark.evaluate([SPACE[i] for i in range(5)])
        for row, index in enumerate(CHOSEN):
            valid = repeats(trainings, index, epochs, "valid")
            assert got.valid[row] == pytest.approx(100 * (np.mean(valid) if seed is None else valid[seed]))
            assert got.test[row] == pytest.approx(100 * np.mean(repeats(trainings, index, 108, "test")))
            assert got.cost[row] == pytest.approx(np.mean(repeats(trainings, index, epochs, "seconds")))


def test_progress_passes_over_the_blocks(source, tmp_path, monkeypatch):
    monkeypatch.setattr(nasbench101_records, "_BLOCK", 1000)
    seen = []

    def track(blocks):
        for block in blocks:
            seen.append(block)
            yield block

    prepare(source, tmp_path / "nasbench101.npz", space=SPACE, track=track)
    assert seen == list(range(-(-source.stat().st_size // 1000)))


def refused(error, message, source, target, **options):
    with pytest.raises(error, match=message):
        prepare(source, target, space=SPACE, **options)
    assert not target.exists()


def damage(path, place, byte=None):
    content = bytearray(path.read_bytes())
    content[place] = content[place] ^ 1 if byte is None else byte
    path.write_bytes(content)


def starts(path):
    content, at, found = path.read_bytes(), 0, []
    while at < len(content):
        found.append(at)
        at += struct.unpack_from("<Q", content, at)[0] + 16
    return found


@pytest.mark.parametrize("block", [300, 1 << 22])
@pytest.mark.parametrize(
    ("offset", "what"),
    [(0, "checksum of its length"), (9, "checksum of its length"), (40, "checksum of its contents"), (-2, "contents")],
)
def test_a_flipped_bit_names_the_record(source, tmp_path, monkeypatch, block, offset, what):
    monkeypatch.setattr(nasbench101_records, "_BLOCK", block)
    number = 17
    damage(source, starts(source)[number + (offset < 0)] + offset)
    refused(BenchmarkDataError, rf"record {number}, at byte \d+, is damaged \(.*{what}", source, tmp_path / "t.npz")


def test_damaged_and_strange_files(source, tmp_path):
    target, whole = tmp_path / "t.npz", source.read_bytes()
    damage(source, starts(source)[5] + 6)
    refused(BenchmarkDataError, r"record 5, .*its length cannot be", source, target)
    for cut in (-1, -30, starts_of_last(whole) + 3 - len(whole)):
        source.write_bytes(whole[:cut])
        refused(BenchmarkDataError, r"record 59, .*the file ends within it", source, target)
    source.write_text("this is something else, and longer than a header")
    refused(BenchmarkDataError, r"record 0, at byte 0, .*its length cannot be", source, target)
    source.write_bytes(b"")
    refused(BenchmarkDataError, "is empty; download nasbench_only108", source, target)
    refused(BenchmarkDataError, "no such file; download nasbench_only108", tmp_path / "none.tfrecord", target)
    other = source.rename(tmp_path / "x.pth")
    refused(BenchmarkDataError, r"expected a \.tfrecord or \.npz", other, target)


def starts_of_last(content):
    at = 0
    while (following := at + struct.unpack_from("<Q", content, at)[0] + 16) < len(content):
        at = following
    return at


CHANGES = {
    "no number": ({"valid": float("nan")}, "record 7 has validation accuracy nan"),
    "percent": ({"test": 94.3}, r"record 7 .*test accuracy 94.3.*expected accuracies from 0 to 1"),
    "another cell of the name": ({"arcs": "0110" * 4}, "record .* another cell than an earlier record"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_records_that_cannot_be(trainings, tmp_path, change):
    changes, message = CHANGES[change]
    wrong = [{**t, **(changes if place == 7 else {})} for place, t in enumerate(trainings)]
    refused(BenchmarkDataError, message, write(tmp_path / "x.tfrecord", wrong), tmp_path / "t.npz")


MANY = json.dumps(["a", "many", "01", "input,output", base64.b64encode(b"\x0a\x00").decode()]).encode()


@pytest.mark.parametrize("content", [b"[1, 2]", b"\xff\xfe", b'["a", 108, "01", "input,output", "AAA="]', MANY, b"7"])
def test_records_of_another_layout(tmp_path, content):
    with (tmp_path / "x.tfrecord").open("wb") as file:
        RecordWriter(file).write(content)
    refused(BenchmarkDataError, "record 0 is not of NAS-Bench-101", tmp_path / "x.tfrecord", tmp_path / "t.npz")


CELLS = {
    "unknown operation": ("input,conv5x5,output", "011001000", r"input, conv5x5, output .*expected at most 7"),
    "too large": (",".join(["input", *["maxpool3x3"] * 6, "output"]), "0" * 64, "8 operations"),
    "not square": ("input,maxpool3x3,output", "01100100", "8 entries of adjacency"),
    "no digits": ("input,maxpool3x3,output", "012001000", "entries of adjacency 012001000"),
    "a stranger": ("input,conv1x1-bn-relu,output", "010001000",
                   r"1 of 6 cells are not in nasbench101; .*conv1x1-bn-relu.* with the arcs \[\[0, 1\], \[1, 2\]\]"),
}  # fmt: skip


@pytest.mark.parametrize("kind", CELLS)
def test_cells_that_are_none(trainings, tmp_path, kind):
    labels, arcs, message = CELLS[kind]
    more = [{**trainings[0], "hash": "strange", "labels": labels, "arcs": arcs}]
    path = write(tmp_path / "x.tfrecord", trainings + more)
    refused(BenchmarkDataError, message, path, tmp_path / "t.npz", allow_partial=True)


def test_one_cell_under_two_names(trainings, tmp_path):
    double = [{**t, "hash": "twin"} for t in trainings if t["index"] == 3]
    path = write(tmp_path / "x.tfrecord", trainings + double)
    refused(BenchmarkDataError, r"0003 and twin are the same cell", path, tmp_path / "t.npz")


def test_a_fourth_repeat(trainings, tmp_path):
    path = write(tmp_path / "x.tfrecord", [*trainings, trainings[0]])
    refused(BenchmarkDataError, f"was trained 4 times for {trainings[0]['epochs']} epochs, expected 3", path,
            tmp_path / "t.npz", allow_partial=True)  # fmt: skip


def test_missing_cells_and_repeats_need_consent_and_a_name(trainings, tmp_path):
    lost = [t for t in trainings if t["index"] != 3 and not (t["index"] == 90 and t["epochs"] == 36 and t["repeat"])]
    path = write(tmp_path / "x.tfrecord", lost)
    target = tmp_path / "nasbench101.npz"
    message = "holds 4 of 5 architectures, 1 of them have fewer than 3 trainings of 36 epochs; get it again.*--allow"
    refused(BenchmarkDataError, message, path, target)
    refused(UsageError, "holds 4 of 5 architectures.*add --name", path, target, allow_partial=True)
    table = prepare(path, tmp_path / "some.npz", space=SPACE, allow_partial=True)
    assert table["member"].tolist() == [0, 1, 3, 4]
    assert np.isnan(table["cifar10/valid@36"]).sum(axis=1).tolist() == [0, 0, 0, 2]
    benchmark = TabularBenchmark(SPACE, str(table.path), epochs=36, test_epochs=108)
    assert benchmark.members.tolist() == [0, 1, 3, 4]
    got = benchmark.lookup(torch.tensor([4, 0]))
    assert got.valid[0] == pytest.approx(100 * repeats(lost, 90, 36, "valid")[0])
    assert got.valid[1] == pytest.approx(100 * np.mean(repeats(trainings, CHOSEN[0], 36, "valid")))


def test_missing_trainings_alone_need_a_name_too(trainings, tmp_path):
    lost = [t for t in trainings if not (t["index"] == 90 and t["epochs"] == 36 and t["repeat"])]
    path = write(tmp_path / "x.tfrecord", lost)
    message = "fewer than 3 trainings of 36 epochs, so its table cannot be called 'nasbench101'; add --name"
    refused(UsageError, message, path, tmp_path / "nasbench101.npz", allow_partial=True)


def test_cells_without_the_longest_training_are_left_out(trainings, tmp_path):
    lost = [t for t in trainings if not (t["index"] == 3 and t["epochs"] == 108)]
    table = prepare(write(tmp_path / "x.tfrecord", lost), tmp_path / "s.npz", space=SPACE, allow_partial=True)
    assert table["member"].tolist() == [0, 1, 3, 4]


def test_an_official_name_needs_the_official_checksum(source, tmp_path):
    named = source.rename(tmp_path / "nasbench_only108.tfrecord")
    message = r"SHA-256 checksum is [0-9a-f]{64}, expected the published 4c39c39"
    refused(BenchmarkDataError, message, named, tmp_path / "t.npz")


def test_a_complete_table_has_the_published_optima(source, tmp_path, monkeypatch):
    monkeypatch.setattr(nasbench101, "PUBLISHED_TABLE", dataclasses.replace(nasbench101.PUBLISHED_TABLE, rows=5))
    message = "the best cifar10/valid@108 is .* expected the published 95.0554"
    refused(BenchmarkDataError, message, source, tmp_path / "t.npz")


# ---- columns of some cells ----


@pytest.fixture
def columns():
    """Five drawings of three cells: the last two are the first two with their vertices in another order."""
    rng = np.random.default_rng(1)
    ops, arcs = (part.numpy() for part in NASBench101().all_graphs())
    chosen = [400_000, 380_000, 410_000]
    ops, arcs, errors = ops[chosen], arcs[chosen], np.float32(rng.uniform(0.05, 0.9, (2, 3, 3)))
    order = [0, 2, 1, 3, 4, 5, 6]
    twice = np.array([0, 1, 2, 0, 1])
    ops, arcs = ops[twice], arcs[twice]
    ops[3:], arcs[3:] = ops[3:, order], arcs[3:][:, order][:, :, order]
    return {
        "ops": ops.astype(np.uint8), "op_names": np.array(NASBench101.vertex_labels),
        "adjacency": arcs.astype(np.uint8), "val_error": errors[0][twice], "test_error": errors[1][twice],
    }  # fmt: skip


def test_a_file_of_columns_gives_a_partial_table(columns, tmp_path):
    np.savez(tmp_path / "some.npz", **columns)
    table = prepare(tmp_path / "some.npz", tmp_path / "out.npz")
    assert table["member"].tolist() == [380_000, 400_000, 410_000]
    assert table.meta["space_size"] == 423_624
    for name, column in (("valid", "val_error"), ("test", "test_error")):
        expected = 100 * (1 - columns[column][[1, 0, 2]])
        np.testing.assert_allclose(table[f"cifar10/{name}@108"], expected, rtol=1e-6)
    assert "holds 3 of 423,624 architectures, drawn in 5 ways" in table.meta["checked"]


def test_other_names_of_operations_codes_follow(columns, tmp_path):
    np.savez(tmp_path / "a.npz", **columns)
    turned = {**columns, "ops": 4 - columns["ops"], "op_names": columns["op_names"][::-1]}
    np.savez(tmp_path / "b.npz", **turned)
    first, second = (prepare(tmp_path / f"{name}.npz", tmp_path / f"{name}_out.npz") for name in "ab")
    np.testing.assert_array_equal(first["member"], second["member"])


def replaced(columns, name, place, value):
    values = columns[name].copy()
    values[place] = value
    return {**columns, name: values}


PLAIN = {
    "disagreement": (lambda c: replaced(c, "test_error", (3, 1), 0.5), "rows 0 and 3 draw the same cell"),
    "no number": (lambda c: replaced(c, "val_error", (1, 1), np.nan), "errors from 0 to 1 in every place"),
    "percent": (lambda c: replaced(c, "val_error", (1, 1), 5.5), "errors from 0 to 1 in every place"),
    "no column": (lambda c: {k: v for k, v in c.items() if k != "val_error"}, "no column val_error; expected ops, op_"),
    "shape": (lambda c: {**c, "val_error": c["val_error"][:, 0]}, r"shapes .*expected \(N, 7\)"),
    "names": (lambda c: replaced(c, "op_names", 2, "conv5x5"), "op_names are .*conv5x5"),
    "codes": (lambda c: replaced(c, "ops", (0, 3), 5), "and ops 0 to 5"),
    "stranger": (lambda c: replaced(c, "adjacency", 2, 0), "1 of 5 cells are not in nasbench101; the first is row 2"),
    "table": (lambda c: {**c, "meta": np.array("{}")}, "is a prepared table already"),
    "nothing": (lambda c: {k: v if k == "op_names" else v[:0] for k, v in c.items()}, "at least one row"),
}


@pytest.mark.parametrize("kind", PLAIN)
def test_columns_that_cannot_be(columns, tmp_path, kind):
    change, message = PLAIN[kind]
    np.savez(tmp_path / "some.npz", **change(columns))
    with pytest.raises(BenchmarkDataError, match=message):
        prepare(tmp_path / "some.npz", tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()


def test_a_partial_table_has_a_name_of_its_own(columns, tmp_path):
    np.savez(tmp_path / "some.npz", **columns)
    with pytest.raises(UsageError, match=r"holds 3 of 423,624 architectures.*add --name nasbench101-NAME"):
        prepare(tmp_path / "some.npz", tmp_path / "nasbench101.npz")


# ---- the real ones ----


@pytest.fixture(scope="session")
def real_source():
    path = Path(os.environ.get("LIGHTNING_NAS_NASBENCH101", ""))
    if not path.is_file():
        pytest.skip("set LIGHTNING_NAS_NASBENCH101 to an .npz with real results of NAS-Bench-101 in plain columns")
    return path


@pytest.mark.data
def test_real_results(real_source, tmp_path):
    space, given = NASBench101(), np.load(real_source)
    table = prepare(real_source, tmp_path / "real.npz", space=space)
    benchmark = TabularBenchmark(space, str(table.path), epochs=108, test_epochs=108)
    member = space.indices_of(CellGraph(*(torch.from_numpy(given[name].astype(int)) for name in ("ops", "adjacency"))))
    assert torch.equal(member.unique(), benchmark.members)
    got = benchmark.lookup(member)
    for ours, errors in ((got.valid, given["val_error"]), (got.test, given["test_error"])):
        np.testing.assert_allclose(ours, 100 * (1 - errors.astype(float).mean(axis=1)), rtol=1e-6)
    assert got.cost.isnan().all()
    # Nothing in the benchmark is better than its published optima.
    assert got.valid.max() < 95.056
    assert benchmark.optimum < 94.318
    best = space[int(benchmark.members[benchmark.lookup(benchmark.members).valid.argmax()])]
    assert benchmark.evaluate([best]).valid == got.valid.max()
