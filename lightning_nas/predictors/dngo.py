"""Deep networks for global optimisation: neural features with Bayesian linear regression on top."""

from __future__ import annotations

import math

import numpy as np
import torch
from botorch.models.model import Model
from torch import Tensor

from lightning_nas.errors import UsageError
from lightning_nas.predictors.surrogate import LinearModel, select_by_evidence, standardise

_CACHED = 120_000  # features of the evaluations trained at a time, a few of which fit a processor's cache
_WINDOW = 1000  # candidates scored at a time, for the same reason


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
        hidden_size: int = 64,
        num_steps: int = 50,
        learning_rate: float = 0.02,
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
        parts = torch.split(torch.arange(len(X)), max(1, _CACHED // (X.shape[1] * self.hidden_size)))
        trained = [
            self._train_features(X[runs], target[runs].to(X.dtype), observed[runs].to(X.dtype), seeds[runs])
            for runs in parts
        ]
        weight, bias = (torch.cat(found) for found in zip(*trained, strict=True))
        features = torch.tanh(torch.baddbmm(bias, X, weight)) * observed[..., None]  # (R, n, H)
        priors = tuple(signal / self.hidden_size for signal in self.signals)
        prior, noise = select_by_evidence(features.double(), target, observed, priors, self.noises)
        return DNGOModel(location.to(X.dtype), scale.to(X.dtype), features, target, prior, noise, weight, bias)

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
        weight, bias, readout, offset = self._initial(X, seeds)
        inputs = torch.cat([X, torch.ones_like(X[..., :1])], dim=2)  # the bias is one more weight
        parameters = [torch.cat([weight, bias], dim=1), readout, offset]
        first = [torch.zeros_like(p) for p in parameters]
        second = [torch.zeros_like(p) for p in parameters]
        share = 2.0 * (observed / observed.sum(dim=1, keepdim=True).clamp_min(1))[..., None]  # (R, n, 1)
        beta1, beta2 = 0.9, 0.999
        for step in range(1, self.num_steps + 1):
            gradients = _gradients(inputs, target, share, parameters)
            torch._foreach_lerp_(first, gradients, 1.0 - beta1)
            torch._foreach_mul_(second, beta2)
            torch._foreach_addcmul_(second, gradients, gradients, 1.0 - beta2)
            # The bias corrections as one factor of the step and one of epsilon: a division of all numbers less.
            correction = math.sqrt(1.0 - beta2**step)
            size = torch._foreach_sqrt(second)
            torch._foreach_add_(size, 1e-8 * correction)
            torch._foreach_addcdiv_(parameters, first, size, -self.learning_rate * correction / (1.0 - beta1**step))
        return parameters[0][:, :-1].contiguous(), parameters[0][:, -1:].contiguous()


def _gradients(inputs: Tensor, target: Tensor, share: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    """Of every run's squared error weighted by half of ``share``; inputs ``(R, n, d + 1)`` end with a one."""
    weight, readout, offset = parameters
    features = torch.bmm(inputs, weight).tanh_()  # (R, n, H)
    error = (torch.baddbmm(offset, features, readout) - target[..., None]) * share  # (R, n, 1)
    backward = torch.ops.aten.tanh_backward(error * readout.mT, features)  # (R, n, H)
    return [inputs.mT @ backward, features.mT @ error, error.sum(1, keepdim=True)]


class DNGOModel(LinearModel):
    """Posterior of R Bayesian linear regressions on tanh features.

    Args:
        location: Mean of the scores, ``(R,)``.
        scale: Standard deviation of the scores, ``(R,)``.
        features: Features of the evaluations, zero where not observed, ``(R, n, H)``.
        target: Standardised scores, zero where not observed, ``(R, n)`` float64.
        prior: Prior variance of the weights, ``(R,)`` float64.
        noise: Noise variance, ``(R,)`` float64.
        weight: First layer, ``(R, d, H)``.
        bias: First layer, ``(R, 1, H)``.
    """

    numbers_per_candidate = 8  # what an acquisition function holds at a time for each; the features come run by run

    def __init__(
        self,
        location: Tensor,
        scale: Tensor,
        features: Tensor,
        target: Tensor,
        prior: Tensor,
        noise: Tensor,
        weight: Tensor,
        bias: Tensor,
    ) -> None:
        super().__init__(location, scale, features, target, prior, noise)
        self.weight, self.bias = weight, bias

    def features(self, points: Tensor) -> Tensor:
        """Features of q candidates of every run, ``(R, q, d)`` -> ``(R, q, H)``."""
        return torch.tanh(torch.baddbmm(self.bias, points, self.weight))

    def marginal(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of c candidates, ``(c, d)`` or ``(R, c, d)`` -> two of ``(R, c)``, standardised."""
        # One run and few candidates at a time: all that they need stays in the processor's cache. Candidates on the
        # last axis, so that every product and sum runs over contiguous memory.
        runs, candidates = len(self.weight), points.shape[-2]
        mean, variance = points.new_empty(2, runs, candidates)
        rows = torch.cat([self.root, self.readout.mT], dim=1)  # (R, H + 1, H)
        weight, bias = self.weight.mT.contiguous(), self.bias.mT.contiguous()
        for start in range(0, candidates, _WINDOW):
            window = slice(start, start + _WINDOW)
            inputs = points[..., window, :].mT.contiguous().expand(runs, -1, -1)  # (R, d, c)
            for run in range(runs):
                features = torch.addmm(bias[run], weight[run], inputs[run]).tanh_()  # (H, c)
                image = rows[run] @ features  # (H + 1, c)
                mean[run, window] = image[-1]
                torch.sum(image[:-1].square_(), dim=0, out=variance[run, window])
        return mean, variance.clamp_min_(1e-6)
