"""Cells by what they compute: the operations on every path that carries a signal."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import LongTensor, Tensor

from lightning_nas.errors import EncodingError
from lightning_nas.spaces.base import CellGraph, FiniteSpace, SearchSpace
from lightning_nas.spaces.encodings import Encoding

_ZEROS = ("none", "zero", "zeroize")
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
        if not isinstance(space, FiniteSpace):
            raise EncodingError(f"FunctionalEncoding: got the space {space.name!r}, expected one that is numbered")
        graphs = space.all_graphs() if members is None else space.graphs_at(members)
        dead = [label for label, name in enumerate(space.vertex_labels) if name in _ZEROS]
        size = max(1, _CHUNK >> (space.num_vertices - 1))
        parts = zip(torch.split(graphs.ops, size), torch.split(graphs.adjacency, size), strict=True)
        return torch.cat([self._encode(CellGraph(*part), len(space.vertex_labels), dead) for part in parts])

    def _encode(self, graphs: CellGraph, num_labels: int, dead: list[int]) -> Tensor:
        counts, live = live_paths(graphs, num_labels, dead)  # (n, P, K), (n, K)
        # Long paths first, then by their operations; those that are not alive come last, as rows of zeros.
        places = graphs.ops.shape[1] ** torch.arange(num_labels + 1)  # no label is there so often
        digits = torch.cat([counts, counts.sum(dim=-1, keepdim=True)], dim=-1)
        order = (digits @ places).argsort(dim=1, descending=True)
        kept = counts.gather(1, order[:, : self.num_paths, None].expand(-1, -1, num_labels))
        kept = F.pad(kept, (0, 0, 0, self.num_paths - kept.shape[1]))
        number = (counts.sum(dim=-1) > 0).sum(dim=1, keepdim=True)
        return torch.cat([number > 0, number, live, kept.flatten(1)], dim=1).float()


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
