"""The contract of a search space: immutable data that says what can be built."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import BoolTensor, LongTensor, Tensor, nn

A = TypeVar("A")
"""An architecture: an immutable, hashable value (a tuple of integers in the spaces shipped here)."""


class CellGraph(NamedTuple):
    """One cell, or a batch of cells, as labelled directed acyclic graphs.

    Attributes:
        ops: Operation label of every vertex, an index into ``SearchSpace.vertex_labels``; -1 marks padding.
        adjacency: Strictly upper triangular; ``adjacency[u, v]`` is true when data flows from u to v.

    Shapes:
        ops ``(V,)`` or ``(B, V)`` int64; adjacency ``(V, V)`` or ``(B, V, V)`` bool.
    """

    ops: Tensor
    adjacency: Tensor


class SearchSpace(ABC, Generic[A]):
    """What can be built. Holds no weights and no results; two instances made alike are equal.

    Attributes:
        name: Short name used in files and tables, for example ``nasbench201``.
        vertex_labels: Names of the operation labels of :class:`CellGraph`.
        num_vertices: Number of vertices of every (padded) graph.
    """

    name: str
    vertex_labels: tuple[str, ...]
    num_vertices: int

    @abstractmethod
    def sample(self, rng: np.random.Generator) -> A:
        """Draw one architecture uniformly."""

    @abstractmethod
    def neighbors(self, arch: A) -> Iterator[A]:
        """Every architecture that is one edit away."""

    @abstractmethod
    def parse(self, text: str) -> A:
        """Read the field's own notation; raises :class:`~lightning_nas.errors.SpaceError`, saying what and where."""

    @abstractmethod
    def format(self, arch: A) -> str:
        """Write the field's own notation, the inverse of :meth:`parse`."""

    @abstractmethod
    def graph(self, arch: A) -> CellGraph:
        """The cell with its operations on the vertices."""

    def cell_graphs(self, arch: A) -> dict[str, CellGraph]:
        """The graphs of an architecture's cells by name, for drawings; here the one cell."""
        return {"cell": self.graph(arch)}

    @abstractmethod
    def from_graph(self, graph: CellGraph) -> A:
        """The inverse of :meth:`graph`; raises :class:`~lightning_nas.errors.SpaceError` for any other graph."""

    @abstractmethod
    def build(self, arch: A) -> nn.Module:
        """A trainable network with fresh weights; spaces add keyword arguments for its size."""

    def mutate(self, arch: A, rng: np.random.Generator) -> A:
        """Apply one edit drawn uniformly."""
        options = list(self.neighbors(arch))
        return options[int(rng.integers(len(options)))]

    def is_valid(self, graphs: CellGraph) -> BoolTensor:
        """Which decoded graphs are architectures of this space.

        Shapes:
            graphs of B cells -> ``(B,)``.
        """
        return torch.tensor([self._is_member(CellGraph(*g)) for g in zip(*graphs, strict=True)])  # type: ignore[return-value]

    def _is_member(self, graph: CellGraph) -> bool:
        from lightning_nas.errors import SpaceError

        try:
            self.from_graph(graph)
        except SpaceError:
            return False
        return True

    def _settings(self) -> dict[str, Any]:
        """What the constructor set: attributes that are not caches."""
        kind = type(self)
        return {k: v for k, v in vars(self).items() if not isinstance(getattr(kind, k, None), cached_property)}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SearchSpace) and type(self) is type(other) and self._settings() == other._settings()

    def __hash__(self) -> int:
        return hash((type(self), self.name))


class FiniteSpace(SearchSpace[A], Sequence[A]):
    """A space small enough to number: ``space[i]`` and ``space.index(arch)`` are inverse to each other.

    The whole-space methods below return one tensor for all N members; a subclass may compute them in bulk.
    """

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> A: ...  # type: ignore[override]

    @abstractmethod
    def index(self, arch: A) -> int:  # type: ignore[override]
        """Position of an architecture in the official order; raises ``SpaceError`` for a stranger."""

    def sample(self, rng: np.random.Generator) -> A:
        """Draw one architecture uniformly."""
        return self[int(rng.integers(len(self)))]

    def canonical(self, arch: A) -> A:
        """The representative of all architectures that compute the same function (default: itself)."""
        return arch

    @cached_property
    def representatives(self) -> LongTensor:
        """Index of every member's canonical architecture, ``(N,)``."""
        if type(self).canonical is FiniteSpace.canonical:
            return torch.arange(len(self))  # type: ignore[return-value]
        return torch.tensor([self.index(self.canonical(arch)) for arch in self])  # type: ignore[return-value]

    def all_graphs(self) -> CellGraph:
        """Graphs of all members in order, shapes ``(N, V)`` and ``(N, V, V)``."""
        return self.graphs_at(torch.arange(len(self)))  # type: ignore[arg-type]

    def graphs_at(self, members: LongTensor) -> CellGraph:
        """Graphs of some members by index, ``(n,)`` -> ``(n, V)`` and ``(n, V, V)``."""
        ops, adjacency = zip(*(self.graph(self[index]) for index in members.tolist()), strict=True)
        return CellGraph(torch.stack(ops), torch.stack(adjacency))

    def neighbor_table(self) -> LongTensor:
        """Indices of every member's neighbours, ``(N, K)``, rows padded with -1."""
        rows = [[self.index(n) for n in self.neighbors(arch)] for arch in self]
        width = max(map(len, rows))
        return torch.tensor([row + [-1] * (width - len(row)) for row in rows])  # type: ignore[return-value]
