"""Some architectures of a larger space, numbered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from operator import index as as_int
from typing import Any

import numpy as np
import torch
from torch import LongTensor, nn

from lightning_nas.errors import SpaceError
from lightning_nas.spaces.base import A, CellGraph, FiniteSpace, SearchSpace


class Subset(FiniteSpace[A]):
    """A finite space of given members, all else as in the space that they are from.

    Args:
        space: The larger space.
        architectures: Members in their order, each once.

    Example:
        >>> from lightning_nas.spaces.nasbench201 import NASBench201
        >>> space = Subset(NASBench201(), [(1, 1, 1, 1, 1, 1), (3, 3, 3, 3, 3, 3)])
        >>> len(space), space.index((3, 3, 3, 3, 3, 3))
        (2, 1)
    """

    def __init__(self, space: SearchSpace[A], architectures: Sequence[A]) -> None:
        self.space, self.architectures = space, tuple(architectures)
        self.name, self.vertex_labels, self.num_vertices = space.name, space.vertex_labels, space.num_vertices
        if not self.architectures or len(self._places) < len(self.architectures):
            raise SpaceError(
                f"{self.name}: got {len(self.architectures)} architectures, {len(self._places)} of them distinct, "
                "expected at least one, and each once"
            )

    @cached_property
    def _places(self) -> dict[A, int]:
        return {arch: place for place, arch in enumerate(self.architectures)}

    def __len__(self) -> int:
        return len(self.architectures)

    def __getitem__(self, index: int) -> A:  # type: ignore[override]
        return self.architectures[as_int(index)]

    def index(self, arch: A) -> int:  # type: ignore[override]
        """Position of a member; raises ``SpaceError`` for any other architecture."""
        if arch not in self._places:
            raise SpaceError(f"{self.name}: {self.format(arch)} is not among the {len(self)} listed architectures")
        return self._places[arch]

    def neighbors(self, arch: A) -> Iterator[A]:
        """Every architecture of the larger space that is one edit away."""
        yield from self.space.neighbors(arch)

    def neighbor_table(self) -> LongTensor:
        """Indices of every member's neighbours among the members, ``(N, K)``, rows padded with -1."""
        rows = [[self._places[n] for n in self.neighbors(arch) if n in self._places] for arch in self]
        width = max(1, *map(len, rows))
        return torch.tensor([row + [-1] * (width - len(row)) for row in rows])  # type: ignore[return-value]

    def parse(self, text: str) -> A:
        """Read the larger space's notation."""
        return self.space.parse(text)

    def format(self, arch: A) -> str:
        """Write the larger space's notation."""
        return self.space.format(arch)

    def graph(self, arch: A) -> CellGraph:
        """The graph that it has in the larger space."""
        return self.space.graph(arch)

    def from_graph(self, graph: CellGraph) -> A:
        """The architecture of the larger space, member or not."""
        return self.space.from_graph(graph)

    def build(self, arch: A, **network: Any) -> nn.Module:
        """The larger space's network; so are its arguments."""
        return self.space.build(arch, **network)


class RandomSubset(Subset[A]):
    """Some random architectures of a space that cannot be numbered, numbered in the order of their drawing.

    A longer one begins with the members of a shorter one of the same seed.

    Args:
        space: The larger space.
        size: Different architectures.
        seed: Of the draws.
    """

    def __init__(self, space: SearchSpace, size: int, seed: int = 0) -> None:  # type: ignore[type-arg]  # jsonargparse
        rng, found = np.random.default_rng(seed), dict[A, None]()
        for _ in range(100 * size):
            if len(found) == size:
                break
            found[space.sample(rng)] = None
        if len(found) < size:
            raise SpaceError(f"{space.name}: got size={size}, but only {len(found)} different architectures were drawn")
        super().__init__(space, list(found))
        self.size, self.seed = size, seed
