"""Tables and figures of a comparison of performance predictors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_nas.ledger import Row
from lightning_nas.plots import DASHES, PALETTE, STYLE
from lightning_nas.tables import mean_std

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Found = Mapping[tuple[str, int], Sequence[Mapping[str, Any]]]
"""Scores of all trials by predictor and number of training architectures."""

METRICS = {
    "mae": ("MAE", "points"),
    "rmse": ("RMSE", "points"),
    "rmse_trained": ("RMSE above 80 %", "points"),
    "pearson": ("Pearson", ""),
    "spearman": ("Spearman", ""),
    "kendall": ("Kendall", ""),
    "precision@10": ("precision@10", ""),
    "precision@20": ("precision@20", ""),
    "fit": ("fit", "s"),
    "tuning": ("tuning", "s"),
    "query": ("query", "ms"),
}
"""Heading and unit of every score; ``query`` is for one architecture."""

_NOT_ALL = "failed"


def failures(trials: Sequence[Mapping[str, Any]]) -> list[str]:
    """Errors of the trials that failed."""
    return [str(trial["error"]) for trial in trials if "error" in trial]


def table(found: Found, size: int) -> tuple[list[str], list[list[str]]]:
    """A row for each predictor with so many training architectures, a column for each score: mean ± deviation.

    A predictor that failed in any trial has no numbers, only what it said: means over other trials are not comparable.
    """
    shown = [key for key in METRICS if any(_column(trials, key) for (_, n), trials in found.items() if n == size)]
    if not any(any(_column(trials, "tuning")) for (_, n), trials in found.items() if n == size):
        shown = [key for key in shown if key != "tuning"]
    header = ["predictor", *(_heading(key) for key in shown), *([_NOT_ALL] if _any_failed(found, size) else [])]
    lines = []
    for (name, n), trials in found.items():
        if n != size:
            continue
        errors = failures(trials)
        cells = ["-" if errors else _cell(_column(trials, key), key) for key in shown]
        note = f"{len(errors)} of {len(trials)} trials: {errors[0]}" if errors else ""
        lines.append([name, *cells, *([note] if _any_failed(found, size) else [])])
    return header, lines


def rows(found: Found, published: Mapping[str, Mapping[str, str]], seeds: str) -> list[Row]:
    """The same for the ledger, at all sizes, with the published numbers; for predictors that did not fail.

    Args:
        found: Scores.
        published: By predictor, or by ``predictor, n``, the published text of each score.
        seeds: Seeds in words.
    """
    several = len({size for _, size in found}) > 1
    made = []
    for (name, size), trials in found.items():
        if failures(trials):
            continue
        said = published.get(f"{name}, {size}") or published.get(name) or {}
        for key, (heading, unit) in METRICS.items():
            values = _column(trials, key)
            if not values or (key == "tuning" and not any(values)):
                continue
            metric = heading + (f", n = {size}" if several else "")
            text = {"metric": metric, "unit": unit, "paper": str(said.get(key, "")), "seeds": seeds}
            made.append(Row.of(values, label=name, keep=0, **text))
    return made


def difference_rows(found: Found, pairs: Sequence[Sequence[str]], seeds: str) -> list[Row]:
    """Differences in Kendall's tau, trial by trial, with their 95 % interval (Student's t)."""
    several = len({size for _, size in found}) > 1
    made = []
    for ours, other in pairs:
        for size in dict.fromkeys(size for _, size in found):
            both = [found.get((name, size), ()) for name in (ours, other)]
            if not all(both) or any(map(failures, both)):
                continue
            values = [a["kendall"] - b["kendall"] for a, b in zip(*both, strict=True)]
            made.append(
                Row.of(
                    values, keep=0, label=f"{ours} minus {other}", unit="", paper="", seeds=seeds,
                    metric="Kendall, paired by trial" + (f", n = {size}" if several else ""), note=_interval(values),
                )
            )  # fmt: skip
    return made


def _interval(values: Sequence[float]) -> str:
    if len(values) < 2:
        return ""
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return f"95 % interval {fmean(values) - half:+.3f} to {fmean(values) + half:+.3f}"


def size_figure(found: Found) -> Figure:
    """Kendall's tau against the number of training architectures: mean over trials, band of one deviation."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.8), layout="constrained")
        ax = figure.subplots()
        for number, name in enumerate(_names(found)):
            sizes = sorted(size for label, size in found if label == name and not failures(found[name, size]))
            values = [np.array(_column(found[name, size], "kendall")) for size in sizes]
            if not sizes:
                continue
            means, spreads = (np.array([f(v) for v in values]) for f in (np.mean, np.std))
            color, dash = PALETTE[number % len(PALETTE)], DASHES[number // len(PALETTE) % len(DASHES)]
            ax.plot(sizes, means, color=color, linestyle=dash, marker="o", markersize=3, label=name, zorder=3)
            ax.fill_between(sizes, means - spreads, means + spreads, color=color, alpha=0.08, linewidth=0)
        ax.set_xscale("log")
        ticks = sorted({size for _, size in found})
        ax.set_xticks(ticks, [str(size) for size in ticks])
        ax.minorticks_off()
        ax.set_xlabel("architectures with known accuracy")
        ax.set_ylabel("Kendall's τ")
        figure.legend(loc="outside right upper", fontsize=7)
    return figure


def time_figure(found: Found, size: int) -> Figure:
    """Kendall's tau against the time of a fit on one thread: one point for each predictor."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.8), layout="constrained")
        ax = figure.subplots()
        for number, name in enumerate(_names(found)):
            trials = found.get((name, size), ())
            if not trials or failures(trials):
                continue
            seconds, taus = (_column(trials, key) for key in ("fit", "kendall"))
            color = PALETTE[number % len(PALETTE)]
            mark = "os^Dv"[number // len(PALETTE) % 5]
            deviation = stdev(taus) if len(taus) > 1 else 0.0
            ax.errorbar(
                fmean(seconds), fmean(taus), deviation, color=color, marker=mark, markersize=5, linewidth=0.8,
                label=name, linestyle="none", zorder=3,
            )  # fmt: skip
        ax.set_xscale("log")
        ax.set_xlabel(f"fit on {size} architectures (s, one thread)")
        ax.set_ylabel("Kendall's τ")
        figure.legend(loc="outside right upper", fontsize=7)
    return figure


def _names(found: Found) -> list[str]:
    return list(dict.fromkeys(name for name, _ in found))


def _column(trials: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [float(trial[key]) for trial in trials if key in trial]


def _any_failed(found: Found, size: int) -> bool:
    return any(failures(trials) for (_, n), trials in found.items() if n == size)


def _heading(key: str) -> str:
    heading, unit = METRICS[key]
    return f"{heading} ({unit})" if unit else heading


def _cell(values: Sequence[float], key: str) -> str:
    if not values:
        return "-"
    digits = 2 if METRICS[key][1] == "points" else 3
    return mean_std(fmean(values), stdev(values) if len(values) > 1 else None, digits)
