"""The common part of surrogates that model R independent runs at once."""

from __future__ import annotations

from typing import Any

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
        """Mean and variance of c candidates shared by all runs: ``(c, d)`` -> two of ``(R, c)``, standardised."""
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
            mean, variance = self.marginal(X[:, 0, 0])
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
