"""Bayesian optimisation that looks at a few random candidates at a time (arXiv 2102.04208)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import LongTensor, Tensor

from lightning_nas.errors import UsageError
from lightning_nas.nn.kernels import distance_factors, matern52
from lightning_nas.search.history import SearchHistory
from lightning_nas.search.pool import CandidatePool, pick_unvisited
from lightning_nas.search.strategy import SearchStrategy


class CandidateBayesianSearch(SearchStrategy):
    """Bayesian search as the released code of contrastive embeddings has it (arXiv 2102.04208, Section 4.2).

    A Gaussian process with a Matern-5/2 kernel of variance 1 and a prior mean of zero, whose hyperparameters are never
    fitted, sees the accuracies in percent as they are; every view (initialisation) of an evaluated architecture is a
    point of its own. Of a few random candidates the one of the highest expected improvement is next, mean and variance
    (the noise's included) averaged over its views; where all improvements underflow to zero, the first one. A candidate
    may be one that has been evaluated: it is evaluated, and paid for, again. With a mean of zero and scores near
    ninety, predictions fall with the distance from what has been evaluated, so it stays where many good ones were.
    ``lightning_nas.search.bayesian.BayesianSearch`` does what one would do today.

    The inverse Cholesky factor grows with every evaluation, in rounds of all runs (asynchronous searches make it anew
    for each run): T queries of I views take (T I)² numbers of eight bytes for each run.

    Args:
        lengthscale: Of the kernel, in the units of the embedding.
        noise: Variance of the noise.
        num_candidates: Random candidates of each step.
        num_initial: Random evaluations at the start.
        offset: Improvement is over the best score plus this, in percentage points.
        repeats: Whether a candidate may be one that has been evaluated; otherwise it is left out.
    """

    needs_embeddings = True

    def __init__(
        self,
        lengthscale: float = 1.0,
        noise: float = 0.1,
        num_candidates: int = 20,
        num_initial: int = 5,
        offset: float = 0.15,
        repeats: bool = True,
    ) -> None:
        if min(lengthscale, noise) <= 0 or min(num_candidates, num_initial) < 1:
            raise UsageError(
                f"CandidateBayesianSearch(lengthscale={lengthscale}, noise={noise}, num_candidates={num_candidates}, "
                f"num_initial={num_initial}): expected positive numbers"
            )
        self.lengthscale, self.noise, self.offset = lengthscale, noise, offset
        self.num_candidates, self.num_initial, self.repeats = num_candidates, num_initial, repeats
        self._process: _GrowingProcess | None = None

    def propose(self, history: SearchHistory, pool: CandidatePool[Any]) -> LongTensor:
        """The best of a few random candidates, a random one at the start and before the first score, ``(R,)``."""
        candidates = self._candidates(history, len(pool))
        guided = (history.count >= self.num_initial) & history.done.any(dim=1)
        if not bool(guided.any()):
            return candidates[:, 0]  # type: ignore[return-value]
        seen = history.prefix(history.length)
        if self._process is None or not self._process.grows_to(history, pool):
            self._process = _GrowingProcess(history, pool, self.lengthscale, self.noise)
        mean, variance = self._process.predict(seen, candidates)
        best = torch.where(seen.done, seen.valid, -torch.inf).amax(dim=1)
        value = expected_improvement(mean, variance, best[:, None] + self.offset)
        if not self.repeats:
            value[(candidates[:, :, None] == seen.indices[:, None]).any(dim=2)] = -1.0
        chosen = torch.where(guided, value.argmax(dim=1), 0)
        return candidates.gather(1, chosen[:, None])[:, 0]  # type: ignore[return-value]

    def _candidates(self, history: SearchHistory, size: int) -> Tensor:
        """Drawn with replacement, ``(R, c)``; without repeats the first is one that is new."""
        draws = history.uniforms(self.num_candidates)
        candidates = (draws * size).long()
        if not self.repeats:
            candidates[:, 0] = pick_unvisited(history, size, draws[:, 0])
        return candidates


def expected_improvement(mean: Tensor, variance: Tensor, target: Tensor) -> Tensor:
    """``(m - b) Phi(z) + s phi(z)`` with ``z = (m - b) / s``, which may underflow to zero; all shapes broadcast."""
    deviation = variance.sqrt()
    z = (mean - target) / deviation
    density = torch.exp(-0.5 * z.square()) / math.sqrt(2.0 * math.pi)
    improvement: Tensor = (mean - target) * torch.special.ndtr(z) + deviation * density
    return improvement


class _GrowingProcess:
    """Gaussian processes of R runs with fixed hyperparameters, conditioned on one evaluation after the other.

    Rows are added evaluation by evaluation, whoever asks and whenever, so that a search that was interrupted goes on
    from the very same numbers. All products are of slices; a triangular solver would copy these.
    """

    def __init__(self, history: SearchHistory, pool: CandidatePool[Any], lengthscale: float, noise: float) -> None:
        views = pool.views.float()
        # Centred, since squared distances come from inner products.
        self.left, self.right = distance_factors((views - views.mean(dim=(0, 1))) / lengthscale)  # (n, I, D + 2)
        self.pool, self.runs, self.noise, self.num_views = pool, history.runs, noise, views.shape[1]
        runs, size = len(history.runs), history.capacity * self.num_views
        self.points = torch.zeros(runs, size, self.left.shape[-1])
        self.whitener = torch.zeros(runs, size, size, dtype=torch.float64)  # inverse of the Cholesky factor
        self.whitened = torch.zeros(runs, size, dtype=torch.float64)  # the scores, whitened
        self.indices = torch.empty(runs, 0, dtype=torch.long)
        self.scores = torch.empty(runs, 0, dtype=torch.float64)  # NaN where there is none

    def grows_to(self, history: SearchHistory, pool: CandidatePool[Any]) -> bool:
        """Whether this can be extended to a history's evaluations."""
        size = history.capacity * self.num_views
        return self.pool is pool and torch.equal(self.runs, history.runs) and self.points.shape[1] == size

    def predict(self, seen: SearchHistory, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of candidates' scores, averaged over views, ``(R, c)`` -> two of ``(R, c)``."""
        self._condition_on(seen)
        explained = self._explained(seen.length, candidates)
        mean = (self.whitened[:, None, : explained.shape[1]] @ explained)[:, 0]
        variance = 1.0 + self.noise - explained.square().sum(dim=1)
        shape = (*candidates.shape, self.num_views)
        return mean.view(shape).mean(dim=2), variance.view(shape).mean(dim=2)

    def _condition_on(self, seen: SearchHistory) -> None:
        scores = torch.where(seen.done, seen.valid, torch.nan)
        known = min(self.indices.shape[1], seen.length)
        same = (self.indices[:, :known] == seen.indices[:, :known]) & (
            self.scores[:, :known].nan_to_num(nan=-1.0) == scores[:, :known].nan_to_num(nan=-1.0)
        )
        known = int(same.all(dim=0).long().cumprod(dim=0).sum())  # the first evaluation that is new in any run
        self.indices, self.scores = seen.indices.clone(), scores
        for column in range(known, seen.length):
            self._add(column)

    def _add(self, column: int) -> None:
        """The rows of one evaluation; what has no score becomes independent of everything, which leaves no trace."""
        start, end = column * self.num_views, (column + 1) * self.num_views
        new = self.indices[:, column].clamp_min(0)
        observed = ~self.scores[:, column].isnan()[:, None, None]
        self.points[:, start:end] = self.left[new]
        unit = torch.eye(self.num_views, dtype=torch.float64).expand(len(new), -1, -1)
        explained = self._explained(column, new[:, None]) * observed  # (R, start, I)
        own = matern52(self.left[new] @ self.right[new].mT).double() + self.noise * unit
        own = torch.where(observed, own - explained.mT @ explained, unit)
        corner = torch.linalg.solve_triangular(torch.linalg.cholesky(own), unit, upper=False)
        rows = -corner @ (explained.mT @ self.whitener[:, :start, :start])
        self.whitener[:, start:end, :start] = rows * observed
        self.whitener[:, start:end, start:end] = corner * observed
        score = self.scores[:, column, None, None].nan_to_num(nan=0.0)
        residual = score - explained.mT @ self.whitened[:, :start, None]
        self.whitened[:, start:end] = (corner @ residual * observed)[..., 0]

    def _explained(self, evaluations: int, members: Tensor) -> Tensor:
        """Whitened covariances of the first evaluations with members' views, ``(R, b)`` -> ``(R, n * I, b * I)``."""
        size = evaluations * self.num_views
        cross = matern52(self.points[:, :size] @ self.right[members].flatten(1, 2).mT)
        return self.whitener[:, :size, :size] @ cross.double()
