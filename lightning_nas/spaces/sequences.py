"""Cells as sequences of tokens (NAO, arXiv 1808.07233; SemiNAS, arXiv 2002.10389)."""

from __future__ import annotations

from abc import abstractmethod
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import BoolTensor, LongTensor, Tensor

from lightning_nas.errors import EncodingError
from lightning_nas.nn.darts import OPERATIONS
from lightning_nas.spaces.base import CellGraph, FiniteSpace, SearchSpace
from lightning_nas.spaces.encodings import Encoding

PADDING, NO_ARC, ARC = range(3)
"""Tokens that are no labels; padding also begins a sequence where one is written token by token."""

_FIRST = 2
"""Token of label 0, which is that of the first vertex only, the one that has no token: no clash with ``ARC``."""


class Layout(NamedTuple):
    """What each token of a sequence stands for.

    Attributes:
        vertex: Which vertex it says something about.
        source: The earlier vertex whose arc to it the token is; -1 for the token of the vertex's own label.

    Shapes:
        both ``(L,)`` int64.
    """

    vertex: LongTensor
    source: LongTensor


def vocabulary_size(num_labels: int) -> int:
    """Different tokens of a space with so many vertex labels."""
    return num_labels + _FIRST


def sequence_length(num_vertices: int) -> int:
    """Tokens of a cell, L = (V + 2)(V - 1) / 2."""
    return (num_vertices + 2) * (num_vertices - 1) // 2


@lru_cache
def layout(num_vertices: int) -> Layout:
    """What the tokens of cells with V vertices stand for.

    Example:
        >>> layout(3)
        Layout(vertex=tensor([1, 1, 2, 2, 2]), source=tensor([ 0, -1,  0,  1, -1]))
    """
    pairs = [(vertex, source) for vertex in range(1, num_vertices) for source in (*range(vertex), -1)]
    vertex, source = torch.tensor(pairs).unbind(dim=1)
    return Layout(vertex, source)  # type: ignore[arg-type]


def tokens_of(graphs: CellGraph) -> LongTensor:
    """For every vertex but the first, which of the earlier ones it hears, then its label.

    Padded vertices have tokens of padding only. The first vertex has none: its label is always 0.

    Args:
        graphs: B cells.

    Shapes:
        ``(…, V)``, ``(…, V, V)`` -> ``(…, L)``.

    Example:
        >>> tokens_of(CellGraph(torch.tensor([0, 1, 2]), torch.tensor([[0, 1, 0], [0, 0, 1], [0, 0, 0]])))
        tensor([2, 3, 1, 2, 4])
    """
    vertex, source = (part.to(graphs.ops.device) for part in layout(graphs.ops.shape[-1]))
    labels = graphs.ops[..., vertex]
    arcs = graphs.adjacency[..., source.clamp_min(0), vertex].long() + NO_ARC
    tokens = torch.where(source < 0, labels + _FIRST, arcs)
    return torch.where(labels < 0, PADDING, tokens)  # type: ignore[return-value]


def graphs_of(tokens: Tensor, num_vertices: int) -> CellGraph:
    """The inverse of :func:`tokens_of`.

    Shapes:
        ``(…, L)`` -> ``(…, V)``, ``(…, V, V)``.

    Raises:
        EncodingError: A sequence has another length, or a token stands where it cannot.
    """
    wrong = misplaced(tokens, num_vertices)
    vertex, source = (part.to(tokens.device) for part in layout(num_vertices))
    own = source < 0
    if bool(wrong.any()):
        *_, place = wrong.nonzero()[0].tolist()
        raise EncodingError(
            f"got the token {int(tokens[wrong][0])} at place {place}, expected "
            + ("a label, from 3 on" if bool(own[place]) else f"{NO_ARC} (no arc) or {ARC} (arc)")
            + f", or {PADDING} (padding) for all tokens of a vertex"
        )
    labels = tokens[..., own]  # (…, V - 1)
    ops = torch.cat([torch.zeros_like(labels[..., :1]), torch.where(labels == PADDING, -1, labels - _FIRST)], dim=-1)
    adjacency = torch.zeros(*ops.shape, num_vertices, dtype=torch.bool, device=tokens.device)
    adjacency[..., source[~own], vertex[~own]] = tokens[..., ~own] == ARC
    return CellGraph(ops, adjacency)


def misplaced(tokens: Tensor, num_vertices: int) -> BoolTensor:
    """Which tokens stand where they cannot, ``(…, L)``: arcs for labels or the reverse, padding within a vertex.

    Raises:
        EncodingError: The sequences have another length.
    """
    if tokens.shape[-1] != sequence_length(num_vertices):
        raise EncodingError(
            f"got sequences of {tokens.shape[-1]} tokens, expected the {sequence_length(num_vertices)} of a cell with "
            f"{num_vertices} vertices"
        )
    vertex, source = (part.to(tokens.device) for part in layout(num_vertices))
    own = source < 0
    absent = (tokens[..., own] == PADDING)[..., vertex - 1]  # (…, L)
    fitting = torch.where(own, tokens > ARC, (tokens == NO_ARC) | (tokens == ARC))
    return ~torch.where(absent, tokens == PADDING, fitting)  # type: ignore[return-value]


class SequenceEncoding(Encoding):
    """Architectures as sequences of tokens, for predictors that read them."""

    scaled = False

    @abstractmethod
    def tokens(self, space: FiniteSpace[Any], members: LongTensor | None = None) -> LongTensor:
        """Sequences of some members by index, ``(n,)``, or of all, ``(n, L)``."""

    @abstractmethod
    def sizes(self, space: FiniteSpace[Any]) -> tuple[int, int]:
        """Size of the vocabulary N and length of the sequences L."""

    def encode(self, space: SearchSpace[Any]) -> Tensor:
        """Sequences of all members, ``(N, L)`` float."""
        return self.encode_members(space, None)

    def encode_members(self, space: SearchSpace[Any], members: LongTensor | None) -> Tensor:
        """Sequences of some members, ``(n, L)`` float."""
        if not isinstance(space, FiniteSpace):
            raise EncodingError(f"{type(self).__name__}: got the space {space.name!r}, expected one that is numbered")
        return self.tokens(space, members).float()


class GraphSequence(SequenceEncoding):
    """The sequence of :func:`tokens_of`, from which the cell can be read again.

    Example:
        >>> from lightning_nas.spaces.nasbench201 import NASBench201
        >>> GraphSequence().sizes(NASBench201())
        (9, 35)
    """

    def tokens(self, space: FiniteSpace[Any], members: LongTensor | None = None) -> LongTensor:
        """Sequences of members, ``(n, L)``."""
        return tokens_of(space.all_graphs() if members is None else space.graphs_at(members))

    def sizes(self, space: FiniteSpace[Any]) -> tuple[int, int]:
        """Vocabulary and length."""
        return vocabulary_size(len(space.vertex_labels)), sequence_length(space.num_vertices)


class BlindDARTSSequence(SequenceEncoding):
    """Pairs of DARTS cells as EmProx's published results have them: without any arc.

    NASLib puts both cells into one graph, with a vertex for all of a cell and one for everything, pads it to 35
    vertices, and transposes its adjacency matrix once too often, so that every token of an arc says that there is none.
    Only 16 of the 629 tokens differ between architectures, and inputs share the token of max-pooling.
    :class:`GraphSequence` has neither flaw.
    """

    _VERTICES = 35
    _CELL = 12
    _OUTPUT, _ALL_OF_CELL, _ALL = 8, 9, 10

    def tokens(self, space: FiniteSpace[Any], members: LongTensor | None = None) -> LongTensor:
        """Sequences of members, ``(n, 629)``."""
        labels = space.all_graphs().ops if members is None else space.graphs_at(members).ops
        half = labels.shape[1] // 2
        if space.name != "darts" or labels.shape[1] != 2 * half:
            raise EncodingError(f"BlindDARTSSequence: got the space {space.name!r}, expected 'darts', pairs of cells")
        order = [OPERATIONS.index(name) for name in _NASLIB_OPERATIONS]
        place = torch.full((len(space.vertex_labels),), len(order))
        place[torch.tensor(order) + 2] = torch.arange(len(order))
        place[:2] = 0
        place[-1] = self._OUTPUT
        numbers = labels.new_full((len(labels), self._VERTICES), -1)
        for cell in (0, 1):
            begin = cell * self._CELL
            numbers[:, begin : begin + half] = place[labels[:, cell * half : (cell + 1) * half]]
            numbers[:, begin + half] = self._ALL_OF_CELL
        numbers[:, 2 * self._CELL] = self._ALL
        return tokens_of(CellGraph(numbers, torch.zeros(*numbers.shape, self._VERTICES, dtype=torch.bool)))

    def sizes(self, space: FiniteSpace[Any]) -> tuple[int, int]:
        """Vocabulary and length."""
        return vocabulary_size(self._ALL + 1), sequence_length(self._VERTICES)


_NASLIB_OPERATIONS = (
    "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5",
)  # fmt: skip
"""In the order of their numbers there."""
