import numpy as np
import pytest
import torch

from lightning_nas.benchmarks.nasbench201 import prepare
from lightning_nas.benchmarks.tabular import TabularBenchmark
from lightning_nas.errors import BenchmarkDataError, RunFolderError, UsageError

OFFICIAL_NUMBERS = (0, 11, 284)
PROTOCOL = {
    "cifar10": ("cifar10-valid", "x-valid", "cifar10", "ori-test"),
    "cifar100": ("cifar100", "x-valid", "cifar100", "x-test"),
    "imagenet16": ("ImageNet16-120", "x-valid", "ImageNet16-120", "x-test"),
}
OPTIMA = {"cifar10": (91.607, 94.373), "cifar100": (73.493, 73.513), "imagenet16": (46.733, 47.311)}


def by_seed(records, number, epochs, training, value):
    """The value of every trial of a cell, straight from the records."""
    start = f"{number}|{epochs}|{training}|"
    return [value(record) for key, record in records.items() if key.startswith(start)]


def entries(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(params=["pth", "nats"])
def write_official(request):
    return request.getfixturevalue(f"write_{request.param}")


@pytest.fixture(scope="session")
def plain_columns(cells):
    """Columns of a complete, made-up ``.npz`` source that reaches the published optima."""
    rng = np.random.default_rng(0)
    columns = {"arch": np.array([cells.format(arch) for arch in cells]).astype("S95")}
    for dataset, (valid, test) in OPTIMA.items():
        for name, best in (("val200_mean", valid), ("test200_mean", test), ("val12", 80.0), ("test12", 80.0)):
            values = rng.random(len(cells), dtype=np.float32) * (best - 1)
            values[rng.integers(len(cells))] = best
            columns[f"{dataset}_{name}"] = values
    columns["cifar10_test200_seeds"] = rng.random((len(cells), 3), dtype=np.float32)
    columns["latency_ms_pixel3"] = rng.random(len(cells), dtype=np.float32)
    columns["params_cifar10"] = np.arange(len(cells), dtype=np.int32)
    columns["something_else"] = np.zeros(3)
    return columns


@pytest.fixture
def write_plain(plain_columns, tmp_path):
    def write(**changes):
        path = tmp_path / "columns.npz"
        np.savez(path, **{k: v for k, v in {**plain_columns, **changes}.items() if v is not None})
        return path

    return write


@pytest.mark.parametrize("dataset", PROTOCOL)
@pytest.mark.parametrize("epochs", [12, 200])
def test_lookup_returns_the_official_numbers(write_official, records, three_cells, tmp_path, dataset, epochs):
    source = write_official(tmp_path / "source.pth", records)
    table = prepare(source, tmp_path / "out" / "small.npz", trust_pickle=True, space=three_cells)
    benchmark = TabularBenchmark(three_cells, str(table.path), dataset, epochs=epochs, test_epochs=epochs)
    got = benchmark.lookup(torch.arange(3))

    valid_training, valid_set, test_training, test_set = PROTOCOL[dataset]
    last = epochs - 1
    for row, number in enumerate(OFFICIAL_NUMBERS):
        valid = by_seed(records, number, epochs, valid_training, lambda r: r["eval_acc"][f"{valid_set}@{last}"])
        test = by_seed(records, number, epochs, test_training, lambda r: r["eval_acc"][f"{test_set}@{last}"])
        seconds = by_seed(
            records,
            number,
            epochs,
            valid_training,
            lambda r: sum(r["train_time"]) + r["eval_time"][f"{valid_set}@{last}"],
        )
        assert got.valid[row] == pytest.approx(np.mean(valid), rel=1e-6)
        assert got.test[row] == pytest.approx(np.mean(test), rel=1e-6)
        assert got.cost[row] == pytest.approx(np.mean(seconds), rel=1e-6)


def test_seeds_sizes_latency_and_curves(write_official, records, three_cells, tmp_path):
    source = write_official(tmp_path / "source.pth", records)
    table = prepare(source, tmp_path / "small.npz", trust_pickle=True, space=three_cells)
    assert table.meta["seeds"]["cifar10/valid@12"] == [111, 777]
    assert table.meta["seeds"]["cifar10/test@200"] == [777, 888, 999]
    for row, number in enumerate(OFFICIAL_NUMBERS):
        for position, seed in enumerate((111, 777)):
            record = records[f"{number}|12|cifar10-valid|{seed}"]
            assert table["cifar10/valid@12"][row, position] == np.float32(record["eval_acc"]["x-valid@11"])
        record = records[f"{number}|200|cifar10|777"]
        assert table["params"][row] == round(1e6 * record["params"])
        assert table["flops"][row] == round(1e6 * record["flop"])
        assert table["latency/official"][row] == pytest.approx(1e3 * record["latency"][0], rel=1e-6)
        curve = by_seed(
            records, number, 200, "cifar10-valid", lambda r: [r["eval_acc"][f"x-valid@{e}"] for e in range(200)]
        )
        np.testing.assert_allclose(table["cifar10/valid@200/curve"][row], np.mean(curve, axis=0), rtol=1e-6)
    # CIFAR-100 was validated after every epoch only in the short trainings.
    assert "cifar100/valid@12/curve" in table.columns
    assert "cifar100/valid@200/curve" not in table.columns


def test_trials_that_disagree_about_the_size_follow_the_sound_seed(write_official, generated, three_cells, tmp_path):
    broken = {
        key: {**record, "flop": 0.0} if key.startswith("0|200|cifar10|") and not key.endswith("888") else record
        for key, record in generated.items()
    }
    source = write_official(tmp_path / "source.pth", broken)
    table = prepare(source, tmp_path / "small.npz", trust_pickle=True, space=three_cells)
    assert table["flops"][0] == round(1e6 * generated["0|200|cifar10|888"]["flop"])


def test_times_that_one_cell_lacks_are_left_out_whole(write_official, generated, three_cells, tmp_path):
    broken = {k: {**r, "eval_time": {}} if k.startswith("11|200|") else r for k, r in generated.items()}
    source = write_official(tmp_path / "source.pth", broken)
    table = prepare(source, tmp_path / "small.npz", trust_pickle=True, space=three_cells)
    assert "cifar10/cost@200" not in table.columns
    assert "cifar10/cost@12" in table.columns
    got = TabularBenchmark(three_cells, str(table.path), "cifar10").lookup(torch.arange(3))
    assert got.cost.isnan().all()


def test_progress_passes_every_row(write_official, generated, three_cells, tmp_path):
    seen = []

    def track(rows):
        for row in rows:
            seen.append(row)
            yield row

    source = write_official(tmp_path / "source.pth", generated)
    prepare(source, tmp_path / "small.npz", trust_pickle=True, space=three_cells, track=track)
    assert seen == [0, 1, 2]


def refused(error, message, source, target, **options):
    """The source is refused with the message, an earlier table survives and nothing else is left behind."""
    target.write_text("old")
    before = entries(target.parent)
    with pytest.raises(error, match=message):
        prepare(source, target, **options)
    assert target.read_text() == "old"
    assert entries(target.parent) == before


def test_pickles_are_refused_without_trust(write_official, generated, three_cells, tmp_path):
    source = write_official(tmp_path / "source.pth", generated)
    refused(UsageError, r"run any code.*--trust_pickle.*github.com", source, tmp_path / "t.npz", space=three_cells)


def test_fewer_architectures_than_the_benchmark(write_official, generated, tmp_path):
    source = write_official(tmp_path / "source.pth", generated)
    message = r"3 of 15625 architectures \(the first one missing is 3\).*get it again"
    refused(BenchmarkDataError, message, source, tmp_path / "t.npz", trust_pickle=True)


def test_wrong_order(write_official, generated, three_cells, tmp_path):
    source = write_official(tmp_path / "source.pth", generated, lambda contents: contents["meta_archs"].reverse())
    message = r"row 0 is '.*', expected '.*'; rows must be in the benchmark's own order"
    refused(BenchmarkDataError, message, source, tmp_path / "t.npz", trust_pickle=True, space=three_cells)


def test_records_filed_under_another_cell(write_nats, generated, three_cells, tmp_path):
    source = write_nats(tmp_path / "source", generated)
    (source / "000001.pickle.pbz2").write_bytes((source / "000002.pickle.pbz2").read_bytes())
    refused(
        BenchmarkDataError, "record 1 is of", source, tmp_path / "t.npz", trust_pickle=True, space=three_cells
    )  # fmt: skip


def test_records_without_the_expected_evaluation(write_official, generated, three_cells, tmp_path):
    broken = {k: {**r, "eval_acc": {}} if k.startswith("284|200|cifar100") else r for k, r in generated.items()}
    source = write_official(tmp_path / "source.pth", broken)
    message = "record of architecture 2 is not laid out as expected.*x-valid@199"
    refused(BenchmarkDataError, message, source, tmp_path / "t.npz", trust_pickle=True, space=three_cells)


def test_a_data_set_without_short_trainings_is_named(write_pth, generated, three_cells, tmp_path):
    # The first release had 12-epoch results for the CIFAR-10 validation split only.
    def drop(contents):
        state = contents["arch2infos"][0]["less"]
        state["dataset_seed"]["cifar100"] = []

    source = write_pth(tmp_path / "source.pth", generated, drop)
    message = "no number for cifar100/valid@12 in 1 rows"
    refused(BenchmarkDataError, message, source, tmp_path / "t.npz", trust_pickle=True, space=three_cells)


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_truncated_pth(write_pth, generated, three_cells, tmp_path, keep):
    source = write_pth(tmp_path / "source.pth", generated)
    whole = source.read_bytes()
    source.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    message = "source.pth: cannot be read .*cut short"
    refused(BenchmarkDataError, message, source, tmp_path / "t.npz", trust_pickle=True, space=three_cells)


def test_the_checksum_in_the_official_name_is_checked_before_reading(tmp_path):
    source = tmp_path / "NAS-Bench-201-v1_1-096897.pth"
    source.write_bytes(b"half a download")
    message = r"checksum is [0-9a-f]{32}, expected one ending in 096897"
    refused(BenchmarkDataError, message, source, tmp_path / "t.npz", trust_pickle=True)


def test_a_pth_of_something_else(tmp_path):
    source = tmp_path / "weights.pth"
    torch.save({"state_dict": {}}, source)
    refused(BenchmarkDataError, "no 'meta_archs'", source, tmp_path / "t.npz", trust_pickle=True)


@pytest.mark.parametrize("damaged", ["meta", "000001"])
def test_truncated_nats_files(write_nats, generated, three_cells, tmp_path, damaged):
    source = write_nats(tmp_path / "source", generated)
    file = source / f"{damaged}.pickle.pbz2"
    file.write_bytes(file.read_bytes()[:-20])
    message = f"{damaged}.pickle.pbz2: cannot be read"
    refused(BenchmarkDataError, message, source, tmp_path / "t.npz", trust_pickle=True, space=three_cells)


def test_a_folder_whose_list_of_cells_is_something_else(write_nats, generated, three_cells, tmp_path):
    source = write_nats(tmp_path / "source", generated, lambda meta: meta.clear())
    message = "holds no list 'meta_archs'"
    refused(BenchmarkDataError, message, source, tmp_path / "t.npz", trust_pickle=True, space=three_cells)


def test_a_folder_of_something_else(tmp_path):
    (tmp_path / "photos").mkdir()
    message = "no meta.pickle.pbz2, so not a NATS-Bench folder; download NATS-tss-v1_0-3ffb9-simple, 1.1 GB"
    refused(BenchmarkDataError, message, tmp_path / "photos", tmp_path / "t.npz", trust_pickle=True)


def test_missing_and_foreign_sources(tmp_path):
    message = "no such file or folder; download NATS-tss.* 1.1 GB.* 4.7 GB.*data prepare nasbench201 --source"
    refused(BenchmarkDataError, message, tmp_path / "none.pth", tmp_path / "t.npz")
    (tmp_path / "archive.tar").write_bytes(b"x")
    refused(BenchmarkDataError, "expected a .pth.*unpack a .tar", tmp_path / "archive.tar", tmp_path / "t.npz")


def test_columns_become_a_table(write_plain, plain_columns, cells, tmp_path):
    table = prepare(write_plain(), tmp_path / "out.npz")
    assert len(table) == 15625
    assert table.meta["space"] == "nasbench201"
    assert table.meta["licence"] == "MIT"
    for dataset in OPTIMA:
        np.testing.assert_array_equal(table[f"{dataset}/valid@200"], plain_columns[f"{dataset}_val200_mean"])
        np.testing.assert_array_equal(table[f"{dataset}/test@12"], plain_columns[f"{dataset}_test12"])
    assert table["cifar10/test@200/seeds"].shape == (15625, 3)
    assert {"latency/pixel3", "params"} <= set(table.columns)
    assert not any("something" in name for name in table.columns)
    assert TabularBenchmark(cells, str(table.path)).optimum == pytest.approx(94.373)


def test_preparing_again_replaces_the_table(write_plain, tmp_path):
    prepare(write_plain(), tmp_path / "out.npz")
    changed = np.full(15625, 5.0, np.float32)
    assert prepare(write_plain(cifar10_val12=changed), tmp_path / "out.npz")["cifar10/valid@12"].max() == 5
    assert entries(tmp_path) == ["columns.npz", "out.npz"]


def swapped(columns):
    arch = columns["arch"].copy()
    arch[[3, 8]] = arch[[8, 3]]
    return {"arch": arch}


def with_nan(columns):
    values = columns["cifar100_val12"].copy()
    values[[70, 71]] = np.nan
    return {"cifar100_val12": values}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (swapped, r"row 3 is '\|.*', expected '\|.*'; rows must be in the benchmark's own order"),
        (with_nan, r"no number for cifar100/valid@12 in 2 rows \(the first is row 70\)"),
        (lambda c: {"imagenet16_val12": None}, "has no imagenet16/valid@12; download"),
        (lambda c: {"arch": None}, "no column 'arch'"),
        (lambda c: {"arch": np.full(15625, "ü")}, "row 0 is 'ü'"),
        (lambda c: {"arch": np.full(15625, b"\xff")}, r"row 0 is '.*xff'"),
        (lambda c: {"arch": c["arch"][:9], "cifar10_val12": c["cifar10_val12"]}, "do not have one row for each 'arch'"),
        (lambda c: {k: v[:9] for k, v in c.items()}, "holds 9 architectures, expected 15625"),
        (lambda c: {"cifar10_test200_mean": c["cifar10_test200_mean"] * 0.99}, "best cifar10/test@200 is 93.429"),
        (lambda c: {"arch": c["arch"].astype(object)}, "Object arrays cannot be loaded"),
        (lambda c: {"meta": np.array("{}")}, "is a prepared table already"),
    ],
)  # fmt: skip
def test_wrong_columns_are_refused(write_plain, plain_columns, tmp_path, change, message):
    refused(BenchmarkDataError, message, write_plain(**change(plain_columns)), tmp_path / "t.npz")


@pytest.mark.parametrize("keep", [0, 3, 1000, 500_000])
def test_truncated_columns(write_plain, tmp_path, keep):
    source = write_plain()
    source.write_bytes(source.read_bytes()[:keep])
    refused(BenchmarkDataError, "columns.npz: not a readable .npz", source, tmp_path / "t.npz")


def test_a_crash_while_writing_leaves_the_old_table(write_plain, tmp_path, monkeypatch):
    def crash(file, **columns):
        file.write(b"PK half a table")
        raise OSError("disk full")

    source = write_plain()
    monkeypatch.setattr(np, "savez_compressed", crash)
    refused(OSError, "disk full", source, tmp_path / "t.npz")


def test_a_folder_that_cannot_be_written_is_found_out_first(tmp_path):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "source.npz").write_text("never read")
    with pytest.raises(RunFolderError, match="cannot write there"):
        prepare(tmp_path / "source.npz", tmp_path / "file" / "t.npz")


def test_a_package_that_is_not_installed_is_named(write_nats, generated, three_cells, tmp_path, monkeypatch):
    source = write_nats(tmp_path / "source", generated)
    monkeypatch.setitem(__import__("sys").modules, "nats_bench", None)
    refused(BenchmarkDataError, "pip install nats_bench", source, tmp_path / "t.npz", trust_pickle=True)


@pytest.mark.data
@pytest.mark.parametrize(
    ("dataset", "best", "at"), [("cifar10", 94.37, 6111), ("cifar100", 73.51, 9930), ("imagenet16", 47.31, 857)]
)
def test_real_optima(real_table, dataset, best, at):
    values = real_table.mean_over_seeds(f"{dataset}/test@200")
    assert values.max() == pytest.approx(best, abs=0.01)
    assert values.argmax() == at


@pytest.mark.data
def test_real_records_agree_with_the_real_table(real, real_table, write_nats, three_cells, tmp_path):
    source = write_nats(tmp_path / "source", real)
    small = prepare(source, tmp_path / "small.npz", trust_pickle=True, space=three_cells)
    for dataset in PROTOCOL:
        for column in (f"{dataset}/{split}@{epochs}" for split in ("valid", "test") for epochs in (12, 200)):
            expected = real_table.mean_over_seeds(column)[list(OFFICIAL_NUMBERS)]
            np.testing.assert_allclose(small.mean_over_seeds(column), expected, atol=2e-3)
    for column in ("params", "flops"):
        np.testing.assert_allclose(small[column], real_table[column][list(OFFICIAL_NUMBERS)], rtol=1e-6)
