"""Recurrent cells: a tree of nodes with activations (ENAS, arXiv 1802.03268; NAO, arXiv 1808.07233)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import LongTensor, nn

from lightning_nas.errors import EncodingError, SpaceError
from lightning_nas.nn.recurrent_cells import ACTIVATIONS, LanguageModels
from lightning_nas.spaces.base import CellGraph, FiniteSpace, SearchSpace
from lightning_nas.spaces.encodings import Encoding
from lightning_nas.spaces.sequences import SequenceEncoding

Cell = tuple[int, ...]
"""Predecessor and activation of every node in turn: ``p1 a1 p2 a2 …``."""

NAO_PTB: Cell = (0, 1, 0, 1, 1, 1, 3, 0, 4, 1, 4, 1, 5, 1, 1, 1, 7, 1, 1, 1, 1, 2)
"""The cell that NAO published for Penn Treebank."""


class RecurrentCell(SearchSpace[Cell]):
    """Eleven nodes; each takes an earlier one (0 is the initial state) and one of four activations.

    A node adds a gated step to what it takes; the cell's output is the mean of all nodes. Activations are 0 tanh, 1
    relu, 2 identity, 3 sigmoid, as where NAO trains cells; a comment in its weight-sharing part swaps the last two.
    With 11 nodes there are 1.7e14 cells.

    Args:
        num_nodes: Nodes behind the initial state.

    Example:
        >>> space = RecurrentCell()
        >>> space.format(space.parse("0 1 0 1 1 1 3 0 4 1 4 1 5 1 1 1 7 1 1 1 1 2"))
        '0 1 0 1 1 1 3 0 4 1 4 1 5 1 1 1 7 1 1 1 1 2'
    """

    name = "recurrent_cell"

    def __init__(self, num_nodes: int = 11) -> None:
        if num_nodes < 1:
            raise SpaceError(f"recurrent_cell: got num_nodes={num_nodes}, expected at least 1")
        self.num_nodes = num_nodes
        self.num_vertices = num_nodes + 2
        self.vertex_labels = ("input", *ACTIVATIONS, "output")

    def sample(self, rng: np.random.Generator) -> Cell:
        """Predecessors and activations uniformly."""
        pairs = [(int(rng.integers(node)), int(rng.integers(len(ACTIVATIONS)))) for node in self._nodes]
        return tuple(number for pair in pairs for number in pair)

    @property
    def _nodes(self) -> range:
        return range(1, self.num_nodes + 1)

    def neighbors(self, arch: Cell) -> Iterator[Cell]:
        """Every cell with another predecessor or another activation at one node."""
        self._check(arch)
        for place, number in enumerate(arch):
            for other in range(self._choices(place)):
                if other != number:
                    yield (*arch[:place], other, *arch[place + 1 :])

    def _choices(self, place: int) -> int:
        return len(ACTIVATIONS) if place % 2 else place // 2 + 1

    def parse(self, text: str) -> Cell:
        """Read ``p1 a1 p2 a2 …``."""
        try:
            arch = tuple(int(word) for word in text.split())
        except ValueError:
            raise SpaceError(f"recurrent_cell: got {text!r}, expected {2 * self.num_nodes} integers") from None
        self._check(arch)
        return arch

    def format(self, arch: Cell) -> str:
        """Write ``p1 a1 p2 a2 …``."""
        self._check(arch)
        return " ".join(map(str, arch))

    def graph(self, arch: Cell) -> CellGraph:
        """The initial state, the nodes, and an output that all nodes lead to."""
        self._check(arch)
        ops = torch.tensor([0, *(activation + 1 for activation in arch[1::2]), len(ACTIVATIONS) + 1])
        adjacency = torch.zeros(self.num_vertices, self.num_vertices, dtype=torch.bool)
        adjacency[torch.tensor(arch[::2]), torch.arange(1, self.num_nodes + 1)] = True
        adjacency[1:-1, -1] = True
        return CellGraph(ops, adjacency)

    def from_graph(self, graph: CellGraph) -> Cell:
        """The inverse of :meth:`graph`."""
        labels = graph.ops.tolist()
        inner, taken = labels[1:-1], graph.adjacency[:, 1:-1].long()
        if len(labels) == self.num_vertices and bool((taken.sum(dim=0) == 1).all()):
            pairs = zip(taken.argmax(dim=0).tolist(), inner, strict=True)
            arch = tuple(number for source, label in pairs for number in (source, label - 1))
            if self._is_cell(arch):
                expected = self.graph(arch)
                if torch.equal(graph.ops, expected.ops) and torch.equal(graph.adjacency.bool(), expected.adjacency):
                    return arch
        raise SpaceError(
            f"recurrent_cell: got the labels {labels} and {int(graph.adjacency.sum())} arcs, expected 'input', "
            f"{self.num_nodes} activations with one predecessor each, and 'output', to which all of these lead"
        )

    def build(self, arch: Cell, vocabulary_size: int = 1000, width: int = 64, gated: bool = True) -> nn.Module:
        """A language model of the cell, of tokens ``(T, B)`` -> logits ``(1, T, B, vocabulary)`` and state.

        Args:
            arch: The cell.
            vocabulary_size: Words.
            width: Of embedding and hidden state (they are tied).
            gated: Whether nodes have gates, as published.
        """
        self._check(arch)
        return LanguageModels(torch.tensor([arch]), vocabulary_size, width, gated=gated)

    def _is_cell(self, arch: Cell) -> bool:
        return len(arch) == 2 * self.num_nodes and all(
            0 <= number < self._choices(place) for place, number in enumerate(arch)
        )

    def _check(self, arch: Cell) -> None:
        if not self._is_cell(arch):
            raise SpaceError(
                f"recurrent_cell: got {arch!r}, expected {2 * self.num_nodes} integers: for node i = 1 … "
                f"{self.num_nodes} a predecessor below i and an activation below {len(ACTIVATIONS)}"
            )


class RecurrentSequence(SequenceEncoding):
    """NAO's tokens: node p is p + 1, activation a is a + 12 (with 11 nodes); 0 begins a sequence that is written.

    Example:
        >>> RecurrentSequence().sizes(RecurrentCell())  # type: ignore[arg-type]
        (16, 22)
    """

    def tokens(self, space: FiniteSpace[Any], members: LongTensor | None = None) -> LongTensor:
        """Sequences of members, ``(n, 22)``."""
        chosen = range(len(space)) if members is None else members.tolist()
        return self.tokens_of(torch.tensor([space[place] for place in chosen]))

    @staticmethod
    def tokens_of(cells: torch.Tensor) -> LongTensor:
        """Sequences of cells, ``(n, 22)``."""
        tokens = cells + 1
        tokens[:, 1::2] += cells.shape[1] // 2
        return tokens  # type: ignore[return-value]

    @staticmethod
    def cells_of(tokens: torch.Tensor) -> list[Cell]:
        """The inverse of :meth:`tokens_of`."""
        cells = tokens - 1
        cells[:, 1::2] -= tokens.shape[1] // 2
        return [tuple(row) for row in cells.tolist()]

    def sizes(self, space: FiniteSpace[Any]) -> tuple[int, int]:
        """Vocabulary and length."""
        if space.name != RecurrentCell.name:
            raise EncodingError(f"RecurrentSequence: got the space {space.name!r}, expected 'recurrent_cell'")
        nodes = space.num_vertices - 2
        return 1 + nodes + len(ACTIVATIONS), 2 * nodes

    @staticmethod
    def allowed(num_nodes: int) -> torch.Tensor:
        """Which tokens may stand at each place, ``(22, 16)`` bool."""
        allowed = torch.zeros(2 * num_nodes, 1 + num_nodes + len(ACTIVATIONS), dtype=torch.bool)
        for node in range(num_nodes):
            allowed[2 * node, 1 : node + 2] = True
            allowed[2 * node + 1, 1 + num_nodes :] = True
        return allowed


class RecurrentOneHot(Encoding):
    """One-hot predecessor and activation of every node.

    Example:
        >>> from lightning_nas.spaces.subset import RandomSubset
        >>> RecurrentOneHot().encode(RandomSubset(RecurrentCell(), 4)).shape
        torch.Size([4, 110])
    """

    def encode(self, space: SearchSpace[Any]) -> torch.Tensor:
        """Features of all members, ``(N, 66 + 44)``."""
        return self.encode_members(space, None)

    def encode_members(self, space: SearchSpace[Any], members: LongTensor | None) -> torch.Tensor:
        """Features of some members, ``(n, 66 + 44)``."""
        if not isinstance(space, FiniteSpace) or space.name != RecurrentCell.name:
            raise EncodingError(
                f"RecurrentOneHot: got the space {space.name!r}, expected numbered cells of 'recurrent_cell'"
            )
        tokens = RecurrentSequence().tokens(space, members)
        allowed = RecurrentSequence.allowed(space.num_vertices - 2)
        return F.one_hot(tokens, allowed.shape[1])[:, allowed].float()
