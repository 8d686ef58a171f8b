"""Optimisers and learning-rate schedules of the trainings of small networks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor


class NesterovSGD:
    """The update of ``torch.optim.SGD(nesterov=True)``, for all parameters at once.

    ``torch.optim`` imports torch's compiler when its first optimiser is made; here this would take every worker longer
    than a training.

    Args:
        parameters: What to update.
        learning_rate: Not used: every step has its own.
        momentum: Nesterov momentum.
        weight_decay: L2 penalty.
    """

    def __init__(
        self, parameters: Iterable[Tensor], learning_rate: float, momentum: float, weight_decay: float
    ) -> None:
        self.parameters = list(parameters)
        self.velocities = [torch.zeros_like(p) for p in self.parameters]
        self.momentum, self.weight_decay = momentum, weight_decay

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Update, and forget the gradients; parameters without one (dead branches of a cell) stay as they are."""
        used = [(p, v, p.grad) for p, v in zip(self.parameters, self.velocities, strict=True) if p.grad is not None]
        if not used:
            return
        parameters, velocities, gradients = map(list, zip(*used, strict=True))
        torch._foreach_add_(gradients, parameters, alpha=self.weight_decay)
        torch._foreach_mul_(velocities, self.momentum)
        torch._foreach_add_(velocities, gradients)
        torch._foreach_add_(gradients, velocities, alpha=self.momentum)
        torch._foreach_add_(parameters, gradients, alpha=-learning_rate)
        for parameter in self.parameters:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """The velocities."""
        return {"velocities": self.velocities}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        for mine, saved in zip(self.velocities, state["velocities"], strict=True):
            mine.copy_(saved)


class AdamW(torch.optim.AdamW):
    """``torch.optim.AdamW`` whose steps are told their learning rate.

    Args:
        parameters: What to update.
        learning_rate: Replaced at every step.
        momentum: First decay rate; the second is 0.999.
        weight_decay: Decoupled weight decay.
    """

    def __init__(
        self, parameters: Iterable[Tensor], learning_rate: float, momentum: float, weight_decay: float
    ) -> None:
        super().__init__(list(parameters), learning_rate, (momentum, 0.999), weight_decay=weight_decay)

    def step(self, learning_rate: float) -> None:  # type: ignore[override]
        """Update, and forget the gradients."""
        self.param_groups[0]["lr"] = learning_rate
        super().step()
        self.zero_grad()


def one_cycle(progress: float) -> float:
    """Share of the peak learning rate: rises linearly over 30 % of the training, then falls along a cosine to 0.

    Example:
        >>> [round(one_cycle(x), 2) for x in (0, 0.15, 0.3, 0.65, 1)]
        [0.04, 0.52, 1.0, 0.5, 0.0]
    """
    if progress < 0.3:
        return 0.04 + 0.96 * progress / 0.3
    return cosine((progress - 0.3) / 0.7)


def cosine(progress: float) -> float:
    """Share of the peak learning rate: falls along a cosine from 1 to 0."""
    return 0.5 + 0.5 * math.cos(math.pi * progress)


def constant(progress: float) -> float:
    """Share of the peak learning rate: all of it."""
    return 1.0


# Looked up by name, unlike all else here: a recipe is primitives, since it is part of every result's key.
SCHEDULES = {"one_cycle": one_cycle, "cosine": cosine, "constant": constant}
OPTIMIZERS: dict[str, type[NesterovSGD | AdamW]] = {"sgd": NesterovSGD, "adamw": AdamW}
