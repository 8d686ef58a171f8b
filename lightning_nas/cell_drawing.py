"""Cells as graphs: a box for each operation, from input to output."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_nas.cell_layout import Layout, layered_layout
from lightning_nas.plots import TIMES, pale, style, styled
from lightning_nas.spaces.base import CellGraph, SearchSpace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK = "#333333"
_TINTS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#8C6D31")
_BOX = (0.86, 0.46)  # width and height of a vertex, in units of its room


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
    return re.sub(r"\s?(\d)x(\d)", lambda size: f" {size[1]}{TIMES}{size[2]}", text).strip()


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
        ax.set_title(title, fontsize=7, color=_INK, pad=2)


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
        facecolor="white" if ends or dead else pale(color), edgecolor="#AAAAAA" if dead else _INK if ends else color,
        linestyle=(0, (2, 1.5)) if dead else "-",
    )  # fmt: skip
    ax.add_patch(box)
    ax.text(
        x, y, short_label(name), ha="center", va="center_baseline", fontsize=4.8, zorder=4,
        color="#999999" if dead else _INK,
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
    return _TINTS[inner.index(label) % len(_TINTS)] if label in inner else _INK


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


def architecture_figure(space: SearchSpace[Any], arch: Any) -> Figure:
    """All cells of an architecture side by side.

    Args:
        space: The search space.
        arch: One of its architectures.
    """
    cells = space.cell_graphs(arch)
    return cells_figure(list(cells.values()), list(cells), space.vertex_labels)
