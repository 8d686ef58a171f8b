"""Encodings of a whole space as one matrix, injected into strategies and predictors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import LongTensor, Tensor

from lightning_nas.errors import EncodingError
from lightning_nas.spaces.base import FiniteSpace, SearchSpace
from lightning_nas.spaces.categorical import CategoricalSpace
from lightning_nas.spaces.nasbench101 import NASBench101
from lightning_nas.spaces.nasbench201 import NASBench201


class Encoding(ABC):
    """Turns every member of a space into a feature vector.

    Attributes:
        scaled: Whether a pool centres and scales the features for its surrogates; raw ones are handed over as they are.
    """

    scaled: bool = True

    @abstractmethod
    def encode(self, space: SearchSpace[Any]) -> Tensor:
        """Features of all members in index order, ``(N, D)`` float."""

    def encode_members(self, space: SearchSpace[Any], members: LongTensor | None) -> Tensor:
        """Features of some members, ``(n, D)`` float.

        Args:
            space: The search space.
            members: Their indices in the space, ``(n,)``; None for all.
        """
        features = self.encode(space)
        return features if members is None else features[members]


class OneHotEncoding(Encoding):
    """One-hot choice at every position; squared distances are twice the number of differing positions.

    Example:
        >>> OneHotEncoding().encode(NASBench201()).shape
        torch.Size([15625, 30])
    """

    def encode(self, space: SearchSpace[Any]) -> Tensor:
        """Features of all members, ``(N, sum of choices)``."""
        return self.encode_members(space, None)

    def encode_members(self, space: SearchSpace[Any], members: LongTensor | None) -> Tensor:
        """Features of some members, ``(n, sum of choices)``."""
        if not isinstance(space, CategoricalSpace):
            raise EncodingError(f"OneHotEncoding: got the space {space.name!r}, expected one of categorical choices")
        codes = space.codes if members is None else space.codes[members]
        columns = [F.one_hot(codes[:, position], len(choices)) for position, choices in enumerate(space.choices)]
        return torch.cat(columns, dim=1).float()


class OperationCounts(Encoding):
    """How often each operation occurs in the cell, wherever it stands.

    Example:
        >>> OperationCounts().encode(NASBench201()).shape  # input, five operations, output
        torch.Size([15625, 7])
    """

    def encode(self, space: SearchSpace[Any]) -> Tensor:
        """Features of all members, ``(N, K)``."""
        return self.encode_members(space, None)

    def encode_members(self, space: SearchSpace[Any], members: LongTensor | None) -> Tensor:
        """Features of some members, ``(n, K)``."""
        return _graphs(self, space, members)[0].sum(dim=1).float()


class PathEncoding(Encoding):
    """Which operation sequences lead from the cell's input to its output (BANANAS, arXiv 1910.11858).

    Example:
        >>> PathEncoding().encode(NASBench201()).sum(dim=1).max()
        tensor(4.)
    """

    def encode(self, space: SearchSpace[Any]) -> Tensor:
        """Features of all members, ``(N, 155)`` for NAS-Bench-201, ``(N, 364)`` for NAS-Bench-101."""
        return self.encode_members(space, None)

    def encode_members(self, space: SearchSpace[Any], members: LongTensor | None) -> Tensor:
        """Features of some members, ``(n, 155)`` for NAS-Bench-201, ``(n, 364)`` for NAS-Bench-101."""
        if isinstance(space, NASBench201):
            return space.path_encoding(space.codes if members is None else space.codes[members])
        if isinstance(space, NASBench101):
            return _operation_paths(*(space.all_graphs() if members is None else space.graphs_at(members)))
        raise EncodingError(f"PathEncoding: got the space {space.name!r}, expected nasbench201 or nasbench101")


class AdjacencyEncoding(Encoding):
    """Arcs of the cell's graph, then the one-hot label of every vertex (NAS-Bench-101, arXiv 1902.09635).

    Columns that are the same for all members of the space (input and output, arcs that are always there) are left out,
    whichever members are asked for.

    Example:
        >>> AdjacencyEncoding().encode(NASBench201()).shape  # all cells have the same arcs
        torch.Size([15625, 30])
    """

    def encode(self, space: SearchSpace[Any]) -> Tensor:
        """Features of all members, ``(N, at most V(V-1)/2 + V*K)``."""
        return self.encode_members(space, None)

    def encode_members(self, space: SearchSpace[Any], members: LongTensor | None) -> Tensor:
        """Features of some members, ``(n, at most V(V-1)/2 + V*K)``."""
        labels, adjacency = _graphs(self, space, None)
        row, column = torch.triu_indices(adjacency.shape[1], adjacency.shape[2], offset=1)
        features = torch.cat([adjacency[:, row, column], labels.flatten(1)], dim=1)
        varies = (features != features[0]).any(dim=0)
        return (features if members is None else features[members])[:, varies].float()


class GraphEncoding(Encoding):
    """The cell's graph itself: one-hot labels of all vertices, then the whole adjacency matrix, both row by row.

    For predictors that are networks on graphs, such as ``lightning_nas.predictors.supervised_gin.SupervisedGIN``: they
    need it as it is, neither centred nor scaled.

    Example:
        >>> GraphEncoding().encode(NASBench201()).shape  # 8 vertices with 7 labels
        torch.Size([15625, 120])
    """

    scaled = False

    def encode(self, space: SearchSpace[Any]) -> Tensor:
        """Features of all members, ``(N, V*K + V*V)``; padded vertices have no label and no arcs."""
        return self.encode_members(space, None)

    def encode_members(self, space: SearchSpace[Any], members: LongTensor | None) -> Tensor:
        """Features of some members, ``(n, V*K + V*V)``."""
        return torch.cat([part.flatten(1) for part in _graphs(self, space, members)], dim=1).float()


def _operation_paths(ops: Tensor, adjacency: Tensor) -> Tensor:
    """Which sequences of NAS-Bench-101's 3 operations lead from vertex 0 to the output, shorter ones first."""
    vertices, kinds = ops.shape[1], 3
    adjacency = adjacency.bool()
    output = (ops == kinds + 1).to(torch.uint8).argmax(dim=1)[:, None, None].expand(-1, vertices, 1)
    ends = adjacency.gather(2, output)[..., 0]  # (n, V): arc to the output
    encoding = torch.zeros(len(ops), sum(kinds**length for length in range(vertices - 1)), dtype=torch.bool)
    walks, numbers = {0: torch.ones_like(ends[:, 0])}, {0: torch.zeros_like(ops[:, 0])}
    for path in range(1 << (vertices - 2)):  # of the vertices 1 … V - 2
        last, length = path.bit_length(), path.bit_count()
        if path:
            before = path ^ (1 << (last - 1))
            inside = (ops[:, last] > 0) & (ops[:, last] <= kinds)
            walks[path] = walks[before] & adjacency[:, before.bit_length(), last] & inside
            numbers[path] = numbers[before] * kinds + ops[:, last] - 1
        offset = sum(kinds**shorter for shorter in range(length))
        found = (walks[path] & ends[:, last]).nonzero()[:, 0]
        encoding[found, offset + numbers[path][found]] = True
    return encoding.float()


def _graphs(encoding: Encoding, space: SearchSpace[Any], members: LongTensor | None) -> tuple[Tensor, Tensor]:
    """One-hot labels ``(n, V, K)`` and adjacency ``(n, V, V)``, both bool: a byte each while there are many."""
    if not isinstance(space, FiniteSpace):
        raise EncodingError(f"{type(encoding).__name__}: got the space {space.name!r}, expected one that is numbered")
    ops, adjacency = space.all_graphs() if members is None else space.graphs_at(members)
    return ops[..., None] == torch.arange(len(space.vertex_labels)), adjacency.bool()  # -1, padding, is no label
