"""All cells of NAS-Bench-101 as a few tables of integers: exact, without a hash, in a fraction of a second.

The arcs of a cell are one integer, its *mask*: arc u -> v is bit ``v * (v - 1) / 2 + u`` for u < v, so that the
predecessors of a vertex are neighbouring bits and a smaller cell has the same mask among 7 vertices. The operations of
its V - 2 interior vertices are another integer, its *number*: digits 0, 1, 2 to base 3, that of vertex 1 the lowest.

There are only 6,472 masks of whole cells, so that isomorphism is settled by trying all orders of the interior vertices.
"""

from __future__ import annotations

from functools import cache, lru_cache
from itertools import permutations
from typing import NamedTuple

import numpy as np

MAX_VERTICES, MAX_ARCS, OPERATIONS = 7, 9, 3
START = (np.arange(MAX_VERTICES) * np.arange(-1, MAX_VERTICES - 1) // 2).astype(np.int32)  # bit of the arc 0 -> v
ARCS = tuple((u, v) for v in range(MAX_VERTICES) for u in range(v))  # in the order of the bits
# Value of the digit of each vertex; the output, which is the last of 7, has none. Nor has place -1, which is left out.
PLACES = np.array([0, *OPERATIONS ** np.arange(MAX_VERTICES - 2), 0])
_NUMBERS = OPERATIONS ** (MAX_VERTICES - 2)
_ONES = np.array([number.bit_count() for number in range(128)], dtype=np.int8)
_LAST = 1 << 30  # larger than any index
_BACKWARD = 1 << 30  # set for arcs that lead back; makes a mask larger than any other


class Enumeration(NamedTuple):
    """All N cells, and which of them any graph is.

    Cells are ordered by vertices, arcs, mask and number. Of all graphs that are isomorphic (whose vertices have another
    order, in which arcs lead forward, too) the one with the smallest mask, then the smallest number, is the member.

    Attributes:
        masks: Arcs of every member, ``(N,)``.
        numbers: Operations of every member, ``(N,)``.
        rows: Row of ``members`` for every mask, ``(2^21,)``; -1 where there are more than 9 arcs, or a vertex is on no
            path from input to output.
        members: Member by row and number, ``(6472, 243)``; -1 where there are fewer vertices than digits.
    """

    masks: np.ndarray
    numbers: np.ndarray
    rows: np.ndarray
    members: np.ndarray


@cache
def enumerate_cells() -> Enumeration:
    """All cells, computed once in a process."""
    masks, vertices = _whole_masks()
    rows = np.full(1 << len(ARCS), -1, dtype=np.int32)
    rows[masks] = np.arange(len(masks))
    orders = list(permutations(range(1, MAX_VERTICES - 1)))
    smallest, by_order = masks.copy(), np.zeros(len(masks), dtype=np.int64)
    lowest = np.full((len(masks), _NUMBERS), -1, dtype=np.int64)  # number that stands for each, under symmetries
    for size in range(2, MAX_VERTICES + 1):
        here, count = np.flatnonzero(vertices == size), OPERATIONS ** (size - 2)
        lowest[here, :count] = np.arange(count)
        for place, order in enumerate(orders):
            if order[size - 2 :] != tuple(range(size - 1, MAX_VERTICES - 1)):
                continue  # moves vertices that are not there
            image = _reordered_masks(masks[here], order)
            better = image < smallest[here]
            smallest[here[better]], by_order[here[better]] = image[better], place
            same = here[image == masks[here]]
            lowest[same, :count] = np.minimum(lowest[same, :count], _reordered_numbers(order)[:count])
    kept = smallest == masks
    row, number = np.nonzero(kept[:, None] & (lowest == np.arange(_NUMBERS)))
    members = np.full(lowest.shape, -1, dtype=np.int32)
    members[row, number] = np.arange(len(row))
    members[kept] = np.where(lowest[kept] < 0, -1, np.take_along_axis(members[kept], lowest[kept], axis=1))
    for place in np.unique(by_order[~kept]):
        these = np.flatnonzero(~kept & (by_order == place))
        members[these] = members[rows[smallest[these]]][:, _reordered_numbers(orders[place])]
    return Enumeration(masks[row], number, rows, members)


def _whole_masks() -> tuple[np.ndarray, np.ndarray]:
    """Masks of cells with at most 9 arcs and every vertex on a path, by vertices, arcs and mask; their vertices.

    As arcs lead forward, that is so when every vertex but the first has a predecessor, and every one but the last a
    successor.
    """
    masks = np.arange(1 << len(ARCS), dtype=np.int32)
    masks = masks[count_arcs(masks) <= MAX_ARCS]
    found = []
    for size in range(2, MAX_VERTICES + 1):
        heads = [sum(1 << bit for bit, (_, v) in enumerate(ARCS) if v == w) for w in range(1, size)]
        tails = [sum(1 << bit for bit, (u, v) in enumerate(ARCS) if u == w and v < size) for w in range(size - 1)]
        some = masks[: np.searchsorted(masks, 1 << size * (size - 1) // 2)]
        for group in heads + tails:
            some = some[some & group != 0]
        found.append(some[np.argsort(count_arcs(some), kind="stable")])
    return np.concatenate(found), np.repeat(np.arange(2, MAX_VERTICES + 1), [len(some) for some in found])


def count_arcs(masks: np.ndarray) -> np.ndarray:
    """Number of arcs of every mask."""
    arcs: np.ndarray = _ONES[masks & 127] + _ONES[masks >> 7 & 127] + _ONES[masks >> 14]
    return arcs


def _reordered_masks(masks: np.ndarray, order: tuple[int, ...]) -> np.ndarray:
    """Masks after moving interior vertex k + 1 to ``order[k]``."""
    to, result = (0, *order, MAX_VERTICES - 1), np.zeros_like(masks)
    for bit, (u, v) in enumerate(ARCS):
        moved = START[to[v]] + to[u]
        result |= np.where(masks >> bit & 1, 1 << moved if to[u] < to[v] else _BACKWARD, 0).astype(masks.dtype)
    return result


def _reordered_numbers(order: tuple[int, ...]) -> np.ndarray:
    """The same for all numbers, ``(243,)``."""
    numbers: np.ndarray = digits_of(np.arange(_NUMBERS))[:, 1:-1] @ PLACES[list(order)]
    return numbers


def digits_of(numbers: np.ndarray) -> np.ndarray:
    """Digit of every vertex, ``(n,)`` -> ``(n, 7)``; 0 where there is none."""
    digits: np.ndarray = numbers[:, None] // np.maximum(PLACES, 1) % OPERATIONS * (PLACES > 0)
    return digits


class Sorted(NamedTuple):
    """Graphs without vertices that are off every path from input to output, in an order in which arcs lead forward.

    Attributes:
        masks: Arcs, ``(B,)``; 0 where there is no path, or a cycle.
        places: Where each vertex went, ``(B, 7)``; -1 where it was left out.
    """

    masks: np.ndarray
    places: np.ndarray


def sort_graphs(adjacency: np.ndarray, last: np.ndarray) -> Sorted:
    """Prune graphs and sort their vertices; graphs that are sorted stay as they are.

    Args:
        adjacency: Arcs, ``(B, 7, 7)`` bool; vertex 0 is the input.
        last: The vertex that is the output, ``(B,)``.
    """
    vertex = np.arange(MAX_VERTICES, dtype=np.int32)[:, None]
    heard = np.packbits(adjacency, axis=1, bitorder="little")[:, 0].T.astype(np.int32)  # (7, B) predecessors as bits
    behind, ahead = np.ones(len(adjacency), dtype=np.int32), (1 << last).astype(np.int32)
    for _ in range(MAX_VERTICES):  # twice, the second time in vain, where arcs lead forward
        before = behind.copy(), ahead.copy()
        for v in range(MAX_VERTICES):
            behind |= ((heard[v] & behind) != 0).astype(np.int32) << v
            ahead |= heard[MAX_VERTICES - 1 - v] * (ahead >> MAX_VERTICES - 1 - v & 1)
        if np.array_equal(before, (behind, ahead)):
            break
    kept = behind & ahead
    heard &= kept
    done, places = np.zeros_like(kept), np.full(heard.shape, -1, dtype=np.int32)
    for place in range(MAX_VERTICES):
        free = ((kept & ~done) >> vertex & 1 == 1) & (heard & ~done == 0)  # (7, B)
        first = np.where(free.any(axis=0), free.argmax(axis=0), MAX_VERTICES)
        places[vertex == first] = place
        done |= (1 << first).astype(np.int32)
    arcs = (heard >> vertex[:, None] & 1) * (places >= 0)  # (7, 7, B), first the tails
    masks = (arcs << (START[places] + places[:, None]) * arcs).sum(axis=(0, 1))
    return Sorted(np.where(kept & ~done == 0, masks, 0), places.T)


class Edits(NamedTuple):
    """What one edit of the wiring makes of the cells with some masks; E edits, those of one mask behind each other.

    Attributes:
        of: Which of the masks each edit is for, ``(E,)``.
        rows: Row of the result in :attr:`Enumeration.members`, ``(E,)``.
        weights: What the digit of each old vertex counts in the result's number, ``(E, 7)``.
        added: What the digit of a new vertex adds to the result's number, ``(E,)``.
    """

    of: np.ndarray
    rows: np.ndarray
    weights: np.ndarray
    added: np.ndarray


def wiring_edits(masks: np.ndarray) -> Edits:
    """Toggle one arc, or put a new vertex between two others; see :meth:`NASBench101.neighbors`.

    Args:
        masks: Members' masks, ``(C,)``.
    """
    pairs = np.array(list(permutations(range(MAX_VERTICES), 2)))
    of = np.repeat(np.arange(len(masks)), len(pairs))
    u, v = np.tile(pairs, (len(masks), 1)).T
    last = vertices_of(masks)[of] - 1
    of, u, v, last = (part[(u < last) & (v <= last)] for part in (of, u, v, last))  # nothing leads out of the output

    toggled = adjacency_of(masks)[of]
    toggled[np.arange(len(of)), u, v] ^= True
    graphs = sort_graphs(toggled, last)
    lost = (graphs.places < 0) & (np.arange(MAX_VERTICES) <= last[:, None])
    degree = toggled.sum(axis=1) + toggled.sum(axis=2)  # (E, 7)
    # What hung on a lost arc may be one vertex without further arcs but one, which is what a new vertex is.
    whole = ~lost.any(axis=1) | ((lost.sum(axis=1) == 1) & ((degree * lost).sum(axis=1) == 1))
    parts = [_edits(of, graphs, whole, np.zeros_like(of))]

    room = last < MAX_VERTICES - 1
    of, u, v, new, each = of[room], u[room], v[room], last[room] + 1, np.arange(int(room.sum()))
    grown = adjacency_of(masks)[of]
    grown[each, u, new] = grown[each, new, v] = True
    graphs = sort_graphs(grown, last[room])
    value = PLACES[graphs.places[each, new]]
    parts += [_edits(of, graphs, np.ones_like(room[room]), digit * value) for digit in range(OPERATIONS)]
    joined = Edits(*map(np.concatenate, zip(*parts, strict=True)))
    order = np.argsort(joined.of, kind="stable")
    return Edits(*(part[order] for part in joined))


@lru_cache(maxsize=4096)  # there are fewer masks of members
def edits_of(mask: int) -> Edits:
    """The edits of one mask."""
    return wiring_edits(np.array([mask]))


def _edits(of: np.ndarray, graphs: Sorted, allowed: np.ndarray, added: np.ndarray) -> Edits:
    rows = enumerate_cells().rows[graphs.masks]
    return Edits(*(part[allowed & (rows >= 0)] for part in (of, rows, PLACES[graphs.places], added)))


def neighbors_of(numbers: np.ndarray, mask: int, edits: Edits) -> np.ndarray:
    """Neighbours of members that have one mask, ``(n,)`` -> ``(n, k)`` in order, without repeats, padded with -1.

    Args:
        numbers: The members' numbers.
        mask: Their mask.
        edits: The edits of this mask alone.
    """
    cells, digits = enumerate_cells(), digits_of(numbers)
    rewired = cells.members[edits.rows, digits @ edits.weights.T + edits.added]
    interior = np.arange(1, int(vertices_of(np.array([mask]))[0]) - 1)
    now = digits[:, interior, None]
    changed = (now + np.arange(1, OPERATIONS)) % OPERATIONS - now
    others = numbers[:, None] + (changed * PLACES[interior, None]).reshape(len(now), -1)
    of_mask = cells.members[cells.rows[mask]]
    found = np.sort(np.concatenate([rewired, of_mask[others]], axis=1), axis=1)
    itself = of_mask[numbers]
    repeated = (found == itself[:, None]) | (np.diff(found, axis=1, prepend=-1) == 0)
    found = np.sort(np.where(repeated, _LAST, found), axis=1)
    found[found == _LAST] = -1
    return found[:, : int((found >= 0).sum(axis=1).max(initial=0))]


def all_neighbors() -> np.ndarray:
    """Neighbours of all members, ``(N, K)``, padded with -1."""
    cells = enumerate_cells()
    masks, first = np.unique(cells.masks, return_index=True)
    edits, sizes = wiring_edits(masks), np.bincount(np.searchsorted(masks, cells.masks))
    starts = np.searchsorted(edits.of, np.arange(len(masks) + 1))
    parts = {
        start: neighbors_of(cells.numbers[start : start + size], int(mask), Edits(*(part[begin:end] for part in edits)))
        for mask, start, size, begin, end in zip(masks, first, sizes, starts[:-1], starts[1:], strict=True)
    }
    table = np.full((len(cells.masks), max(part.shape[1] for part in parts.values())), -1)
    for start, part in parts.items():
        table[start : start + len(part), : part.shape[1]] = part
    return table


def vertices_of(masks: np.ndarray) -> np.ndarray:
    """Number of vertices up to the last that an arc leads to."""
    return 1 + np.searchsorted(1 << START[1:], masks, side="right")


def adjacency_of(masks: np.ndarray) -> np.ndarray:
    """Arcs of every mask, ``(n,)`` -> ``(n, 7, 7)`` bool."""
    adjacency = np.zeros((len(masks), MAX_VERTICES, MAX_VERTICES), dtype=bool)
    for bit, (u, v) in enumerate(ARCS):
        adjacency[:, u, v] = masks >> bit & 1
    return adjacency
