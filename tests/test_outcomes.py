import math

import numpy as np
import pytest
import torch
from scipy import stats

from lightning_nas.outcomes import outcome, outcome_table, paired_difference, spread
from lightning_nas.search.history import SearchHistory


def history(valid, test, cost=None, runs=None, capacity=None):
    """Completed evaluations in the given order; NaN in ``valid`` fails."""
    valid = torch.as_tensor(valid, dtype=torch.float64)
    test = torch.as_tensor(test, dtype=torch.float64)
    made = SearchHistory.empty(runs or len(valid), capacity or valid.shape[1])
    columns = made.begin(torch.arange(valid.shape[1]).expand(valid.shape).clone(), epochs=12)
    seconds = torch.full_like(valid, torch.nan) if cost is None else torch.as_tensor(cost, dtype=torch.float64)
    made.complete(columns, valid, test, seconds)
    return made


def test_outcome_agrees_with_a_loop():
    rng = np.random.default_rng(0)
    valid, test, cost = rng.random((3, 20, 30)) * 100
    valid[rng.random(valid.shape) < 0.3] = np.nan
    valid[4] = np.nan
    end = outcome(history(valid, test, cost))
    for run in range(20):
        best, column = -math.inf, -1
        for step in range(30):
            if valid[run, step] > best:
                best, column = valid[run, step], step
        assert end.column[run] == column
        assert end.queries[run] == 30
        assert end.seconds[run] == pytest.approx(cost[run].sum())
        if column < 0:
            assert run == 4
            assert np.isnan([end.valid[run], end.test[run]]).all()
        else:
            assert (end.valid[run], end.test[run]) == (valid[run, column], test[run, column])
    assert end.scored.tolist() == [run != 4 for run in range(20)]


def test_unfinished_runs_count_with_what_they_have():
    made = history(
        [[1.0, 3.0], [2.0, 1.0]], [[10.0, 30.0], [20.0, 10.0]], [[5.0, np.nan], [np.nan, np.nan]], capacity=5
    )
    made.begin(torch.tensor([[2], [2]]), epochs=12)  # running when the lights went out
    end = outcome(made)
    assert end.queries.tolist() == [2, 2]
    assert end.test.tolist() == [30.0, 20.0]
    assert end.seconds[0] == 5.0
    assert math.isnan(end.seconds[1])


@pytest.mark.parametrize("empty", [SearchHistory.empty(2, 4), SearchHistory.empty(2, 0), SearchHistory.empty([], 4)])
def test_nothing_evaluated_yet(empty):
    end = outcome(empty)
    assert not end.scored.any()
    assert end.queries.sum() == 0
    header, rows = outcome_table({"random": end}, optimum=None)
    assert rows == [["random", "0", "0", "-", "-", "-"]]
    assert "benchmark seconds per run" not in header


def test_paired_interval_is_the_one_of_scipy():
    rng = np.random.default_rng(1)
    ours, reference = rng.normal(93, 1, (2, 12))
    a = outcome(history(ours[:, None], ours[:, None], runs=list(range(12))))
    b = outcome(history(reference[4:, None], reference[4:, None], runs=list(range(4, 12))))  # fewer runs
    mean, half, pairs = paired_difference(a, b)
    expected = stats.ttest_rel(ours[4:], reference[4:])
    low, high = expected.confidence_interval(0.95)
    assert pairs == 8
    assert mean == pytest.approx((ours[4:] - reference[4:]).mean())
    assert (mean - half, mean + half) == pytest.approx((low, high))


def test_paired_interval_of_one_and_of_no_pair():
    one, other = outcome(history([[1.0]], [[5.0]], runs=[3])), outcome(history([[1.0]], [[4.0]], runs=[3]))
    mean, half, pairs = paired_difference(one, other)
    assert (mean, pairs) == (1.0, 1)
    assert math.isnan(half)
    mean, half, pairs = paired_difference(one, outcome(history([[1.0]], [[4.0]], runs=[4])))
    assert pairs == 0
    assert math.isnan(mean)


def test_table_and_its_best_run():
    # The run with the best test accuracy (96) is not the one with the best validation accuracy.
    end = outcome(history([[90.0], [92.0], [91.0]], [[96.0], [93.0], [94.0]], [[10.0], [20.0], [np.nan]]))
    header, rows = outcome_table({"random": end}, optimum=97.0)
    cells = dict(zip(header, rows[0], strict=True))
    assert cells["test (%)"] == f"{94.33:.2f} ± {np.std([96, 93, 94], ddof=1):.2f}"
    assert cells["test of best run (%)"] == "93.00"
    assert cells["test regret (points)"] == f"{97 - 283 / 3:.2f} ± {np.std([96, 93, 94], ddof=1):.2f}"
    assert cells["benchmark seconds per run"] == "15"
    assert (cells["runs"], cells["queries"]) == ("3", "1")


def test_one_run_has_no_spread():
    assert spread(np.array([93.0])) == "93.00"
    assert spread(np.array([93.0, np.nan])) == "93.00"
    assert spread(np.array([np.nan])) == "-"
