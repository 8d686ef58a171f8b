"""Benchmarks that look the answer up in a prepared table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import LongTensor, Tensor

from lightning_nas.benchmarks.base import Benchmark, Evaluations, as_column
from lightning_nas.benchmarks.table import find_table, read_table
from lightning_nas.errors import BenchmarkDataError
from lightning_nas.spaces.base import A, FiniteSpace, SearchSpace
from lightning_nas.spaces.subset import Subset


class TabularBenchmark(Benchmark[A]):
    """Published (or self-made) training results of the architectures of a space.

    A table may hold a part of the space (see :mod:`lightning_nas.benchmarks.table`): then ``members`` says which one,
    and searches, neighbours and the optimum are confined to it. Of a space without numbers, such as ``DARTSNetwork``,
    the table's architectures are made one (:class:`~lightning_nas.spaces.subset.Subset`), which is the benchmark's
    ``space``.

    Searches select on ``<dataset>/valid@<epochs>`` and report ``<dataset>/test@<test_epochs>``, so the usual protocol
    "reward: 12-epoch validation, report: 200-epoch test" is ``epochs=12, test_epochs=200``. A table with a column for
    every epoch holds curves: there a search that trains a candidate on pays for the further epochs alone.

    Args:
        space: The search space whose members, or some of them, are the table's rows.
        table: Name of a prepared table or of one that comes with this package (``lightning-nas data list`` names
            them), or path of an ``.npz`` table.
        dataset: Data set, for example ``cifar10``, ``cifar100`` or ``imagenet16``.
        epochs: Training epochs behind the validation accuracy that the search sees.
        test_epochs: Training epochs behind the test accuracy that the report shows.
        seed: Which training seed's validation accuracy to use, for tables that keep them apart; None for their mean.
        data_dir: Folder of prepared tables; default ``$LIGHTNING_NAS_DATA`` or a cache folder in the home.
    """

    def __init__(
        self,
        space: SearchSpace,  # type: ignore[type-arg]  # jsonargparse cannot read SearchSpace[A]
        table: str = "nasbench201",
        dataset: str = "cifar10",
        epochs: int = 200,
        test_epochs: int = 200,
        seed: int | None = None,
        data_dir: str | None = None,
    ) -> None:
        self.epochs, self.test_epochs = epochs, test_epochs
        self._dataset, self._seed = dataset, seed
        path = find_table(table, data_dir)
        self.table = read_table(path)
        if not isinstance(space, FiniteSpace):
            space = Subset(space, [space.parse(text) for text in self.table["architecture"].tolist()])
        self.space: FiniteSpace[A] = space
        partial = "member" in self.table.columns
        if self.table.meta["space"] != space.name or (len(self.table) != len(space) and not partial):
            raise BenchmarkDataError(
                f"{path}: holds {len(self.table)} members of the space {self.table.meta['space']!r}, "
                f"expected {len(space)} of {space.name!r}"
            )
        members = self.table.members(len(space))
        self._row: Tensor | None = None
        if members is not None:
            self.members = torch.from_numpy(members)  # type: ignore[assignment]
            self._row = torch.full((len(space),), -1)
            self._row[self.members] = torch.arange(len(members))
        # By name and source rather than by path, so that a search resumes when the table has moved.
        self._identity = {
            "benchmark": "tabular", "space": space.name, "table": path.stem, "source": self.table.meta.get("md5"),
            "dataset": dataset, "epochs": epochs, "test_epochs": test_epochs, "seed": seed,
        }  # fmt: skip
        if members is not None:
            self._identity["members"] = len(members)
        self._valid: dict[int, Tensor] = {}
        self._cost: dict[int, Tensor | None] = {}
        self._test = torch.from_numpy(self.table.mean_over_seeds(f"{dataset}/test@{test_epochs}"))
        self.optimum = float(self._test.max())
        # A column for every epoch is a curve; single ones are trainings of their own, each to the end of its schedule.
        curve = {f"{dataset}/valid@{epoch}" for epoch in range(1, epochs + 1)}
        self.resumes = epochs > 1 and curve <= set(self.table.columns)
        self._valid_at(epochs)

    def _valid_at(self, epochs: int) -> Tensor:
        if epochs not in self._valid:
            values = self.table.mean_over_seeds(f"{self._dataset}/valid@{epochs}", self._seed)
            self._valid[epochs] = torch.from_numpy(values)
        return self._valid[epochs]

    def _cost_at(self, epochs: int) -> Tensor | None:
        column = f"{self._dataset}/cost@{epochs}"
        if epochs not in self._cost:
            known = column in self.table.columns
            self._cost[epochs] = torch.from_numpy(self.table.mean_over_seeds(column)) if known else None
        return self._cost[epochs]

    def lookup(self, indices: LongTensor, epochs: int | None = None) -> Evaluations:
        """Scores of architectures given by their index in the space, any shape; millions a second.

        Raises:
            BenchmarkDataError: The table does not hold one of them.
        """
        at = self.epochs if epochs is None else epochs
        rows = self._rows(indices)
        valid, test = self._valid_at(at)[rows], self._test[rows]
        cost = self._cost_at(at)
        seconds = torch.full_like(valid, torch.nan) if cost is None else cost[rows]
        return Evaluations(as_column(valid), as_column(test), as_column(seconds))

    def _rows(self, indices: LongTensor) -> Tensor:
        """Where in the table architectures are."""
        size = len(self.space)
        outside = (indices < 0) | (indices >= size)
        if bool(outside.any()):
            raise BenchmarkDataError(
                f"{self.table.path}: got the index {int(indices[outside][0])}, expected 0 to {size - 1}, the "
                f"architectures of {self.space.name!r}"
            )
        if self._row is None:
            return indices
        rows = self._row[indices]
        if bool((rows < 0).any()):
            stranger = int(indices[rows < 0][0])
            raise BenchmarkDataError(
                f"{self.table.path}: holds {len(self.table):,} of the {size:,} architectures of "
                f"{self.space.name!r}, and {self.space.format(self.space[stranger])} (index {stranger}) is not among "
                "them; choose from the benchmark's 'members'"
            )
        return rows

    def final_valid(self, indices: LongTensor) -> Tensor | None:
        """Validation accuracy after ``test_epochs``, mean over seeds; None where it is the reward, or not tabulated."""
        column = f"{self._dataset}/valid@{self.test_epochs}"
        if self.test_epochs == self.epochs or column not in self.table.columns:
            return None
        return as_column(self.table.mean_over_seeds(column))[self._rows(indices)]

    def evaluate(self, archs: Sequence[A], epochs: int | None = None) -> Evaluations:
        """Scores of architectures in the given order."""
        indices = torch.tensor([self.space.index(arch) for arch in archs], dtype=torch.long)
        return self.lookup(indices, epochs)  # type: ignore[arg-type]

    def identity(self) -> dict[str, Any]:
        """Table, columns and seed."""
        return dict(self._identity)
