"""What a predictor is trained on instead of the accuracies themselves, and the way back."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Target(ABC):
    """Makes transformations of accuracies; each is fitted to the accuracies that a predictor is given."""

    @abstractmethod
    def fit(self, accuracies: Tensor) -> Transform:
        """The transformation that suits accuracies in percent, ``(n,)`` float64."""


class Transform(ABC):
    """A rising function of accuracies."""

    @abstractmethod
    def forward(self, accuracies: Tensor) -> Tensor:
        """What to train on, any shape."""

    @abstractmethod
    def backward(self, values: Tensor) -> Tensor:
        """Accuracies in percent, any shape."""


class Raw(Target):
    """The accuracies themselves."""

    def fit(self, accuracies: Tensor) -> Transform:
        """Nothing to fit."""
        return _Linear(torch.zeros(()).double(), torch.ones(()).double())


class Standardised(Target):
    """Mean zero, standard deviation one (over all n); equal accuracies keep their unit.

    Example:
        >>> Standardised().fit(torch.tensor([80.0, 90.0])).forward(torch.tensor([85.0, 95.0])).tolist()
        [0.0, 2.0]
    """

    def fit(self, accuracies: Tensor) -> Transform:
        """Mean and standard deviation."""
        scale = accuracies.double().std(correction=0)
        return _Linear(accuracies.double().mean(), scale if scale > 0 else torch.ones_like(scale))


class RankGauss(Target):
    """Normal quantiles of the ranks: equal steps between neighbours in rank, however far apart their accuracies are.

    Collapsed cells then are the worst, no longer outliers. Accuracies between two known ones, and values between their
    quantiles, are interpolated; beyond the ends both are extended by the line through the last two different ones.

    Example:
        >>> transform = RankGauss().fit(torch.tensor([10.0, 90.0, 91.0]))
        >>> transform.forward(torch.tensor([10.0, 90.0, 91.0])).round(decimals=2).tolist()
        [-0.97, 0.0, 0.97]
        >>> transform.backward(torch.tensor([0.0, 0.9674])).round(decimals=2).tolist()
        [90.0, 91.0]
    """

    def fit(self, accuracies: Tensor) -> Transform:
        """Sorted accuracies and their quantiles; equal ones share the mean rank."""
        distinct, counts = torch.unique(accuracies.double(), return_counts=True)
        last = counts.cumsum(0)
        middle = (last - counts + last).double() / 2  # between 0 and n
        return _Interpolated(distinct, torch.special.ndtri(middle / len(accuracies)))


class _Linear(Transform):
    def __init__(self, location: Tensor, scale: Tensor) -> None:
        self.location, self.scale = location, scale

    def forward(self, accuracies: Tensor) -> Tensor:
        return (accuracies.double() - self.location) / self.scale

    def backward(self, values: Tensor) -> Tensor:
        return values.double() * self.scale + self.location


class _Interpolated(Transform):
    def __init__(self, accuracies: Tensor, quantiles: Tensor) -> None:
        self.accuracies, self.quantiles = accuracies, quantiles  # both rising, (m,)

    def forward(self, accuracies: Tensor) -> Tensor:
        return interpolate(accuracies.double(), self.accuracies, self.quantiles)

    def backward(self, values: Tensor) -> Tensor:
        return interpolate(values.double(), self.quantiles, self.accuracies)


def interpolate(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """Piecewise linear through rising knots, with the outermost pieces going on; one knot alone moves nothing."""
    if len(knots) == 1:
        return x - knots + values
    place = torch.searchsorted(knots, x.contiguous()).clamp(1, len(knots) - 1)
    below, above = knots[place - 1], knots[place]
    share = (x - below) / (above - below)
    return values[place - 1] + share * (values[place] - values[place - 1])
