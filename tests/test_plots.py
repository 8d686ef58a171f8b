import os
import warnings

import numpy as np
import pytest
import torch

from lightning_nas.errors import UsageError
from lightning_nas.plots import PALETTE, final_figure, incumbent_curves, regret_figure, resampled, save_figure
from lightning_nas.search.history import SearchHistory

OPTIMUM = 94.0


def filled(valid, test, capacity=None):
    valid, test = (torch.as_tensor(scores, dtype=torch.float64) for scores in (valid, test))
    made = SearchHistory.empty(len(valid), capacity or valid.shape[1])
    columns = made.begin(torch.arange(valid.shape[1]).expand(valid.shape).clone(), epochs=12)
    made.complete(columns, valid, test, torch.full_like(valid, torch.nan))
    return made


@pytest.fixture
def scores():
    rng = np.random.default_rng(0)
    valid, test = rng.uniform(50, 94, (2, 9, 40))
    valid[rng.random(valid.shape) < 0.2] = np.nan
    valid[:, 0] = np.nan
    return valid, test


def curves_by_loop(valid, test):
    best, shown = np.full(valid.shape, np.nan), np.full(valid.shape, np.nan)
    for run in range(valid.shape[0]):
        for step in range(valid.shape[1]):
            seen = valid[run, : step + 1]
            if not np.isnan(seen).all():
                best[run, step], shown[run, step] = np.nanmax(seen), test[run, np.nanargmax(seen)]
    return best, shown


def test_curves_agree_with_a_loop(scores):
    curves = incumbent_curves(filled(*scores, capacity=50))
    best, shown = curves_by_loop(*scores)
    np.testing.assert_array_equal(curves.valid, best)
    np.testing.assert_array_equal(curves.test, shown)


def test_curves_end_where_a_run_was_interrupted():
    made = filled([[1.0, 2.0], [3.0, 1.0]], [[5.0, 6.0], [7.0, 8.0]], capacity=6)
    made.begin(torch.tensor([[2], [2]]), epochs=12)
    columns = made.begin(torch.tensor([[3], [3]]), epochs=12)
    made.complete(columns[:1], torch.tensor([[9.0]], dtype=torch.float64), *torch.ones(2, 1, 1, dtype=torch.float64))
    np.testing.assert_array_equal(incumbent_curves(made).valid, [[1, 2, 2, 9], [3, 3, np.nan, np.nan]])


def test_regret_lines_are_the_medians(scores):
    history = filled(*scores)
    figure = regret_figure({"random": history, "gp": history.rows(torch.tensor([2]))}, OPTIMUM)
    (ax,) = figure.axes
    regret = OPTIMUM - curves_by_loop(*scores)[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        low, median, high = np.nanquantile(regret, [0.25, 0.5, 0.75], axis=0)
    known = ~np.isnan(median)
    line = ax.lines[0]
    np.testing.assert_array_equal(line.get_xdata(), np.arange(1, 41)[known])
    np.testing.assert_allclose(line.get_ydata(), median[known])
    band = ax.collections[0].get_paths()[0].vertices
    for edge in (low, high):
        for point in zip(np.arange(1, 41)[known], edge[known], strict=True):
            assert np.isclose(band, point).all(axis=1).any()
    assert len(ax.collections) == 1, "a single run has no band"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["random (9 runs)", "gp (1 run)"]
    assert "queries" in ax.get_xlabel()
    assert "percentage points" in ax.get_ylabel()
    assert "Selected on validation, reported on test" in figure.get_supxlabel()


def test_without_optimum_both_accuracies_are_shown(scores):
    figure = regret_figure({"random": filled(*scores)}, None, "digits")
    left, right = figure.axes
    for ax, expected in zip((left, right), curves_by_loop(*scores), strict=True):
        known = ~np.isnan(expected).all(axis=0)
        np.testing.assert_allclose(ax.lines[0].get_ydata(), np.nanmedian(expected[:, known], axis=0))
    assert "validation" in left.get_ylabel()
    assert "test" in right.get_ylabel()
    assert figure.get_suptitle() == "digits"


def test_log_scale_only_where_it_helps():
    wide = filled([[1.0, 2.0, 3.0]], [[OPTIMUM - 30, OPTIMUM - 1, OPTIMUM]])
    narrow = filled([[1.0, 2.0]], [[OPTIMUM - 3, OPTIMUM - 2]])
    assert regret_figure({"a": wide}, OPTIMUM).axes[0].get_yscale() == "symlog"
    assert regret_figure({"a": narrow}, OPTIMUM).axes[0].get_yscale() == "linear"


def test_many_strategies_stay_apart(scores):
    history = filled(*scores)
    (ax,) = regret_figure({f"s{i}": history for i in range(2 * len(PALETTE))}, OPTIMUM).axes
    looks = {(line.get_color(), str(line._dash_pattern)) for line in ax.lines}
    assert len(looks) == 2 * len(PALETTE)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("optimum", [OPTIMUM, None])
def test_empty_histories_make_an_empty_figure(tmp_path, optimum):
    figure = regret_figure({"random": SearchHistory.empty(3, 5), "gp": SearchHistory.empty(2, 0)}, optimum)
    assert all(path.stat().st_size for path in save_figure(figure, tmp_path / "regret"))
    failed = filled([[np.nan, np.nan]], [[np.nan, np.nan]])
    save_figure(regret_figure({"random": failed}, optimum), tmp_path / "regret")


def test_saves_png_and_pdf_repeatably(tmp_path, scores):
    def save(folder):
        return save_figure(regret_figure({"random": filled(*scores)}, OPTIMUM), tmp_path / folder / "regret.png")

    first, second = save("a"), save("b")
    assert [path.name for path in first] == ["regret.png", "regret.pdf"]
    assert first[0].read_bytes().startswith(b"\x89PNG")
    assert first[1].read_bytes().startswith(b"%PDF")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_a_failed_save_leaves_the_old_file(tmp_path, scores, monkeypatch):
    figure = regret_figure({"random": filled(*scores)}, OPTIMUM)
    (tmp_path / "regret.png").write_text("old")

    def fail(file, **kwargs):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        save_figure(figure, tmp_path / "regret")
    assert (tmp_path / "regret.png").read_text() == "old"
    assert os.listdir(tmp_path) == ["regret.png"]


def priced(scores, cost):
    history = filled(*scores)
    history.cost[:] = torch.as_tensor(cost)
    return history


@pytest.fixture
def costs():
    return np.random.default_rng(5).uniform(1, 30, (9, 40))


@pytest.mark.parametrize("over", ["seconds", "epochs"])
def test_curves_over_what_was_spent_agree_with_a_loop(scores, costs, over):
    history = priced(scores, costs)
    points, curves = resampled(history, over)
    best, shown = curves_by_loop(*scores)
    spent = (costs if over == "seconds" else np.full((9, 40), 12.0)).cumsum(axis=1)
    assert points[0] == pytest.approx(spent[:, 0].min())
    assert points[-1] == spent[:, -1].min(), "as far as all runs reach"
    assert (np.diff(points) > 0).all()
    for run in range(9):
        for place in range(0, len(points), 7):
            before = np.flatnonzero(spent[run] <= points[place] * (1 + 1e-12))
            for ours, theirs in ((curves.valid, best), (curves.test, shown)):
                expected = theirs[run, before[-1]] if len(before) else np.nan
                np.testing.assert_equal(ours[run, place], expected)


def test_regret_over_seconds_is_drawn_in_steps(scores, costs):
    (ax,) = regret_figure({"random": priced(scores, costs)}, OPTIMUM, over="seconds").axes
    assert ax.get_xscale() == "log"
    assert ax.lines[0].get_drawstyle() == "steps-post"
    assert "seconds" in ax.get_xlabel()
    points, curves = resampled(priced(scores, costs), "seconds")
    some = ~np.isnan(curves.test).all(axis=0)
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), points[some])
    np.testing.assert_allclose(ax.lines[0].get_ydata(), np.nanmedian(OPTIMUM - curves.test[:, some], axis=0))


def test_unknown_costs_are_said(scores):
    with pytest.raises(UsageError, match="does not say what"):
        regret_figure({"random": filled(*scores)}, OPTIMUM, over="seconds")
    regret_figure({"random": filled(*scores)}, OPTIMUM, over="epochs")


@pytest.mark.parametrize("optimum", [OPTIMUM, None])
def test_ends_of_runs_are_an_empirical_distribution(scores, optimum):
    test = curves_by_loop(*scores)[1][:, -1]
    figure = final_figure({"gp": filled(*scores), "none": SearchHistory.empty(3, 5)}, optimum, "digits")
    (ax,) = figure.axes
    values = np.sort(test if optimum is None else optimum - test)
    x, y = ax.lines[0].get_data()
    np.testing.assert_allclose(x[1:], values)
    np.testing.assert_allclose(y, np.arange(10) / 9)
    assert len(ax.lines) == 1, "what has no score has no end"
    assert ("accuracy" if optimum is None else "regret") in ax.get_xlabel()


@pytest.mark.filterwarnings("error")
def test_curves_of_nothing_and_of_one_query(tmp_path):
    for history in (SearchHistory.empty(3, 5), SearchHistory.empty(2, 0), priced(([[1.0]], [[2.0]]), [[3.0]])):
        for over in ("seconds", "epochs"):
            save_figure(regret_figure({"a": history}, OPTIMUM, over=over), tmp_path / "x")
        save_figure(final_figure({"a": history}, OPTIMUM), tmp_path / "y")
    points, curves = resampled(priced(([[1.0]], [[2.0]]), [[3.0]]), "seconds")
    assert (points.tolist(), curves.test.tolist()) == ([3.0], [[2.0]])
    failed = priced(([[np.nan, np.nan]], [[np.nan, np.nan]]), [[np.nan, np.nan]])
    save_figure(regret_figure({"a": failed}, OPTIMUM, over="seconds"), tmp_path / "z")


def straight(test):
    """Two runs whose incumbent changes with every query and has these test accuracies."""
    return filled(np.linspace(70, 80, 40) * np.ones((2, 1)), test * np.ones((2, 1)))


def corner_of(ax):
    """Whether the legend lies in the right half and in the upper half of the panel."""
    box = ax.get_legend().get_window_extent().transformed(ax.transAxes.inverted())
    return ((box.x0 + box.x1) / 2 > 0.5, (box.y0 + box.y1) / 2 > 0.5)


@pytest.mark.parametrize(
    ("test", "right", "upper"),
    [
        (np.linspace(60, 90, 40), True, True),  # the regret falls
        (np.linspace(90, 60, 40), True, False),  # it rises
    ],
)
def test_the_legend_hides_no_line(test, right, upper):
    (ax,) = regret_figure({"one": straight(test), "two": straight(test + 0.5)}, OPTIMUM).axes
    assert corner_of(ax) == (right, upper)
    box = ax.get_legend().get_window_extent()
    for line in ax.lines:
        assert not box.count_contains(line.get_transform().transform(line.get_xydata()))


def test_where_no_corner_is_free_the_legend_stands_beside_the_panel():
    levels = np.linspace(50, 90, 12)
    figure = regret_figure({f"strategy {i}": straight(np.full(40, level)) for i, level in enumerate(levels)}, OPTIMUM)
    (ax,) = figure.axes
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert ax.get_legend() is None
    assert len(legend.get_texts()) == 12
    assert legend.get_window_extent().x0 >= ax.get_window_extent().x1
    assert figure.get_figwidth() > 4.8


def test_a_figure_over_epochs_where_evaluations_differ_in_length(tmp_path, monkeypatch, scores):
    from lightning_nas import plots

    drawn = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: drawn.append(path.name) or [path])
    history = filled(*scores)
    plots.search_figures({"random": history}, OPTIMUM, tmp_path / "regret")
    assert drawn == ["regret", "regret_ecdf"]
    drawn.clear()
    history.charged[:, ::2] = 8
    plots.search_figures({"random": history}, OPTIMUM, tmp_path / "regret")
    assert drawn == ["regret", "regret_epochs", "regret_ecdf"]
    points, _ = resampled(history, "epochs")
    assert points[-1] == history.charged[:, :40].sum(dim=1).min()
