"""The common part of surrogates that model R independent runs at once."""

from __future__ import annotations

from copy import copy
from typing import Any, Self

import torch
from botorch.models.model import Model
from botorch.posteriors.gpytorch import GPyTorchPosterior
from gpytorch.distributions import MultivariateNormal
from linear_operator import to_linear_operator
from linear_operator.operators import DiagLinearOperator
from torch import Tensor


class RunModel(Model):  # type: ignore[misc]
    """A BoTorch model of R independent runs with one output; subclasses say mean and variance of standardised scores.

    BoTorch's run axis has two shape rules: inputs are ``(c, R, 1, d)``, never ``(c, 1, 1, d)``, and thresholds are
    ``(R, 1)``. Scoring candidates one by one is the hot path of pool search, hence its own branch.

    Args:
        location: Mean of the scores of each run, ``(R,)``.
        scale: Standard deviation of the scores of each run, ``(R,)``.
    """

    def __init__(self, location: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.location = location
        self.scale = scale

    @property
    def num_outputs(self) -> int:
        """One score per candidate."""
        return 1

    @property
    def batch_shape(self) -> torch.Size:
        """The run axis."""
        return self.location.shape

    def marginal(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of c candidates, shared by all runs ``(c, d)`` or each run's own ``(R, c, d)``.

        Shapes:
            -> two of ``(R, c)``, standardised.
        """
        raise NotImplementedError

    def joint(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and covariance of q candidates: ``(R, q, d)`` -> ``(R, q)`` and ``(R, q, q)``, standardised."""
        raise NotImplementedError

    def posterior(
        self,
        X: Tensor,
        output_indices: list[int] | None = None,
        observation_noise: bool | Tensor = False,
        posterior_transform: Any = None,
    ) -> GPyTorchPosterior:
        """Posterior of the noise-free scores, in their own units, at ``(c, R, 1, d)`` or ``(R, q, d)``."""
        if X.dim() == 4 and X.shape[-2] == 1:
            shared = X.shape[1] == 1 or X.stride(1) == 0  # as expand() leaves it
            mean, variance = self.marginal(X[:, 0, 0] if shared else X[:, :, 0].transpose(0, 1))
            mean = self.location + self.scale * mean.T  # (c, R)
            variance = self.scale.square() * variance.T
            normal = MultivariateNormal(mean[..., None], DiagLinearOperator(variance[..., None]))
        else:
            mean, covariance = self.joint(X)
            location, scale = self.location[:, None], self.scale[:, None]
            covariance = to_linear_operator(scale[..., None].square() * covariance)
            normal = MultivariateNormal(location + scale * mean, covariance)
        posterior = GPyTorchPosterior(normal)
        return posterior if posterior_transform is None else posterior_transform(posterior)


def standardise(y: Tensor, observed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores with zero mean and unit variance per run, 0 where not observed; their location and scale ``(R,)``."""
    weight = observed.double()
    count = weight.sum(dim=1).clamp_min(1)
    filled = torch.where(observed, y, 0.0).double()
    location = filled.sum(dim=1) / count
    centred = (filled - location[:, None]) * weight
    scale = (centred.square().sum(dim=1) / count).sqrt()
    scale = torch.where(scale > 1e-9, scale, torch.ones_like(scale))  # all scores equal: keep their unit
    return centred / scale[:, None], location, scale


def select_by_evidence(
    features: Tensor, target: Tensor, observed: Tensor, priors: tuple[float, ...], noises: tuple[float, ...]
) -> tuple[Tensor, Tensor]:
    """Prior variance of the weights and noise with the highest evidence (Bishop 2006, Eq. 3.86), two of ``(R,)``.

    Args:
        features: Zero where not observed, ``(R, n, H)`` float64.
        target: Zero where not observed, ``(R, n)`` float64.
        observed: Which entries count, ``(R, n)`` bool.
        priors: Grid of prior variances.
        noises: Grid of noise variances.
    """
    # One eigendecomposition of the n x n Gram matrix serves the whole grid.
    eigenvalues, eigenvectors = torch.linalg.eigh(features @ features.mT)  # (R, n)
    projected = (eigenvectors.mT @ target[..., None])[..., 0].square()
    prior, noise = features.new_tensor(priors), features.new_tensor(noises)
    spectrum = prior[:, None, None, None] * eigenvalues.clamp_min(0.0) + noise[:, None, None]  # (S, Q, R, n)
    idle = (~observed).sum(dim=1)  # rows that were not observed are zero: each adds log(noise), taken out again
    evidence = -0.5 * ((projected / spectrum).sum(-1) + spectrum.log().sum(-1) - noise.log()[:, None] * idle)
    best = evidence.flatten(0, 1).argmax(dim=0)
    return prior[best // len(noise)], noise[best % len(noise)]


class LinearModel(RunModel):
    """Posterior of R Bayesian linear regressions on features; subclasses say what the features are.

    Args:
        location: Mean of the scores, ``(R,)``.
        scale: Standard deviation of the scores, ``(R,)``.
        features: Features of the evaluations, zero where not observed, ``(R, n, H)``.
        target: Standardised scores, zero where not observed, ``(R, n)`` float64.
        prior: Prior variance of the weights, ``(R,)`` float64.
        noise: Noise variance, ``(R,)`` float64.
    """

    def __init__(
        self, location: Tensor, scale: Tensor, features: Tensor, target: Tensor, prior: Tensor, noise: Tensor
    ) -> None:
        super().__init__(location, scale)
        self.prior, self.noise = prior, noise
        self._solve(features, target)

    def _solve(self, features: Tensor, target: Tensor) -> None:
        prior, noise = self.prior, self.noise
        # In the space of the weights: their covariance is root^T root, so that no variance is a small difference.
        exact = features.double()
        unit = torch.eye(exact.shape[2], dtype=exact.dtype, device=exact.device)
        precision = exact.mT @ exact / noise[:, None, None] + unit / prior[:, None, None]
        root = torch.linalg.solve_triangular(torch.linalg.cholesky(precision), unit, upper=False)  # (R, H, H)
        mean = root.mT @ (root @ (exact.mT @ target[..., None])) / noise[:, None, None]
        self.root, self.readout = root.to(features.dtype), mean.to(features.dtype)  # (R, H, H), (R, H, 1)

    def condition(self, X: Tensor, y: Tensor, observed: Tensor) -> Self:
        """The same features, prior and noise with other evaluations, as for a surrogate's ``fit``."""
        target, location, scale = standardise(y, observed)
        other = copy(self)
        other.location, other.scale = location.to(self.location), scale.to(self.scale)
        other._solve(self.features(X) * observed[..., None], target)
        return other

    def features(self, points: Tensor) -> Tensor:
        """Features of q candidates of every run, ``(R, q, d)`` -> ``(R, q, H)``."""
        raise NotImplementedError

    def pool_features(self, points: Tensor) -> Tensor:
        """Features of c candidates, ``(c, d)`` or ``(R, c, d)`` -> ``(R, H, c)``: the hot path."""
        return self.features(points.expand(len(self.location), -1, -1)).mT

    def marginal(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of c candidates, ``(c, d)`` or ``(R, c, d)`` -> two of ``(R, c)``, standardised."""
        features = self.pool_features(points)
        mean = (self.readout.mT @ features)[:, 0]
        return mean, (self.root @ features).square_().sum(dim=1).clamp_min_(1e-6)

    def joint(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and covariance of q candidates: ``(R, q, d)`` -> ``(R, q)`` and ``(R, q, q)``, standardised."""
        features = self.features(points)  # (R, q, H)
        whitened = features @ self.root.mT
        return (features @ self.readout)[..., 0], whitened @ whitened.mT
