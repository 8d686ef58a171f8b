"""The contract of a performance predictor: accuracies of architectures from those of a few others."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import LongTensor, Tensor

from lightning_nas.errors import UsageError
from lightning_nas.predictors.targets import Standardised, Target, Transform
from lightning_nas.search.bayesian import Surrogate
from lightning_nas.spaces.base import FiniteSpace
from lightning_nas.spaces.encodings import Encoding


class Predictor(ABC):
    """Learns from a few architectures with known accuracies to predict those of others."""

    @abstractmethod
    def fit(self, space: FiniteSpace[Any], members: LongTensor, accuracies: Tensor, seed: int = 0) -> FittedPredictor:
        """Learn.

        Args:
            space: The architectures' space.
            members: Their indices in it, ``(n,)``.
            accuracies: In percent, ``(n,)``.
            seed: Of whatever is random in it.
        """


class RegressionPredictor(Predictor):
    """A predictor that learns a transformation of the accuracies; its predictions are accuracies again.

    Args:
        target: What is learnt instead of the accuracies themselves; default: standardised ones.
    """

    def __init__(self, target: Target | None = None) -> None:
        self.target = target or Standardised()

    def fit(self, space: FiniteSpace[Any], members: LongTensor, accuracies: Tensor, seed: int = 0) -> FittedPredictor:
        """Fit the transformation, then the regression to what it makes of the accuracies."""
        transform = self.target.fit(accuracies)
        return FittedPredictor(self.regression(space, members, transform.forward(accuracies), seed), transform)

    @abstractmethod
    def regression(self, space: FiniteSpace[Any], members: LongTensor, targets: Tensor, seed: int) -> Regression:
        """What :meth:`fit` fits, to transformed accuracies, ``(n,)`` float64."""


class Regression(ABC):
    """A fitted function from architectures to whatever it was fitted to."""

    @abstractmethod
    def __call__(self, members: LongTensor) -> Tensor:
        """Values of architectures by their index in the space, ``(m,)`` -> ``(m,)``."""


class FittedPredictor:
    """A predictor that has learnt.

    Args:
        regression: From architectures to transformed accuracies.
        transform: The way back.

    Attributes:
        tuning_seconds: Time spent on choosing hyperparameters, apart from the last fit.
    """

    tuning_seconds: float = 0.0

    def __init__(self, regression: Regression, transform: Transform) -> None:
        self.regression, self.transform = regression, transform

    @torch.no_grad()
    def predict(self, members: LongTensor) -> Tensor:
        """Accuracies in percent, ``(m,)`` indices -> ``(m,)`` float64."""
        return self.transform.backward(self.regression(members))


class EstimatorPredictor(RegressionPredictor):
    """Any regression with scikit-learn's interface on an encoding: trees, neighbours, linear models.

    Args:
        estimator: The regression, for example ``{class_path: sklearn.linear_model.Ridge}``; its ``random_state``, if
            it has one, is set to the seed.
        encoding: What it sees of an architecture.
        target: What is learnt instead of the accuracies themselves; default: standardised ones.
    """

    def __init__(self, estimator: Any, encoding: Encoding, target: Target | None = None) -> None:
        super().__init__(target)
        if isinstance(estimator, type) or not hasattr(estimator, "get_params"):
            raise UsageError(
                f"EstimatorPredictor: got the estimator {estimator!r}, expected a regression with scikit-learn's "
                "interface, for example {class_path: sklearn.linear_model.Ridge}"
            )
        self.estimator, self.encoding, self._warned = estimator, encoding, False

    def regression(self, space: FiniteSpace[Any], members: LongTensor, targets: Tensor, seed: int) -> Regression:
        """Fit a copy of the estimator."""
        from sklearn.base import clone
        from sklearn.exceptions import ConvergenceWarning

        estimator = clone(self.estimator)
        if "random_state" in estimator.get_params():
            estimator.set_params(random_state=seed)
        encoded = _Encoded(space, self.encoding)
        with warnings.catch_warnings(record=True) as caught:
            estimator.fit(encoded(members).numpy(), targets.numpy())
        for warning in caught:
            of_convergence = issubclass(warning.category, ConvergenceWarning)
            if not (of_convergence and self._warned):  # once, not for every one of hundreds of fits
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
            self._warned |= of_convergence
        return _EstimatorRegression(estimator, encoded)


class _Encoded:
    """Features of a space's members as they are asked for."""

    def __init__(self, space: FiniteSpace[Any], encoding: Encoding) -> None:
        self.space, self.encoding = space, encoding

    def __call__(self, members: LongTensor) -> Tensor:
        return self.encoding.encode_members(self.space, members)


class _EstimatorRegression(Regression):
    def __init__(self, estimator: Any, encoded: _Encoded) -> None:
        self.estimator, self.encoded = estimator, encoded

    def __call__(self, members: LongTensor) -> Tensor:
        values: np.ndarray = self.estimator.predict(self.encoded(members).numpy())
        return torch.from_numpy(np.asarray(values, np.float64))


class SurrogatePredictor(RegressionPredictor):
    """A surrogate of Bayesian search as a predictor: the mean of its posterior.

    Args:
        surrogate: For example ``lightning_nas.predictors.gp.GaussianProcess``.
        encoding: What it sees of an architecture; scaled as a search's candidates are, by the training architectures.
        target: What is learnt instead of the accuracies themselves; default: standardised ones.
    """

    def __init__(self, surrogate: Surrogate, encoding: Encoding, target: Target | None = None) -> None:
        super().__init__(target)
        self.surrogate, self.encoding = surrogate, encoding

    def regression(self, space: FiniteSpace[Any], members: LongTensor, targets: Tensor, seed: int) -> Regression:
        """Fit the surrogate as for a search of a single run."""
        encoded = _Encoded(space, self.encoding)
        features = encoded(members)
        location, scale = torch.zeros(()), torch.ones(())
        if self.encoding.scaled:
            location = features.mean(dim=0)
            scale = features.var(dim=0, correction=0).mean().sqrt().clamp_min(1e-12)
        everything = torch.ones(1, len(members), dtype=torch.bool)
        draw = torch.from_numpy(np.random.default_rng(seed).random(1))
        model = self.surrogate.fit(((features - location) / scale)[None], targets[None], everything, draw)
        return _SurrogateRegression(model, encoded, location, scale)


class _SurrogateRegression(Regression):
    def __init__(self, model: Any, encoded: _Encoded, location: Tensor, scale: Tensor) -> None:
        self.model, self.encoded, self.location, self.scale = model, encoded, location, scale

    def __call__(self, members: LongTensor) -> Tensor:
        features = (self.encoded(members) - self.location) / self.scale
        mean: Tensor = self.model.posterior(features[:, None, None]).mean  # (m, 1, 1)
        return mean.flatten().double()
