"""Where to draw the vertices and arcs of a cell: layers from input to output, few crossings."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from lightning_nas.spaces.base import CellGraph

Point = tuple[float, float]
_BEND = 0.45  # room for a passing arc, in units of a vertex's
_SWEEPS = 12


class Layout(NamedTuple):
    """Coordinates in units of a vertex's room; y grows downwards, one layer is 1 high.

    Attributes:
        vertices: Place of every vertex that is no padding.
        arcs: Points that each arc passes, from its tail to its head.
        width: Room of the widest layer.
        height: Number of layers.
    """

    vertices: dict[int, Point]
    arcs: dict[tuple[int, int], list[Point]]
    width: float
    height: int


def layered_layout(graph: CellGraph) -> Layout:
    """Sugiyama's method: longest-path layers, bends where an arc passes a layer, barycentre sweeps against crossings.

    Args:
        graph: One cell; padded vertices (-1) are left out.

    Example:
        >>> import torch
        >>> arcs = torch.tensor([[0, 1, 1], [0, 0, 1], [0, 0, 0]], dtype=torch.bool)
        >>> layout = layered_layout(CellGraph(torch.tensor([0, 1, 2]), arcs))
        >>> layout.height, len(layout.arcs[0, 2])
        (3, 3)
    """
    real = [v for v, op in enumerate(graph.ops.tolist()) if op >= 0]
    arcs = [(u, v) for u, v in graph.adjacency.nonzero().tolist() if u in real and v in real]
    level = dict.fromkeys(real, 0)
    for u, v in sorted(arcs):  # in topological order: the adjacency is upper triangular
        level[v] = max(level[v], level[u] + 1)
    height = max(level.values(), default=0) + 1
    if real:
        level[real[-1]] = height - 1  # the output at the bottom, whatever dangles beside it
    layers: list[list[tuple[int, ...]]] = [[] for _ in range(height)]
    for v in real:
        layers[level[v]].append((v,))
    routes = {}
    for u, v in arcs:
        bends = [(u, v, row) for row in range(level[u] + 1, level[v])]
        for bend in bends:
            layers[bend[2]].append(bend)
        routes[u, v] = [(u,), *bends, (v,)]
    links = [link for route in routes.values() for link in pairwise(route)]
    layers = _fewest_crossings(layers, links)
    places, width = _coordinates(layers, links)
    return Layout(
        {v: places[v,] for v in real}, {arc: [places[node] for node in r] for arc, r in routes.items()}, width, height
    )


Node = tuple[int, ...]
"""A vertex ``(v,)`` or the bend ``(u, v, layer)`` of an arc."""


def _fewest_crossings(layers: list[list[Node]], links: list[tuple[Node, Node]]) -> list[list[Node]]:
    best, fewest = [list(layer) for layer in layers], _crossings(layers, links)
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        order = range(1, len(layers)) if down else range(len(layers) - 2, -1, -1)
        for row in order:
            fixed = {node: place for place, node in enumerate(layers[row - 1 if down else row + 1])}
            near = [(b, a) if down else (a, b) for a, b in links]
            centre = {}
            for place, node in enumerate(layers[row]):
                around = [fixed[other] for this, other in near if this == node and other in fixed]
                centre[node] = sum(around) / len(around) if around else float(place)
            layers[row] = sorted(layers[row], key=lambda node: centre[node])
        count = _crossings(layers, links)
        if count < fewest:
            best, fewest = [list(layer) for layer in layers], count
    return best


def _crossings(layers: list[list[Node]], links: list[tuple[Node, Node]]) -> int:
    place = {node: (row, column) for row, layer in enumerate(layers) for column, node in enumerate(layer)}
    ends = [(place[a][0], place[a][1], place[b][1]) for a, b in links]
    return sum(
        first[0] == second[0] and (first[1] - second[1]) * (first[2] - second[2]) < 0
        for number, first in enumerate(ends)
        for second in ends[:number]
    )


def _coordinates(layers: list[list[Node]], links: list[tuple[Node, Node]]) -> tuple[dict[Node, Point], float]:
    """Layers centred, then every node drawn towards its neighbours as far as its layer's order and room allow."""
    room = {node: 1.0 if len(node) == 1 else _BEND for layer in layers for node in layer}
    x: dict[Node, float] = {}
    for layer in layers:
        at = -sum(room[node] for node in layer) / 2
        for node in layer:
            x[node] = at + room[node] / 2
            at += room[node]
    around: dict[Node, list[Node]] = {node: [] for node in room}
    for a, b in links:
        around[a].append(b)
        around[b].append(a)
    for _ in range(20):
        for layer in layers:
            for place, node in enumerate(layer):
                if not around[node]:
                    continue
                wish = sum(x[other] for other in around[node]) / len(around[node])
                low, high = float("-inf"), float("inf")
                if place:
                    low = x[layer[place - 1]] + (room[layer[place - 1]] + room[node]) / 2
                if place + 1 < len(layer):
                    high = x[layer[place + 1]] - (room[layer[place + 1]] + room[node]) / 2
                x[node] = min(max((x[node] + wish) / 2, low), high)
    left = min((x[node] - room[node] / 2 for node in room), default=0.0)
    right = max((x[node] + room[node] / 2 for node in room), default=1.0)
    middle = (left + right) / 2
    return {node: (x[node] - middle, float(row)) for row, layer in enumerate(layers) for node in layer}, right - left
