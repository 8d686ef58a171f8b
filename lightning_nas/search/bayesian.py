"""Bayesian optimisation over the pool."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from botorch.models.model import Model
from torch import LongTensor, Tensor

from lightning_nas.errors import UsageError
from lightning_nas.search.acquisition import Acquisition, LogEI
from lightning_nas.search.history import SearchHistory, Status
from lightning_nas.search.pool import CandidatePool, pick_unvisited
from lightning_nas.search.strategy import SearchStrategy
from lightning_nas.spaces.encodings import Encoding


class Surrogate(Protocol):
    """Fits one independent regression per run and returns their joint BoTorch model."""

    def fit(self, X: Tensor, y: Tensor, observed: Tensor, seeds: Tensor) -> Model:
        """Condition on the evaluations so far.

        Args:
            X: Features, ``(R, n, d)``.
            y: Scores, ``(R, n)``; anything where not observed.
            observed: Which entries count, ``(R, n)`` bool.
            seeds: Draws in [0, 1) that fix the randomness of each run's fit, ``(R,)``.

        Returns:
            A model whose posterior takes ``(c, R, 1, d)``, the candidates c of every run one by one, or
            ``(R, q, d)``, q candidates of every run jointly.
        """
        ...


class BayesianSearch(SearchStrategy):
    """Fits a surrogate to what a run has seen and evaluates the candidate its acquisition function likes best.

    Evaluations still running stand in with the surrogate's own mean ("kriging believer"), so batches spread out.

    Args:
        surrogate: Regression from features to accuracy, for example
            ``lightning_nas.predictors.gp.GaussianProcess`` or ``lightning_nas.predictors.dngo.DNGO``.
        acquisition: How to choose from its posterior; default LogEI.
        encoding: Features of the candidates; None for the embeddings of the trained module.
        num_initial: Random evaluations before the first fit.
        winsorise: Raise scores that lie further below a run's median than its best lies above to that distance. Cells
            that do not learn at all say little about the best ones, and they would set the surrogate's scale.
    """

    def __init__(
        self,
        surrogate: Surrogate,
        acquisition: Acquisition | None = None,
        encoding: Encoding | None = None,
        num_initial: int = 16,
        winsorise: bool = True,
    ) -> None:
        if num_initial < 2:
            raise UsageError(f"BayesianSearch(num_initial={num_initial}): expected at least 2 evaluations to fit")
        self.surrogate = surrogate
        self.acquisition = acquisition or LogEI()
        self.encoding = encoding
        self.num_initial = num_initial
        self.winsorise = winsorise

    @property
    def needs_embeddings(self) -> bool:
        """Whether the candidates' features come from a trained module."""
        return self.encoding is None

    def propose(self, history: SearchHistory, pool: CandidatePool[Any]) -> LongTensor:
        """The best candidate by the acquisition function, a random one before the first fit or score, ``(R,)``."""
        draws = history.uniforms(2)
        unguided = pick_unvisited(history, len(pool), draws[:, 0])
        if int(history.count.min()) < self.num_initial:
            return unguided
        features = pool.features(self.encoding)
        seen = history.prefix(history.length)
        X = features[seen.indices.clamp_min(0)]  # (R, n, d)
        observed: Tensor = seen.done
        y = winsorised(seen.valid) if self.winsorise else seen.valid
        model = self.surrogate.fit(X, y, observed, draws[:, 1])
        running = seen.status == Status.RUNNING
        if bool(running.any()):
            y = torch.where(running, model.posterior(X).mean[..., 0].double(), y)
            observed = observed | running
            model = self.surrogate.fit(X, y, observed, draws[:, 1])
        # A run may have no score yet: everything failed, or the first batch still runs.
        scored = seen.done.any(dim=1)
        best = torch.where(seen.done, seen.valid, -torch.inf).amax(dim=1)
        best = torch.where(scored, best, 0.0).to(features.dtype)
        # Empty slots repeat the run's first candidate, which is visited anyway.
        visited = torch.where(seen.indices < 0, seen.indices[:, :1], seen.indices)
        chosen = self.acquisition.choose(model, best, features, visited, draws[:, 0])  # type: ignore[arg-type]
        return torch.where(scored, chosen, unguided)  # type: ignore[return-value]


def winsorised(scores: Tensor) -> Tensor:
    """Scores with the low tail pulled in, so that the median is the middle of their range; NaN stays, ``(R, n)``."""
    median = scores.nanmedian(dim=1, keepdim=True).values
    best = scores.nan_to_num(nan=-torch.inf).amax(dim=1, keepdim=True)
    return torch.where(scores.isnan(), scores, torch.maximum(scores, 2.0 * median - best))
