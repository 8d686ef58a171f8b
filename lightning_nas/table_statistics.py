"""What a table of trainings is worth: do its seeds agree, does it leave room at the top, does it behave like others?"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np

from lightning_nas.benchmarks.table import Table
from lightning_nas.errors import BenchmarkDataError
from lightning_nas.ledger import Result, Row
from lightning_nas.provenance import provenance
from lightning_nas.spaces.base import FiniteSpace

_TOP = 1000


@dataclass(frozen=True)
class TableStatistics:
    """Statistics over distinct architectures, isomorphic ones once.

    Args:
        table: The table.
        space: Its space; where it says which members are ``connected``, the others are left out.
        dataset: Prefix of the columns, for example ``digits``.
        epochs: Training epochs of the columns.
    """

    table: Table
    space: FiniteSpace  # type: ignore[type-arg]
    dataset: str
    epochs: int

    def rows(self, other: Table | None = None, columns: tuple[str, ...] = ()) -> list[Row]:
        """Rows for the ledger.

        Args:
            other: A table of the same space to compare with.
            columns: Its columns of test accuracies, for example ``cifar10/test@200``.

        Raises:
            BenchmarkDataError: A table does not keep single seeds, or the other is of another space.
        """
        if len(self.chosen) < 4:  # half of them must still be a pair
            raise BenchmarkDataError(
                f"{self.table.path}: holds {len(self.chosen)} distinct connected architectures, expected at least 4"
            )
        test, valid = self._seeds("test"), self._seeds("valid")
        rows = [
            *self._agreement(test, valid),
            *self._likeness(test, other, columns),
            *self._range(test),
            *self._noise(test),
        ]
        cost = f"{self.dataset}/cost@{self.epochs}"
        if cost in self.table.columns:
            rows.append(self._row("one training", "time", [self.table[cost][self.chosen].mean()], unit="s"))
        return rows

    @cached_property
    def chosen(self) -> np.ndarray:
        """Rows of the connected architectures, one of each kind."""
        connected = np.asarray(getattr(self.space, "connected", np.ones(len(self.space), dtype=bool)))
        kinds: np.ndarray = self.space.representatives.numpy()
        if self._members is None:
            distinct = np.unique(kinds)
            return np.asarray(distinct[connected[distinct]])
        _, first = np.unique(kinds[self._members], return_index=True)
        return np.asarray(first[connected[self._members[first]]])

    @cached_property
    def _members(self) -> np.ndarray | None:
        return self.table.members(len(self.space))

    @cached_property
    def _num_seeds(self) -> int:
        return int(self.table[f"{self.dataset}/test@{self.epochs}"].shape[1])

    def _seeds(self, split: str) -> np.ndarray:
        column = f"{self.dataset}/{split}@{self.epochs}"
        values: np.ndarray = self.table[column][self.chosen].astype(np.float64)
        if values.ndim != 2 or values.shape[1] < 2:
            raise BenchmarkDataError(f"{self.table.path}: column {column!r} holds no single seeds, expected at least 2")
        return values

    def _agreement(self, test: np.ndarray, valid: np.ndarray) -> list[Row]:
        upper = test.mean(axis=1) >= np.median(test.mean(axis=1))
        top = np.argsort(-test.mean(axis=1), kind="stable")[:_TOP]
        return [
            self._pairs("two seeds, test accuracy", test),
            self._pairs("two seeds, test accuracy, upper half", test[upper]),
            self._pairs(f"two seeds, test accuracy, best {_TOP:,}", test[top]),
            self._pairs("two seeds, validation accuracy", valid),
            self._row(
                "validation of one seed, mean test accuracy of the others",
                "Spearman correlation",
                [_spearman(valid[:, s], np.delete(test, s, axis=1).mean(axis=1)) for s in range(test.shape[1])],
            ),
        ]

    def _likeness(self, test: np.ndarray, other: Table | None, columns: tuple[str, ...]) -> list[Row]:
        if other is None:
            return []
        if other.meta["space"] != self.space.name:
            raise BenchmarkDataError(
                f"{other.path}: is a table of {other.meta['space']!r}, expected one of {self.space.name!r}"
            )
        row_of = np.arange(len(self.space))
        if (members := other.members(len(self.space))) is not None:
            row_of = np.full(len(self.space), -1)
            row_of[members] = np.arange(len(members))
        there = row_of[self.chosen if self._members is None else self._members[self.chosen]]
        if (there >= 0).sum() < 2:
            raise BenchmarkDataError(f"{other.path}: has no two architectures in common with {self.table.path}")
        test, there = test[there >= 0], there[there >= 0]
        rows = []
        for column in columns:
            theirs = other.mean_over_seeds(column)[there]
            rows += [
                self._row(f"mean test accuracy, {column}", "Spearman correlation", [_spearman(test.mean(1), theirs)]),
                self._row(
                    f"test accuracy of one seed, {column}",
                    "Spearman correlation",
                    [_spearman(values, theirs) for values in test.T],
                ),
            ]
        return rows

    def _range(self, test: np.ndarray) -> list[Row]:
        mean = test.mean(axis=1)
        points = {"worst": 0, "5th percentile": 5, "median": 50, "95th percentile": 95, "best": 100}
        return [
            self._row(name, "mean test accuracy", [np.percentile(mean, share)], unit="%")
            for name, share in points.items()
        ]

    def _noise(self, test: np.ndarray) -> list[Row]:
        spread = test.std(axis=1, ddof=1)
        top = np.argsort(-test.mean(axis=1), kind="stable")[:_TOP]
        metric = "standard deviation of the test accuracy over seeds"
        return [
            self._row("all", metric, [spread.mean()], unit="%"),
            self._row(f"best {_TOP:,}", metric, [spread[top].mean()], unit="%"),
        ]

    def _pairs(self, label: str, values: np.ndarray) -> Row:
        pairs = combinations(values.T, 2)
        return self._row(label, "Spearman correlation", [_spearman(a, b) for a, b in pairs])

    def _row(self, label: str, metric: str, values: list[Any], unit: str = "") -> Row:
        seeds = self.table[f"{self.dataset}/test@{self.epochs}"].shape[1]
        return Row.of(
            [float(v) for v in values], label=label, metric=metric, unit=unit, paper="", seeds=f"{seeds} seeds"
        )


def ledger_entry(statistics: TableStatistics, rows: list[Row]) -> Result:
    """A table's statistics as an experiment of the ledger."""
    table, origin = statistics.table, provenance()
    return Result(
        name=f"tables/{table.path.stem}",
        title=f"Table {table.path.stem}",
        source=str(table.meta.get("source", "this package")),
        reference_protocol="none: the table is our own",
        our_protocol=str(table.meta.get("protocol", f"see the table's meta: {table.meta.get('made_by', 'unknown')}")),
        scale=f"{len(statistics.chosen):,} distinct connected architectures of {len(table):,}",
        command=origin["command"],
        commit=table.meta.get("commit") or origin["commit"],
        versions=table.meta.get("versions") or origin["versions"],
        date=str(table.meta.get("date") or date.today().isoformat()),
        seconds=None,
        notes=(),
        rows=tuple(rows),
    )


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic)
