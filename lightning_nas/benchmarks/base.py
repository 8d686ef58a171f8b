"""The contract of a benchmark: the oracle that says what an architecture scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, NamedTuple

import torch
from torch import Tensor

from lightning_nas.spaces.base import A, SearchSpace


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
        epochs: Training epochs of an evaluation unless asked otherwise.
        optimum: Best reachable test accuracy, or None when nobody knows it.
    """

    space: SearchSpace[A]
    epochs: int
    optimum: float | None = None

    @abstractmethod
    def evaluate(self, archs: Sequence[A], epochs: int | None = None) -> Evaluations:
        """Score architectures, in the given order.

        Args:
            archs: N architectures of :attr:`space`; repeats are allowed and get the same answer.
            epochs: Training epochs (the fidelity); None for :attr:`epochs`.
        """

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
