"""Perceptrons as performance predictors: a single one, or the ensemble of BANANAS (arXiv 1910.11858)."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import LongTensor, Tensor

from lightning_nas.errors import UsageError
from lightning_nas.predictors.predictor import Regression, RegressionPredictor
from lightning_nas.predictors.sequence_training import seeded
from lightning_nas.predictors.targets import Raw, Target
from lightning_nas.spaces.base import FiniteSpace
from lightning_nas.spaces.encodings import Encoding


class MLPEnsemble(RegressionPredictor):
    """Mean of deep, narrow perceptrons that differ in their first weights and batches, all trained side by side.

    The defaults are NASLib's, with which the published comparisons were made: absolute errors of the accuracies
    themselves. BANANAS is ``num_members: 3`` on ``PathEncoding``.

    Args:
        encoding: What they see of an architecture.
        num_members: Perceptrons.
        num_layers: Hidden layers of each.
        width: Width of the hidden layers.
        num_epochs: Passes over the architectures.
        batch_size: Architectures per step; the last, smaller batch counts, too.
        learning_rate: Of Adam.
        penalty: Weight of the sum of absolute values of the last layer.
        target: What is learnt; default: the accuracies themselves.
    """

    def __init__(
        self,
        encoding: Encoding,
        num_members: int = 1,
        num_layers: int = 20,
        width: int = 20,
        num_epochs: int = 500,
        batch_size: int = 32,
        learning_rate: float = 1e-3,
        penalty: float = 0.2,
        target: Target | None = None,
    ) -> None:
        super().__init__(target or Raw())
        if min(num_members, num_layers, width, num_epochs, batch_size) < 1 or learning_rate <= 0 or penalty < 0:
            raise UsageError(
                f"MLPEnsemble(num_members={num_members}, num_layers={num_layers}, width={width}, "
                f"num_epochs={num_epochs}, batch_size={batch_size}, learning_rate={learning_rate}, penalty={penalty}): "
                "expected positive numbers (penalty may be 0)"
            )
        self.encoding, self.num_members, self.num_layers, self.width = encoding, num_members, num_layers, width
        self.num_epochs, self.batch_size, self.learning_rate = num_epochs, batch_size, learning_rate
        self.penalty = penalty

    def regression(self, space: FiniteSpace[Any], members: LongTensor, targets: Tensor, seed: int) -> Regression:
        """Train all members at once; each sees the architectures in an order of its own."""
        features, values = self.encoding.encode_members(space, members), targets.float()
        with seeded(seed) as generator:
            parameters = self._initial(features.shape[1])
            optimizer = torch.optim.Adam(parameters, self.learning_rate, betas=(0.9, 0.99), fused=True)
            for _ in range(self.num_epochs):
                order = torch.rand(self.num_members, len(features), generator=generator).argsort(dim=1)
                for places in order.split(self.batch_size, dim=1):  # type: ignore[no-untyped-call]
                    with torch.enable_grad():
                        error = (_forward(parameters, features[places]) - values[places]).abs().mean(dim=1)
                        loss = (error + self.penalty * parameters[-2].abs().sum(dim=(1, 2))).sum()
                    optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
        return _Ensemble(space, self.encoding, [parameter.detach() for parameter in parameters])

    def _initial(self, num_features: int) -> list[Tensor]:
        """Weights ``(M, in, out)`` by Glorot's uniform distribution and biases ``(M, 1, out)`` of zero, in turn."""
        widths = [num_features, *[self.width] * self.num_layers, 1]
        parameters = []
        for inputs, outputs in pairwise(widths):
            bound = math.sqrt(6.0 / (inputs + outputs))
            weight = torch.empty(self.num_members, inputs, outputs).uniform_(-bound, bound)
            parameters += [weight.requires_grad_(), torch.zeros(self.num_members, 1, outputs, requires_grad=True)]
        return parameters


def _forward(parameters: list[Tensor], features: Tensor) -> Tensor:
    """Values of all members, ``(M, b, d)`` -> ``(M, b)``."""
    hidden = features
    for weight, bias in zip(parameters[:-2:2], parameters[1:-2:2], strict=True):
        hidden = F.relu(torch.baddbmm(bias, hidden, weight))
    return torch.baddbmm(parameters[-1], hidden, parameters[-2])[..., 0]


class _Ensemble(Regression):
    def __init__(self, space: FiniteSpace[Any], encoding: Encoding, parameters: list[Tensor]) -> None:
        self.space, self.encoding, self.parameters = space, encoding, parameters

    def __call__(self, members: LongTensor) -> Tensor:
        features = self.encoding.encode_members(self.space, members)
        everywhere = features.expand(len(self.parameters[0]), -1, -1)
        return _forward(self.parameters, everywhere).double().mean(dim=0)
