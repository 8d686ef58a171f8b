"""The size space of NATS-Bench: how many channels each of five blocks has (Dong et al., arXiv 2009.00437)."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_nas.errors import SpaceError
from lightning_nas.nn.natsbench_size import SizedNetwork
from lightning_nas.spaces.base import CellGraph
from lightning_nas.spaces.categorical import CategoricalSpace, Codes

WIDTHS = (8, 16, 24, 32, 40, 48, 56, 64)
_BLOCKS = 5


class NATSBenchSize(CategoricalSpace):
    """32,768 networks that differ in the channels of five blocks alone, in the benchmark's (lexicographic) order.

    An architecture is a tuple of five indices into ``8, 16, 24, 32, 40, 48, 56, 64``, written ``8:16:64:24:8``. The
    cell is always the same. As a graph, an architecture is a chain of five blocks between input and output, labelled
    with their widths.

    Example:
        >>> space = NATSBenchSize()
        >>> len(space), space.format(space[284]), space.index(space.parse("8:8:40:32:40"))
        (32768, '8:8:40:32:40', 284)
    """

    name = "natsbench_size"
    choices = (tuple(map(str, WIDTHS)),) * _BLOCKS
    separator = ":"
    vertex_labels = ("input", *map(str, WIDTHS), "output")
    num_vertices = _BLOCKS + 2

    def graph(self, arch: Codes) -> CellGraph:
        """A chain: input, five blocks, output."""
        self._check(arch)
        return self._graphs(torch.tensor(arch))

    def all_graphs(self) -> CellGraph:
        """Graphs of all members in order, shapes ``(N, 7)`` and ``(N, 7, 7)``."""
        return self._graphs(self.codes)

    def _graphs(self, codes: Tensor) -> CellGraph:
        ends = codes.new_zeros(*codes.shape[:-1], 1)
        ops = torch.cat([ends, codes + 1, ends + len(WIDTHS) + 1], dim=-1)
        chain = torch.eye(self.num_vertices, dtype=torch.bool).roll(1, dims=1).triu(diagonal=1)
        return CellGraph(ops, chain.expand(*codes.shape[:-1], -1, -1))

    def from_graph(self, graph: CellGraph) -> Codes:
        """The inverse of :meth:`graph`; raises ``SpaceError`` when labels or wiring are not those of a network."""
        inner = tuple(int(label) - 1 for label in graph.ops.tolist()[1:-1])
        if len(inner) == _BLOCKS and all(0 <= code < len(WIDTHS) for code in inner):
            expected = self.graph(inner)
            if torch.equal(graph.ops, expected.ops) and torch.equal(graph.adjacency.bool(), expected.adjacency):
                return inner
        raise SpaceError(
            f"{self.name}: got the labels {graph.ops.tolist()} and {int(graph.adjacency.sum())} arcs, expected a chain "
            f"of 'input', {_BLOCKS} widths and 'output'"
        )

    def build(self, arch: Codes, num_classes: int = 10, in_channels: int = 3) -> SizedNetwork:
        """The benchmark's trainable network.

        Args:
            arch: The widths.
            num_classes: Outputs of the classifier.
            in_channels: Channels of the input image.
        """
        self._check(arch)
        return SizedNetwork([WIDTHS[code] for code in arch], num_classes, in_channels)
