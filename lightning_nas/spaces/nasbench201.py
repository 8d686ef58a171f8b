"""NAS-Bench-201, also known as the NATS-Bench topology space (Dong & Yang, arXiv 2001.00326)."""

from __future__ import annotations

import random
import re
from functools import cached_property, partial

import numpy as np
import torch
from torch import BoolTensor, LongTensor, Tensor

from lightning_nas.errors import SpaceError
from lightning_nas.nn.cells import EDGES, NASBench201Cell, StagedNetwork
from lightning_nas.nn.nasbench201_supernet import CANDIDATES, NASBench201Supernet
from lightning_nas.spaces.base import CellGraph
from lightning_nas.spaces.categorical import CategoricalSpace, Codes

OPERATIONS = CANDIDATES

# Operations move from edges to vertices: an arc wherever the head of one edge is the tail of the next.
_ARCS = ((0, 1), (0, 2), (0, 4), (1, 3), (1, 5), (2, 6), (3, 6), (4, 7), (5, 7), (6, 7))
_VERTEX_LABELS = ("input", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3", "skip_connect", "none", "output")
_ROUTES = ((3,), (0, 4), (1, 5), (0, 2, 5))  # edges on each route from input to output


class NASBench201(CategoricalSpace):
    """15,625 cells: 4 nodes, 6 edges, one of 5 operations on each edge, in the benchmark's official order.

    An architecture is a tuple of six indices into ``none, skip_connect, nor_conv_1x1, nor_conv_3x3, avg_pool_3x3`` for
    the edges 0→1, 0→2, 1→2, 0→3, 1→3, 2→3. Its graph has the six operations on vertices 1 … 6 between input and output
    (arch2vec, arXiv 2006.06936, supplementary).

    Example:
        >>> space = NASBench201()
        >>> len(space), space.format(space[0])
        (15625, '|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|')
        >>> space.index(space.parse(space.format(space[123])))
        123
    """

    name = "nasbench201"
    choices = (OPERATIONS,) * len(EDGES)
    vertex_labels = _VERTEX_LABELS
    num_vertices = 8

    @cached_property
    def order(self) -> np.ndarray:
        """Official order: the benchmark shuffled the lexicographic list with Python's ``random`` and seed 88."""
        order = list(range(len(OPERATIONS) ** len(EDGES)))
        random.Random(88).shuffle(order)
        return np.array(order)

    def parse(self, text: str) -> Codes:
        """Read ``|op~0|+|op~0|op~1|+|op~0|op~1|op~2|``; raises ``SpaceError``, saying what was wrong and where."""
        example = f"expected a string like {self.format((1,) * len(EDGES))!r}"
        nodes = text.strip().split("+")
        if len(nodes) != 3:
            raise SpaceError(f"{self.name}: got {len(nodes)} nodes separated by '+' in {text!r}, {example}")
        codes: list[int] = []
        for head, node in enumerate(nodes, start=1):
            if not (len(node) > 1 and node[0] == node[-1] == "|"):
                raise SpaceError(f"{self.name}: node {head} is {node!r} and does not begin and end with '|', {example}")
            entries = node[1:-1].split("|")
            if len(entries) != head:
                raise SpaceError(
                    f"{self.name}: node {head} has {len(entries)} inputs in {node!r}, expected {head}; {example}"
                )
            for tail, entry in enumerate(entries):
                operation, tilde, source = entry.rpartition("~")
                if not tilde or not re.fullmatch(r"[0-9]", source) or int(source) != tail:
                    raise SpaceError(
                        f"{self.name}: node {head}, input {tail} is {entry!r}, expected 'operation~{tail}'; {example}"
                    )
                codes.append(self._choice(len(codes), operation))
        return tuple(codes)

    def format(self, arch: Codes) -> str:
        """Write ``|op~0|+|op~0|op~1|+|op~0|op~1|op~2|``."""
        self._check(arch)
        edges = [f"{OPERATIONS[code]}~{tail}" for code, (tail, _) in zip(arch, EDGES, strict=True)]
        return "+".join("|" + "|".join(edges[a:b]) + "|" for a, b in ((0, 1), (1, 3), (3, 6)))

    @cached_property
    def _label_of_code(self) -> Tensor:
        return torch.tensor([_VERTEX_LABELS.index(name) for name in OPERATIONS])

    @cached_property
    def _adjacency(self) -> Tensor:
        adjacency = torch.zeros(self.num_vertices, self.num_vertices, dtype=torch.bool)
        adjacency[tuple(zip(*_ARCS, strict=True))] = True
        return adjacency

    def _graphs(self, codes: Tensor) -> CellGraph:
        labels = self._label_of_code[codes]
        ends = labels.new_zeros(*labels.shape[:-1], 1)
        ops = torch.cat([ends, labels, ends + len(_VERTEX_LABELS) - 1], dim=-1)
        return CellGraph(ops, self._adjacency.expand(*labels.shape[:-1], -1, -1))

    def graph(self, arch: Codes) -> CellGraph:
        """The cell with 8 vertices: input, the six edges' operations, output; its wiring is always the same."""
        self._check(arch)
        return self._graphs(torch.tensor(arch))

    def all_graphs(self) -> CellGraph:
        """Graphs of all members in order, shapes ``(N, 8)`` and ``(N, 8, 8)``."""
        return self._graphs(self.codes)

    def graphs_at(self, members: LongTensor) -> CellGraph:
        """Graphs of some members by index, ``(n,)`` -> ``(n, 8)`` and ``(n, 8, 8)``."""
        return self._graphs(self.codes[members])

    def from_graph(self, graph: CellGraph) -> Codes:
        """The inverse of :meth:`graph`; raises ``SpaceError`` when labels or wiring are not those of a cell."""
        if graph.ops.shape != (self.num_vertices,) or not torch.equal(graph.adjacency.bool(), self._adjacency):
            raise SpaceError(f"{self.name}: the graph's wiring is not the cell's, expected the arcs {_ARCS}")
        names = [_VERTEX_LABELS[label] if 0 <= label < len(_VERTEX_LABELS) else label for label in graph.ops.tolist()]
        if names[0] != "input" or names[-1] != "output":
            raise SpaceError(
                f"{self.name}: got labels {names}, expected 'input' first, 'output' last and six operations"
            )
        return tuple(self._choice(edge, str(name)) for edge, name in enumerate(names[1:-1]))

    def is_valid(self, graphs: CellGraph) -> BoolTensor:
        """Which decoded graphs are cells: right labels at every vertex and exactly the cell's wiring, ``(B,)``."""
        wired = (graphs.adjacency.bool() == self._adjacency.to(graphs.adjacency.device)).flatten(1).all(dim=1)
        return wired & self.is_valid_published(graphs) & _is_operation(graphs.ops[:, 1])  # type: ignore[return-value]

    def is_valid_published(self, graphs: CellGraph) -> BoolTensor:
        """Validity as arch2vec's released code tests it: wiring and vertex 1 are not looked at, ``(B,)``."""
        ends = (graphs.ops[:, 0] == 0) & (graphs.ops[:, -1] == len(_VERTEX_LABELS) - 1)
        return ends & _is_operation(graphs.ops[:, 2:-1]).all(dim=1)  # type: ignore[return-value]

    @cached_property
    def _classes(self) -> tuple[Tensor, Tensor]:
        """Class of every member, and the first member of every class, in index order."""
        numbers: dict[str, int] = {}
        classes = []
        for arch in self.codes.tolist():
            terms: list[list[str]] = [[], [], [], []]
            values = ["0"] * 4
            for code, (tail, head) in zip(arch, EDGES, strict=True):
                terms[head].append(_apply(OPERATIONS[code], values[tail]))
                values[head] = "+".join(sorted(terms[head]))
            classes.append(numbers.setdefault(values[-1], len(numbers)))
        _, first = np.unique(classes, return_index=True)
        return torch.tensor(classes), torch.from_numpy(first)

    @property
    def canonical_classes(self) -> LongTensor:
        """Number of every member's isomorphism class, ``(N,)`` in 0 … 6465, in order of first appearance.

        Two cells are alike when their expressions agree after removing skip connections and marking dead signals.
        This is the benchmark's own definition, which the field counts by. It is a little finer than equality of
        functions: a sum passed on by a skip connection is not sorted into the next sum, and dead terms stay.
        """
        return self._classes[0]  # type: ignore[return-value]

    @cached_property
    def connected(self) -> BoolTensor:
        """Whether any route without ``none`` leads from input to output, ``(N,)``; the other cells score by chance."""
        routes = [(self.codes[:, list(route)] != OPERATIONS.index("none")).all(dim=1) for route in _ROUTES]
        return torch.stack(routes).any(dim=0)  # type: ignore[return-value]

    @cached_property
    def representatives(self) -> LongTensor:
        """Index of the first cell, in official order, that computes the same function, ``(N,)``."""
        classes, first = self._classes
        return first[classes]  # type: ignore[return-value]

    def canonical(self, arch: Codes) -> Codes:
        """The first cell, in official order, that computes the same function."""
        return self[int(self.representatives[self.index(arch)])]

    def path_encoding(self, codes: Tensor) -> Tensor:
        """Which of the 155 possible operation sequences from input to output a cell has (BANANAS, arXiv 1910.11858).

        Shapes:
            ``(B, 6)`` -> ``(B, 155)`` float: 5 paths of one operation, 25 of two, 125 of three.
        """
        k = len(OPERATIONS)
        encoding = torch.zeros(len(codes), k + k**2 + k**3)
        for route in _ROUTES:
            number, offset = (
                torch.zeros(len(codes), dtype=torch.long),
                sum(k**i for i in range(1, len(route))),
            )
            for edge in route:
                number = number * k + codes[:, edge]
            encoding[torch.arange(len(codes)), offset + number] = 1.0
        return encoding

    def build(
        self,
        arch: Codes,
        channels: int = 16,
        cells_per_stage: int = 5,
        num_stages: int = 3,
        num_classes: int = 10,
        in_channels: int = 3,
        auxiliary: bool = False,
    ) -> StagedNetwork:
        """The benchmark's trainable network for a cell.

        Args:
            arch: The cell.
            channels: Width of the first stage; doubles at every reduction.
            cells_per_stage: Cells in each stage.
            num_stages: Number of stages.
            num_classes: Outputs of the classifier.
            in_channels: Channels of the input image.
            auxiliary: Whether the network has an auxiliary head, for training.
        """
        self._check(arch)
        operations = [OPERATIONS[code] for code in arch]
        make_cell = partial(NASBench201Cell, operations)
        return StagedNetwork(make_cell, channels, cells_per_stage, num_stages, num_classes, in_channels, auxiliary)

    def supernet(
        self,
        channels: int = 16,
        cells_per_stage: int = 5,
        num_stages: int = 3,
        num_classes: int = 10,
        in_channels: int = 3,
        partial: int = 1,
    ) -> NASBench201Supernet:
        """The network that holds all operations on all edges; arguments are those of :meth:`build`.

        Args:
            channels: Width of the first stage; doubles at every reduction.
            cells_per_stage: Cells in each stage.
            num_stages: Number of stages.
            num_classes: Outputs of the classifier.
            in_channels: Channels of the input image.
            partial: One over the share of the channels that operations see, k; 1 for all.
        """
        return NASBench201Supernet(channels, cells_per_stage, num_stages, num_classes, in_channels, partial)

    def from_choice(self, choice: Tensor) -> Codes:
        """The cell with these operations on the supernet's edges, ``(1, 6)``."""
        arch = tuple(choice[0].tolist())
        self._check(arch)
        return arch


def _is_operation(labels: Tensor) -> Tensor:
    return (labels > 0) & (labels < len(_VERTEX_LABELS) - 1)


def _apply(operation: str, value: str) -> str:
    """Expression of one edge: the input is '0', a dead signal '#', skip connections vanish."""
    if operation == "none" or value == "#":
        return "#"
    return value if operation == "skip_connect" else f"({value})@{operation}"
