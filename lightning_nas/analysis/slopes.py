"""Figure 1 of the Synthetic Petri Dish: slopes right of the peak are known, where is the peak? (arXiv 2005.13092)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.console import Console

from lightning_nas.analysis.tables_of_runs import Study, keep_study
from lightning_nas.benchmarks.tabular import TabularBenchmark
from lightning_nas.datamodules.motifs import draw_motifs
from lightning_nas.errors import UsageError
from lightning_nas.ledger import Row
from lightning_nas.plots import PALETTE, STYLE
from lightning_nas.predictors.petri_dish import PetriDishPredictor
from lightning_nas.predictors.predictor import RegressionPredictor
from lightning_nas.terminal import say

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lightning_nas.modules.petri_dish import PetriDish

DISH, NETWORK = "Petri dish", "neural network"


@dataclass(frozen=True)
class Curves:
    """What was predicted for all slopes, by every seed.

    Attributes:
        slopes: All slopes that have a true accuracy, ``(N,)``.
        truth: Their accuracies, percent.
        known: Which of them each seed was trained on, ``(R, N)`` bool.
        predicted: Accuracies by method, each ``(R, N)``.
        interval: Where the training slopes are from.
    """

    slopes: np.ndarray
    truth: np.ndarray
    known: np.ndarray
    predicted: dict[str, np.ndarray]
    interval: tuple[float, float]


def slopes(
    benchmark: TabularBenchmark,  # type: ignore[type-arg]  # jsonargparse cannot read TabularBenchmark[A]
    dish: PetriDishPredictor,
    surrogate: RegressionPredictor,
    num_train: int = 30,
    interval: tuple[float, float] = (0.41, 1.5),
    num_seeds: int = 10,
    seed: int = 0,
    name: str = "petri_dish/slopes",
    title: str = "Sigmoid slopes left of those that are known",
    source: str = "none",
    reference_protocol: str = "none",
    protocol: str = "see the configuration",
    scale: str = "see the configuration",
    output: Path | None = None,
    record: Path | None = None,
) -> None:
    """Train Petri dishes and a regression on slopes right of the peak, and ask both for all slopes.

    Every seed draws its own slopes, data and weights; the dishes of all seeds are trained side by side. Leaves the
    curves (figure 1 of the paper), the learned data as images, predictions beside true accuracies, and a table.

    Args:
        benchmark: True accuracies of ``SigmoidSlope``, from a table of 'lightning-nas tabulate'.
        dish: Settings of the Petri dish.
        surrogate: The regression, for example two layers of ten neurons (the paper's).
        num_train: Slopes that are known.
        interval: Where these are from, both ends included.
        num_seeds: Seeds.
        seed: The first of them.
        name: File name in the ledger.
        title: Heading in the ledger.
        source: Paper, arXiv id and figure of published numbers.
        reference_protocol: How the source measured.
        protocol: How this is measured.
        scale: How much is run.
        output: Folder for figures and numbers; default: runs/NAME.
        record: Folder of the ledger, usually docs/results; writes the numbers there.
    """
    started = time.perf_counter()
    if num_seeds < 1:
        raise UsageError(f"analyze slopes: got num_seeds={num_seeds}, expected at least 1")
    space = benchmark.space
    everyone = torch.arange(len(space)) if benchmark.members is None else benchmark.members
    seeds = range(seed, seed + num_seeds)
    chosen = [draw_motifs(space, everyone, num_train, interval, one).sort().values for one in seeds]  # type: ignore[arg-type]
    known = [(index, benchmark.lookup(index).valid) for index in chosen]  # type: ignore[arg-type]
    truth = benchmark.lookup(everyone).valid  # type: ignore[arg-type]
    console = Console()
    say(console, f"training {num_seeds * dish.num_dishes} dishes on {num_train} slopes each")
    trained = dish.learn_runs(space, known, seeds)
    scores = torch.stack(dish.ask_runs(trained, space, known, [everyone] * num_seeds)).numpy()
    say(console, "fitting the regression")
    fits = [
        surrogate.fit(space, index, accuracies, one)  # type: ignore[arg-type]
        for one, (index, accuracies) in zip(seeds, known, strict=True)
    ]
    guesses = np.stack([fit.predict(everyone).numpy() for fit in fits])  # type: ignore[arg-type]
    found = Curves(
        np.array([space[place] for place in everyone.tolist()]), truth.numpy(),
        np.stack([np.isin(everyone.numpy(), index.numpy()) for index in chosen]), {DISH: scores, NETWORK: guesses},
        interval,
    )  # fmt: skip
    named = f"seeds {seed} to {seed + num_seeds - 1}"
    study = Study(
        name=name, title=title, source=source, reference_protocol=reference_protocol, protocol=protocol, scale=scale,
        rows=rows_of(found, named),
        figures={
            "curves": curve_figure(found), "data": data_figure(trained), "calibration": calibration_figure(found)
        },
        details={
            "slopes": found.slopes.tolist(), "truth": found.truth.tolist(),
            **{label: values.round(4).tolist() for label, values in found.predicted.items()},
        },
        started=started,
    )  # fmt: skip
    keep_study(study, output or Path("runs") / name, record)


def rows_of(found: Curves, seeds: str) -> list[Row]:
    """Rank correlations and peaks of every seed, of means of standardised curves, and of medians of plain ones.

    Plain means belong to single seeds, whose dishes may extrapolate to any number.
    """
    from scipy.stats import spearmanr

    def rank(values: np.ndarray, where: Any = slice(None)) -> float:
        """Of equal values, which rank nothing, 0."""
        return 0.0 if np.ptp(values[where]) == 0 else float(spearmanr(values[where], found.truth[where]).statistic)

    peak = float(found.slopes[found.truth.argmax()])
    text: dict[str, Any] = {"paper": "", "seeds": seeds}
    rows = [Row.of([peak], label="truth", metric="slope of the peak", unit="", paper="0.23", seeds=seeds)]
    for label, values in found.predicted.items():
        averages = {
            "mean over seeds": standardised(values).mean(axis=0),
            "median over seeds": np.median(values, axis=0),
        }
        for name, curve in averages.items():
            at = float(found.slopes[curve.argmax()])
            rows += [
                Row.of([rank(curve)], label=label, metric=f"{name}: Spearman, all slopes", unit="", **text),
                Row.of([at], label=label, metric=f"{name}: slope of the peak", unit="", **text),
            ]
        left = found.slopes < found.interval[0]
        each = [rank(row) for row in values]
        peaks = [float(found.slopes[row.argmax()]) for row in values]
        note = f"median {np.median(each):.3f}, {min(each):.3f} to {max(each):.3f}"
        note_of_peaks = f"median {np.median(peaks):.3f}, {min(peaks):.3f} to {max(peaks):.3f}"
        rows += [
            Row.of(each, label=label, metric="a seed: Spearman, all slopes", unit="", note=note, **text),
            Row.of(peaks, label=label, metric="a seed: slope of the peak", unit="", note=note_of_peaks, **text),
        ]
        if left.sum() > 2:
            rows.append(Row.of(
                [rank(row, left) for row in values], label=label, metric="a seed: Spearman, left of the interval",
                unit="", **text,
            ))  # fmt: skip
        falling = [float((np.diff(row) < 0).all()) for row in values]
        rows.append(Row.of(falling, label=label, metric="a seed falls all the way", unit="", **text))
    return rows


def standardised(values: np.ndarray) -> np.ndarray:
    """Curves less their mean, by their standard deviation, ``(…, N)``; flat ones are 0."""
    deviation = values.std(axis=-1, keepdims=True)
    scaled: np.ndarray = (values - values.mean(axis=-1, keepdims=True)) / np.where(deviation > 0, deviation, 1.0)
    return scaled


def curve_figure(found: Curves) -> Figure:
    """True and predicted accuracies, standardised over all slopes: mean and deviation over seeds; known ones shaded."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.4), layout="constrained")
        ax = figure.subplots()
        ax.axvspan(*found.interval, color=PALETTE[5], alpha=0.2, linewidth=0, label="known slopes are from here")
        ax.plot(found.slopes, standardised(found.truth), color="black", linestyle=(0, (1, 1)), label="truth", zorder=4)
        for color, (label, values) in zip(PALETTE, found.predicted.items(), strict=False):
            scaled = standardised(values)
            mean, spread = scaled.mean(axis=0), scaled.std(axis=0)
            ax.plot(found.slopes, mean, color=color, label=f"{label}, mean of {len(values)}", zorder=3)
            ax.fill_between(found.slopes, mean - spread, mean + spread, color=color, alpha=0.15, linewidth=0)
        ax.set_ylim(-4.0, 3.0)
        ax.set_xlabel("slope of the sigmoids")
        ax.set_ylabel("accuracy, standardised over all slopes")
        ax.legend(loc="upper right")
    return figure


def data_figure(dish: PetriDish) -> Figure:
    """Inputs of the first dish before and after, and its labels, as images."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    before = dish.fresh_inputs(0)
    images = {
        "inputs at first": before, "learned, training": dish.inputs[0], "learned, validation": dish.valid_inputs[0],
        "labels": dish.labels[0],
    }  # fmt: skip
    with rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(7.2, 2.2), layout="constrained")
        axes = figure.subplots(1, len(images))
        largest = max(float(image.detach().abs().max()) for name, image in images.items() if name != "labels")
        for ax, (name, image) in zip(axes, images.items(), strict=True):
            flat = image.detach().flatten(0, -2).numpy()
            limits = {"vmin": 0, "vmax": 1, "cmap": "gray"} if name == "labels" else {
                "vmin": -largest, "vmax": largest, "cmap": "RdBu"
            }  # fmt: skip
            shown = ax.imshow(flat, **limits, aspect="auto", interpolation="nearest")
            ax.set_title(name, fontsize=8)
            ax.set_xticks([])
            ax.set_yticks([])
            if name == "learned, validation":
                figure.colorbar(shown, ax=ax)
    return figure


def calibration_figure(found: Curves) -> Figure:
    """Predictions of slopes that a seed was not trained on beside their true accuracies."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(3.6, 3.4), layout="constrained")
        ax = figure.subplots()
        low, high = float(found.truth.min()), float(found.truth.max())
        ax.plot([low, high], [low, high], color="black", linewidth=0.8, zorder=1)
        for color, (label, values) in zip(PALETTE, found.predicted.items(), strict=False):
            truth = np.broadcast_to(found.truth, values.shape)[~found.known]
            ax.scatter(truth, values[~found.known], s=4, color=color, alpha=0.4, linewidth=0, label=label, zorder=2)
        span = high - low
        ax.set_ylim(low - span, high + span)
        ax.set_xlabel("true accuracy (%)")
        ax.set_ylabel("predicted accuracy (%)")
        ax.legend(loc="upper left")
    return figure
