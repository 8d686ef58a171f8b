"""Benchmarks that train many architectures as one computation in this process."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_nas.benchmarks.base import Benchmark, Evaluations, as_column
from lightning_nas.benchmarks.store import Result, ResultKey, ResultStore
from lightning_nas.errors import UsageError
from lightning_nas.files import fingerprint
from lightning_nas.spaces.base import A, SearchSpace

Trained = tuple[Tensor, Tensor]
"""Validation scores after every epoch ``(n, S, epochs)``, and test scores at the end ``(n, S)``; higher is better."""


class SideBySideBenchmark(Benchmark[A]):
    """Trains groups of architectures side by side, each with several seeds; a subclass says how.

    Args:
        space: Search space.
        epochs: Length of a training.
        seed: First of the seeds.
        num_seeds: Trainings of every architecture; scores are their means.
        group_size: Architectures trained at a time.
        store: SQLite file that keeps results, so that none is computed twice; None for this process's memory alone.
    """

    def __init__(
        self,
        space: SearchSpace[A],
        epochs: int,
        seed: int = 0,
        num_seeds: int = 1,
        group_size: int = 16,
        store: str | None = None,
    ) -> None:
        if min(epochs, num_seeds, group_size) < 1:
            raise UsageError(
                f"{type(self).__name__}: got epochs={epochs}, num_seeds={num_seeds}, group_size={group_size}, expected "
                "positive numbers"
            )
        self.space, self.epochs, self.seed, self.num_seeds = space, epochs, seed, num_seeds
        self.group_size, self.path = group_size, store
        self._known: dict[ResultKey, Result] = {}
        self._store: ResultStore | None = None

    @abstractmethod
    def details(self) -> dict[str, Any]:
        """Primitives that fix a result, beside architecture and seed; the data's are under ``data``."""

    @abstractmethod
    def train(self, archs: Sequence[A], seeds: Sequence[int]) -> Trained:
        """Train architectures side by side, each with all seeds."""

    @abstractmethod
    def num_parameters(self, arch: A) -> int:
        """Trainable weights of an architecture's network."""

    def identity(self) -> dict[str, Any]:
        """Space, seeds, and what fixes a result; neither the store nor the size of groups."""
        return {
            "benchmark": type(self).__name__, "space": self.space.name, "epochs": self.epochs, "seed": self.seed,
            "num_seeds": self.num_seeds, **self.details(),
        }  # fmt: skip

    def prepare(self) -> None:
        """Open the store."""
        if self.path is not None and self._store is None:
            self._store = ResultStore(Path(self.path))
            self._store.describe(self.details())

    def evaluate(self, archs: Sequence[A], epochs: int | None = None) -> Evaluations:
        """Scores of architectures in the given order, means over seeds.

        Args:
            archs: Architectures; each is trained once.
            epochs: Validation scores of so many of the epochs; training is always whole.
        """
        at = self.epochs if epochs is None else epochs
        if not 1 <= at <= self.epochs:
            raise UsageError(f"{type(self).__name__}: got epochs={at}, expected 1 to {self.epochs}")
        found = self.results(archs)
        valid = [sum(result.curve[at - 1] for result in several) / len(several) for several in found]
        test = [sum(result.test for result in several) / len(several) for several in found]
        cost = [sum(result.cost for result in several) * at / self.epochs for several in found]
        return Evaluations(*map(as_column, (valid, test, cost)))

    def results(self, archs: Sequence[A]) -> list[list[Result]]:
        """For every architecture one result of each seed, known or trained now."""
        self.prepare()
        recipe = fingerprint(self.details())
        keys = [
            [
                ResultKey(self.space.name, self.space.format(arch), recipe, self.seed + number, self.epochs)
                for number in range(self.num_seeds)
            ]
            for arch in archs
        ]
        if self._store is not None:
            wanted = [key for several in keys for key in several if key not in self._known]
            self._known.update(self._store.get(wanted))
        missing = {
            several[0]: arch for arch, several in zip(archs, keys, strict=True)
            if any(key not in self._known for key in several)
        }  # fmt: skip
        waiting = list(missing.values())
        self._report(len(archs) - len(waiting), len(archs))
        for begin in range(0, len(waiting), self.group_size):
            self._train_group(waiting[begin : begin + self.group_size], recipe)
            self._report(len(archs) - len(waiting) + begin + self.group_size, len(archs))
        return [[self._known[key] for key in several] for several in keys]

    def _train_group(self, group: Sequence[A], recipe: str) -> None:
        seeds = range(self.seed, self.seed + self.num_seeds)
        started = time.perf_counter()
        valid, test = self.train(group, seeds)
        cost = (time.perf_counter() - started) / (len(group) * self.num_seeds)
        new = [
            Result(
                ResultKey(self.space.name, self.space.format(arch), recipe, seed, self.epochs),
                float(valid[i, j, -1]), float(test[i, j]), cost, self.num_parameters(arch), 0,
                tuple(valid[i, j].tolist()),
            )
            for i, arch in enumerate(group) for j, seed in enumerate(seeds)
        ]  # fmt: skip
        self._known.update({result.key: result for result in new})
        if self._store is not None:
            self._store.put(*new)

    def _report(self, done: int, total: int) -> None:
        if self.on_result is not None:
            self.on_result(min(done, total), total)


def with_runs(archs: Sequence[A], seeds: Sequence[int]) -> tuple[list[A], list[int]]:
    """Every architecture with every seed, architectures outside.

    Example:
        >>> with_runs(["a", "b"], [0, 1])
        (['a', 'a', 'b', 'b'], [0, 1, 0, 1])
    """
    return [arch for arch in archs for _ in seeds], [seed for _ in archs for seed in seeds]


def grouped(values: Tensor, num_archs: int) -> Tensor:
    """The inverse of :func:`with_runs` for what was found, float64, ``(n * S, …)`` -> ``(n, S, …)``."""
    flat = values.detach().to(torch.float64).cpu()
    return flat.view(num_archs, -1, *flat.shape[1:])
