"""Choosing from a discrete pool with BoTorch's acquisition functions, for R runs at once."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from botorch.acquisition import AcquisitionFunction
from botorch.acquisition.analytic import ExpectedImprovement, LogExpectedImprovement, UpperConfidenceBound
from botorch.models.model import Model
from torch import LongTensor, Tensor

from lightning_nas.errors import UsageError


class Acquisition(ABC):
    """Chooses the next candidate of every run from a surrogate's posterior."""

    @abstractmethod
    def choose(
        self,
        model: Model,
        best: Tensor,
        features: Tensor,
        visited: LongTensor,
        seeds: Tensor,
        among: LongTensor | None = None,
    ) -> LongTensor:
        """The candidate to evaluate next in every run, never one that was visited.

        Args:
            model: Posterior of R runs.
            best: Best score seen in each run, ``(R,)``.
            features: Inputs of all candidates, ``(P, d)``.
            visited: Candidates already tried, ``(R, n)``.
            seeds: Draws in [0, 1) for methods that are random, ``(R,)``.
            among: The only candidates of each run to choose from, ``(R, k)``, more than are visited; None for all.

        Returns:
            Pool indices, ``(R,)``.
        """

    def shortlist(
        self, model: Model, best: Tensor, features: Tensor, visited: LongTensor, size: int
    ) -> LongTensor | None:
        """The candidates most likely to be chosen soon, ``(R, size)``; None (the default) for all.

        Args as for :meth:`choose`.
        """
        return None


class AnalyticAcquisition(Acquisition):
    """Highest value of an analytic BoTorch acquisition function over the whole pool, scored in chunks.

    ``optimize_acqf_discrete`` assumes one run, so the chunked maximum is done here.

    Args:
        block_size: Candidates times evaluations (summed over runs) scored at a time; bounds memory. A model that
            needs less memory says so.
    """

    def __init__(self, block_size: int = 2_000_000) -> None:
        if block_size < 1:
            raise UsageError(f"{type(self).__name__}(block_size={block_size}): expected a positive number")
        self.block_size = block_size

    @abstractmethod
    def function(self, model: Model, best: Tensor) -> AcquisitionFunction:
        """BoTorch's function for R runs; ``best`` is ``(R, 1)``."""

    @torch.no_grad()
    def choose(
        self,
        model: Model,
        best: Tensor,
        features: Tensor,
        visited: LongTensor,
        seeds: Tensor,
        among: LongTensor | None = None,
    ) -> LongTensor:
        """Score every candidate of every run and take the highest not visited."""
        if among is None:
            table = self.scores(model, best, features, visited.shape[1])
            table.scatter_(1, visited, -torch.inf)
            return table.argmax(dim=1)  # type: ignore[return-value]
        table = self.scores(model, best, features[among], visited.shape[1])
        table[(among[:, :, None] == visited[:, None]).any(dim=2)] = -torch.inf
        return among.gather(1, table.argmax(dim=1, keepdim=True))[:, 0]  # type: ignore[return-value]

    @torch.no_grad()
    def shortlist(
        self, model: Model, best: Tensor, features: Tensor, visited: LongTensor, size: int
    ) -> LongTensor | None:
        """The candidates of the highest values now; None where there are no more than that."""
        if len(features) <= size:
            return None
        table = self.scores(model, best, features, visited.shape[1])
        table.scatter_(1, visited, -torch.inf)
        return table.topk(size, dim=1).indices  # type: ignore[return-value]

    def scores(self, model: Model, best: Tensor, features: Tensor, evaluations: int) -> Tensor:
        """Value of every candidate for every run, ``(R, P)``, computed in blocks.

        Args:
            model: Posterior of R runs.
            best: Best score seen in each run, ``(R,)``.
            features: Inputs of all candidates, ``(P, d)``, or of each run's own, ``(R, P, d)``.
            evaluations: How many evaluations the model rests on.
        """
        runs = len(best)
        score = self.function(model, best[:, None])
        inputs = features[:, None].expand(-1, runs, -1) if features.dim() == 2 else features.transpose(0, 1)
        # A model that scores one run after the other holds less than the usual number for each evaluation.
        numbers = getattr(model, "numbers_per_candidate", evaluations)
        blocks = torch.split(inputs, max(1, self.block_size // (runs * numbers)))
        return torch.cat([score(points[:, :, None]).T for points in blocks], dim=1)


class LogEI(AnalyticAcquisition):
    """Logarithm of expected improvement, which keeps its ranking where EI underflows (arXiv 2310.20708)."""

    def function(self, model: Model, best: Tensor) -> AcquisitionFunction:
        """LogEI over the best score of each run."""
        return LogExpectedImprovement(model, best_f=best)


class EI(AnalyticAcquisition):
    """Expected improvement.

    Args:
        incumbent: Score to improve on, in percent, the same throughout; the code of arXiv 2006.06936 fixes it at 100
            for NAS-Bench-201. None for the best score seen in each run.
        block_size: Candidates times evaluations (summed over runs) scored at a time; bounds memory. A model that
            needs less memory says so.
    """

    def __init__(self, incumbent: float | None = None, block_size: int = 2_000_000) -> None:
        super().__init__(block_size)
        self.incumbent = incumbent

    def function(self, model: Model, best: Tensor) -> AcquisitionFunction:
        """EI over the fixed incumbent or the best score of each run."""
        target = best if self.incumbent is None else torch.full_like(best, self.incumbent)
        return ExpectedImprovement(model, best_f=target)


class UCB(AnalyticAcquisition):
    """Upper confidence bound, mean + sqrt(beta) * standard deviation (Srinivas et al., arXiv 0912.3995).

    Args:
        beta: Weight of the variance; larger explores more.
        block_size: Candidates times evaluations (summed over runs) scored at a time; bounds memory. A model that
            needs less memory says so.
    """

    def __init__(self, beta: float = 2.0, block_size: int = 2_000_000) -> None:
        super().__init__(block_size)
        if not beta >= 0:
            raise UsageError(f"UCB(beta={beta}): expected a number from 0 on")
        self.beta = beta

    def function(self, model: Model, best: Tensor) -> AcquisitionFunction:
        """UCB; does not depend on the best score."""
        return UpperConfidenceBound(model, beta=self.beta)


class Thompson(Acquisition):
    """Thompson sampling: the highest of one joint posterior draw over a random part of the pool.

    A joint draw costs the cube of the number of candidates, hence the part.

    Args:
        num_candidates: Unvisited candidates drawn at random for each decision.
    """

    def __init__(self, num_candidates: int = 500) -> None:
        if num_candidates < 1:
            raise UsageError(f"Thompson(num_candidates={num_candidates}): expected a positive number")
        self.num_candidates = num_candidates

    @torch.no_grad()
    def choose(
        self,
        model: Model,
        best: Tensor,
        features: Tensor,
        visited: LongTensor,
        seeds: Tensor,
        among: LongTensor | None = None,
    ) -> LongTensor:
        """Draw candidates, then one joint sample of their scores for every run."""
        candidates, noises = [], []
        for seed, tried in zip(seeds.tolist(), visited.tolist(), strict=True):
            rng = np.random.default_rng(int(seed * 2**53))
            free = np.setdiff1d(np.arange(len(features)), tried, assume_unique=False)
            # With a pool nearly used up a run has fewer candidates left: repeat them to keep the batch rectangular.
            candidates.append(np.resize(rng.permutation(free)[: self.num_candidates], self.num_candidates))
            noises.append(rng.standard_normal(self.num_candidates))
        chosen = torch.from_numpy(np.stack(candidates))  # (R, c)
        normal = model.posterior(features[chosen]).distribution
        factor = _factor(normal.covariance_matrix.double())  # (R, c, c)
        noise = torch.from_numpy(np.stack(noises))[..., None]  # (R, c, 1)
        sample = normal.mean.double() + (factor @ noise)[..., 0]
        return chosen.gather(1, sample.argmax(dim=1, keepdim=True))[:, 0]  # type: ignore[return-value]


def _factor(covariance: Tensor) -> Tensor:
    """Cholesky factor of every run's covariance, each with the least jitter that it needs, ``(R, c, c)``.

    Neural features have few dimensions, so covariances are nearly singular. The library would change the method, and
    with it the draws, of all runs as soon as one fails.
    """
    level = covariance.diagonal(dim1=-2, dim2=-1).amax(dim=1).clamp_min(1e-12)
    unit = torch.eye(covariance.shape[-1], dtype=covariance.dtype)
    factor = level.sqrt()[:, None, None] * unit  # independent draws, if all else fails
    left = torch.ones(len(covariance), dtype=torch.bool)
    for share in (1e-6, 1e-4, 1e-2, 1e-1):
        attempt, failure = torch.linalg.cholesky_ex(covariance + (share * level)[:, None, None] * unit)
        good = left & (failure == 0)
        factor[good], left = attempt[good], left & ~good
        if not bool(left.any()):
            break
    return factor
