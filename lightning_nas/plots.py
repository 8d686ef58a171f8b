"""Figures for papers: one style, colours that colour-blind readers tell apart, PNG and PDF.

Only the object interface of matplotlib is used, so nothing opens a window or leaves state behind.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from lightning_nas.files import write_atomically
from lightning_nas.outcomes import outcome
from lightning_nas.search.history import SearchHistory, Status

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours, strongest first (yellow is left out: too pale for a line)."""

TIMES = "\u00d7"
"""The sign between numbers that are multiplied."""

DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)))
"""Second cue besides colour, for print in grey and for more than seven lines."""

STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "lines.linewidth": 1.5,
    "legend.edgecolor": "none",
    "legend.framealpha": 0.8,
    "savefig.bbox": "tight",
    "pdf.fonttype": 42,  # TrueType; publishers refuse Type 3
}


Over = Literal["queries", "epochs", "seconds"]
"""What a search spends."""

_SPENT = {
    "queries": "queries (architectures evaluated)",
    "epochs": "training epochs",
    "seconds": "seconds on the benchmark's own clock",
}
_CORNERS = ("upper right", "lower left", "lower right", "upper left")
_POINTS = 400  # of a curve over epochs or seconds


def styled(width: float, height: float) -> Figure:
    """An empty figure in the house style.

    Args:
        width: Inches.
        height: Inches.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def style() -> Any:
    """Context in which figures are drawn."""
    from matplotlib import rc_context

    return rc_context(STYLE)


class Curves(NamedTuple):
    """What each run had after each query; NaN before its first score and behind its last finished query.

    Attributes:
        valid: Best validation accuracy so far, percent.
        test: Test accuracy of the architecture that has it.

    Shapes:
        Both ``(R, T)`` float64.
    """

    valid: np.ndarray
    test: np.ndarray


def pale(color: str) -> tuple[float, float, float]:
    """The same colour, two thirds of the way to white."""
    from matplotlib.colors import to_rgb

    red, green, blue = (0.68 + 0.32 * part for part in to_rgb(color))
    return red, green, blue


def incumbent_curves(history: SearchHistory) -> Curves:
    """Validation and test accuracy of the incumbent after every query.

    Args:
        history: R runs, each finished, interrupted or empty.
    """
    history = history.prefix(history.length)
    columns = history.incumbents()
    seen = history.done.cumsum(dim=1) > 0  # before the first score an incumbent is only a column number
    finished = (history.status == Status.DONE) | (history.status == Status.FAILED)
    shown = seen & (finished.flip(1).cumsum(dim=1).flip(1) > 0)
    valid, test = (
        values.gather(1, columns).masked_fill(~shown, float("nan")).numpy() for values in (history.valid, history.test)
    )
    return Curves(valid, test)


def resampled(history: SearchHistory, over: Over) -> tuple[np.ndarray, Curves]:
    """Curves of all runs at common points of what was spent.

    The points reach as far as all runs with a finished evaluation do: beyond, runs that stopped early would be missing
    from the median.

    Args:
        history: R runs, in order of arrival.
        over: What is counted; ``seconds`` needs the cost of every evaluation.

    Returns:
        P points, ``(P,)``, growing by a common factor, and the curves there, ``(R, P)``.
    """
    curves = incumbent_curves(history)
    finished = (history.status >= Status.DONE)[:, : curves.valid.shape[1]].numpy()
    spent = history.prefix(history.length).spent(over).numpy()  # (R, T)
    started = finished.any(axis=1) if finished.size else np.zeros(len(finished), dtype=bool)
    if not started.any():
        empty = np.empty((len(curves.valid), 0))
        return np.empty(0), Curves(empty, empty)
    # Failed evaluations of unknown cost are free, so the first sums may be zero, which no logarithm has.
    first = min((row[row > 0].min() for row in spent[started] if (row > 0).any()), default=1.0)
    last = max(first, min(row.max() for row in spent[started]))
    points = np.geomspace(first, last, _POINTS) if last > first else np.array([first])
    points[-1] = last  # exactly, so that the end of the run that stopped first is on it
    # The last evaluation within each point, in its run; -1 before the first.
    done = np.where(finished, spent, np.inf)
    place = np.stack([np.searchsorted(row, points, side="right") - 1 for row in done])  # (R, P)
    valid, test = (np.where(place >= 0, np.take_along_axis(values, place.clip(0), axis=1), np.nan) for values in curves)
    return points, Curves(valid, test)


def regret_figure(
    histories: Mapping[str, SearchHistory], optimum: float | None, title: str | None = None, over: Over = "queries"
) -> Figure:
    """Progress of every strategy: median over runs as a line, interquartile range as a band.

    With a known optimum, the simple test regret over what was spent; without, the validation accuracy of the incumbent
    and its test accuracy side by side.

    Args:
        histories: Runs of each strategy, in order of arrival, by the name shown in the legend.
        optimum: Best reachable test accuracy in percent, or None when nobody knows it.
        title: Text above the figure, for example the benchmark; none by default, as papers have captions.
        over: What was spent: ``queries``, training ``epochs`` or the benchmark's own ``seconds``.

    Raises:
        UsageError: Seconds are asked for and the cost of an evaluation is not known.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    steps = over != "queries"
    sampled = {name: resampled(history, over) if steps else _by_query(history) for name, history in histories.items()}
    curves = {name: curve for name, (_, curve) in sampled.items()}
    points = {name: where for name, (where, _) in sampled.items()}
    with rc_context(STYLE):
        panels = 1 if optimum is not None else 2
        figure = Figure(figsize=(4.8, 3.4) if panels == 1 else (7.2, 3.4), layout="constrained")
        axes = np.atleast_1d(figure.subplots(1, panels))
        if optimum is not None:
            _lines(axes[0], points, {name: optimum - curve.test for name, curve in curves.items()}, steps)
            axes[0].set_ylabel("test regret (percentage points)")
            _log_where_it_helps(axes[0], [optimum - curve.test for curve in curves.values()])
        else:
            _lines(axes[0], points, {name: curve.valid for name, curve in curves.items()}, steps)
            _lines(axes[1], points, {name: curve.test for name, curve in curves.items()}, steps)
            axes[0].set_ylabel("best validation accuracy so far (%)")
            axes[1].set_ylabel("test accuracy of the incumbent (%)")
            _leave_out_the_start(axes[0], [curve.valid for curve in curves.values()])
            _leave_out_the_start(axes[1], [curve.test for curve in curves.values()])
        for ax in axes:
            ax.set_xlabel(_SPENT[over])
            if steps and ax.lines:
                ax.set_xscale("log")
        if title:
            figure.suptitle(title, fontsize=9)
        note = "Line: median over runs; band: interquartile range. Selected on validation, reported on test."
        figure.supxlabel(note, fontsize=6.5, color="#555555")
        _legend(figure, axes[-1], "upper right" if optimum is not None else "lower right")
    return figure


def final_figure(histories: Mapping[str, SearchHistory], optimum: float | None, title: str | None = None) -> Figure:
    """Empirical distribution over runs of where each strategy ended (arch2vec, arXiv 2006.06936, Fig. 5 right).

    With a known optimum, of the test regret of the last incumbent; without, of its test accuracy.

    Args:
        histories: Runs of each strategy, by the name shown in the legend; an interrupted run counts with what it has.
        optimum: Best reachable test accuracy in percent, or None when nobody knows it.
        title: Text above the figure; none by default.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    finals = {}
    for name, history in histories.items():
        test = outcome(history).test
        finals[name] = (test if optimum is None else optimum - test)[~np.isnan(test)]
    with rc_context(STYLE):
        figure = Figure(figsize=(4.8, 3.4), layout="constrained")
        ax = figure.subplots()
        for number, (name, values) in enumerate(finals.items()):
            if len(values):
                color, dash = _look(number)
                ax.ecdf(values, label=_label(name, len(values)), color=color, linestyle=dash, zorder=3)
        ax.set_ylabel("share of runs that ended there or below")
        known = "test regret at the end (percentage points)"
        ax.set_xlabel("test accuracy at the end (%)" if optimum is None else known)
        ax.set_ylim(0, 1.02)
        if title:
            figure.suptitle(title, fontsize=9)
        figure.supxlabel("Selected on validation, reported on test.", fontsize=6.5, color="#555555")
        _legend(figure, ax, "upper left" if optimum is None else "lower right")
    return figure


def search_figures(
    histories: Mapping[str, SearchHistory], optimum: float | None, path: Path, title: str | None = None
) -> list[Path]:
    """All figures of a search: progress over queries, where several runs ended, and progress over seconds where known.

    Where evaluations differ in length, there is one over training epochs, too.

    Args:
        histories: Runs of each strategy, in order of arrival.
        optimum: Best reachable test accuracy in percent, if known.
        path: Of the first figure, for example ``regret``; ``regret_epochs``, ``regret_seconds`` and ``regret_ecdf`` lie
            beside it.
        title: Text above the figures.

    Returns:
        The files, PNG and PDF of each figure.
    """
    written = save_figure(regret_figure(histories, optimum, title), path)
    if uneven(histories):
        over_epochs = regret_figure(histories, optimum, title, "epochs")
        written += save_figure(over_epochs, path.with_name(f"{path.name}_epochs"))
    if repeated(histories):
        written += save_figure(final_figure(histories, optimum, title), path.with_name(f"{path.name}_ecdf"))
    if timed(histories):
        over_seconds = regret_figure(histories, optimum, title, "seconds")
        written += save_figure(over_seconds, path.with_name(f"{path.name}_seconds"))
    return written


def repeated(histories: Mapping[str, SearchHistory]) -> bool:
    """Whether there are several runs of a strategy, so that where they ended has a distribution."""
    return any(len(history.runs) > 1 for history in histories.values())


def uneven(histories: Mapping[str, SearchHistory]) -> bool:
    """Whether evaluations were charged different numbers of training epochs."""
    charged = {number for history in histories.values() for number in history.charged[history.done].tolist()}
    return len(charged) > 1


def timed(histories: Mapping[str, SearchHistory]) -> bool:
    """Whether there are scores, and the cost of each is known."""
    begun = [history for history in histories.values() if bool(history.done.any())]
    return bool(begun) and all(history.timed for history in begun)


def save_figure(figure: Figure, path: Path) -> list[Path]:
    """Write a figure as PNG (300 dpi) and PDF, each whole or not at all; returns the two paths.

    Args:
        figure: What to write.
        path: Target; its suffix, if any, is replaced.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    written = []
    for kind, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
        target = path.with_suffix(f".{kind}")
        with rc_context(STYLE), write_atomically(target, "wb") as file:
            # Without dates and versions the same numbers give the same file.
            figure.savefig(file, format=kind, dpi=300, metadata=metadata)
        written.append(target)
    return written


def _by_query(history: SearchHistory) -> tuple[np.ndarray, Curves]:
    curves = incumbent_curves(history)
    return np.arange(1, curves.valid.shape[1] + 1), curves


def _lines(ax: Axes, points: Mapping[str, np.ndarray], runs: Mapping[str, np.ndarray], steps: bool) -> None:
    for number, (name, values) in enumerate(runs.items()):
        some = ~np.isnan(values).all(axis=0)
        if not some.any():
            continue
        spent = points[name][some]
        low, median, high = _quartiles(values[:, some])
        color, dash = _look(number)
        count = int((~np.isnan(values)).any(axis=1).sum())
        # An incumbent stays until there is a better one: there is something between two points of time, not of queries.
        drawn: Literal["steps-post", "default"] = "steps-post" if steps else "default"
        band: Literal["post"] | None = "post" if steps else None
        ax.plot(spent, median, color=color, linestyle=dash, label=_label(name, count), zorder=3, drawstyle=drawn)
        if count > 1:
            ax.fill_between(spent, low, high, color=color, alpha=0.15, linewidth=0, step=band)
    ax.margins(x=0.01)


def _legend(figure: Figure, ax: Axes, preferred: str) -> None:
    """A legend in a corner where it hides no line and as few bands as can be; beside the panels if there is none."""
    if not ax.lines:
        return
    legend = ax.legend(loc=preferred)
    figure.draw_without_rendering()  # only now it is known where everything lies
    lines = [line.get_path().transformed(line.get_transform()) for line in ax.lines]
    bands = [path.transformed(band.get_transform()) for band in ax.collections for path in band.get_paths()]
    hidden = {}
    for corner in (preferred, *_CORNERS):
        legend.set_loc(corner)
        box = legend.get_window_extent()
        hidden[corner] = (
            sum(path.intersects_bbox(box, filled=False) for path in lines),
            sum(path.intersects_bbox(box, filled=True) for path in bands),
        )
    best = min(hidden, key=lambda corner: hidden[corner])
    legend.set_loc(best)
    if hidden[best][0]:
        width = legend.get_window_extent().width / figure.dpi  # inches
        legend.remove()
        figure.set_figwidth(figure.get_figwidth() + width)
        figure.legend(*ax.get_legend_handles_labels(), loc="outside right upper")


def _look(number: int) -> tuple[str, Any]:
    return PALETTE[number % len(PALETTE)], DASHES[number % len(DASHES)]


def _label(name: str, runs: int) -> str:
    return f"{name} ({runs} run{'s' if runs > 1 else ''})"


def _quartiles(values: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # columns without any value stay NaN
        return np.asarray(np.nanquantile(values, [0.25, 0.5, 0.75], axis=0))


def _log_where_it_helps(ax: Axes, regrets: list[np.ndarray]) -> None:
    """A log scale when the lines span more than a decade; linear near zero, so that reaching the optimum shows."""
    drawn = np.concatenate([_quartiles(values).ravel() for values in regrets if values.size] or [np.empty(0)])
    positive = drawn[drawn > 0]
    if not positive.size or positive.max() < 10 * max(drawn.min(), 0.0):
        return
    from matplotlib.ticker import FuncFormatter, SymmetricalLogLocator

    threshold = 0.1  # percentage points; less is below the noise of training one architecture twice
    ax.set_yscale("symlog", linthresh=threshold, linscale=0.5)
    ax.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=threshold, subs=[1, 2, 5]))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.set_ylim(bottom=min(0.0, float(drawn.min())))


def _leave_out_the_start(ax: Axes, values: list[np.ndarray]) -> None:
    """Cut the axis below what was reached after a tenth of the queries: bad first draws would flatten all the rest."""
    reached = [_quartiles(v)[:, v.shape[1] // 10 :].ravel() for v in values if v.size]
    drawn = np.concatenate(reached or [np.empty(0)])
    drawn = drawn[~np.isnan(drawn)]
    if drawn.size:
        margin = 0.05 * float(np.ptp(drawn)) or 0.5  # one constant line gets half a point of room
        ax.set_ylim(float(drawn.min()) - margin, float(drawn.max()) + margin)
