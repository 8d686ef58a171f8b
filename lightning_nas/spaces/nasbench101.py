"""NAS-Bench-101 (Ying et al., arXiv 1902.09635)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cached_property
from itertools import product
from operator import index as as_int
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import BoolTensor, LongTensor, Tensor

from lightning_nas.errors import SpaceError
from lightning_nas.nn.nasbench101 import BN_MOMENTUM, NASBench101Network
from lightning_nas.spaces.base import CellGraph, FiniteSpace
from lightning_nas.spaces.nasbench101_enumeration import (
    ARCS,
    MAX_ARCS,
    MAX_VERTICES,
    OPERATIONS,
    PLACES,
    Enumeration,
    adjacency_of,
    all_neighbors,
    count_arcs,
    digits_of,
    edits_of,
    enumerate_cells,
    neighbors_of,
    sort_graphs,
    vertices_of,
)

Cell = tuple[int, ...]
"""A cell of :class:`NASBench101`: its arcs as one integer, then the label of every interior vertex."""

_LABELS = ("input", "conv1x1-bn-relu", "conv3x3-bn-relu", "maxpool3x3", "output")
_OUTPUT = len(_LABELS) - 1
_SUFFIX = "-bn-relu"  # left out in the notation
_EXAMPLE = "conv3x3(0)+maxpool3x3(0,1)+output(1,2)"
_KEYS = (("module_adjacency", "module_operations"), ("matrix", "ops"))
_AT_ONCE = 1 << 16  # graphs; the whole space in one go would take gigabytes


class NASBench101(FiniteSpace[Cell]):
    """423,624 cells: up to 7 vertices, up to 9 arcs, one of 3 operations on each vertex between input and output.

    These are all directed acyclic graphs of that size in which every vertex is on a path from input to output, one of
    each isomorphism class. They are found without the benchmark's files, in an order of our own: by vertices, arcs and
    then what follows. Of all isomorphic graphs whose arcs lead forward that one is the member whose arcs, then labels,
    are the smallest number: arc u→v counts 2 to the power of v(v-1)/2 + u, the label of vertex v counts 3 to the power
    of v - 1.

    An architecture is a tuple of integers: this number of its arcs, and for each interior vertex an index into
    ``vertex_labels``. Its graph has 7 vertices, of which those after the output are padding. The notation lists the
    vertices after the input (which is vertex 0), each with those that it hears: ``conv3x3(0)+output(0,1)``.

    Example:
        >>> space = NASBench101()
        >>> len(space), space.format(space[0]), space.format(space[400_000])
        (423624, 'output(0)', 'conv3x3(0)+conv1x1(1)+conv3x3(2)+conv1x1(2,3)+conv3x3(4)+output(1,4,5)')
        >>> space.parse('{"matrix": [[0, 1, 1], [0, 0, 1], [0, 0, 0]], "ops": ["input", "maxpool3x3", "output"]}')
        (7, 3)
    """

    name = "nasbench101"
    vertex_labels = _LABELS
    num_vertices = MAX_VERTICES

    @property
    def _cells(self) -> Enumeration:
        return enumerate_cells()  # of the process, not of the space: workers are sent spaces

    def __len__(self) -> int:
        return len(self._cells.masks)

    def __getitem__(self, index: int) -> Cell:  # type: ignore[override]
        cells, place = self._cells, as_int(index)
        mask = int(cells.masks[place])
        return (mask, *_LABELLINGS[cells.numbers[place]][: _INTERIOR[mask.bit_length()]])

    def index(self, arch: Cell) -> int:  # type: ignore[override]
        """Position of an architecture; raises ``SpaceError`` for a stranger."""
        cells, mask, number = self._cells, arch[0] if arch else 0, _NUMBERS.get(arch[1:])
        if number is not None and 0 < mask < len(cells.rows) and len(arch) - 1 == _INTERIOR[mask.bit_length()]:
            found = int(cells.members[cells.rows[mask], number])
            if found >= 0 and cells.masks[found] == mask and cells.numbers[found] == number:
                return found
        raise SpaceError(
            f"{self.name}: got {arch!r}, expected a tuple of the space's own: the number of a cell's arcs and a label "
            "in 1 … 3 for each interior vertex, smallest among isomorphic cells; use parse() or from_graph()"
        )

    def neighbors(self, arch: Cell) -> Iterator[Cell]:
        """Every cell that is one edit away.

        An edit gives another operation to a vertex; adds an arc between two vertices where it closes no cycle, or takes
        one away and leaves every vertex on a path; or adds a vertex with one arc to it and one from it, between any two
        vertices of which the first does not come after the second, or takes such a vertex away (this is what an arc
        toggled among 7 vertices does, unused ones included). So cells are neighbours of each other, whatever the order
        of their vertices, and small ones can grow. An arc whose loss would leave more than such a vertex off every path
        is not taken away.
        """
        mask, number = arch[0], self._cells.numbers[[self.index(arch)]]
        yield from map(self.__getitem__, neighbors_of(number, mask, edits_of(mask))[0].tolist())

    def neighbor_table(self) -> LongTensor:
        """Indices of every member's neighbours, ``(N, 83)``, rows padded with -1; a few seconds and 281 MB."""
        return torch.from_numpy(all_neighbors())  # type: ignore[return-value]

    @cached_property
    def representatives(self) -> LongTensor:
        """Every member itself: isomorphic graphs are one member, ``(N,)``."""
        return torch.arange(len(self))  # type: ignore[return-value]

    # ---- graphs ----

    def graph(self, arch: Cell) -> CellGraph:
        """The cell as 7 vertices; those after the output have label -1 and no arcs."""
        index = self.index(arch)
        return CellGraph(*(part[0] for part in self._graphs(slice(index, index + 1))))

    def all_graphs(self) -> CellGraph:
        """Graphs of all members in order, shapes ``(N, 7)`` and ``(N, 7, 7)``."""
        return self._graphs(slice(None))

    def graphs_at(self, members: LongTensor) -> CellGraph:
        """Graphs of some members by index, ``(n,)`` -> ``(n, 7)`` and ``(n, 7, 7)``."""
        return self._graphs(members.numpy())

    def _graphs(self, members: slice | np.ndarray) -> CellGraph:
        masks, numbers = self._cells.masks[members], self._cells.numbers[members]
        last, vertex = vertices_of(masks)[:, None] - 1, np.arange(MAX_VERTICES)
        ops = np.where(vertex < last, digits_of(numbers) + 1, np.where(vertex == last, _OUTPUT, -1))
        ops[:, 0] = 0
        return CellGraph(torch.from_numpy(ops), torch.from_numpy(adjacency_of(masks)))

    def from_graph(self, graph: CellGraph) -> Cell:
        """The member that a graph is, by the rules of :meth:`indices_of`; raises ``SpaceError`` if it is none."""
        index = int(self.indices_of(CellGraph(graph.ops[None], graph.adjacency[None])))
        if index < 0:
            raise SpaceError(f"{self.name}: {self._complaint(graph)}")
        return self[index]

    def indices_of(self, graphs: CellGraph) -> LongTensor:
        """Members that graphs are, ``(B,)``; -1 for graphs that are none.

        As in the benchmark's own library, vertices that are on no path from input to output do not count. The input is
        vertex 0, and the output the last vertex that has any arc, which allows for padding and for decoders that give
        it a label; the others may have any order. Padding, labelled -1, has no arcs.

        Args:
            graphs: B graphs of up to 7 vertices.

        Raises:
            SpaceError: They have more vertices.
        """
        vertex = torch.arange(graphs.ops.shape[-1], device=graphs.ops.device)
        wired = graphs.adjacency.bool()
        touched = wired.any(dim=-1) | wired.any(dim=-2)  # (B, V)
        found = self._locate(graphs, (touched * vertex).amax(dim=-1))
        return torch.where((touched & (graphs.ops < 0)).any(dim=-1), -1, found)  # type: ignore[return-value]

    def is_valid(self, graphs: CellGraph) -> BoolTensor:
        """Which decoded graphs are cells of the space by the rules of :meth:`indices_of`, ``(B,)``."""
        return self.indices_of(graphs) >= 0  # type: ignore[return-value]

    def is_valid_published(self, graphs: CellGraph) -> BoolTensor:
        """Validity as arch2vec's released code tests it, ``(B,)``: the output has to be the last of the 7 vertices.

        So no smaller cell counts that is decoded with the padding behind it.
        """
        last = torch.full_like(graphs.ops[:, 0], graphs.ops.shape[-1] - 1)
        return self._locate(graphs, last) >= 0  # type: ignore[return-value]

    def _locate(self, graphs: CellGraph, last: Tensor) -> Tensor:
        """Members that graphs are whose output is the given vertex, ``(B,)``."""
        missing = MAX_VERTICES - graphs.ops.shape[-1]
        if missing < 0:
            raise SpaceError(
                f"{self.name}: got graphs of {graphs.ops.shape[-1]} vertices, expected up to {MAX_VERTICES}"
            )
        ops = F.pad(graphs.ops, (0, missing), value=-1).cpu()
        adjacency = F.pad(graphs.adjacency.bool(), (0, missing, 0, missing)).cpu()
        parts = (torch.split(part, _AT_ONCE) for part in (ops, adjacency, last.cpu()))
        found = [self._locate_some(*(part.numpy() for part in some)) for some in zip(*parts, strict=True)]
        return torch.from_numpy(np.concatenate([np.empty(0, dtype=np.int64), *found])).to(graphs.ops.device)

    def _locate_some(self, ops: np.ndarray, adjacency: np.ndarray, last: np.ndarray) -> np.ndarray:
        graphs, cells, every = sort_graphs(adjacency, last), self._cells, np.arange(len(ops))
        rows = cells.rows[graphs.masks]
        interior = (graphs.places > 0) & (np.arange(MAX_VERTICES) != last[:, None])
        labelled = (ops[:, 0] == 0) & (ops[every, last] == _OUTPUT)
        labelled &= (~interior | ((ops > 0) & (ops < _OUTPUT))).all(axis=1)
        numbers = np.where(interior & labelled[:, None], (ops - 1) * PLACES[graphs.places], 0).sum(axis=1)
        return np.where(labelled & (rows >= 0), cells.members[rows, numbers], -1)

    def _complaint(self, graph: CellGraph) -> str:
        """What is wrong with a graph that is no member."""
        ops, wired = graph.ops, graph.adjacency.bool()
        touched = (wired.any(dim=0) | wired.any(dim=1)).nonzero().flatten().tolist()
        if not touched:
            return "the graph has no arcs, expected a path from input to output"
        names = [_LABELS[label] if 0 <= label <= _OUTPUT else str(label) for label in ops.tolist()]
        if names[0] != "input" or names[touched[-1]] != "output":
            return f"got labels {names}, expected 'input' first and 'output' at the last vertex with an arc"
        adjacency = F.pad(wired, (0, MAX_VERTICES - len(wired)) * 2).numpy()[None]
        graphs = sort_graphs(adjacency, np.array(touched[-1:]))
        if not graphs.masks[0]:
            return "the graph has a cycle or no path from input to output, expected a directed acyclic graph"
        if (arcs := int(count_arcs(graphs.masks)[0])) > MAX_ARCS:
            return f"the graph has {arcs} arcs on paths from input to output, expected up to {MAX_ARCS}"
        return f"got labels {names}, expected one of {', '.join(_LABELS[1:-1])} between input and output"

    # ---- notation ----

    def format(self, arch: Cell) -> str:
        """Write ``conv3x3(0)+maxpool3x3(0,1)+output(1,2)``."""
        self.index(arch)
        labels = [*(_LABELS[label].removesuffix(_SUFFIX) for label in arch[1:]), "output"]
        arcs = [arc for bit, arc in enumerate(ARCS) if arch[0] >> bit & 1]
        heard = [",".join(str(u) for u, v in arcs if v == vertex) for vertex in range(1, len(labels) + 1)]
        return "+".join(f"{label}({tails})" for label, tails in zip(labels, heard, strict=True))

    def parse(self, text: str) -> Cell:
        """Read the notation of :meth:`format`, or JSON as the benchmark's own library has it.

        The cell may be any that :meth:`from_graph` takes. JSON is an object with ``module_adjacency`` and
        ``module_operations``, or with ``matrix`` and ``ops``, or a list of these two.

        Raises:
            SpaceError: What was wrong and where.
        """
        text = text.strip()
        labels, arcs = self._from_json(text) if text[:1] in ("{", "[") else self._from_notation(text)
        adjacency = torch.zeros(len(labels), len(labels), dtype=torch.bool)
        for u, v in arcs:
            adjacency[u, v] = True
        return self.from_graph(CellGraph(torch.tensor(labels), adjacency))

    def _from_notation(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        labels, arcs = [0], []
        for vertex, entry in enumerate(text.split("+"), start=1):
            read = re.fullmatch(r"\s*([\w-]+)\s*\(([0-9,\s]*)\)\s*", entry, flags=re.ASCII)
            if not read:
                raise SpaceError(f"{self.name}: vertex {vertex} is {entry!r}, expected a cell like {_EXAMPLE!r}")
            labels.append(self._label(vertex, read[1]))
            for tail in filter(None, (part.strip() for part in read[2].split(","))):
                if not (tail.isdigit() and int(tail) < vertex):
                    raise SpaceError(
                        f"{self.name}: vertex {vertex} hears {tail!r} in {entry!r}, expected vertices before it: "
                        f"0 … {vertex - 1}, separated by commas"
                    )
                arcs.append((int(tail), vertex))
        return self._sized(labels), arcs

    def _from_json(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        expected = f"expected {{{', '.join(json.dumps(key) + ': …' for key in _KEYS[0])}}}"
        try:
            content: Any = json.loads(text)
            if isinstance(content, dict):
                content = next(([content[k] for k in keys] for keys in _KEYS if set(keys) <= content.keys()), content)
            matrix, ops = content
            square = {len(row) for row in (*matrix, ops)} == {len(matrix)}
            if not (square and {entry for row in matrix for entry in row} <= {0, 1}):
                raise ValueError(f"{len(ops)} operations, and not as many rows of as many numbers 0 and 1")
            arcs = [(u, v) for u, row in enumerate(matrix) for v, arc in enumerate(row) if arc]
        except (ValueError, TypeError) as error:
            raise SpaceError(f"{self.name}: cannot read {text!r} ({error}), {expected}") from error
        return self._sized([self._label(vertex, str(name)) for vertex, name in enumerate(ops)]), arcs

    def _label(self, vertex: int, name: str) -> int:
        for label, known in enumerate(_LABELS):
            if name in (known, known.removesuffix(_SUFFIX)):
                return label
        raise SpaceError(f"{self.name}: vertex {vertex} is {name!r}, expected one of {', '.join(_LABELS)}")

    def _sized(self, labels: list[int]) -> list[int]:
        if len(labels) > MAX_VERTICES:
            raise SpaceError(f"{self.name}: got {len(labels)} vertices, expected up to {MAX_VERTICES}, input included")
        return labels

    # ---- networks ----

    def build(
        self,
        arch: Cell,
        channels: int = 128,
        cells_per_stage: int = 3,
        num_stages: int = 3,
        num_classes: int = 10,
        in_channels: int = 3,
        bn_momentum: float = BN_MOMENTUM,
    ) -> NASBench101Network:
        """The benchmark's trainable network for a cell, fit for short trainings, too.

        Args:
            arch: The cell.
            channels: Width of the first stage; doubles at every stage.
            cells_per_stage: Cells in each stage.
            num_stages: Number of stages; the image is halved between them.
            num_classes: Outputs of the classifier.
            in_channels: Channels of the input image.
            bn_momentum: Share of a batch's statistics in the running ones of batch normalisation. The benchmark's own
                0.003 suits its 108 epochs; a short training would be validated with the statistics it began with.

        Raises:
            SpaceError: The network is so narrow that a vertex would have no channel.
        """
        graph, size = self.graph(arch), len(arch) + 1
        matrix = graph.adjacency[:size, :size].long().tolist()
        operations = [_LABELS[label] for label in arch[1:]]
        return NASBench101Network(
            matrix, operations, channels, cells_per_stage, num_stages, num_classes, in_channels, bn_momentum
        )


_INTERIOR = (0, *(head - 1 for _, head in ARCS))  # vertices between input and output, by the bits of the arcs
_LABELLINGS = [labels[::-1] for labels in product(range(1, OPERATIONS + 1), repeat=MAX_VERTICES - 2)]  # by number
_NUMBERS = {labels[:size]: number for size in range(6) for number, labels in enumerate(_LABELLINGS[: OPERATIONS**size])}
