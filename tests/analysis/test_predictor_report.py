import math

import pytest
from scipy import stats

from lightning_nas.analysis.predictor_report import difference_rows, rows, size_figure, table, time_figure


def trial(tau, fit=1.0, **more):
    return {"mae": 2.0, "rmse": 3.0, "pearson": 0.5, "spearman": 0.6, "kendall": tau, "fit": fit, "tuning": 0.0,
            "query": 0.25} | more  # fmt: skip


FOUND = {
    ("a", 10): [trial(0.5), trial(0.7)],
    ("b", 10): [trial(0.4, 3.0), trial(0.5, 5.0)],
    ("broken", 10): [trial(0.9), {"error": "ValueError: no"}],
    ("a", 30): [trial(0.6), trial(0.8)],
    ("b", 30): [trial(0.5, tuning=2.0), trial(0.7, tuning=4.0)],
}


def test_the_table_has_means_and_says_who_failed():
    header, lines = table(FOUND, 10)
    assert header == ["predictor", "MAE (points)", "RMSE (points)", "Pearson", "Spearman", "Kendall", "fit (s)",
                      "query (ms)", "failed"]  # fmt: skip
    cells = dict(zip(header, lines[1], strict=True))
    assert (cells["predictor"], cells["Kendall"], cells["fit (s)"]) == ("b", "0.450 ± 0.071", "4.000 ± 1.414")
    assert lines[2] == ["broken", *["-"] * 7, "1 of 2 trials: ValueError: no"]
    header, lines = table(FOUND, 30)
    assert "failed" not in header
    assert lines[1][header.index("tuning (s)")] == "3.000 ± 1.414"


def test_rows_have_the_published_numbers_and_no_failures():
    made = rows(FOUND, {"a": {"kendall": ".54 ± .05"}, "a, 30": {"kendall": ".60"}}, "seed 0")
    assert {row.label for row in made} == {"a", "b"}
    (small,) = [row for row in made if (row.label, row.metric) == ("a", "Kendall, n = 10")]
    assert (small.mean, small.n, small.paper, small.seeds) == (0.6, 2, ".54 ± .05", "seed 0")
    (large,) = [row for row in made if (row.label, row.metric) == ("a", "Kendall, n = 30")]
    assert large.paper == ".60"
    assert [row.metric for row in made if row.metric.startswith("tuning")] == ["tuning, n = 30"]
    assert {row.metric for row in rows({("a", 10): FOUND["a", 10]}, {}, "seed 0")} >= {"MAE", "Kendall"}


def test_differences_are_paired():
    made = difference_rows(FOUND, [("a", "b"), ("a", "broken")], "seed 0")
    assert [(row.label, row.metric) for row in made] == [
        ("a minus b", "Kendall, paired by trial, n = 10"), ("a minus b", "Kendall, paired by trial, n = 30"),
    ]  # fmt: skip
    assert made[0].mean == pytest.approx(0.15)
    low, high = stats.t.interval(0.95, 1, 0.15, math.sqrt(0.005) / math.sqrt(2))
    assert made[0].note == f"95 % interval {low:+.3f} to {high:+.3f}"


def test_figures_show_all_that_did_not_fail():
    lines = size_figure(FOUND).axes[0].lines
    assert [line.get_label() for line in lines] == ["a", "b"]
    assert lines[0].get_xdata().tolist() == [10, 30]
    assert lines[0].get_ydata().tolist() == pytest.approx([0.6, 0.7])
    (ax,) = time_figure(FOUND, 10).axes
    assert ax.get_xlabel() == "fit on 10 architectures (s, one thread)"
    assert [container.get_label() for container in ax.containers] == ["a", "b"]
