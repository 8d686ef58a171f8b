"""Deep networks for global optimisation: neural features with Bayesian linear regression on top."""

from __future__ import annotations

import math

import numpy as np
import torch
from botorch.models.model import Model
from torch import Tensor

from lightning_nas.errors import UsageError
from lightning_nas.predictors.surrogate import RunModel, standardise


class DNGO:
    """A small tanh network per run, trained anew, then Bayesian linear regression on its features (arXiv 1502.05700).

    The networks of all runs are trained together as one batched matrix product per layer, with the gradient written
    out by hand: two layers need no autograd. Prior precision and noise maximise the evidence over a grid.

    Args:
        hidden_size: Tanh features H.
        num_steps: Full-batch Adam steps of each fit.
        learning_rate: Of Adam.
        noises: Grid of noise variances, as a share of the scores' variance.
        signals: Grid of prior variances of the features' weights times H, in the same unit.
    """

    def __init__(
        self,
        hidden_size: int = 128,
        num_steps: int = 100,
        learning_rate: float = 0.01,
        noises: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1),
        signals: tuple[float, ...] = (0.1, 1.0, 10.0, 100.0, 1000.0),
    ) -> None:
        if min(hidden_size, num_steps) < 1 or min((learning_rate, *noises, *signals)) <= 0:
            raise UsageError(
                f"DNGO(hidden_size={hidden_size}, num_steps={num_steps}, learning_rate={learning_rate}, "
                f"noises={noises}, signals={signals}): all must be positive"
            )
        self.hidden_size = hidden_size
        self.num_steps = num_steps
        self.learning_rate = learning_rate
        self.noises = tuple(noises)
        self.signals = tuple(signals)

    def fit(self, X: Tensor, y: Tensor, observed: Tensor, seeds: Tensor) -> Model:
        """Condition on the evaluations so far (see :class:`~lightning_nas.search.bayesian.Surrogate`)."""
        target, location, scale = standardise(y, observed)
        weight, bias = self._train_features(X, target.to(X.dtype), observed.to(X.dtype), seeds)
        features = torch.tanh(torch.baddbmm(bias, X, weight)) * observed[..., None]  # (R, n, H)
        prior, noise = self._select(features.double(), target, observed)
        return DNGOModel(location.to(X.dtype), scale.to(X.dtype), weight, bias, features, target, prior, noise)

    def _initial(self, X: Tensor, seeds: Tensor) -> list[Tensor]:
        inputs, hidden = X.shape[-1], self.hidden_size
        count = inputs * hidden + hidden
        flat = np.stack([
            np.random.default_rng(int(seed * 2**53)).standard_normal(count, dtype=np.float32) for seed in seeds.tolist()
        ])  # fmt: skip
        drawn = torch.from_numpy(flat).to(X.dtype)
        weight = drawn[:, : inputs * hidden].reshape(-1, inputs, hidden) / math.sqrt(inputs)
        readout = drawn[:, inputs * hidden :, None] / math.sqrt(hidden)
        zeros = weight.new_zeros
        return [weight, zeros(len(X), 1, hidden), readout, zeros(len(X), 1, 1)]

    def _train_features(self, X: Tensor, target: Tensor, observed: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """Minimise the squared error with Adam; returns the first layer, ``(R, d, H)`` and ``(R, 1, H)``."""
        parameters = self._initial(X, seeds)
        first = [torch.zeros_like(p) for p in parameters]
        second = [torch.zeros_like(p) for p in parameters]
        share = (observed / observed.sum(dim=1, keepdim=True).clamp_min(1))[..., None]  # (R, n, 1)
        beta1, beta2 = 0.9, 0.999
        for step in range(1, self.num_steps + 1):
            weight, bias, readout, offset = parameters
            features = torch.tanh(torch.baddbmm(bias, X, weight))  # (R, n, H)
            error = (torch.baddbmm(offset, features, readout) - target[..., None]) * share * 2.0  # (R, n, 1)
            backward = error * readout.mT * (1.0 - features.square())  # (R, n, H)
            gradients = [
                X.mT @ backward,
                backward.sum(1, keepdim=True),
                features.mT @ error,
                error.sum(1, keepdim=True),
            ]
            torch._foreach_lerp_(first, gradients, 1.0 - beta1)
            torch._foreach_mul_(second, beta2)
            torch._foreach_addcmul_(second, gradients, gradients, 1.0 - beta2)
            size = torch._foreach_sqrt(second)
            torch._foreach_div_(size, math.sqrt(1.0 - beta2**step))
            torch._foreach_add_(size, 1e-8)
            torch._foreach_addcdiv_(parameters, first, size, -self.learning_rate / (1.0 - beta1**step))
        return parameters[0], parameters[1]

    def _select(self, features: Tensor, target: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
        """Prior variance of the weights and noise with the highest evidence, two of ``(R,)``."""
        # One eigendecomposition of the n x n Gram matrix serves the whole grid (n is below H for most of a search).
        eigenvalues, eigenvectors = torch.linalg.eigh(features @ features.mT)  # (R, n)
        projected = (eigenvectors.mT @ target[..., None])[..., 0].square()
        prior = features.new_tensor(self.signals) / self.hidden_size
        noise = features.new_tensor(self.noises)
        spectrum = prior[:, None, None, None] * eigenvalues.clamp_min(0.0) + noise[:, None, None]  # (S, Q, R, n)
        idle = (~observed).sum(dim=1)  # rows that were not observed are zero: each adds log(noise), taken out again
        evidence = -0.5 * ((projected / spectrum).sum(-1) + spectrum.log().sum(-1) - noise.log()[:, None] * idle)
        best = evidence.flatten(0, 1).argmax(dim=0)
        return prior[best // len(noise)], noise[best % len(noise)]


class DNGOModel(RunModel):
    """Posterior of R Bayesian linear regressions on tanh features.

    Args:
        location: Mean of the scores, ``(R,)``.
        scale: Standard deviation of the scores, ``(R,)``.
        weight: First layer, ``(R, d, H)``.
        bias: First layer, ``(R, 1, H)``.
        features: Features of the evaluations, zero where not observed, ``(R, n, H)``.
        target: Standardised scores, zero where not observed, ``(R, n)`` float64.
        prior: Prior variance of the weights, ``(R,)`` float64.
        noise: Noise variance, ``(R,)`` float64.
    """

    def __init__(
        self,
        location: Tensor,
        scale: Tensor,
        weight: Tensor,
        bias: Tensor,
        features: Tensor,
        target: Tensor,
        prior: Tensor,
        noise: Tensor,
    ) -> None:
        super().__init__(location, scale)
        self.weight, self.bias, self.prior = weight, bias, prior.to(weight.dtype)
        self.hyperparameters = prior, noise
        # Conditioning in the space of the n evaluations: n <= H halves the work of scoring the pool.
        exact = features.double()
        gram = prior[:, None, None] * (exact @ exact.mT) + torch.diag_embed(noise[:, None].expand_as(target))
        factor = torch.linalg.cholesky(gram)
        solved = torch.linalg.solve_triangular(factor, exact, upper=False)  # L^-1 Phi, (R, n, H)
        residual = torch.linalg.solve_triangular(factor, target[..., None], upper=False)
        self.readout = (prior[:, None, None] * (solved.mT @ residual)).to(weight.dtype)  # (R, H, 1)
        self.whitener = (prior[:, None, None] * solved).to(weight.dtype)

    def condition(self, X: Tensor, y: Tensor, observed: Tensor) -> DNGOModel:
        """The same networks, prior and noise with other evaluations."""
        target, location, scale = standardise(y, observed)
        features = self._features(X) * observed[..., None]
        return DNGOModel(
            location.to(X.dtype), scale.to(X.dtype), self.weight, self.bias, features, target, *self.hyperparameters
        )

    def _features(self, points: Tensor) -> Tensor:
        return torch.tanh(torch.baddbmm(self.bias, points, self.weight))

    def marginal(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of c candidates, ``(c, d)`` or ``(R, c, d)`` -> two of ``(R, c)``, standardised."""
        # Candidates on the last axis: every product and reduction below then runs over contiguous memory.
        features = torch.baddbmm(self.bias.mT, self.weight.mT, points.mT.expand(len(self.weight), -1, -1)).tanh_()
        mean = (self.readout.mT @ features)[:, 0]
        explained = (self.whitener @ features).square_().sum(dim=1)
        prior = features.square_().sum(dim=1) * self.prior[:, None]
        return mean, (prior - explained).clamp_min_(1e-6)

    def joint(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and covariance of q candidates: ``(R, q, d)`` -> ``(R, q)`` and ``(R, q, q)``, standardised."""
        features = self._features(points)  # (R, q, H)
        whitened = features @ self.whitener.mT
        covariance = self.prior[:, None, None] * (features @ features.mT) - whitened @ whitened.mT
        return (features @ self.readout)[..., 0], covariance
