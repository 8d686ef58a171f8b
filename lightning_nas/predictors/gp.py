"""Gaussian process regression for many runs at once, on a discrete pool."""

from __future__ import annotations

import math

import torch
from botorch.models.model import Model
from torch import Tensor

from lightning_nas.errors import UsageError
from lightning_nas.nn.kernels import matern52, squared_distances
from lightning_nas.predictors.surrogate import RunModel, standardise


class GaussianProcess:
    """Gaussian process with an isotropic Matern-5/2 kernel; one per run, all fitted together.

    Length scale and noise maximise the marginal likelihood over a grid, the output scale is profiled out in closed
    form. The grid makes the fit deterministic, batched and free of local optima.

    Args:
        lengthscales: Grid of length scales, in units of the features' root mean variance times sqrt(D).
        noises: Grid of noise variances, as a share of the output variance.
    """

    def __init__(
        self,
        lengthscales: tuple[float, ...] = (0.3, 0.5, 0.8, 1.3, 2.0, 3.5),
        noises: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1),
    ) -> None:
        if min(lengthscales, default=0.0) <= 0 or min(noises, default=0.0) <= 0:
            raise UsageError(
                f"GaussianProcess(lengthscales={lengthscales}, noises={noises}): "
                "expected non-empty grids of positive numbers"
            )
        self.lengthscales = tuple(lengthscales)
        self.noises = tuple(noises)

    def fit(self, X: Tensor, y: Tensor, observed: Tensor, seeds: Tensor) -> Model:
        """Condition on the evaluations so far (see :class:`~lightning_nas.search.bayesian.Surrogate`)."""
        return GaussianProcessModel(X, y, observed, *self.select(X, y, observed))

    def select(self, X: Tensor, y: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
        """Length scale and noise of the highest marginal likelihood of each run, two of ``(R,)`` float64."""
        target, _, _ = standardise(y, observed)
        distances = squared_distances(X.double(), X.double())
        unit = math.sqrt(X.shape[-1])
        grid = [(scale * unit, noise) for scale in self.lengthscales for noise in self.noises]
        likelihoods = []
        for scale in self.lengthscales:
            kernel = matern52(distances / (scale * unit) ** 2)
            likelihoods += [
                _profile_likelihood(_covariance(kernel, noise, observed), target, observed) for noise in self.noises
            ]
        best = torch.stack(likelihoods).argmax(dim=0)
        chosen = distances.new_tensor(grid)[best]
        return chosen[:, 0], chosen[:, 1]


def _covariance(kernel: Tensor, noise: float | Tensor, observed: Tensor) -> Tensor:
    """Kernel plus noise; an entry that is not observed becomes an independent unit, which leaves no trace."""
    both = (observed[:, :, None] & observed[:, None, :]).to(kernel.dtype)
    diagonal = torch.where(observed, torch.as_tensor(noise, dtype=kernel.dtype), 1.0)
    return kernel * both + torch.diag_embed(diagonal)


def _profile_likelihood(covariance: Tensor, target: Tensor, observed: Tensor) -> Tensor:
    """Log marginal likelihood up to a constant with the best output scale, ``(R,)``: Rasmussen & Williams, Eq. 2.30."""
    factor = torch.linalg.cholesky(covariance)
    residual = torch.linalg.solve_triangular(factor, target[..., None], upper=False)[..., 0]
    count = observed.sum(dim=1)
    scale = residual.square().sum(dim=1) / count.clamp_min(1)
    half_log_determinant: Tensor = factor.diagonal(dim1=-2, dim2=-1).log().sum(dim=1)
    return -0.5 * count * scale.clamp_min(1e-12).log() - half_log_determinant  # type: ignore[no-any-return]


class GaussianProcessModel(RunModel):
    """Posterior of R Gaussian processes with given length scales and noises.

    Args:
        X: Features, ``(R, n, d)``.
        y: Scores, ``(R, n)``.
        observed: Which entries count, ``(R, n)``.
        lengthscale: ``(R,)``.
        noise: Noise variance as a share of the output variance, ``(R,)``.
    """

    def __init__(self, X: Tensor, y: Tensor, observed: Tensor, lengthscale: Tensor, noise: Tensor) -> None:
        target, location, scale = standardise(y, observed)
        super().__init__(location.to(X.dtype), scale.to(X.dtype))
        inputs = X.double() / lengthscale[:, None, None]
        kernel = matern52(squared_distances(inputs, inputs))
        factor = torch.linalg.cholesky(_covariance(kernel, noise[:, None], observed))
        whitener = torch.linalg.solve_triangular(factor, torch.eye(X.shape[1], dtype=factor.dtype), upper=False)
        whitener = whitener * observed[:, None, :]  # no weight on what was not observed
        residual = (whitener @ target[..., None])[..., 0]
        output_scale = residual.square().sum(dim=1) / observed.sum(dim=1).clamp_min(1)
        self.inputs = inputs.to(X.dtype)  # in units of the length scale
        self.hyperparameters = lengthscale, noise
        self.lengthscale = lengthscale.to(X.dtype)
        self.whitener = whitener.to(X.dtype)  # L^-1, (R, n, n)
        self.weights = (whitener.mT @ residual[..., None])[..., 0].to(X.dtype)  # K^-1 y, (R, n)
        self.output_scale = output_scale.clamp_min(1e-12).to(X.dtype)  # (R,)

    def condition(self, X: Tensor, y: Tensor, observed: Tensor) -> GaussianProcessModel:
        """The same length scales and noises with other evaluations."""
        return GaussianProcessModel(X, y, observed, *self.hyperparameters)

    def marginal(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of c candidates, ``(c, d)`` or ``(R, c, d)`` -> two of ``(R, c)``, standardised."""
        cross = matern52(squared_distances(self.inputs, points / self.lengthscale[:, None, None]))  # (R, n, c)
        mean = (self.weights[:, None] @ cross)[:, 0]
        explained = (self.whitener @ cross).square_().sum(dim=1)
        return mean, self.output_scale[:, None] * (1.0 - explained).clamp_min_(1e-6)

    def joint(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and covariance of q candidates: ``(R, q, d)`` -> ``(R, q)`` and ``(R, q, q)``, standardised."""
        inputs = points / self.lengthscale[:, None, None]
        cross = matern52(squared_distances(self.inputs, inputs))  # (R, n, q)
        whitened = self.whitener @ cross
        prior = matern52(squared_distances(inputs, inputs))
        covariance = self.output_scale[:, None, None] * (prior - whitened.mT @ whitened)
        return (self.weights[:, None] @ cross)[:, 0], covariance
