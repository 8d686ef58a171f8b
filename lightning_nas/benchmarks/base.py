"""The contract of a benchmark: the oracle that says what an architecture scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Generic, NamedTuple

import torch
from torch import LongTensor, Tensor

from lightning_nas.benchmarks.futures import completed
from lightning_nas.spaces.base import A, SearchSpace


class Evaluation(NamedTuple):
    """Scores of one architecture.

    Attributes:
        valid: Validation accuracy in percent; NaN when the evaluation failed.
        test: Test accuracy in percent.
        cost: Seconds on the benchmark's own clock.
    """

    valid: float
    test: float
    cost: float


class Evaluations(NamedTuple):
    """Scores of N architectures; NaN in ``valid`` marks an evaluation that failed.

    Attributes:
        valid: Validation accuracy in percent; the only column a search strategy may see.
        test: Test accuracy in percent, for reports.
        cost: Seconds the evaluation takes on the benchmark's own clock; NaN when unknown.

    Shapes:
        All ``(N,)`` float64.
    """

    valid: Tensor
    test: Tensor
    cost: Tensor


class Benchmark(ABC, Generic[A]):
    """What an architecture scores. Higher is better, in percent.

    Attributes:
        space: The search space whose architectures can be evaluated.
        members: Indices of those that can be, ``(n,)``, where the benchmark knows a part of a finite space; None for
            all. Searches choose among them alone.
        epochs: Training epochs of an evaluation unless asked otherwise.
        resumes: Whether an evaluation of more epochs goes on from one of fewer, so that only the difference is paid;
            False where trainings of different lengths are different trainings.
        optimum: Best reachable test accuracy (of the members), or None when nobody knows it.
        on_result: Set it to follow long calls of :meth:`evaluate`: a benchmark that takes its time calls it with how
            many of the distinct architectures are done and how many there are, at the start and after each.
    """

    space: SearchSpace[A]
    members: LongTensor | None = None
    epochs: int
    resumes: bool = False
    optimum: float | None = None
    on_result: Callable[[int, int], None] | None = None

    @abstractmethod
    def evaluate(self, archs: Sequence[A], epochs: int | None = None) -> Evaluations:
        """Score architectures, in the given order.

        Args:
            archs: N architectures of :attr:`space`; repeats are allowed and get the same answer.
            epochs: Training epochs (the fidelity); None for :attr:`epochs`.
        """

    def submit(self, arch: A, epochs: int | None = None) -> Future[Evaluation]:
        """Score one architecture some time; by default at once, and the future is done.

        Args:
            arch: Architecture of :attr:`space`.
            epochs: Training epochs (the fidelity); None for :attr:`epochs`.
        """
        return completed(Evaluation(*(column.item() for column in self.evaluate([arch], epochs))))

    def final_valid(self, indices: LongTensor) -> Tensor | None:
        """Validation accuracy after the longer training that test accuracies are of, ``(n,)`` in percent.

        Args:
            indices: Members of the space, ``(n,)``.

        Returns:
            None where searches see it anyway, or nobody knows it.
        """
        return None

    @property
    def parallelism(self) -> int:
        """Evaluations that can run at a time; more of them than that wait."""
        return 1

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Primitives that fix every answer; a search refuses to resume under another identity."""

    def prepare(self) -> None:
        """Check whatever can fail before the first evaluation and start workers (default: nothing)."""

    def close(self) -> None:
        """Release workers and files (default: nothing)."""


def as_column(values: Any) -> Tensor:
    """Any one-dimensional numbers as a float64 tensor."""
    return torch.as_tensor(values, dtype=torch.float64)
