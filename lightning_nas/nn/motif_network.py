"""Motif-networks: many tiny networks of one blueprint side by side, differentiated twice."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_nas.errors import UsageError


class MotifNetwork(ABC):
    """The blueprint that a motif completes to a network; N networks lie in one matrix of weights.

    Attributes:
        input_shape: Of a set of samples: the samples first.
        label_shape: Likewise, of labels in 0 … 1.
        motif_shape: Of a single motif.
        num_parameters: Weights of one network, P.
    """

    motif_shape: tuple[int, ...]
    input_shape: tuple[int, ...]
    label_shape: tuple[int, ...]
    num_parameters: int

    @abstractmethod
    def motifs(self, architectures: list[Any]) -> Tensor:
        """Architectures of the space as the network reads them, ``(N, …)``."""

    def prepared(self, motifs: Tensor) -> Any:
        """What the methods below take for the motifs: whatever is worth computing once for a training."""
        return motifs

    def initial(self, generator: torch.Generator, scale: float = 1.0) -> Tensor:
        """Weights that all motifs start from, normal with a standard deviation, ``(P,)`` float64."""
        return scale * torch.randn(self.num_parameters, generator=generator, dtype=torch.float64)

    @abstractmethod
    def loss(self, weights: Tensor, blueprint: Any, inputs: Tensor, labels: Tensor) -> Tensor:
        """Mean binary cross-entropy of every network, for autograd, too.

        Shapes:
            weights ``(N, P)``, inputs ``(N, *input_shape)``, labels ``(N, *label_shape)`` or without N -> ``(N,)``.
        """

    def gradient(self, weights: Tensor, blueprint: Any, inputs: Tensor, labels: Tensor) -> Tensor:
        """Derivative of every network's loss with respect to its own weights, ``(N, P)``, by autograd at first."""
        with torch.enable_grad():
            here = weights.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.loss(here, blueprint, inputs.detach(), labels).sum(), here)
        return gradient

    def second(
        self, weights: Tensor, blueprint: Any, inputs: Tensor, labels: Tensor, direction: Tensor
    ) -> tuple[Tensor, Tensor]:
        """How gradients with respect to weights and inputs change along a direction of the weights (Pearlmutter 1994).

        As second derivatives are symmetric, these are the products of the direction with the derivatives of
        :meth:`gradient` with respect to weights and inputs. By autograd at first.

        Shapes:
            direction ``(N, P)`` -> ``(N, P)``, ``(N, *input_shape)``.
        """
        with torch.enable_grad():
            here, data = weights.detach().requires_grad_(), inputs.detach().requires_grad_()
            loss = self.loss(here, blueprint, data, labels).sum()
            (gradient,) = torch.autograd.grad(loss, here, create_graph=True)
            curved, mixed = torch.autograd.grad((gradient * direction).sum(), (here, data))
        return curved, mixed


class SlopeNetwork(MotifNetwork):
    """Perceptrons of one neuron per hidden layer that differ in the slope of their sigmoids (arXiv 2005.13092).

    The slope multiplies what goes into the hidden sigmoids; those behind the outputs have slope 1. Weights of a layer
    lie before its biases.

    Args:
        num_inputs: Numbers in a sample.
        num_outputs: Labels of a sample, each 0 or 1.
        num_samples: Samples of a set of data.
        hidden: Neurons of the hidden layers.

    Example:
        >>> SlopeNetwork().num_parameters
        33
    """

    motif_shape = ()

    def __init__(
        self, num_inputs: int = 10, num_outputs: int = 10, num_samples: int = 10, hidden: tuple[int, ...] = (1, 1)
    ) -> None:
        self.num_inputs, self.num_outputs, self.num_samples = num_inputs, num_outputs, num_samples
        self.hidden = tuple(hidden)
        widths = num_inputs, *self.hidden, num_outputs
        if min(*widths, num_samples) < 1:
            raise UsageError(
                f"SlopeNetwork(num_inputs={num_inputs}, num_outputs={num_outputs}, num_samples={num_samples}, "
                f"hidden={list(hidden)}): expected positive numbers"
            )
        self.layers = list(pairwise(widths))
        self.input_shape, self.label_shape = (num_samples, num_inputs), (num_samples, num_outputs)
        self._sizes = [size for begin, end in self.layers for size in (begin * end, end)]
        self.num_parameters = sum(self._sizes)

    def motifs(self, architectures: list[Any]) -> Tensor:
        """Slopes, ``(N,)`` float64."""
        return torch.tensor(architectures, dtype=torch.float64)

    def prepared(self, motifs: Tensor) -> Tensor:
        """Slopes as a column, ``(N, 1, 1)``."""
        return motifs.double()[:, None, None]

    def loss(self, weights: Tensor, blueprint: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
        """Mean binary cross-entropy, ``(N,)``."""
        *_, logits = self._forward(self._layers(weights), blueprint, inputs)
        return (F.softplus(logits) - labels * logits).mean(dim=(1, 2))

    def gradient(self, weights: Tensor, blueprint: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
        """Backpropagation, ``(N, P)``."""
        layers = self._layers(weights)
        values = self._forward(layers, blueprint, inputs)
        delta = (values[-1].sigmoid() - labels) * self._share
        parts = []
        for place in reversed(range(len(layers))):
            value = values[place]
            parts += [delta.sum(dim=1), _product(value.mT, delta).flatten(1)]
            if place:
                delta = _product(delta, layers[place][0].mT) * _slope(value, blueprint)
        return torch.cat(parts[::-1], dim=1)

    def second(
        self, weights: Tensor, blueprint: Tensor, inputs: Tensor, labels: Tensor, direction: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Forward and backward pass along the direction beside the usual ones."""
        layers, moving = self._layers(weights), self._layers(direction)
        values, slopes, changes = [inputs], list[Tensor](), list[Tensor | None]([None])
        for place, ((matrix, bias), (along, shift)) in enumerate(zip(layers, moving, strict=True)):
            value, change = values[-1], changes[-1]
            ahead = _product(value, along).add_(shift)
            if change is not None:
                ahead = ahead.add_(_product(change, matrix))
            ahead_value = _product(value, matrix).add_(bias)
            if place < len(layers) - 1:
                ahead_value = ahead_value.mul_(blueprint).sigmoid_()
                slopes.append(_slope(ahead_value, blueprint))
                ahead = ahead * slopes[-1]
            values.append(ahead_value)
            changes.append(ahead)
        shares = values[-1].sigmoid()
        delta = (shares - labels) * self._share
        change = changes[-1]
        assert change is not None
        moved = shares * (1.0 - shares) * change * self._share  # how delta changes along the direction
        parts = []
        for place in reversed(range(len(layers))):
            (matrix, _), (along, _) = layers[place], moving[place]
            value, change = values[place], changes[place]
            product = _product(value.mT, moved)
            product = product if change is None else product + _product(change.mT, delta)
            parts += [moved.sum(dim=1), product.flatten(1)]
            back, back_moved = _product(delta, matrix.mT), _product(moved, matrix.mT) + _product(delta, along.mT)
            if place:
                assert change is not None
                slope = slopes[place - 1]
                bend = blueprint * (1.0 - 2.0 * value) * change  # how the slope changes
                delta, moved = back * slope, back_moved * slope + back * bend
        return torch.cat(parts[::-1], dim=1), back_moved

    @property
    def _share(self) -> float:
        return 1.0 / math.prod(self.label_shape)

    def _layers(self, weights: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Matrices ``(N, in, out)`` and biases ``(N, 1, out)``."""
        parts = torch.split(weights, self._sizes, dim=1)
        matrices = [part.view(-1, *shape) for part, shape in zip(parts[::2], self.layers, strict=True)]
        return [(matrix, bias[:, None]) for matrix, bias in zip(matrices, parts[1::2], strict=True)]

    @staticmethod
    def _forward(layers: list[tuple[Tensor, Tensor]], slope: Tensor, inputs: Tensor) -> list[Tensor]:
        """Inputs, values of the hidden layers, logits."""
        values = [inputs]
        for matrix, bias in layers[:-1]:
            values.append(torch.sigmoid(slope * (_product(values[-1], matrix) + bias)))
        matrix, bias = layers[-1]
        return [*values, _product(values[-1], matrix) + bias]


def _slope(value: Tensor, slope: Tensor) -> Tensor:
    """Derivative of a sigmoid, given its value."""
    return slope * value * (1.0 - value)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Matrix product; a single column or row is a plain one, which is faster."""
    return left * right if left.shape[-1] == 1 else left @ right
