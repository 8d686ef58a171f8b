"""Drawings that analyses share: cells as graphs, densities, boxes. Colours and style are those of ``plots``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_nas.analysis.layout import Layout, layered_layout
from lightning_nas.plots import PALETTE, STYLE
from lightning_nas.spaces.base import CellGraph

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#333333"
_TINTS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#8C6D31")
_TIMES = "\u00d7"
_BOX = (0.86, 0.46)  # width and height of a vertex, in units of its room


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


def short_label(label: str) -> str:
    """An operation's name as it fits into a drawing.

    Example:
        >>> [short_label(name) for name in ("nor_conv_3x3", "conv1x1-bn-relu", "maxpool3x3", "skip_connect", "c_{k-1}")]
        ['conv 3×3', 'conv 1×1', 'max 3×3', 'skip', 'c k-1']
        >>> short_label("dil_conv_5x5"), short_label("avg_pool_3x3"), short_label("input")
        ('dil 5×5', 'avg 3×3', 'in')
    """
    known = {"input": "in", "output": "out", "skip_connect": "skip"}
    if label in known:
        return known[label]
    text = re.sub(r"^nor_|-bn-relu$|[{}]", "", label).replace("_", " ")
    text = re.sub(r"\s?pool", "", text)
    text = re.sub(r"^(sep|dil) conv", r"\1", text)
    return re.sub(r"\s?(\d)x(\d)", lambda size: f" {size[1]}{_TIMES}{size[2]}", text).strip()


def draw_cell(ax: Axes, graph: CellGraph, vertex_labels: Sequence[str], title: str = "", width: float = 3.0) -> None:
    """One cell from top to bottom: a box for each operation, coloured by it; dead operations are dashed.

    Args:
        ax: Where to draw.
        graph: The cell.
        vertex_labels: Names of the labels.
        title: Text above it.
        width: Least width of the drawing in units of a vertex's room, so that the cells of one figure have one scale.
    """
    layout = layered_layout(graph)
    names = {v: vertex_labels[int(graph.ops[v])] for v in layout.vertices}
    dead = {v for v, name in names.items() if name == "none"}
    for (u, v), points in layout.arcs.items():
        _arc(ax, points, faint=u in dead or v in dead)
    for v, (x, y) in layout.vertices.items():
        _vertex(ax, x, y, names[v], _tint(int(graph.ops[v]), vertex_labels))
    _frame(ax, layout, width)
    if title:
        ax.set_title(title, fontsize=7, color=INK, pad=2)


def _frame(ax: Axes, layout: Layout, width: float) -> None:
    half = max(layout.width, width) / 2
    ax.set_xlim(-half, half)
    ax.set_ylim(layout.height - 0.6, -0.4)  # y grows downwards
    ax.set_axis_off()


def _vertex(ax: Axes, x: float, y: float, name: str, color: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    width, height = _BOX
    ends = name in ("input", "output") or name.startswith("c_")
    dead = name == "none"
    box = FancyBboxPatch(
        (x - width / 2, y - height / 2), width, height,
        boxstyle="round,pad=0,rounding_size=0.12", linewidth=0.6, zorder=3, mutation_aspect=1.0,
        facecolor="white" if ends or dead else _pale(color), edgecolor="#AAAAAA" if dead else INK if ends else color,
        linestyle=(0, (2, 1.5)) if dead else "-",
    )  # fmt: skip
    ax.add_patch(box)
    ax.text(
        x, y, short_label(name), ha="center", va="center_baseline", fontsize=4.8, zorder=4,
        color="#999999" if dead else INK,
    )  # fmt: skip


def _arc(ax: Axes, points: Sequence[tuple[float, float]], faint: bool) -> None:
    """A smooth line that leaves and reaches every layer vertically."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path

    half = _BOX[1] / 2
    (x0, y0), (x1, y1) = points[0], points[-1]
    stops = [(x0, y0 + half), *points[1:-1], (x1, y1 - half)]
    vertices, codes = [stops[0]], [Path.MOVETO]
    for (xa, ya), (xb, yb) in pairwise(stops):
        middle = (ya + yb) / 2
        vertices += [(xa, middle), (xb, middle), (xb, yb)]
        codes += [Path.CURVE4] * 3
    ax.add_patch(
        FancyArrowPatch(
            path=Path(vertices, codes),
            arrowstyle="-|>,head_length=2.2,head_width=1.1",
            linewidth=0.6,
            color="#CCCCCC" if faint else "#666666",
            zorder=1 if faint else 2,
            capstyle="butt",
        )
    )


def _tint(label: int, vertex_labels: Sequence[str]) -> str:
    """A colour for each operation of a space; ends and dead operations have none of their own."""
    inner = [k for k, name in enumerate(vertex_labels) if name not in ("input", "output", "none") and name[:2] != "c_"]
    return _TINTS[inner.index(label) % len(_TINTS)] if label in inner else INK


def _pale(color: str) -> tuple[float, float, float]:
    from matplotlib.colors import to_rgb

    red, green, blue = (0.68 + 0.32 * part for part in to_rgb(color))
    return red, green, blue


def cells_figure(
    graphs: Sequence[CellGraph],
    titles: Sequence[str],
    vertex_labels: Sequence[str],
    heading: str = "",
    columns: int = 4,
) -> Figure:
    """Cells side by side in reading order.

    Args:
        graphs: The cells, at least one.
        titles: Text above each.
        vertex_labels: Names of the labels.
        heading: Text above all.
        columns: Cells in a row.
    """
    layouts = [layered_layout(graph) for graph in graphs]
    width = max(layout.width for layout in layouts)
    # A vertex's room is 0.52 inch wide and 0.3 high, whatever the space.
    across = max(1, min(columns, int(11 / (0.52 * width)), len(graphs)))
    rows = -(-len(graphs) // across)
    tallest = max(layout.height for layout in layouts)
    with style():
        figure = styled(0.56 * width * across, (0.3 * tallest + 0.24) * rows + 0.3)
        axes = np.atleast_1d(figure.subplots(rows, across)).ravel()
        for ax in axes:
            ax.set_axis_off()
        for ax, graph, title in zip(axes, graphs, titles, strict=False):
            draw_cell(ax, graph, vertex_labels, title, width)
            ax.set_ylim(tallest - 0.6, -0.4)
        if heading:
            figure.suptitle(heading, fontsize=9)
    return figure


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
                boxprops={"facecolor": _pale(color), "edgecolor": color, "linewidth": 0.9},
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
        for ax, title in ((left, "cells"), (right, f"mean over squares, {len(squares)} {_TIMES} {len(squares)}")):
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
