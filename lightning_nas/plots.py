"""Figures for papers: one style, colours that colour-blind readers tell apart, PNG and PDF.

Only the object interface of matplotlib is used, so nothing opens a window or leaves state behind.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lightning_nas.files import write_atomically
from lightning_nas.search.history import SearchHistory, Status

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours, strongest first (yellow is left out: too pale for a line)."""

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


def regret_figure(histories: Mapping[str, SearchHistory], optimum: float | None, title: str | None = None) -> Figure:
    """Progress of every strategy: median over runs as a line, interquartile range as a band.

    With a known optimum, the simple test regret over queries; without, the validation accuracy of the incumbent and
    its test accuracy side by side.

    Args:
        histories: Runs of each strategy, by the name shown in the legend.
        optimum: Best reachable test accuracy in percent, or None when nobody knows it.
        title: Text above the figure, for example the benchmark; none by default, as papers have captions.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    curves = {name: incumbent_curves(history) for name, history in histories.items()}
    with rc_context(STYLE):
        panels = 1 if optimum is not None else 2
        figure = Figure(figsize=(4.8, 3.4) if panels == 1 else (7.2, 3.4), layout="constrained")
        axes = np.atleast_1d(figure.subplots(1, panels))
        if optimum is not None:
            _lines(axes[0], {name: optimum - curve.test for name, curve in curves.items()})
            axes[0].set_ylabel("test regret (percentage points)")
            _log_where_it_helps(axes[0], [optimum - curve.test for curve in curves.values()])
        else:
            _lines(axes[0], {name: curve.valid for name, curve in curves.items()})
            _lines(axes[1], {name: curve.test for name, curve in curves.items()})
            axes[0].set_ylabel("best validation accuracy so far (%)")
            axes[1].set_ylabel("test accuracy of the incumbent (%)")
            _leave_out_the_start(axes[0], [curve.valid for curve in curves.values()])
            _leave_out_the_start(axes[1], [curve.test for curve in curves.values()])
        for ax in axes:
            ax.set_xlabel("queries (architectures evaluated)")
        if axes[-1].lines:
            axes[-1].legend(loc="upper right" if optimum is not None else "lower right")
        if title:
            figure.suptitle(title, fontsize=9)
        note = "Line: median over runs; band: interquartile range. Selected on validation, reported on test."
        figure.supxlabel(note, fontsize=6.5, color="#555555")
    return figure


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


def _lines(ax: Axes, runs: Mapping[str, np.ndarray]) -> None:
    for number, (name, values) in enumerate(runs.items()):
        some = ~np.isnan(values).all(axis=0)
        if not some.any():
            continue
        queries = np.arange(1, values.shape[1] + 1)[some]
        low, median, high = _quartiles(values[:, some])
        color, dash = PALETTE[number % len(PALETTE)], DASHES[number % len(DASHES)]
        count = int((~np.isnan(values)).any(axis=1).sum())
        label = f"{name} ({count} run{'s' if count > 1 else ''})"
        ax.plot(queries, median, color=color, linestyle=dash, label=label, zorder=3)
        if count > 1:
            ax.fill_between(queries, low, high, color=color, alpha=0.15, linewidth=0)
    ax.margins(x=0.01)


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
