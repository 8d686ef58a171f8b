import os
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_nas.benchmarks.darts import prepare
from lightning_nas.benchmarks.tabular import TabularBenchmark
from lightning_nas.errors import BenchmarkDataError
from lightning_nas.spaces.darts import DARTSNetwork

NAMES = np.array(["max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3",
                  "dil_conv_5x5", "none"])  # fmt: skip


def write(path, change=lambda columns: None, rows=6):
    rng = np.random.default_rng(0)
    genotypes = np.empty((rows, 2, 4, 2, 2), np.uint8)
    genotypes[..., 0] = rng.integers(0, 7, genotypes.shape[:-1])
    for block in range(4):
        for row in range(rows):
            for cell in (0, 1):
                genotypes[row, cell, block, :, 1] = rng.permutation(2 + block)[:2]
    columns = {"genotypes": genotypes, "op_names": NAMES, "test_acc_curves": 90 + rng.random((rows, 3)),
               "final_acc": np.zeros(rows)}  # fmt: skip
    change(columns)
    np.savez(path, **columns)
    return columns


def test_a_table_has_the_networks_and_their_curves(tmp_path):
    columns = write(tmp_path / "source.npz")
    table = prepare(tmp_path / "source.npz", tmp_path / "darts.npz")
    assert (len(table), table.meta["licence"]) == (6, "GPL-3.0")
    np.testing.assert_allclose(table["cifar10/test@2"], columns["test_acc_curves"][:, 1], rtol=1e-6)
    benchmark = TabularBenchmark(DARTSNetwork(), str(tmp_path / "darts.npz"), epochs=3, test_epochs=3)
    assert len(benchmark.space) == 6
    for row, text in enumerate(table["architecture"].tolist()):
        arch = benchmark.space[row]
        assert DARTSNetwork().format(arch) == text
        for cell, edges in zip(arch, columns["genotypes"][row], strict=True):
            for block in range(4):
                expected = sorted((int(source), str(NAMES[op])) for op, source in edges[block])
                found = cell[4 * block : 4 * block + 4]
                names = text.split("reduce=[")[0 if cell is arch[0] else 1]
                assert [found[1], found[3]] == [source for source, _ in expected]
                assert all(name in names for _, name in expected)
        (valid, test, cost) = benchmark.evaluate([arch])
        assert valid.item() == test.item() == pytest.approx(columns["test_acc_curves"][row, 2], rel=1e-6)
        assert cost.isnan()
    assert benchmark.lookup(torch.tensor([4]), 1).valid.item() == pytest.approx(columns["test_acc_curves"][4, 0])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.pop("op_names"), "no column op_names"),
        (lambda c: c.update(op_names=np.array(["conv"] * 8)), "op_names are"),
        (lambda c: c.update(genotypes=c["genotypes"][:, :1]), "have the shapes"),
        (lambda c: c.update(test_acc_curves=c["test_acc_curves"] * 2), "no percentages"),
        (lambda c: c["genotypes"].__setitem__(1, c["genotypes"][0]), "1 genotypes are there twice"),
    ],
    ids=["missing", "names", "shape", "range", "twice"],
)
def test_other_files_are_refused(tmp_path, change, said):
    write(tmp_path / "source.npz", change)
    with pytest.raises(BenchmarkDataError, match=said):
        prepare(tmp_path / "source.npz", tmp_path / "darts.npz")
    assert not (tmp_path / "darts.npz").exists()


def test_a_missing_file_says_where_to_get_it(tmp_path):
    with pytest.raises(BenchmarkDataError, match="NAS-Benchmark"):
        prepare(tmp_path / "none.npz", tmp_path / "darts.npz")


@pytest.mark.data
@pytest.mark.skipif("LIGHTNING_NAS_DARTS" not in os.environ, reason="LIGHTNING_NAS_DARTS names no source")
def test_the_real_networks(tmp_path):
    table = prepare(Path(os.environ["LIGHTNING_NAS_DARTS"]), tmp_path / "darts.npz")
    benchmark = TabularBenchmark(DARTSNetwork(), str(table.path), epochs=600, test_epochs=600)
    final = benchmark.lookup(torch.arange(214)).test
    assert len(benchmark.space) == 214
    assert float(final.mean()) == pytest.approx(96.95, abs=0.01)
    assert (float(final.min()), float(final.max())) == pytest.approx((96.03, 97.41), abs=0.01)
