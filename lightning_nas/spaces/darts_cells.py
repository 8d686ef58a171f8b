"""Cells of the DARTS space as integers, as graphs and in the field's notation, many at a time."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence

import torch
from torch import BoolTensor, LongTensor, Tensor

from lightning_nas.errors import SpaceError
from lightning_nas.nn.darts import NUM_BLOCKS, OPERATIONS, Edge
from lightning_nas.spaces.base import CellGraph

Cell = tuple[int, ...]
"""Sixteen integers, ``(operation, predecessor)`` of eight edges, two for each block, the lower predecessor first."""

VERTEX_LABELS = ("c_{k-2}", "c_{k-1}", *OPERATIONS, "c_k")
NUM_EDGES = 2 * NUM_BLOCKS
NUM_VERTICES = NUM_EDGES + 3

_BLOCKS = torch.arange(NUM_EDGES) // 2  # block of every edge
_EXAMPLE = "Genotype(normal=[('sep_conv_3x3', 0), …], normal_concat=[2, 3, 4, 5], reduce=[…], reduce_concat=…)"


def _feeders() -> Tensor:
    """The vertices whose arcs a predecessor stands for: an input, or both operations of a block, ``(6, V)``."""
    feeders = torch.eye(2 + NUM_BLOCKS, NUM_VERTICES, dtype=torch.bool)
    feeders[2:] = False
    for block in range(NUM_BLOCKS):
        feeders[2 + block, 2 + 2 * block : 4 + 2 * block] = True
    return feeders


_FEEDERS = _feeders()


def graphs_of(codes: Tensor) -> CellGraph:
    """Graphs of cells: the inputs, the eight operations in the order of the edges, the output (arXiv 2006.06936).

    An operation that reads an earlier block has arcs from both operations of that block.

    Shapes:
        ``(…, 16)`` -> ops ``(…, 11)``, adjacency ``(…, 11, 11)``.
    """
    operations, predecessors = codes[..., ::2].long(), codes[..., 1::2].long()
    ops = operations.new_zeros(*operations.shape[:-1], NUM_VERTICES)
    ops[..., 1] = 1
    ops[..., 2:-1] = operations + 2
    ops[..., -1] = len(VERTEX_LABELS) - 1
    adjacency = torch.zeros(*ops.shape, NUM_VERTICES, dtype=torch.bool)
    adjacency[..., 2:-1] = _FEEDERS[predecessors].mT  # (…, V, 8)
    adjacency[..., 2:-1, -1] = True
    return CellGraph(ops, adjacency)


def codes_of(graphs: CellGraph) -> tuple[LongTensor, BoolTensor]:
    """The inverse of :func:`graphs_of`, and which of the graphs are cells at all.

    A cell has the right labels, and no arcs but these: from one source (an input, or both operations of an earlier
    block) to every operation, the two of a block from different ones; from all operations to the output.

    Shapes:
        ops ``(B, 11)``, adjacency ``(B, 11, 11)`` -> codes ``(B, 16)`` (of no meaning for other graphs), ``(B,)``.
    """
    adjacency, labels = graphs.adjacency.bool(), graphs.ops
    feeders = _FEEDERS.to(labels.device)
    same = (adjacency[:, :, 2:-1].mT[:, :, None] == feeders).all(dim=-1)  # (B, 8, 6)
    earlier = torch.arange(len(feeders)) < 2 + _BLOCKS[:, None]  # (8, 6)
    sources = same & earlier.to(labels.device)
    predecessors = sources.long().argmax(dim=-1)
    ends = ~adjacency[:, :, :2].flatten(1).any(dim=1) & (adjacency[:, :, -1] == _readers(labels)).all(dim=1)
    wired = ends & sources.any(dim=-1).all(dim=1) & (predecessors[:, ::2] != predecessors[:, 1::2]).all(dim=1)
    codes = torch.stack([labels[:, 2:-1] - 2, predecessors], dim=-1).flatten(1)
    return sort_blocks(codes), wired & _labelled(labels)  # type: ignore[return-value]


def is_valid_published(graphs: CellGraph) -> BoolTensor:
    """The test of arch2vec's released code, weaker than :func:`codes_of`'s, ``(B,)``.

    Right labels, and for every operation at least one arc from an input or an operation of an earlier block.
    """
    earlier = torch.arange(NUM_VERTICES)[:, None] < 2 + 2 * _BLOCKS  # (V, 8)
    reads = (graphs.adjacency.bool()[:, :, 2:-1] & earlier.to(graphs.ops.device)).any(dim=1)
    return _labelled(graphs.ops) & reads.all(dim=1)  # type: ignore[return-value]


def _readers(labels: Tensor) -> Tensor:
    """What the output reads, ``(V,)``."""
    vertex = torch.arange(NUM_VERTICES, device=labels.device)
    return (vertex >= 2) & (vertex < NUM_VERTICES - 1)


def _labelled(labels: Tensor) -> Tensor:
    last = len(VERTEX_LABELS) - 1
    ends = (labels[:, 0] == 0) & (labels[:, 1] == 1) & (labels[:, -1] == last)
    return ends & ((labels[:, 2:-1] > 1) & (labels[:, 2:-1] < last)).all(dim=1)


def sort_blocks(codes: Tensor) -> LongTensor:
    """Cells with the lower predecessor of every block first, ``(…, 16)`` -> the same."""
    blocks = codes.reshape(*codes.shape[:-1], NUM_BLOCKS, 2, 2)  # (…, block, edge, operation and predecessor)
    swapped = blocks[..., :1, 1:] > blocks[..., 1:, 1:]
    return torch.where(swapped, blocks.flip(-2), blocks).flatten(-3)  # type: ignore[return-value]


def edits(codes: Tensor) -> LongTensor:
    """Every cell that differs in one operation or one predecessor, ``(…, 16)`` -> ``(…, 68, 16)``."""
    found = []
    for edge in range(NUM_EDGES):
        for shift in range(1, len(OPERATIONS)):
            changed = codes.clone()
            changed[..., 2 * edge] = (codes[..., 2 * edge] + shift) % len(OPERATIONS)
            found.append(changed)
        block = edge // 2
        lower, higher = codes[..., 4 * block + 1], codes[..., 4 * block + 3]
        for unused in range(block):  # the block could read block + 2 outputs, two of which it does
            predecessor = lower.new_full(lower.shape, unused)
            predecessor += predecessor >= lower
            predecessor += predecessor >= higher
            changed = codes.clone()
            changed[..., 2 * edge + 1] = predecessor
            found.append(sort_blocks(changed))
    return torch.stack(found, dim=-2)  # type: ignore[return-value]


def edges_of(cell: Cell) -> list[Edge]:
    """A cell's edges by the names of their operations."""
    return [(OPERATIONS[operation], source) for operation, source in zip(cell[::2], cell[1::2], strict=True)]


def check_cell(space: str, cell: Sequence[int]) -> None:
    """Raise ``SpaceError`` for what is no cell.

    Args:
        space: Its name in the message.
        cell: The sixteen integers.
    """
    pairs = list(zip(cell[::2], cell[1::2], strict=False))
    known = all(
        0 <= operation < len(OPERATIONS) and 0 <= source < 2 + edge // 2
        for edge, (operation, source) in enumerate(pairs)
    )  # fmt: skip
    if len(cell) == 2 * NUM_EDGES and known and all(a < b for a, b in zip(cell[1::4], cell[3::4], strict=True)):
        return
    raise SpaceError(
        f"{space}: got {cell!r:.200}, expected {2 * NUM_EDGES} integers, (operation, predecessor) of the edges of "
        f"blocks 0 to {NUM_BLOCKS - 1}: operations below {len(OPERATIONS)}, predecessors below the block's number + 2, "
        "the lower one of each block first; use parse() to read a genotype from text"
    )


def cell_of(space: str, kind: str, edges: object) -> Cell:
    """A cell from what stands in a genotype.

    Args:
        space: Name of the space, for the message.
        kind: ``normal`` or ``reduce``, likewise.
        edges: Eight pairs of operation and predecessor, the two of a block in any order.

    Raises:
        SpaceError: It is no cell.
    """
    expected = f"expected {_EXAMPLE}"
    if not isinstance(edges, list | tuple) or len(edges) != NUM_EDGES:
        found = f"{len(edges)} entries" if isinstance(edges, list | tuple) else f"{edges!r:.50}"
        raise SpaceError(
            f"{space}: {kind} has {found}, expected {NUM_EDGES} pairs (operation, predecessor): {expected}"
        )
    cell: list[int] = []
    for number, edge in enumerate(edges):
        place = f"{space}: {kind}, pair {number}"
        if not (isinstance(edge, list | tuple) and len(edge) == 2):
            raise SpaceError(f"{place} is {edge!r:.50}, expected (operation, predecessor); {expected}")
        operation, source = edge
        if operation not in OPERATIONS:
            raise SpaceError(f"{place}: got the operation {operation!r:.50}, expected one of {', '.join(OPERATIONS)}")
        if type(source) is not int or not 0 <= source < 2 + number // 2:
            raise SpaceError(
                f"{place}: got the predecessor {source!r:.50}, expected 0 to {1 + number // 2} (0 and 1 are the cells "
                "before, 2 is block 0)"
            )
        cell += [OPERATIONS.index(operation), source]
    for block in range(NUM_BLOCKS):
        if cell[4 * block + 1] == cell[4 * block + 3]:
            raise SpaceError(
                f"{space}: {kind}, pairs {2 * block} and {2 * block + 1} both have the predecessor "
                f"{cell[4 * block + 1]}; expected two different ones, as in all cells that DARTS derives"
            )
    return tuple(sort_blocks(torch.tensor(cell)).tolist())


def read_genotype(space: str, text: str) -> dict[str, Cell]:
    """Read ``Genotype(normal=[…], normal_concat=[2, 3, 4, 5], reduce=[…], …)``.

    Args:
        space: Name of the space, for messages.
        text: As DARTS prints it; concatenations may be ``range(2, 6)`` or left out, and so may one of the cells.

    Returns:
        The cells by their kinds, ``normal`` and ``reduce``.

    Raises:
        SpaceError: Something else; says what and where.
    """
    try:
        call = ast.parse(text.strip(), mode="eval").body
        if not isinstance(call, ast.Call) or ast.unparse(call.func).split(".")[-1] != "Genotype" or call.args:
            raise ValueError("no call of Genotype with named arguments")
        found = {str(part.arg): _value(part.value) for part in call.keywords}
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        reason = str(error).split("\n")[0] or type(error).__name__
        raise SpaceError(f"{space}: got {text!r:.100} ({reason:.100}), expected {_EXAMPLE}") from None
    odd = found.keys() - {"normal", "reduce", "normal_concat", "reduce_concat"}
    if odd or not found.keys() & {"normal", "reduce"}:
        raise SpaceError(f"{space}: the genotype has {', '.join(found) or 'nothing'}, expected {_EXAMPLE}")
    for kind in ("normal_concat", "reduce_concat"):
        if found.get(kind, _CONCAT) not in (_CONCAT, tuple(_CONCAT)):
            raise SpaceError(f"{space}: got {kind}={found[kind]!r:.50}, expected {_CONCAT}: all blocks")
    return {kind: cell_of(space, kind, found[kind]) for kind in ("normal", "reduce") if kind in found}


def write_genotype(cells: Iterable[tuple[str, Cell]]) -> str:
    """Write the cells of the given kinds, the inverse of :func:`read_genotype`."""
    parts = (f"{kind}={edges_of(cell)!r}, {kind}_concat={_CONCAT}" for kind, cell in cells)
    return f"Genotype({', '.join(parts)})"


_CONCAT = list(range(2, 2 + NUM_BLOCKS))


def _value(node: ast.expr) -> object:
    """A literal, or a short ``range(a, b)``."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
        bounds = [ast.literal_eval(argument) for argument in node.args]
        return list(range(*bounds)[: 2 * NUM_BLOCKS])
    return ast.literal_eval(node)
