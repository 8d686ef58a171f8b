"""Cells by what they compute: the operations on every path that carries a signal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import LongTensor, Tensor

from lightning_nas.errors import EncodingError
from lightning_nas.spaces.base import CellGraph, FiniteSpace, SearchSpace
from lightning_nas.spaces.encodings import Encoding
from lightning_nas.spaces.sequences import SequenceEncoding

_ZEROS = ("none", "zero", "zeroize")
_MOST_VERTICES = 14  # every set of vertices may be a path
_CHUNK = 1 << 22  # paths times cells at a time


class FunctionalEncoding(Encoding):
    """What carries a signal: operations on all paths together, and on each path by itself, longest paths first.

    A path from input to output is alive when no operation on it is ``none``; operations on no such path say nothing
    about what a cell computes, and do not count. Paths are sorted by their operations, so that cells drawn in another
    order are the same.

    Args:
        num_paths: Paths of each cell that have features of their own: how often each operation stands on them.

    Example:
        >>> from lightning_nas.spaces.nasbench201 import NASBench201
        >>> FunctionalEncoding().encode_members(NASBench201(), torch.tensor([0, 1])).shape
        torch.Size([2, 65])
    """

    def __init__(self, num_paths: int = 8) -> None:
        if num_paths < 1:
            raise EncodingError(f"FunctionalEncoding: got num_paths={num_paths}, expected at least 1")
        self.num_paths = num_paths

    def encode(self, space: SearchSpace[Any]) -> Tensor:
        """Features of all members, ``(N, 2 + (1 + num_paths) * labels)``."""
        return self.encode_members(space, None)

    def encode_members(self, space: SearchSpace[Any], members: LongTensor | None) -> Tensor:
        """Features of some members, ``(n, 2 + (1 + num_paths) * labels)``."""
        parts = [self._features(*_longest(*part, self.num_paths)) for part in _parts(self, space, members)]
        return torch.cat(parts)

    @staticmethod
    def _features(counts: Tensor, live: Tensor, number: Tensor, paths: Tensor) -> Tensor:
        return torch.cat([number > 0, number, live, counts.flatten(1)], dim=1).float()


def live_graphs(space: FiniteSpace[Any], members: LongTensor | None = None) -> CellGraph:
    """Graphs without what carries no signal: vertices on no live path become padding, their arcs are gone.

    Args:
        space: The search space.
        members: Indices of members, ``(n,)``; None for all.

    Example:
        >>> from lightning_nas.spaces.nasbench201 import NASBench201
        >>> space = NASBench201()
        >>> cell = space.parse("|none~0|+|skip_connect~0|nor_conv_3x3~1|+|none~0|none~1|nor_conv_1x1~2|")
        >>> live_graphs(space, torch.tensor([space.index(cell)])).ops[0].tolist()  # the 3x3 is fed by nobody
        [0, -1, 4, -1, -1, -1, 1, 6]
    """
    ops, adjacency = space.all_graphs() if members is None else space.graphs_at(members)
    dead = torch.tensor([label for label, name in enumerate(space.vertex_labels) if name in _ZEROS], dtype=ops.dtype)
    there = (ops >= 0) & ~torch.isin(ops, dead)
    arcs = adjacency.bool()
    fed = there & ~arcs.any(dim=1)  # from outside; what only dead vertices feed is not
    read = there & (ops == len(space.vertex_labels) - 1)
    arcs = arcs & there[:, :, None] & there[:, None, :]
    for _ in range(ops.shape[1]):
        fed = fed | (arcs & fed[:, :, None]).any(dim=1)
        read = read | (arcs & read[:, None, :]).any(dim=2)
    live = fed & read
    return CellGraph(torch.where(live, ops, -1), arcs & live[:, :, None] & live[:, None, :])


class PathSequence(SequenceEncoding):
    """The labels along each path that carries a signal, longest paths first, as one sequence.

    Each path has as many places as it may have vertices, filled up with padding. Unlike in the sequence of a whole
    graph, only what a cell computes is there, and few tokens are the same in all cells.

    Args:
        num_paths: Paths of each cell that are written.

    Example:
        >>> from lightning_nas.spaces.nasbench201 import NASBench201
        >>> PathSequence().sizes(NASBench201())
        (8, 28)
    """

    def __init__(self, num_paths: int = 4) -> None:
        if num_paths < 1:
            raise EncodingError(f"PathSequence: got num_paths={num_paths}, expected at least 1")
        self.num_paths = num_paths

    def tokens(self, space: FiniteSpace[Any], members: LongTensor | None = None) -> LongTensor:
        """Sequences of members, ``(n, num_paths * (V - 1))``."""
        return torch.cat([self._tokens(*part) for part in _parts(self, space, members)])  # type: ignore[return-value]

    def _tokens(self, graphs: CellGraph, num_labels: int, dead: list[int]) -> Tensor:
        _, _, _, paths = _longest(graphs, num_labels, dead, self.num_paths)
        vertices = torch.arange(graphs.ops.shape[1] - 1)
        on = (paths[..., None] >> vertices & 1).bool()  # (n, P, V - 1)
        labels = torch.where(on, graphs.ops[:, None, :-1] + 1, 0)
        first = (~on).to(torch.uint8).argsort(dim=-1, stable=True)  # the path's own vertices, in their order
        return labels.gather(-1, first).flatten(1)

    def sizes(self, space: FiniteSpace[Any]) -> tuple[int, int]:
        """Vocabulary and length."""
        return len(space.vertex_labels) + 1, self.num_paths * (space.num_vertices - 1)


def _parts(
    encoding: Encoding, space: SearchSpace[Any], members: LongTensor | None
) -> Iterator[tuple[CellGraph, int, list[int]]]:
    """Graphs of members, so many at a time as fit, with the number of labels and those that let nothing through."""
    if not isinstance(space, FiniteSpace) or space.num_vertices > _MOST_VERTICES:
        raise EncodingError(
            f"{type(encoding).__name__}: got the space {space.name!r} with {space.num_vertices} vertices, expected one "
            f"that is numbered, with at most {_MOST_VERTICES} vertices"
        )
    graphs = space.all_graphs() if members is None else space.graphs_at(members)
    dead = [label for label, name in enumerate(space.vertex_labels) if name in _ZEROS]
    size = max(1, _CHUNK >> (space.num_vertices - 1))
    for part in zip(*(torch.split(tensor, size) for tensor in graphs), strict=True):
        yield CellGraph(*part), len(space.vertex_labels), dead


def _longest(
    graphs: CellGraph, num_labels: int, dead: list[int], num_paths: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Labels on the longest live paths ``(n, P, K)``, on all together ``(n, K)``, their number, and their vertices.

    The vertices of a path are the bits of a number, ``(n, P)``; filled up with zeros.
    """
    counts, live = live_paths(graphs, num_labels, dead)  # (n, S, K), (n, K)
    # Long paths first, then by their operations; those that are not alive come last, as rows of zeros.
    places = graphs.ops.shape[1] ** torch.arange(num_labels + 1)  # no label is there so often
    digits = torch.cat([counts, counts.sum(dim=-1, keepdim=True)], dim=-1)
    order = (digits @ places).argsort(dim=1, descending=True)[:, :num_paths]
    kept = counts.gather(1, order[..., None].expand(-1, -1, num_labels))
    paths = torch.where(kept.sum(dim=-1) > 0, order + 1, 0)
    missing = num_paths - kept.shape[1]
    number = (counts.sum(dim=-1) > 0).sum(dim=1, keepdim=True)
    return F.pad(kept, (0, 0, 0, missing)), live, number, F.pad(paths, (0, missing))


def live_paths(graphs: CellGraph, num_labels: int, dead: list[int]) -> tuple[Tensor, Tensor]:
    """How often each label stands on each path from a vertex that hears nothing to the output, and on all together.

    There is a row for every set of vertices that may be a path, zero where it is none in this cell, or where one of its
    labels lets nothing through.

    Args:
        graphs: n cells; the output has the last label.
        num_labels: Labels K.
        dead: Those that let nothing through.

    Shapes:
        ``(n, V)``, ``(n, V, V)`` -> ``(n, 2^(V - 1) - 1, K)`` and, every vertex counted once, ``(n, K)``; int64.
    """
    ops, adjacency = graphs.ops, graphs.adjacency.bool()
    vertices = ops.shape[1] - 1  # the output is never within a path
    there = (ops >= 0) & ~torch.isin(ops, torch.tensor(dead, dtype=ops.dtype))
    source = there & ~adjacency.any(dim=1)
    output = (ops == num_labels - 1).to(torch.uint8).argmax(dim=1)
    ends = adjacency.gather(2, output[:, None, None].expand(-1, ops.shape[1], 1))[..., 0]  # (n, V): arc to the output
    labels = F.one_hot(ops + 1, num_labels + 1)[..., 1:]
    walks: dict[int, Tensor] = {}
    counted: dict[int, Tensor] = {}
    found, live = [], torch.zeros_like(there)
    for path in range(1, 1 << vertices):
        last = path.bit_length() - 1
        before = path ^ (1 << last)
        if before == 0:
            walks[path], counted[path] = source[:, last], labels[:, last]
        else:
            walks[path] = walks[before] & adjacency[:, before.bit_length() - 1, last] & there[:, last]
            counted[path] = counted[before] + labels[:, last]
        alive = (walks[path] & ends[:, last])[:, None]
        found.append(counted[path] * alive)
        live[:, [vertex for vertex in range(vertices) if path >> vertex & 1]] |= alive
    return torch.stack(found, dim=1), (labels * live[..., None]).sum(dim=1)
