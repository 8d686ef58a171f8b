import numpy as np
import pytest
from scipy.stats import spearmanr

from lightning_nas.benchmarks.table import write_table
from lightning_nas.errors import BenchmarkDataError
from lightning_nas.table_statistics import TableStatistics, ledger_entry
from tests.contract import TinySpace

SPACE = TinySpace()


@pytest.fixture
def measured(tmp_path):
    """A table whose seeds are a common score and noise, beside one of another data set."""
    rng = np.random.default_rng(0)
    score = 80 + 10 * rng.random(81)
    test, valid = (score[:, None] + rng.normal(0, 1, (81, 3)) for _ in range(2))
    columns = {"toy/test@9": test, "toy/valid@9": valid, "toy/cost@9": np.full((81, 3), 2.0)}
    table = write_table(tmp_path / "t.npz", {"space": "tiny", "date": "2026-01-01"}, columns)
    other = write_table(tmp_path / "o.npz", {"space": "tiny"}, {"b/test@1": score + 20, "b/test@2": -score})
    return TableStatistics(table, SPACE, "toy", 9), other, test, valid


def row(rows, label, metric="Spearman correlation"):
    (found,) = (row for row in rows if (row.label, row.metric) == (label, metric))
    return found


def test_agreement_of_seeds(measured):
    statistics, _, test, valid = measured
    rows = statistics.rows()
    pairs = [spearmanr(test[:, a], test[:, b]).statistic for a, b in ((0, 1), (0, 2), (1, 2))]
    assert row(rows, "two seeds, test accuracy").values == pytest.approx(pairs)
    upper = test[test.mean(axis=1) >= np.median(test.mean(axis=1))]
    assert row(rows, "two seeds, test accuracy, upper half").values[0] == pytest.approx(
        spearmanr(upper[:, 0], upper[:, 1]).statistic
    )
    others = [spearmanr(valid[:, s], np.delete(test, s, 1).mean(1)).statistic for s in range(3)]
    assert row(rows, "validation of one seed, mean test accuracy of the others").values == pytest.approx(others)


def test_likeness_to_another_table(measured):
    statistics, other, test, _ = measured
    rows = statistics.rows(other, ("b/test@1", "b/test@2"))
    like, unlike = (row(rows, f"mean test accuracy, b/test@{e}") for e in (1, 2))
    assert like.mean == pytest.approx(spearmanr(test.mean(1), other["b/test@1"]).statistic)
    assert like.mean > 0.9
    assert unlike.mean == pytest.approx(-like.mean)
    assert row(rows, "test accuracy of one seed, b/test@1").n == 3


def test_range_and_noise(measured):
    statistics, _, test, _ = measured
    rows = statistics.rows()
    assert row(rows, "best", "mean test accuracy").mean == pytest.approx(test.mean(1).max())
    assert row(rows, "5th percentile", "mean test accuracy").mean == pytest.approx(np.percentile(test.mean(1), 5))
    noise = row(rows, "all", "standard deviation of the test accuracy over seeds")
    assert noise.mean == pytest.approx(test.std(axis=1, ddof=1).mean())
    assert row(rows, "one training", "time").mean == 2


def test_isomorphic_and_disconnected_architectures_are_left_out(measured, monkeypatch):
    table = measured[0].table
    monkeypatch.setattr(TinySpace, "canonical", lambda self, arch: (0, *arch[1:]))
    assert TableStatistics(table, TinySpace(), "toy", 9).chosen.tolist() == list(range(27))
    monkeypatch.setattr(TinySpace, "connected", np.arange(81) % 2 == 0, raising=False)
    assert TableStatistics(table, TinySpace(), "toy", 9).chosen.tolist() == list(range(0, 27, 2))


def test_tables_of_a_part_of_the_space(measured, tmp_path, monkeypatch):
    statistics, other, test, valid = measured
    members = np.random.default_rng(1).permutation(81)[:50]
    table = write_table(
        tmp_path / "part.npz", {"space": "tiny"},
        {"toy/test@9": test[members], "toy/valid@9": valid[members], "member": members},
    )  # fmt: skip
    part = TableStatistics(table, SPACE, "toy", 9)
    rows = part.rows(other, ("b/test@1",))
    assert row(rows, "best", "mean test accuracy").mean == pytest.approx(test[members].mean(1).max())
    expected = spearmanr(test[members].mean(1), other["b/test@1"][members]).statistic
    assert row(rows, "mean test accuracy, b/test@1").mean == pytest.approx(expected)
    # The other way round, what only one of them has is left out.
    (like, _) = statistics._likeness(test, table, ("toy/test@9",))
    assert like.mean == pytest.approx(1)
    far = np.setdiff1d(np.arange(81), members)[:2]
    elsewhere = write_table(tmp_path / "far.npz", {"space": "tiny"}, {"c/test@1": np.ones(2), "member": far})
    with pytest.raises(BenchmarkDataError, match="has no two architectures in common"):
        part.rows(elsewhere, ("c/test@1",))
    monkeypatch.setattr(TinySpace, "canonical", lambda self, arch: (0, *arch[1:]))
    some = TableStatistics(table, TinySpace(), "toy", 9).chosen
    kinds = members % 27  # TinySpace numbers its first position in the highest digit
    assert sorted(kinds[some]) == sorted(set(kinds))
    monkeypatch.setattr(TinySpace, "connected", np.arange(81) % 2 == 0, raising=False)
    assert (members[TableStatistics(table, TinySpace(), "toy", 9).chosen] % 2 == 0).all()


def test_tables_without_single_seeds_or_of_another_space_are_refused(measured, tmp_path):
    statistics, *_ = measured
    single = write_table(tmp_path / "s.npz", {"space": "tiny"}, {"toy/test@9": np.ones(81), "toy/valid@9": np.ones(81)})
    with pytest.raises(BenchmarkDataError, match="'toy/test@9' holds no single seeds"):
        TableStatistics(single, SPACE, "toy", 9).rows()
    stranger = write_table(tmp_path / "x.npz", {"space": "other"}, {"c": np.ones(81)})
    with pytest.raises(BenchmarkDataError, match="is a table of 'other', expected one of 'tiny'"):
        statistics.rows(stranger, ("c",))


def test_ledger_entry(measured):
    statistics, *_ = measured
    entry = ledger_entry(statistics, statistics.rows())
    assert entry.name == "tables/t"
    assert entry.date == "2026-01-01"
    assert entry.scale == "81 distinct connected architectures of 81"
