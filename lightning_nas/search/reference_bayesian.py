"""Bayesian optimisation with the accidents of arch2vec's released code, to see what they cost."""

from __future__ import annotations

from typing import Any

import torch
from botorch.acquisition import AcquisitionFunction
from botorch.acquisition.analytic import LogExpectedImprovement
from botorch.models.model import Model
from torch import LongTensor, Tensor

from lightning_nas.search.acquisition import AnalyticAcquisition
from lightning_nas.search.bayesian import BayesianSearch, Surrogate
from lightning_nas.search.history import SearchHistory
from lightning_nas.search.pool import CandidatePool, pick_unvisited
from lightning_nas.search.random import RandomSearch
from lightning_nas.spaces.encodings import Encoding


class ReferenceEI(AnalyticAcquisition):
    """Expected improvement as in the released code of arXiv 2006.06936.

    It improves on a fixed score, and the variance of the accuracy (a share, not percent) stands where the standard
    deviation belongs. Ranked by its logarithm, because in percent the function itself underflows nearly everywhere.

    Args:
        incumbent: Score to improve on, in percent: 95 on NAS-Bench-101 and in the DARTS space, 100 on NAS-Bench-201.
        block_size: Candidates times evaluations (summed over runs) scored at a time; bounds memory.
    """

    def __init__(self, incumbent: float = 100.0, block_size: int = 2_000_000) -> None:
        super().__init__(block_size)
        self.incumbent = incumbent

    def function(self, model: Model, best: Tensor) -> AcquisitionFunction:
        """Logarithm of EI over the fixed incumbent."""
        return LogExpectedImprovement(_Confused(model), best_f=torch.full_like(best, self.incumbent / 100.0))


class _Confused(Model):  # type: ignore[misc]
    """A model of accuracies as shares whose standard deviation is the variance."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    @property
    def num_outputs(self) -> int:
        return 1

    @property
    def batch_shape(self) -> torch.Size:
        return self.model.batch_shape  # type: ignore[no-any-return]

    def posterior(self, X: Tensor, *args: Any, **kwargs: Any) -> _Moments:
        posterior = self.model.posterior(X, *args, **kwargs)
        return _Moments(posterior.mean / 100.0, (posterior.variance / 100.0**2).square())


class _Moments:
    """As much of a posterior as an analytic acquisition function looks at."""

    def __init__(self, mean: Tensor, variance: Tensor) -> None:
        self.mean, self.variance = mean, variance


class ReferenceBayesianSearch(BayesianSearch):
    """Bayesian search as arch2vec's released code does it (arXiv 2006.06936).

    A batch is the candidates with the highest values at once, without regard for each other. On NAS-Bench-101 and
    NAS-Bench-201 the code never recognises what it has evaluated: it chooses it again, and pays again. Such repeats are
    entered in the history and use up the budget. Scores are not winsorised.

    Args:
        surrogate: Regression from features to accuracy; the code has ``lightning_nas.predictors.dngo.DNGO``.
        incumbent: Score to improve on, in percent: 95 on NAS-Bench-101 and in the DARTS space, 100 on NAS-Bench-201.
        encoding: Features of the candidates; None for the embeddings of the trained module.
        num_initial: Random evaluations before the first fit.
        repeats: Whether candidates are evaluated again; the code for the DARTS space does not.
    """

    def __init__(
        self,
        surrogate: Surrogate,
        incumbent: float = 100.0,
        encoding: Encoding | None = None,
        num_initial: int = 16,
        repeats: bool = True,
    ) -> None:
        self._improvement = ReferenceEI(incumbent)
        super().__init__(surrogate, self._improvement, encoding, num_initial, winsorise=False)
        self.repeats = repeats

    def ask(self, history: SearchHistory, pool: CandidatePool[Any], q: int = 1) -> LongTensor:
        """The ``q`` best candidates by the acquisition function, ``(R, q)``; random before the first fit or score."""
        guided = (history.count >= self.num_initial) & history.done.any(dim=1)
        chosen = torch.empty(len(guided), q, dtype=torch.long)
        for some, choose in ((guided, self._best), (~guided, RandomSearch().ask)):
            if bool(some.any()):
                chosen[some] = choose(history.rows(some.nonzero()[:, 0]), pool, q)  # type: ignore[arg-type]
        return chosen  # type: ignore[return-value]

    def propose(self, history: SearchHistory, pool: CandidatePool[Any]) -> LongTensor:
        """A batch of one, ``(R,)``."""
        return self.ask(history, pool)[:, 0]  # type: ignore[return-value]

    @torch.no_grad()
    def _best(self, history: SearchHistory, pool: CandidatePool[Any], q: int) -> LongTensor:
        features, seen = pool.features(self.encoding), history.prefix(history.length)
        observed: Tensor = seen.done
        X = features[seen.indices.clamp_min(0)]  # (R, n, d)
        model = self.surrogate.fit(X, seen.valid, observed, history.uniforms(2)[:, 1])
        best = features.new_zeros(len(X))  # not looked at: the incumbent is fixed
        values = self._improvement.scores(model, best, features, seen.indices.shape[1])
        if not self.repeats:
            pick_unvisited(history, len(pool) - q + 1, history.uniforms(1)[:, 0])  # says so where too few are left
            visited = torch.where(seen.indices < 0, seen.indices[:, :1], seen.indices)
            values.scatter_(1, visited, -torch.inf)
        return values.topk(q, dim=1).indices  # type: ignore[return-value]
