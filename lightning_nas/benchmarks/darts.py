"""Importer of 214 random DARTS networks with their learning curves (Yang et al., arXiv 1912.12522)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from lightning_nas.benchmarks.catalog import PUBLISHED, how_to_get
from lightning_nas.benchmarks.table import Table, write_table
from lightning_nas.errors import BenchmarkDataError
from lightning_nas.files import ensure_writable, opened_npz
from lightning_nas.nn.darts import OPERATIONS
from lightning_nas.spaces.darts import DARTSNetwork
from lightning_nas.spaces.darts_cells import sort_blocks

Track = Callable[[Sequence[int]], Iterable[int]]
"""Shows progress while rows are passed through, for example ``rich.progress.track``."""

_NAME = "darts"
_COLUMNS = ("genotypes", "op_names", "test_acc_curves")


def prepare(source: Path, target: Path, trust_pickle: bool = False, track: Track = iter) -> Table:
    """Read a source, check it and write the table, whole or not at all.

    The networks are rows by their genotypes, in the column ``architecture``; there is a column for every epoch of the
    curves. The source has test accuracies alone, which stand for validation accuracies, too: a search on this table
    selects by what it reports.

    Args:
        source: ``.npz`` with ``genotypes`` ``(N, 2, 4, 2, 2)``: for the normal and the reduction cell, four blocks of
            two edges ``(operation, predecessor)``; ``op_names``, what the operations' numbers stand for; and
            ``test_acc_curves`` ``(N, epochs)`` in percent.
        target: Table to write.
        trust_pickle: Not needed: nothing here is a pickle.
        track: Shows progress over the rows.

    Raises:
        BenchmarkDataError: The source is missing, damaged, or holds something else.
        RunFolderError: The target's folder cannot be written; found out before reading starts.
    """
    if not source.is_file():
        raise BenchmarkDataError(f"{source}: no such file; {how_to_get(_NAME)}")
    ensure_writable(target.parent)
    with opened_npz(source) as file:
        absent = [name for name in _COLUMNS if name not in file.files]
        if absent:
            raise BenchmarkDataError(f"{source}: has no column {', '.join(absent)}; {how_to_get(_NAME)}")
        genotypes, names, curves = (file[name] for name in _COLUMNS)
    rows = len(genotypes)
    if genotypes.shape != (rows, 2, 4, 2, 2) or curves.ndim != 2 or len(curves) != rows or not curves.size:
        raise BenchmarkDataError(
            f"{source}: genotypes and test_acc_curves have the shapes {genotypes.shape} and {curves.shape}, expected "
            "(N, 2, 4, 2, 2) and (N, epochs)"
        )
    labels = [str(name) for name in names]
    if not set(labels) <= set(OPERATIONS) or int(genotypes[..., 0].max()) >= len(labels):
        raise BenchmarkDataError(
            f"{source}: op_names are {labels}, and operations up to {genotypes[..., 0].max()}; expected names among "
            f"{', '.join(OPERATIONS)}, and positions in op_names"
        )
    if not ((curves >= 0) & (curves <= 100)).all():
        raise BenchmarkDataError(f"{source}: test_acc_curves holds numbers that are no percentages")
    space, codes = DARTSNetwork(), _codes(genotypes, labels)
    written = [
        space.format((tuple(codes[row, 0].tolist()), tuple(codes[row, 1].tolist()))) for row in track(range(rows))
    ]
    if len(set(written)) < rows:
        raise BenchmarkDataError(f"{source}: {rows - len(set(written))} genotypes are there twice, expected each once")
    columns = {"architecture": np.array(written)}
    for epoch, accuracies in enumerate(curves.T.astype(np.float32), start=1):
        columns[f"cifar10/valid@{epoch}"] = columns[f"cifar10/test@{epoch}"] = np.ascontiguousarray(accuracies)
    published = PUBLISHED[_NAME]
    meta = {
        "name": published.name, "space": space.name, "source": source.name, "licence": published.licence,
        "citation": published.citation, "checked": "genotypes, and that all accuracies are percentages",
    }  # fmt: skip
    return write_table(target, meta, columns)


def _codes(genotypes: np.ndarray, labels: Sequence[str]) -> torch.Tensor:
    """The space's integers, the lower predecessor of a block first, ``(N, 2, 16)``."""
    operations = np.array([OPERATIONS.index(label) for label in labels])
    edges = np.stack([operations[genotypes[..., 0]], genotypes[..., 1].astype(np.int64)], axis=-1)
    return sort_blocks(torch.from_numpy(edges.reshape(len(edges), 2, -1)))
