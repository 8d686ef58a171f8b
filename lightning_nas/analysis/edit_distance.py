"""Exact edit distance of labelled cells, and the entry-wise distance that passes for one in the literature."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import BoolTensor, LongTensor, Tensor

from lightning_nas.spaces.base import CellGraph


class Cell(NamedTuple):
    """One cell as small integers: bit v of ``successors[u]`` is set when there is an arc from u to v."""

    labels: tuple[int, ...]
    successors: tuple[int, ...]
    predecessors: tuple[int, ...]


class Distance(NamedTuple):
    """An edit distance; an upper bound when the search for a shorter edit was not finished."""

    value: int
    exact: bool


class Distances(NamedTuple):
    """Edit distances of B pairs.

    Shapes:
        values ``(B,)`` int64, exact ``(B,)`` bool.
    """

    values: LongTensor
    exact: BoolTensor


def hamming_distances(a: CellGraph, b: CellGraph, num_ops: int) -> LongTensor:
    """Entries in which one-hot labels and adjacency matrices differ, vertex by vertex, ``(B,)``.

    A changed operation counts twice (one label goes, one comes), and two drawings of one graph may be far apart.
    """
    one_hot = [torch.nn.functional.one_hot(graph.ops + 1, num_ops + 1)[..., 1:] for graph in (a, b)]
    labels = (one_hot[0] != one_hot[1]).flatten(1).sum(dim=1)
    return labels + (a.adjacency.bool() != b.adjacency.bool()).flatten(1).sum(dim=1)  # type: ignore[return-value]


class EditDistances:
    """Graph edit distances between members of a space; each pair of different cells is worked out once.

    Inserting, removing or relabelling a vertex costs 1, inserting or removing an arc costs 1.

    Args:
        graphs: Graphs of all members.
        max_steps: Partial vertex assignments looked at per pair; a pair that needs more has an upper bound that says
            so. Steps rather than seconds, so that results repeat.
    """

    def __init__(self, graphs: CellGraph, max_steps: int = 200_000) -> None:
        self.graphs = graphs
        self.max_steps = max_steps
        self._cells: dict[int, Cell] = {}
        self._known: dict[tuple[Cell, Cell], Distance] = {}

    def __call__(self, left: Tensor, right: Tensor) -> Distances:
        """Distances between members ``left[i]`` and ``right[i]``, two of ``(B,)`` indices."""
        found = [self._pair(a, b) for a, b in zip(left.tolist(), right.tolist(), strict=True)]
        values = torch.tensor([distance.value for distance in found], dtype=torch.long)
        return Distances(values, torch.tensor([distance.exact for distance in found]))  # type: ignore[arg-type]

    def _pair(self, a: int, b: int) -> Distance:
        first, second = sorted((self._cell(a), self._cell(b)))
        if (first, second) not in self._known:
            self._known[first, second] = edit_distance(first, second, self.max_steps)
        return self._known[first, second]

    def _cell(self, index: int) -> Cell:
        if index not in self._cells:
            self._cells[index] = as_cell(CellGraph(self.graphs.ops[index], self.graphs.adjacency[index]))
        return self._cells[index]


def as_cell(graph: CellGraph) -> Cell:
    """Bit masks of one graph; padding is left out."""
    real = (graph.ops >= 0).nonzero()[:, 0]
    adjacency = graph.adjacency.bool()[real][:, real].tolist()
    successors = tuple(_mask(row) for row in adjacency)
    predecessors = tuple(_mask(list(column)) for column in zip(*adjacency, strict=True))
    return Cell(tuple(graph.ops[real].tolist()), successors, predecessors)


def _mask(bits: list[bool]) -> int:
    return sum(1 << place for place, bit in enumerate(bits) if bit)


def edit_distance(a: Cell, b: Cell, max_steps: int = 200_000) -> Distance:
    """Graph edit distance with unit costs, by depth-first branch and bound over assignments of vertices.

    With unit costs some shortest edit relabels as many vertices as it can, so every vertex of the smaller cell goes to
    one of the larger. Such an assignment with L changed labels and C arcs that fall on arcs costs
    ``L + |n_b - n_a| + A_a + A_b - 2 C``; the bound adds for the rest the fewest labels that must change and the most
    arcs that can still match.

    Args:
        a: One cell.
        b: Another.
        max_steps: Partial assignments looked at before giving up with an upper bound.

    Example:
        >>> chain = Cell((0, 1, 2), (0b010, 0b100, 0), (0, 0b001, 0b010))
        >>> other = Cell((0, 2, 2), (0b110, 0b100, 0), (0, 0b001, 0b011))
        >>> edit_distance(chain, other)
        Distance(value=2, exact=True)
    """
    if len(a.labels) > len(b.labels):
        a, b = b, a
    return _Assignment(a, b, max_steps).solve()


class _Assignment:
    """State of the search for the best assignment of a's vertices to b's."""

    def __init__(self, a: Cell, b: Cell, max_steps: int) -> None:
        self.a, self.b, self.steps = a, b, max_steps
        self.size = len(a.labels)
        arcs = sum(mask.bit_count() for mask in (*a.successors, *b.successors))
        self.fixed = len(b.labels) - self.size + arcs
        self.image: list[int] = []
        start = self._cost_of(range(self.size))
        # The vertex of the same place first: cells of one space are drawn alike, so a good bound is found at once.
        last = len(b.labels) - 1
        self.order = [
            sorted(range(last + 1), key=lambda v, u=u: (b.labels[v] != a.labels[u], abs(v - u), v))  # type: ignore[misc]
            for u in range(self.size)
        ]
        self.best = start

    def solve(self) -> Distance:
        """The distance."""
        self._extend(0, 0, 0)
        return Distance(self.best, self.steps > 0)

    def _cost_of(self, image: range) -> int:
        """Cost of a whole assignment."""
        a, b = self.a, self.b
        labels = sum(a.labels[u] != b.labels[v] for u, v in enumerate(image))
        common = sum((a.successors[u] & b.successors[v]).bit_count() for u, v in enumerate(image))
        return self.fixed + labels - 2 * common

    def _extend(self, used: int, labels: int, common: int) -> None:
        """Try all images of the next vertex, given the used vertices of b, the changed labels and the common arcs."""
        u = len(self.image)
        if u == self.size:
            self.best = min(self.best, self.fixed + labels - 2 * common)
            return
        a, b = self.a, self.b
        into, out = a.predecessors[u], a.successors[u]
        for v in self.order[u]:
            if used >> v & 1:
                continue
            self.steps -= 1
            if self.steps <= 0:
                return
            matched = 0
            for other, image in enumerate(self.image):
                matched += (into >> other & 1) & (b.predecessors[v] >> image & 1)
                matched += (out >> other & 1) & (b.successors[v] >> image & 1)
            self.image.append(v)
            changed = labels + (a.labels[u] != b.labels[v])
            taken = used | 1 << v
            if self.fixed + changed - 2 * (common + matched) + self._rest(taken) < self.best:
                self._extend(taken, changed, common + matched)
            self.image.pop()

    def _rest(self, used: int) -> int:
        """Lower bound on labels minus twice the common arcs that the vertices not yet assigned can add."""
        a, b, begun = self.a, self.b, len(self.image)
        left_a = ((1 << self.size) - 1) ^ ((1 << begun) - 1)
        left_b = ((1 << len(b.labels)) - 1) ^ used
        # Arcs between assigned and other vertices match at most as often as both sides have them there.
        arcs = 0
        for u, v in enumerate(self.image):
            arcs += min((a.successors[u] & left_a).bit_count(), (b.successors[v] & left_b).bit_count())
            arcs += min((a.predecessors[u] & left_a).bit_count(), (b.predecessors[v] & left_b).bit_count())
        inner_a = sum((a.successors[u] & left_a).bit_count() for u in range(begun, self.size))
        free = [v for v in range(len(b.labels)) if left_b >> v & 1]
        inner_b = sum((b.successors[v] & left_b).bit_count() for v in free)
        arcs += min(inner_a, inner_b)
        there = [b.labels[v] for v in free]
        for label in a.labels[begun:]:
            if label in there:
                there.remove(label)
        kept = len(free) - len(there)
        return self.size - begun - kept - 2 * arcs
