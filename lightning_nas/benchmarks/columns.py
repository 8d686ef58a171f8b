"""Columns of a table as features of architectures."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_nas.benchmarks.table import find_table, read_table
from lightning_nas.errors import BenchmarkDataError, UsageError
from lightning_nas.spaces.base import FiniteSpace, SearchSpace
from lightning_nas.spaces.encodings import Encoding


class TableColumns(Encoding):
    """Columns of a table as features: what ``lightning-nas score`` has found, or ``params`` and ``flops``.

    A table may hold one architecture of each isomorphism class; the others have its numbers. Of several initialisations
    or seeds the mean counts. An architecture that is not in the table has NaN.

    Args:
        table: Name of a prepared table or of one that comes with this package, or path of an ``.npz`` table.
        columns: Names of columns, for example ``proxy/synflow``.
        ranks: Replace numbers by ranks in -0.5 … 0.5 among what the table holds, and what is missing by the lowest: for
            networks, which cannot do with numbers that span decades.
        data_dir: Folder of prepared tables; default ``$LIGHTNING_NAS_DATA`` or a cache folder in the home.
    """

    scaled = False

    def __init__(self, table: str, columns: list[str], ranks: bool = False, data_dir: str | None = None) -> None:
        if not columns:
            raise UsageError("TableColumns: got no columns, expected at least one, for example proxy/synflow")
        self.table, self.columns, self.ranks = table, list(columns), ranks
        self._data_dir = data_dir
        self._cached: tuple[SearchSpace[Any], Tensor] | None = None

    def encode(self, space: SearchSpace[Any]) -> Tensor:
        """Features of all members, ``(N, number of columns)`` float32."""
        if self._cached is None or self._cached[0] is not space:
            self._cached = space, self._read(space)
        return self._cached[1]

    def _read(self, space: SearchSpace[Any]) -> Tensor:
        path = find_table(self.table, self._data_dir)
        table = read_table(path)
        if not isinstance(space, FiniteSpace) or table.meta["space"] != space.name:
            raise BenchmarkDataError(
                f"{path}: is a table of {table.meta['space']!r}, expected one of the finite space {space.name!r}"
            )
        members = table.members(len(space))
        rows = np.full(len(space), -1)
        kinds = space.representatives.numpy()
        known = np.arange(len(space)) if members is None else members
        rows[kinds[known]] = np.arange(len(known))
        rows = rows[kinds]
        rows[known] = np.arange(len(known))
        found = [_in_order(_means(table[column]), self.ranks)[rows] for column in self.columns]
        features = np.stack(found, axis=1)
        features[rows < 0] = -0.5 if self.ranks else np.nan
        return torch.from_numpy(features.astype(np.float32))


def _means(values: np.ndarray) -> np.ndarray:
    """Of initialisations or seeds; NaN where one of them is missing, ``(N,)`` or ``(N, I)`` -> ``(N,)``."""
    means: np.ndarray = values.astype(np.float64).reshape(len(values), -1).mean(axis=1)
    return means


def _in_order(values: np.ndarray, ranks: bool) -> np.ndarray:
    if not ranks:
        return values
    known = np.where(np.isnan(values), -np.inf, values)
    ordered = np.sort(known)
    below, upto = np.searchsorted(ordered, known), np.searchsorted(ordered, known, side="right")
    places: np.ndarray = (below + upto - 1) / max(1, 2 * (len(known) - 1)) - 0.5
    return places
