"""Drawings that analyses share: densities, boxes, maps. Colours and style are those of ``plots``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_nas.plots import PALETTE, TIMES, pale, style, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def density_panels(
    panels: Mapping[str, tuple[np.ndarray, np.ndarray]], notes: Sequence[str], low: float, note: str = ""
) -> Figure:
    """Predicted against true accuracy, one panel each, as density on a log scale, with the diagonal.

    Args:
        panels: Truth and prediction in percent, by title; panels share their axes.
        notes: Second line of each panel's title; what lies outside of the axes is added.
        low: Where the axes begin.
        note: Line under the figure.
    """
    from matplotlib.colors import LogNorm

    high = max(max(float(truth.max()), float(np.quantile(guess, 0.99))) for truth, guess in panels.values())
    high += 0.02 * (high - low)
    with style():
        figure = styled(2.45 * len(panels) + 0.7, 2.85)
        axes = np.atleast_1d(figure.subplots(1, len(panels), sharey=True, sharex=True))
        drawn = []
        for ax, (title, (truth, guess)), text in zip(axes, panels.items(), notes, strict=True):
            inside = (truth >= low) & (guess >= low) & (guess <= high)
            drawn.append(
                ax.hexbin(
                    truth[inside],
                    guess[inside],
                    gridsize=48,
                    extent=(low, high, low, high),
                    mincnt=1,
                    cmap="viridis",
                    linewidths=0.0,
                    zorder=2,
                )
            )
            ax.plot([low, high], [low, high], color="#D55E00", linewidth=0.9, zorder=3)
            ax.set_xlim(low, high)
            ax.set_ylim(low, high)
            ax.set_box_aspect(1)
            shown = inside.sum() / max(1, (truth >= low).sum())
            _titles(ax, title, text + (f" · {1 - shown:.1%} not shown" if shown < 1 else ""))
            ax.set_xlabel("test accuracy (%)")
        axes[0].set_ylabel("predicted test accuracy (%)")
        most = max((float(hexes.get_array().max()) for hexes in drawn if hexes.get_array().size), default=1.0)
        norm = LogNorm(1, max(most, 2.0))
        for hexes in drawn:
            hexes.set_norm(norm)
        figure.colorbar(drawn[-1], ax=axes.tolist(), label="cells", shrink=0.82, pad=0.01)
        if note:  # below everything: panels as high as wide leave the layout no say in where they end
            figure.text(0.5, -0.01, note, fontsize=6.5, color="#555555", ha="center", va="top")
    return figure


def box_panels(panels: Mapping[str, Mapping[int, np.ndarray]], notes: Sequence[str], labels: tuple[str, str]) -> Figure:
    """Boxes by a whole number, one panel each: quartiles, whiskers of 1.5 interquartile ranges, no single points.

    Args:
        panels: Values by number, by title.
        notes: Second line of each panel's title.
        labels: Of the two axes.
    """
    with style():
        across = min(3, len(panels))
        rows = -(-len(panels) // across)
        figure = styled(2.6 * across + 0.2, 2.5 * rows + 0.2)
        axes = np.atleast_1d(figure.subplots(rows, across)).ravel()
        for ax in axes[len(panels) :]:
            ax.set_axis_off()
        for number, (ax, (title, groups), text) in enumerate(zip(axes, panels.items(), notes, strict=False)):
            color = PALETTE[number % len(PALETTE)]
            shown = {k: values for k, values in sorted(groups.items()) if len(values)}
            ax.boxplot(
                list(shown.values()), positions=list(shown), widths=0.62, showfliers=False, patch_artist=True,
                boxprops={"facecolor": pale(color), "edgecolor": color, "linewidth": 0.9},
                medianprops={"color": color, "linewidth": 1.6},
                whiskerprops={"color": color, "linewidth": 0.9}, capprops={"color": color, "linewidth": 0.9},
            )  # fmt: skip
            ax.grid(axis="x", visible=False)
            ax.set_xticks(list(shown), [str(k) for k in shown])
            _titles(ax, title, text)
            ax.set_xlabel(labels[0])
            ax.set_ylabel(labels[1])
            ax.set_ylim(bottom=0)
    return figure


def _titles(ax: Axes, title: str, second: str) -> None:
    """A title and a smaller line under it."""
    ax.set_title(title, fontsize=9, pad=15)
    ax.annotate(
        second, (0.5, 1.0), xytext=(0, 4), xycoords="axes fraction", textcoords="offset points",
        ha="center", va="bottom", fontsize=7, color="#555555",
    )  # fmt: skip


def map_figure(places: np.ndarray, scores: np.ndarray, squares: np.ndarray, heading: str) -> Figure:
    """Cells on the plane, and the mean score of every square of a grid, in one scale of colours.

    Args:
        places: In [-1, 1], ``(n, 2)``.
        scores: Accuracy in percent, ``(n,)``; the colours span the middle nine tenths, the rest has the end colours.
        squares: Mean scores, rows upwards, NaN where there are no cells, ``(G, G)``.
        heading: Text above.
    """
    low, high = np.quantile(scores, [0.05, 0.95])
    order = np.random.default_rng(0).permutation(len(scores))  # nobody's cells lie on top
    with style():
        figure = styled(7.2, 3.4)
        left, right = figure.subplots(1, 2, sharex=True, sharey=True)
        colours = {"cmap": "viridis", "vmin": low, "vmax": high}
        size = float(np.clip(30_000 / len(scores), 1.0, 14.0))
        left.scatter(*places[order].T, c=scores[order], s=size, linewidths=0, rasterized=True, **colours)
        edges = np.linspace(-1, 1, len(squares) + 1)
        drawn = right.pcolormesh(edges, edges, np.ma.masked_invalid(squares), rasterized=True, **colours)
        for ax, title in ((left, "cells"), (right, f"mean over squares, {len(squares)} {TIMES} {len(squares)}")):
            ax.set_title(title, fontsize=9)
            bare_plane(ax)
        figure.colorbar(drawn, ax=[left, right], label="test accuracy (%)", extend="both", shrink=0.85, pad=0.015)
        figure.suptitle(heading, fontsize=9)
    return figure


def map_panels(panels: Mapping[str, np.ndarray], scores: np.ndarray, heading: str, split: str) -> Figure:
    """The same networks on several planes, side by side, in one scale of colours.

    Args:
        panels: Places in [-1, 1], ``(n, 2)``, by title.
        scores: Accuracy in percent, ``(n,)``; the colours span the middle nine tenths, the rest has the end colours.
        heading: Text above.
        split: Which accuracy it is, ``test`` or ``valid``.
    """
    low, high = np.quantile(scores, [0.05, 0.95])
    order = np.random.default_rng(0).permutation(len(scores))  # nobody's networks lie on top
    size = float(np.clip(20_000 / len(scores), 1.0, 14.0))
    with style():
        figure = styled(2.5 * len(panels) + 0.8, 3.0)
        axes = np.atleast_1d(figure.subplots(1, len(panels)))
        for ax, (title, places) in zip(axes, panels.items(), strict=True):
            drawn = ax.scatter(
                *places[order].T, c=scores[order], s=size, linewidths=0, rasterized=True,
                cmap="viridis", vmin=low, vmax=high,
            )  # fmt: skip
            ax.set_title(title, fontsize=9)
            bare_plane(ax)
        figure.colorbar(drawn, ax=axes.tolist(), label=f"{split} accuracy (%)", extend="both", shrink=0.85, pad=0.015)
        figure.suptitle(heading, fontsize=9)
    return figure


def bare_plane(ax: Axes) -> None:
    """A frame of [-1, 1]² whose axes mean nothing."""
    ax.set_box_aspect(1)
    ax.set_xlim(-1.03, 1.03)
    ax.set_ylim(-1.03, 1.03)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(visible=False)
    ax.spines[:].set_visible(True)
    ax.spines[:].set_color("#CCCCCC")


def scatter_panels(
    panels: Mapping[str, tuple[np.ndarray, np.ndarray]], notes: Sequence[str], labels: tuple[str, str], across: int
) -> Figure:
    """Accuracy against a positive number on a log scale, one panel each; the lowest two hundredths are cut off.

    Args:
        panels: Numbers and accuracies, by title.
        notes: Second line of each panel's title.
        labels: Of the two axes.
        across: Panels in a row.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    with style():
        rows = -(-len(panels) // across)
        figure = styled(2.9 * across + 0.2, 2.6 * rows + 0.2)
        axes = np.atleast_1d(figure.subplots(rows, across)).ravel()
        for ax in axes[len(panels) :]:
            ax.set_axis_off()
        for ax, (title, (numbers, accuracy)), text in zip(axes, panels.items(), notes, strict=False):
            inside = (accuracy >= np.quantile(accuracy, 0.02)) & (numbers > 0)
            ax.scatter(
                numbers[inside], accuracy[inside], s=float(np.clip(20_000 / len(numbers), 1.0, 14.0)), alpha=0.35,
                linewidths=0, color=PALETTE[0], rasterized=True,
            )  # fmt: skip
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.xaxis.set_major_formatter("{x:g}")
            ax.xaxis.set_minor_formatter(NullFormatter())
            _titles(ax, title, f"{text} · {1 - inside.mean():.1%} not shown")
            ax.set_xlabel(labels[0])
            ax.set_ylabel(labels[1])
    return figure


def paths_figure(places: np.ndarray, scores: np.ndarray, heading: str, split: str) -> Figure:
    """The ways of networks across a plane, coloured by their accuracy.

    Args:
        places: In [-1, 1], network by network and step by step, ``(n, T, 2)``.
        scores: Accuracy in percent, ``(n,)``.
        heading: Text above.
        split: Which accuracy it is, ``test`` or ``valid``.
    """
    from matplotlib.collections import LineCollection

    low, high = np.quantile(scores, [0.05, 0.95])
    colours: dict[str, Any] = {"cmap": "viridis", "clim": (low, high)}
    with style():
        figure = styled(5.4, 4.6)
        ax = figure.subplots()
        lines = LineCollection(list(places), array=scores, linewidths=0.8, alpha=0.7, **colours)
        ax.add_collection(lines)
        shared: dict[str, Any] = {"c": scores, "cmap": "viridis", "vmin": low, "vmax": high, "zorder": 3}
        begin, end = places[:, 0], places[:, -1]
        ax.scatter(begin[:, 0], begin[:, 1], s=26, linewidths=0.9, **_hollow(scores, low, high))
        ax.scatter(end[:, 0], end[:, 1], s=16, linewidths=0, **shared)
        bare_plane(ax)
        figure.colorbar(lines, ax=ax, label=f"{split} accuracy (%)", extend="both", shrink=0.85, pad=0.015)
        ax.set_title(heading, fontsize=9)
    return figure


def _hollow(scores: np.ndarray, low: float, high: float) -> dict[str, Any]:
    """Rings in the colours of the scores."""
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    return {"facecolors": "none", "edgecolors": colormaps["viridis"](Normalize(low, high)(scores)), "zorder": 3}
