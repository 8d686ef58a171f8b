"""Training many tiny networks on learned data, and the exact gradient with respect to these data."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_nas.errors import UsageError
from lightning_nas.nn.motif_network import MotifNetwork

_log = logging.getLogger(__name__)

State = tuple[Tensor, ...]
"""What an optimiser keeps beside the weights, each ``(N, P)``."""


class InnerOptimizer(ABC):
    """An optimiser as a pure function of weights, gradient and state, with its derivative."""

    @abstractmethod
    def initial(self, weights: Tensor) -> State:
        """State before the first step."""

    @abstractmethod
    def step(self, weights: Tensor, gradient: Tensor, state: State, number: int) -> tuple[Tensor, State]:
        """Weights and state after a step; ``number`` counts from 1. Shapes ``(N, P)``."""

    @abstractmethod
    def pull_back(self, of_weights: Tensor, of_state: State, gradient: Tensor, after: State, number: int) -> Any:
        """Derivatives with respect to what :meth:`step` was given, from those with respect to what it gave.

        Args:
            of_weights: Derivative with respect to the weights after the step.
            of_state: The same of the state.
            gradient: What the step was given.
            after: State after the step.
            number: Of the step.

        Returns:
            Derivatives with respect to weights, gradient and state before the step.
        """


@dataclass(frozen=True)
class InnerSGD(InnerOptimizer):
    """Plain gradient descent, the paper's inner optimiser.

    Args:
        learning_rate: Step length; networks of one neuron need about 1.
    """

    learning_rate: float = 1.0

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise UsageError(f"{self}: expected a positive learning_rate")

    def initial(self, weights: Tensor) -> State:
        """Nothing."""
        return ()

    def step(self, weights: Tensor, gradient: Tensor, state: State, number: int) -> tuple[Tensor, State]:
        """Downhill."""
        return weights - self.learning_rate * gradient, ()

    def pull_back(self, of_weights: Tensor, of_state: State, gradient: Tensor, after: State, number: int) -> Any:
        """The step is linear."""
        return of_weights, -self.learning_rate * of_weights, ()


@dataclass(frozen=True)
class InnerAdam(InnerOptimizer):
    """Adam (arXiv 1412.6980), the released code's inner optimiser.

    The second moment begins at ``eps ** 4`` instead of 0, as in the released code: its square root then has a finite
    derivative at the first step.

    Args:
        learning_rate: Step length (released code: 0.01).
        betas: Decay of the first and of the second moment.
        eps: Added to the root of the second moment.
    """

    learning_rate: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))  # a checkpoint or configuration gives a list
        if min(self.learning_rate, self.eps) <= 0 or not all(0 <= beta < 1 for beta in self.betas):
            raise UsageError(f"{self}: expected positive learning_rate and eps, and betas in [0, 1)")

    def initial(self, weights: Tensor) -> State:
        """Moments."""
        return torch.zeros_like(weights), torch.full_like(weights, self.eps**4)

    def step(self, weights: Tensor, gradient: Tensor, state: State, number: int) -> tuple[Tensor, State]:
        """Algorithm 1 of Adam's paper."""
        first, second = self.betas
        mean = torch.lerp(gradient, state[0], first)
        square = (second * state[1]).addcmul_(gradient, gradient, value=1.0 - second)
        root = square.sqrt().mul_((1.0 - second**number) ** -0.5).add_(self.eps)
        return torch.addcdiv(weights, mean, root, value=-self.learning_rate / (1.0 - first**number)), (mean, square)

    def pull_back(self, of_weights: Tensor, of_state: State, gradient: Tensor, after: State, number: int) -> Any:
        """The chain rule through moments and step."""
        first, second = self.betas
        scale, rate = (1.0 - second**number) ** -0.5, self.learning_rate / (1.0 - first**number)
        plain = after[1].sqrt()
        root = plain * scale + self.eps
        part = of_weights / root
        of_mean = torch.add(of_state[0], part, alpha=-rate)
        slope = part.mul_(after[0]).div_(root).div_(plain)
        of_square = torch.add(of_state[1], slope, alpha=0.5 * rate * scale)
        of_gradient = ((1.0 - first) * of_mean).addcmul_(gradient, of_square, value=2.0 * (1.0 - second))
        return of_weights, of_gradient, (first * of_mean, second * of_square)


@dataclass(frozen=True)
class InnerLoop:
    """How the motif-networks are trained on the learned data.

    Args:
        optimizer: ``InnerSGD`` or ``InnerAdam``.
        num_steps: Steps, each on all samples.
        max_norm: Largest norm of a motif's gradient; a longer one is shortened (differentiably). None (default) for no
            limit.
        segment: Steps whose states are kept at a time for the gradient. None (default) keeps all: ``4 * num_steps``
            tensors of the size of the weights with Adam, two with SGD. The root of ``num_steps`` needs least memory and
            one more pass of the training. Counted for 1,000 motifs of 33 weights and 250 steps of Adam that is 264 MB
            without and 30 MB with segments of 16.
    """

    optimizer: InnerOptimizer = InnerAdam()
    num_steps: int = 250
    max_norm: float | None = None
    segment: int | None = None

    def __post_init__(self) -> None:
        limits = [limit for limit in (self.max_norm, self.segment) if limit is not None]
        if self.num_steps < 0 or min(limits, default=1) <= 0:
            raise UsageError(f"{self}: expected num_steps of 0 or more, and positive max_norm and segment (or null)")

    def train(self, network: MotifNetwork, weights: Tensor, motifs: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
        """Weights after training; differentiable with respect to the weights before and the inputs.

        A motif whose weights overflow has no derivative: its rows in both are 0, and others are not touched.

        Args:
            network: The blueprint.
            weights: Of N networks before training, ``(N, P)``.
            motifs: What tells them apart, ``(N, …)``.
            inputs: Of each network, ``(N, *input_shape)``.
            labels: Fixed, ``(N, *label_shape)`` or without N.
        """
        trained: Tensor = _Training.apply(weights, inputs, labels, motifs, network, self)  # type: ignore[no-untyped-call]
        return trained

    def clipped(self, gradient: Tensor) -> Tensor:
        """The gradient, shortened where it is too long."""
        if self.max_norm is None:
            return gradient
        factor: Tensor = self.max_norm / gradient.norm(dim=1, keepdim=True).clamp_min(self.max_norm)
        return gradient * factor

    def _unclip(self, of_clipped: Tensor, gradient: Tensor) -> Tensor:
        """Derivative with respect to a gradient before it was shortened."""
        if self.max_norm is None:
            return of_clipped
        norm = gradient.norm(dim=1, keepdim=True).clamp_min(self.max_norm)
        unit = gradient / norm
        along = (of_clipped * unit).sum(dim=1, keepdim=True) * (norm > self.max_norm)
        unclipped: Tensor = (of_clipped - along * unit) * (self.max_norm / norm)
        return unclipped


class _Training(torch.autograd.Function):
    """The whole inner loop as one function; its derivative walks the steps backwards by hand."""

    @staticmethod
    def forward(
        ctx: Any, weights: Tensor, inputs: Tensor, labels: Tensor, motifs: Tensor, network: MotifNetwork,
        loop: InnerLoop,
    ) -> Tensor:  # fmt: skip
        blueprint = network.prepared(motifs)
        here, state = weights, loop.optimizer.initial(weights)
        length = loop.segment or max(1, loop.num_steps)
        starts, kept = [], None
        for begin in range(0, loop.num_steps, length):
            starts.append((here, state))
            steps = min(length, loop.num_steps - begin)
            here, state, kept = _run(loop, network, blueprint, here, state, inputs, labels, begin, steps)
        ctx.problem = weights.shape, inputs, labels, motifs, network, loop
        ctx.starts, ctx.length, ctx.finite = starts, length, here.isfinite().all(dim=1)
        ctx.last = kept  # of the last segment, which comes first on the way back
        return here.clone() if here is weights else here

    @staticmethod
    def backward(ctx: Any, *of_outputs: Any) -> Any:
        shape, inputs, labels, motifs, network, loop = ctx.problem
        (of_weights,) = of_outputs
        # Motifs that overflowed, and those whose loss nobody looks at, would spoil the sums with NaN times 0.
        alive = ctx.finite & (of_weights != 0).any(dim=1)
        everyone = bool(alive.all())
        if not bool(alive.any()):
            return torch.zeros_like(of_weights), torch.zeros_like(inputs), None, None, None, None

        def chosen(values: Tensor) -> Tensor:
            return values if everyone else values[alive]

        several = labels.dim() > len(network.label_shape)
        own_inputs, own_labels = chosen(inputs), chosen(labels) if several else labels
        blueprint = network.prepared(chosen(motifs))
        of_inputs = torch.zeros_like(own_inputs)
        of_weights = chosen(of_weights)
        of_state: State = tuple(torch.zeros_like(of_weights) for _ in loop.optimizer.initial(of_weights[:1]))
        kept = ctx.last
        for place in reversed(range(len(ctx.starts))):
            begin = place * ctx.length
            steps = min(ctx.length, loop.num_steps - begin)
            if kept is None:
                here, state = ctx.starts[place]
                here, state = chosen(here), tuple(map(chosen, state))
                *_, kept = _run(loop, network, blueprint, here, state, own_inputs, own_labels, begin, steps)
            elif not everyone:
                kept = [(here[alive], gradient[alive], tuple(map(chosen, after))) for here, gradient, after in kept]
            for number in reversed(range(steps)):
                here, gradient, after = kept[number]
                of_weights, of_gradient, of_state = loop.optimizer.pull_back(
                    of_weights, of_state, loop.clipped(gradient), after, begin + number + 1
                )
                of_gradient = loop._unclip(of_gradient, gradient)
                curved, mixed = network.second(here, blueprint, own_inputs, own_labels, of_gradient)
                of_weights = of_weights + curved
                of_inputs += mixed
            kept = None
        lost = ~(of_inputs.flatten(1).isfinite().all(dim=1) & of_weights.isfinite().all(dim=1))
        if bool(lost.any()):
            _log.warning(
                "%d of %d motifs are without a gradient, it overflows; set max_norm", int(lost.sum()), shape[0]
            )
            of_inputs[lost], of_weights = 0.0, torch.where(lost[:, None], 0.0, of_weights)
        if not everyone:
            of_weights = of_weights.new_zeros(shape).index_copy(0, alive.nonzero()[:, 0], of_weights)
            of_inputs = of_inputs.new_zeros(inputs.shape).index_copy(0, alive.nonzero()[:, 0], of_inputs)
        return of_weights, of_inputs, None, None, None, None


def _run(
    loop: InnerLoop, network: MotifNetwork, blueprint: Any, weights: Tensor, state: State, inputs: Tensor,
    labels: Tensor, begin: int, steps: int,
) -> tuple[Tensor, State, list[tuple[Tensor, Tensor, State]]]:  # fmt: skip
    """Some steps of a training: where it gets, and of every step the weights before, the gradient, the state after."""
    kept = []
    for number in range(begin + 1, begin + steps + 1):
        gradient = network.gradient(weights, blueprint, inputs, labels)
        ahead, state = loop.optimizer.step(weights, loop.clipped(gradient), state, number)
        kept.append((weights, gradient, state))
        weights = ahead
    return weights, state, kept
