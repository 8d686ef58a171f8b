"""The table format: one compressed ``.npz`` of named columns, one row per architecture in the space's order.

Columns are called ``<dataset>/<split>@<epochs>``, for example ``cifar10/valid@12``, with shape ``(N,)`` or ``(N, S)``
for S training seeds (NaN where a seed is missing); others are free, among them ``params`` and
``flops``, trainable weights and multiply-adds for one image. ``meta`` is a JSON string.
Where isomorphic architectures share their results, the columns hold each result once and ``row``, ``(N,)``, says which
one belongs to an architecture. A table of a part of a space says in ``member``, ``(N,)``, which architectures its rows
are, by their index in the space.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lightning_nas.benchmarks.catalog import how_to_get
from lightning_nas.errors import BenchmarkDataError
from lightning_nas.files import data_dir as data_dir  # imported from here, too
from lightning_nas.files import opened_npz, write_atomically

SHIPPED = Path(__file__).with_name("tables")
"""Folder of the tables that come with this package."""

_ROW, _MEMBER = "row", "member"


@dataclass(frozen=True)
class Table:
    """Columns of a benchmark, read from disk when asked for.

    Args:
        path: File written by :func:`write_table`.
        meta: Space, number of rows, source, licence, citation.
        columns: Names of all columns.
    """

    path: Path
    meta: dict[str, Any]
    columns: tuple[str, ...] = field(repr=False)

    def __len__(self) -> int:
        return int(self.meta["rows"])

    def __getitem__(self, column: str) -> np.ndarray:
        """One column; raises ``BenchmarkDataError`` listing the columns there are."""
        if column not in self.columns:
            raise BenchmarkDataError(
                f"{self.path}: no column {column!r}; expected one of {', '.join(sorted(self.columns))}"
            )
        with opened_npz(self.path) as file:
            values: np.ndarray = file[column]
            if _ROW in file.files and column != _MEMBER:
                values = self._spread(values, file[_ROW], column)
        if len(values) != len(self):
            raise BenchmarkDataError(f"{self.path}: column {column!r} has {len(values)} rows, expected {len(self)}")
        return values

    def _spread(self, values: np.ndarray, row: np.ndarray, column: str) -> np.ndarray:
        """From one row per result to one per architecture."""
        if row.size and not 0 <= row.min() <= row.max() < len(values):
            raise BenchmarkDataError(
                f"{self.path}: 'row' names the rows {row.min()} to {row.max()} of column {column!r}, which has "
                f"{len(values)}; the file is damaged, get or make it again"
            )
        spread: np.ndarray = values[row]
        return spread

    def members(self, size: int) -> np.ndarray | None:
        """Index in the space of the architecture in each row, ``(N,)`` int64; None for the whole space in its order.

        Args:
            size: Number of architectures of the space.

        Raises:
            BenchmarkDataError: An architecture is there twice, or is none of the space's; or the table does not say
                which of them it holds.
        """
        if _MEMBER not in self.columns:
            if len(self) != size:
                raise BenchmarkDataError(
                    f"{self.path}: holds {len(self)} of the {size} architectures of {self.meta['space']!r} and no "
                    "column 'member' that says which; prepare it again"
                )
            return None
        members = self[_MEMBER]
        if members.ndim != 1 or not np.issubdtype(members.dtype, np.integer):
            raise BenchmarkDataError(
                f"{self.path}: 'member' is {members.dtype} of shape {members.shape}, expected one index for each row"
            )
        outside = np.flatnonzero((members < 0) | (members >= size))
        if len(outside):
            raise BenchmarkDataError(
                f"{self.path}: 'member' is {members[outside[0]]} in row {outside[0]}, expected 0 to {size - 1}, an "
                f"index in the space {self.meta['space']!r}; the table is of another version of it, prepare it again"
            )
        distinct, first = np.unique(members, return_index=True)
        if len(distinct) < len(members):
            again = int(np.setdiff1d(np.arange(len(members)), first)[0])
            raise BenchmarkDataError(
                f"{self.path}: rows {np.flatnonzero(members == members[again])[:2].tolist()} are both of the "
                f"architecture {members[again]}, expected each once; prepare the table again"
            )
        return members.astype(np.int64)

    def mean_over_seeds(self, column: str, seed: int | None = None) -> np.ndarray:
        """One number per row, float32: the mean over training seeds, or one seed; refuses rows without a number."""
        values = self[column]
        if seed is not None and not (values.ndim == 2 and 0 <= seed < values.shape[1]):
            seeds = f"{values.shape[1]} seeds" if values.ndim == 2 else "only the mean over seeds"
            raise BenchmarkDataError(f"{self.path}: column {column!r} has {seeds}, got seed={seed}")
        if values.ndim == 2:
            counted = (~np.isnan(values)).sum(axis=1)
            values = values[:, seed] if seed is not None else np.nansum(values, axis=1) / np.maximum(counted, 1)
            values = np.where(counted > 0, values, np.nan)
        missing = np.flatnonzero(~np.isfinite(values))
        if len(missing):
            raise BenchmarkDataError(
                f"{self.path}: column {column!r} holds no number in {len(missing)} of {len(values)} rows (the first is "
                f"row {missing[0]}); choose another column or seed, or prepare the table again from a complete source"
            )
        return values.astype(np.float32)


def find_table(name: str, folder: str | Path | None = None) -> Path:
    """Path of a table given by its path (``*.npz``) or its name: a prepared one wins over one of this package.

    Args:
        name: For example ``nasbench201-digits``.
        folder: Folder of prepared tables; default see :func:`~lightning_nas.files.data_dir`.
    """
    if name.endswith(".npz"):
        return Path(name).expanduser()
    prepared, shipped = data_dir(folder) / f"{name}.npz", SHIPPED / f"{name}.npz"
    return shipped if shipped.is_file() and not prepared.is_file() else prepared


def read_table(path: Path) -> Table:
    """Open a table; only its header is read now.

    Raises:
        BenchmarkDataError: The file is missing, damaged or not a table.
    """
    try:
        with opened_npz(path) as file:
            if "meta" not in file.files:
                raise BenchmarkDataError(
                    f"{path}: not a table (no 'meta'); use 'lightning-nas data prepare' to make one"
                )
            meta = json.loads(str(file["meta"]))
            columns = tuple(name for name in file.files if name not in ("meta", _ROW))
    except FileNotFoundError:
        folder = None if path.parent == data_dir() else path.parent
        raise BenchmarkDataError(f"{path}: no such table; {how_to_get(path.stem, folder)}") from None
    if not isinstance(meta, dict) or not {"space", "rows"} <= meta.keys():
        raise BenchmarkDataError(f"{path}: damaged table ('meta' names no space and rows); prepare it again")
    return Table(path, meta, columns)


def write_table(path: Path, meta: Mapping[str, Any], columns: Mapping[str, np.ndarray]) -> Table:
    """Write a table whole or not at all.

    Args:
        path: Target ``.npz``.
        meta: Primitives; ``rows`` is added.
        columns: Arrays with one row per architecture; with a column ``row`` the others, but for ``member``, have one
            row per result.
    """
    rows = {len(values) for name, values in columns.items() if name not in (_ROW, _MEMBER)}
    if len(rows) != 1:
        raise BenchmarkDataError(f"{path}: columns of {sorted(rows)} rows, expected one common number")
    header = {**meta, "rows": len(columns[_ROW]) if _ROW in columns else rows.pop()}
    if _MEMBER in columns and len(columns[_MEMBER]) != header["rows"]:
        raise BenchmarkDataError(
            f"{path}: 'member' has {len(columns[_MEMBER])} entries, expected one for each of {header['rows']} rows"
        )
    with write_atomically(path, "wb") as file:
        np.savez_compressed(file, meta=np.array(json.dumps(header)), **columns)  # type: ignore[arg-type]
    return read_table(path)
