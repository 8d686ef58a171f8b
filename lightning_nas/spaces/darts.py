"""The cells of DARTS (Liu et al., ICLR 2019, arXiv 1806.09055): one for both kinds of position, or one for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from operator import index as as_int
from typing import Any

import numpy as np
import torch
from torch import BoolTensor, LongTensor, Tensor

from lightning_nas.errors import SpaceError
from lightning_nas.nn.darts import OPERATIONS, GenotypeNetwork, Stem, in_stages, in_thirds
from lightning_nas.nn.darts_supernet import DARTSSupernet, Part, groups_of
from lightning_nas.nn.isomorphism import isomorphism_hashes
from lightning_nas.spaces import darts_cells
from lightning_nas.spaces.base import CellGraph, FiniteSpace, SearchSpace
from lightning_nas.spaces.darts_cells import NUM_EDGES, NUM_VERTICES, VERTEX_LABELS, Cell
from lightning_nas.spaces.darts_sample import draw_cells, imagenet_flops, sample_cells

Cells = tuple[Cell, Cell]
"""An architecture of :class:`DARTSNetwork`: the normal cell and the reduction cell."""

_LOOKED_UP = 100_000  # neighbours at a time


def _build(
    cells: Cells,
    channels: int,
    cells_per_stage: int,
    num_stages: int,
    num_layers: int | None,
    num_classes: int,
    in_channels: int,
    auxiliary: bool,
    stem: Stem,
) -> GenotypeNetwork:
    reductions = in_stages(cells_per_stage, num_stages) if num_layers is None else in_thirds(num_layers)
    normal, reduction = map(darts_cells.edges_of, cells)
    return GenotypeNetwork(normal, reduction, reductions, channels, num_classes, in_channels, auxiliary, stem)


class DARTSCell(FiniteSpace[Cell]):
    """Sampled cells of the DARTS space, each of which is both the normal and the reduction cell (arXiv 2006.06936).

    An architecture is a tuple of sixteen integers: for the four blocks in order two edges ``(operation, predecessor)``,
    the lower predecessor first. Operations are numbered as in :data:`~lightning_nas.nn.darts.OPERATIONS`, ``none``
    included; predecessors 0 and 1 are the outputs of the cells before, 2 … 4 the blocks 0 … 2.

    The space of about 3 · 10⁹ such tuples is not listed: its members are the first ``num_cells`` of a seeded drawing
    (two different predecessors for each block, then two operations, all uniform) whose graph is new up to isomorphism
    and whose ImageNet network costs less than ``max_flops``. The graph does not say which operations of two blocks that
    nobody reads belong together, so that of such cells one is kept.
    Any other cell can be parsed, drawn as a graph and built, but has no index.

    Args:
        num_cells: Members of the space; from 50,000 on they are sampled once and kept in ``$LIGHTNING_NAS_DATA``.
        max_flops: Multiply-adds of the network of 14 layers and 48 channels for an image of 224 x 224 pixels, counted
            as in the paper (see :func:`~lightning_nas.spaces.darts_sample.imagenet_flops`).
        seed: Seed of the drawing.

    Example:
        >>> space = DARTSCell(num_cells=100)
        >>> len(space), space.index(space[42]), space.parse(space.format(space[42])) == space[42]
        (100, 42, True)
    """

    name = "darts_cell"
    vertex_labels = VERTEX_LABELS
    num_vertices = NUM_VERTICES

    def __init__(self, num_cells: int = 600_000, max_flops: float = 600e6, seed: int = 0) -> None:
        if num_cells < 1 or seed < 0:
            raise SpaceError(f"DARTSCell(num_cells={num_cells}, seed={seed}): expected num_cells >= 1 and seed >= 0")
        self.num_cells, self.max_flops, self.seed = num_cells, float(max_flops), seed

    def __getstate__(self) -> dict[str, Any]:
        return self._settings()  # workers that build networks need no members

    @property
    def codes(self) -> Tensor:
        """The members in order, ``(N, 16)`` int8."""
        return sample_cells(self.num_cells, self.max_flops, self.seed).codes

    def __len__(self) -> int:
        return self.num_cells

    def __getitem__(self, index: int) -> Cell:  # type: ignore[override]
        return tuple(self.codes[as_int(index)].tolist())

    @cached_property
    def _by_code(self) -> tuple[np.ndarray, np.ndarray]:
        """The members' numbers in ascending order, and whose they are."""
        numbers = _number(self.codes)
        order = np.argsort(numbers)
        return numbers[order], order

    @cached_property
    def _by_hash(self) -> tuple[Tensor, Tensor]:
        hashes, order = sample_cells(self.num_cells, self.max_flops, self.seed).hashes.sort()
        return hashes, order

    def index(self, arch: Cell) -> int:  # type: ignore[override]
        """Position of a member; raises ``SpaceError`` for a stranger."""
        darts_cells.check_cell(self.name, arch)
        numbers, order = self._by_code
        (number,) = _number(torch.tensor([arch]))
        place = int(np.searchsorted(numbers, number))
        if place == len(numbers) or numbers[place] != number:
            raise SpaceError(
                f"{self.name}: {self.format(arch)} is a cell, but not among the {self.num_cells} that were sampled "
                f"(with seed {self.seed}, below {self.max_flops / 1e6:g} million multiply-adds); indices_of() finds "
                "cells that are drawn in another order"
            )
        return int(order[place])

    def indices_of(self, graphs: CellGraph) -> LongTensor:
        """Positions of many graphs at once, -1 for those that are isomorphic to no member.

        Shapes:
            ops ``(B, 11)``, adjacency ``(B, 11, 11)``, vertices in any order -> ``(B,)``.
        """
        hashes, order = self._by_hash
        asked = isomorphism_hashes(graphs)
        places = torch.searchsorted(hashes, asked).clamp_max(len(hashes) - 1)
        return torch.where(hashes[places] == asked, order[places], -1)  # type: ignore[return-value]

    @cached_property
    def representatives(self) -> LongTensor:
        """Index of every member itself: no two are isomorphic, ``(N,)``."""
        return torch.arange(self.num_cells)  # type: ignore[return-value]

    def _neighbor_indices(self, codes: Tensor, own: Tensor) -> LongTensor:
        """Members one edit away from n cells with their own indices, -1 for edits that lead to none, ``(n, 68)``."""
        changed = darts_cells.edits(codes)
        found = changed.new_full(changed.shape[:-1], -1, dtype=torch.int64)
        asked, known = _sketch(changed), self._sketches
        likely = known[torch.searchsorted(known, asked).clamp_max(len(known) - 1)] == asked  # few, and hashing is slow
        found[likely] = self.indices_of(darts_cells.graphs_of(changed[likely]))
        return found.where(found != own[:, None], -1)  # type: ignore[return-value]  # an edit may lead to a twin

    @cached_property
    def _sketches(self) -> Tensor:
        """Of all members, in ascending order."""
        return _sketch(self.codes).unique()  # type: ignore[no-any-return,no-untyped-call]

    def neighbors(self, arch: Cell) -> Iterator[Cell]:
        """Every member that is isomorphic to the cell with another operation or another predecessor at one edge.

        Among 600,000 of 3 · 10⁹ cells there is seldom one: for a search by edits take :class:`DARTSNetwork`.
        """
        darts_cells.check_cell(self.name, arch)
        codes = torch.tensor([arch])
        (found,) = self._neighbor_indices(codes, self.indices_of(darts_cells.graphs_of(codes)))
        yield from (self[i] for i in found.unique().tolist() if i >= 0)

    def mutate(self, arch: Cell, rng: np.random.Generator) -> Cell:
        """A neighbour drawn uniformly, or any member when there is none."""
        options = list(self.neighbors(arch))
        return options[int(rng.integers(len(options)))] if options else self.sample(rng)

    def neighbor_table(self) -> LongTensor:
        """Indices of every member's neighbours in ascending order, ``(N, K)``, rows padded with -1, K >= 1."""
        rows = []
        for own in torch.split(torch.arange(self.num_cells), _LOOKED_UP // 68):
            found = self._neighbor_indices(self.codes[own], own).sort(dim=1).values
            found[:, 1:][found[:, 1:] == found[:, :-1]] = -1  # two edits may lead to one member
            found = found.where(found >= 0, self.num_cells).sort(dim=1).values
            found[found == self.num_cells] = -1
            rows.append(found[:, : max(1, int((found >= 0).sum(dim=1).max()))])
        width = max(part.shape[1] for part in rows)
        padded = [torch.nn.functional.pad(part, (0, width - part.shape[1]), value=-1) for part in rows]
        return torch.cat(padded)  # type: ignore[return-value]

    def parse(self, text: str) -> Cell:
        """Read a genotype whose two cells are equal, or which has one; raises ``SpaceError``, saying what and where."""
        found = list(darts_cells.read_genotype(self.name, text).values())
        if found[0] != found[-1]:
            raise SpaceError(
                f"{self.name}: the genotype's normal and reduce cells differ, expected the same for both; the space "
                "'darts' (lightning_nas.spaces.darts.DARTSNetwork) has one for each"
            )
        return found[0]

    def format(self, arch: Cell) -> str:
        """Write a genotype, as DARTS does."""
        darts_cells.check_cell(self.name, arch)
        return darts_cells.write_genotype((("normal", arch), ("reduce", arch)))

    def graph(self, arch: Cell) -> CellGraph:
        """The cell with 11 vertices: two inputs, the operations of blocks 0 … 3, the output."""
        darts_cells.check_cell(self.name, arch)
        return darts_cells.graphs_of(torch.tensor(arch))

    def all_graphs(self) -> CellGraph:
        """Graphs of all members in order, shapes ``(N, 11)`` and ``(N, 11, 11)``."""
        return darts_cells.graphs_of(self.codes)

    def graphs_at(self, members: LongTensor) -> CellGraph:
        """Graphs of some members by index, ``(n,)`` -> ``(n, 11)`` and ``(n, 11, 11)``."""
        return darts_cells.graphs_of(self.codes[members])

    def from_graph(self, graph: CellGraph) -> Cell:
        """The inverse of :meth:`graph`, a block's operations in any order; raises ``SpaceError`` for another graph."""
        return _from_graph(self.name, graph)

    def is_valid(self, graphs: CellGraph) -> BoolTensor:
        """Which decoded graphs are cells, sampled or not, ``(B,)`` (arXiv 2006.06936, Appendix B)."""
        return darts_cells.codes_of(graphs)[1]

    def is_valid_published(self, graphs: CellGraph) -> BoolTensor:
        """Validity as arch2vec's released code tests it: right labels, and operations that read something, ``(B,)``."""
        return darts_cells.is_valid_published(graphs)

    def flops(self, arch: Cell) -> int:
        """Multiply-adds of the cell's ImageNet network, what ``max_flops`` limits."""
        darts_cells.check_cell(self.name, arch)
        return int(imagenet_flops(torch.tensor(arch)))

    def build(
        self,
        arch: Cell,
        channels: int = 36,
        cells_per_stage: int = 6,
        num_stages: int = 3,
        num_classes: int = 10,
        in_channels: int = 3,
        auxiliary: bool = False,
        stem: Stem = "cifar",
        num_layers: int | None = None,
    ) -> GenotypeNetwork:
        """The evaluation network of DARTS for a cell; the defaults are that of CIFAR-10, 20 cells of 36 channels.

        Args:
            arch: The cell.
            channels: Width of the first cells' blocks; doubles at every reduction. DARTS has 48 on ImageNet.
            cells_per_stage: Normal cells before, between and after the reductions; DARTS has 4 on ImageNet.
            num_stages: Number of stages; there is a reduction cell between any two.
            num_classes: Outputs of the classifier.
            in_channels: Channels of the input image.
            auxiliary: Whether the network has an auxiliary head, for training.
            stem: ``cifar`` keeps the image's size, ``imagenet`` takes an eighth of it.
            num_layers: Cells in all, reductions at one third and two thirds, instead of the two numbers above.
        """
        darts_cells.check_cell(self.name, arch)
        sizes = channels, cells_per_stage, num_stages, num_layers, num_classes, in_channels
        return _build((arch, arch), *sizes, auxiliary, stem)


class DARTSNetwork(SearchSpace[Cells]):
    """The whole DARTS space: a normal cell and a reduction cell (arXiv 1806.09055), about 9 · 10¹⁸ pairs.

    An architecture is a pair of tuples as in :class:`DARTSCell`. Its graph has 22 vertices: those of the normal cell,
    then those of the reduction cell, without arcs between the two. :meth:`embed` puts the two cells' embeddings one
    after the other, with an encoder trained on single cells.

    Example:
        >>> space = DARTSNetwork()
        >>> arch = space.sample(np.random.default_rng(0))
        >>> space.parse(space.format(arch)) == arch, len(list(space.neighbors(arch)))
        (True, 136)
    """

    name = "darts"
    vertex_labels = VERTEX_LABELS
    num_vertices = 2 * NUM_VERTICES

    def cells(self, arch: Cells) -> Cells:
        """The normal cell and the reduction cell; raises ``SpaceError`` for what is no architecture."""
        if len(arch) != 2:
            raise SpaceError(f"{self.name}: got {arch!r:.200}, expected two cells, normal and reduction")
        for cell in arch:
            darts_cells.check_cell(self.name, cell)
        return arch

    def sample(self, rng: np.random.Generator) -> Cells:
        """Draw both cells uniformly."""
        normal, reduction = draw_cells(2, rng).tolist()
        return tuple(normal), tuple(reduction)

    def _edited(self, arch: Cells) -> list[Cells]:
        normal, reduction = self.cells(arch)
        return [
            *((tuple(changed), reduction) for changed in darts_cells.edits(torch.tensor(normal)).tolist()),
            *((normal, tuple(changed)) for changed in darts_cells.edits(torch.tensor(reduction)).tolist()),
        ]

    def neighbors(self, arch: Cells) -> Iterator[Cells]:
        """Every architecture that differs in one operation or one predecessor of one of the cells: 136."""
        yield from self._edited(arch)

    def parse(self, text: str) -> Cells:
        """Read ``Genotype(normal=[…], normal_concat=…, reduce=[…], reduce_concat=…)``; raises ``SpaceError``."""
        found = darts_cells.read_genotype(self.name, text)
        if len(found) < 2:
            raise SpaceError(
                f"{self.name}: the genotype has only the cell {', '.join(found)}, expected normal and reduce"
            )
        return found["normal"], found["reduce"]

    def format(self, arch: Cells) -> str:
        """Write a genotype, as DARTS does."""
        return darts_cells.write_genotype(zip(("normal", "reduce"), self.cells(arch), strict=True))

    def graph(self, arch: Cells) -> CellGraph:
        """Both cells' graphs as one, the normal cell's vertices first."""
        ops, adjacency = darts_cells.graphs_of(torch.tensor(self.cells(arch)))
        return CellGraph(ops.flatten(), torch.block_diag(*adjacency))  # type: ignore[no-untyped-call]

    def cell_graphs(self, arch: Cells) -> dict[str, CellGraph]:
        """The graphs of the normal and of the reduction cell."""
        return dict(zip(("normal", "reduction"), _halves(self.graph(arch)), strict=True))

    def from_graph(self, graph: CellGraph) -> Cells:
        """The inverse of :meth:`graph`; raises ``SpaceError`` for any other graph."""
        if graph.ops.shape != (self.num_vertices,) or _crossing(graph.adjacency[None]).any():
            raise SpaceError(f"{self.name}: expected {self.num_vertices} vertices, and no arcs between the two cells")
        normal, reduction = (_from_graph(self.name, half) for half in _halves(graph))
        return normal, reduction

    def is_valid(self, graphs: CellGraph) -> BoolTensor:
        """Which graphs are two cells without arcs between them, ``(B,)``."""
        normal, reduction = (darts_cells.codes_of(half)[1] for half in _halves(graphs))
        return normal & reduction & ~_crossing(graphs.adjacency)  # type: ignore[return-value]

    def embed(self, archs: Sequence[Cells], embed: Callable[[CellGraph], Tensor]) -> Tensor:
        """Embeddings of the normal cells, and beside them those of the reduction cells.

        Args:
            archs: B architectures.
            embed: ``embed`` of a module for single cells, for example :class:`~lightning_nas.modules.arch2vec.Arch2Vec`
                on the CPU in evaluation mode; ``(2B, 11)``, ``(2B, 11, 11)`` -> ``(2B, D)``.

        Shapes:
            B architectures -> ``(B, 2D)``.
        """
        codes = torch.tensor([self.cells(arch) for arch in archs])  # (B, 2, 16)
        return embed(darts_cells.graphs_of(codes.flatten(0, 1))).reshape(len(codes), -1)

    def build(
        self,
        arch: Cells,
        channels: int = 36,
        cells_per_stage: int = 6,
        num_stages: int = 3,
        num_classes: int = 10,
        in_channels: int = 3,
        auxiliary: bool = False,
        stem: Stem = "cifar",
        num_layers: int | None = None,
    ) -> GenotypeNetwork:
        """The evaluation network of DARTS; arguments and defaults are those of :meth:`DARTSCell.build`."""
        sizes = channels, cells_per_stage, num_stages, num_layers, num_classes, in_channels
        return _build(self.cells(arch), *sizes, auxiliary, stem)

    def supernet(
        self,
        part: Part = "darts",
        channels: int = 16,
        num_layers: int = 8,
        num_classes: int = 10,
        in_channels: int = 3,
        partial: int = 1,
        stem: Stem = "cifar",
    ) -> DARTSSupernet:
        """The network that holds all operations on all 14 edges of both cells.

        Args:
            part: ``darts``: all eight operations; ``s5``: without ``none``; ``s1`` … ``s4``: those of RobustDARTS
                (arXiv 1909.09656).
            channels: Width of the first cells' blocks; doubles at every reduction.
            num_layers: Cells, reductions at one third and two thirds.
            num_classes: Outputs of the classifier.
            in_channels: Channels of the input image.
            partial: One over the share of the channels that operations see, k; 1 for all.
            stem: ``cifar`` keeps the image's size, ``imagenet`` takes an eighth of it.
        """
        return DARTSSupernet(part, channels, num_layers, num_classes, in_channels, partial, stem)

    def from_choice(self, choice: Tensor, part: Part = "darts") -> Cells:
        """The architecture with these operations on the supernet's edges, ``(2, 14)``, two into every block.

        The noise of S4, for which evaluation networks have no operation, becomes ``none``.
        """
        cells = []
        for group, codes in zip(groups_of(part), choice.tolist(), strict=True):
            edges = [
                (OPERATIONS.index(names[code]) if names[code] in OPERATIONS else 0, tail)
                for code, names, (tail, _) in zip(codes, group.operations, group.edges, strict=True)
                if code >= 0
            ]
            cells.append(tuple(number for edge in edges for number in edge))
        normal, reduction = self.cells((cells[0], cells[1]))
        return normal, reduction


def _halves(graphs: CellGraph) -> list[CellGraph]:
    """The normal and the reduction cell of graphs of both."""
    spans = slice(0, NUM_VERTICES), slice(NUM_VERTICES, 2 * NUM_VERTICES)
    return [CellGraph(graphs.ops[..., span], graphs.adjacency[..., span, span]) for span in spans]


def _crossing(adjacency: Tensor) -> Tensor:
    """Whether there are arcs between the two cells, ``(B, 22, 22)`` -> ``(B,)``."""
    there, back = adjacency[:, :NUM_VERTICES, NUM_VERTICES:], adjacency[:, NUM_VERTICES:, :NUM_VERTICES]
    return (there.bool() | back.mT.bool()).flatten(1).any(dim=1)


def _from_graph(space: str, graph: CellGraph) -> Cell:
    if graph.ops.shape == (NUM_VERTICES,):
        codes, valid = darts_cells.codes_of(CellGraph(graph.ops[None], graph.adjacency[None]))
        if valid:
            return tuple(codes[0].tolist())
    names = [VERTEX_LABELS[label] if 0 <= label < len(VERTEX_LABELS) else label for label in graph.ops.tolist()]
    raise SpaceError(
        f"{space}: a graph with the labels {names} is no cell; expected {NUM_VERTICES} vertices: 'c_{{k-2}}', "
        "'c_{k-1}', two operations for each block, 'c_k', where every operation has the arcs of one source (an input, "
        "or both operations of an earlier block, for the two of a block different ones) and one to the output"
    )


def _number(codes: Tensor) -> np.ndarray:
    """A number for every cell, ``(n, 16)`` -> ``(n,)``."""
    edges = codes.numpy().astype(np.int64).reshape(-1, NUM_EDGES, 2)
    digits = edges[..., 0] * 8 + edges[..., 1]
    return np.asarray(digits @ 64 ** np.arange(NUM_EDGES))


_LABELS = torch.from_numpy(np.random.default_rng(0).integers(2**62, size=2 + len(OPERATIONS)))


def _sketch(codes: Tensor) -> LongTensor:
    """A number that isomorphic cells share and few others: what every operation reads, ``(…, 16)`` -> ``(…)``."""
    operations = _LABELS[codes[..., ::2].long() + 2]  # (…, 8)
    blocks = operations.view(*operations.shape[:-1], -1, 2).sum(dim=-1)
    outputs = torch.cat([_LABELS[:2].expand(*blocks.shape[:-1], 2), blocks], dim=-1)  # (…, 6)
    mixed = 3 * operations + outputs.gather(-1, codes[..., 1::2].long())
    mixed = (mixed ^ (mixed >> 29)) * -4658895280553007687
    return (mixed ^ (mixed >> 32)).sum(dim=-1)  # type: ignore[return-value]
