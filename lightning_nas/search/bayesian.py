"""Bayesian optimisation over the pool."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

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
            ``(R, q, d)``, q candidates of every run jointly. With ``refit_every`` above 1 it also needs
            ``condition(X, y, observed)``: the same fit (hyperparameters, weights) resting on other evaluations.
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
        refit_every: Fit anew and score all candidates after every so many evaluations. In between, the last fit rests
            on the new scores, too, but only the ``shortlist`` is scored: several times faster on a large pool.
        shortlist: Candidates of the highest acquisition values, kept from one fit to the next.
        directions: With embeddings, the surrogate sees so many whitened principal components of their directions: for
            modules that learn by cosine similarity, whose lengths mean little and a few of whose dimensions hold
            nearly all variance. None for the embeddings as they are.
    """

    def __init__(
        self,
        surrogate: Surrogate,
        acquisition: Acquisition | None = None,
        encoding: Encoding | None = None,
        num_initial: int = 16,
        winsorise: bool = True,
        refit_every: int = 1,
        shortlist: int = 1000,
        directions: int | None = None,
    ) -> None:
        if directions is not None and (encoding is not None or directions < 1):
            raise UsageError(
                f"BayesianSearch(directions={directions}, encoding={type(encoding).__name__}): expected a positive "
                "number, and no encoding: directions are those of embeddings"
            )
        if num_initial < 2:
            raise UsageError(f"BayesianSearch(num_initial={num_initial}): expected at least 2 evaluations to fit")
        if not 1 <= refit_every < shortlist:
            raise UsageError(
                f"BayesianSearch(refit_every={refit_every}, shortlist={shortlist}): expected a positive refit_every "
                "below shortlist"
            )
        self.surrogate = surrogate
        self.acquisition = acquisition or LogEI()
        self.encoding = encoding
        self.num_initial = num_initial
        self.winsorise = winsorise
        self.refit_every, self.shortlist = refit_every, shortlist
        self.directions = directions
        self._last: _Fit | None = None

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
        features = pool.features(self.encoding, self.directions)
        seen = history.prefix(history.length)
        X, y, observed = self._evaluations(seen, features)
        fitted = self._fit(seen, features)
        new = fitted.evaluations < int(seen.finished.min())
        model = fitted.model.condition(X, y, observed) if new else fitted.model
        running = seen.status == Status.RUNNING
        if bool(running.any()):
            y = torch.where(running, model.posterior(X).mean[..., 0].double(), y)
            if self.refit_every > 1:
                model = model.condition(X, y, observed | running)
            else:
                model = self.surrogate.fit(X, y, observed | running, draws[:, 1])
        # A run may have no score yet: everything failed, or the first batch still runs.
        scored = seen.done.any(dim=1)
        shortlist = fitted.shortlist
        if shortlist is not None and seen.length - fitted.evaluations >= shortlist.shape[1]:
            shortlist = None  # a large batch has used it up
        chosen = self.acquisition.choose(model, _best(seen, features), features, _visited(seen), draws[:, 0], shortlist)
        return torch.where(scored, chosen, unguided)  # type: ignore[return-value]

    def _fit(self, seen: SearchHistory, features: Tensor) -> _Fit:
        """The fit to start from, made now or at an earlier evaluation; it depends on the evaluations up to it alone."""
        finished = seen.finished
        count = int(finished.min())
        start = max(count - count % self.refit_every, 1)
        earlier = seen.prefix(start)
        if self.refit_every == 1 or count < int(finished.max()) or bool((earlier.status < Status.DONE).any()):
            return _Fit(seen, seen.length, self._fitted(seen, features), None)
        if self._last is None or not self._last.is_of(earlier):
            model = self._fitted(earlier, features)
            best, visited = _best(earlier, features), _visited(earlier)
            self._last = _Fit(
                earlier.rows(slice(None)), start, model,
                self.acquisition.shortlist(model, best, features, visited, self.shortlist),
            )  # fmt: skip
        return self._last

    def _fitted(self, seen: SearchHistory, features: Tensor) -> Any:
        return self.surrogate.fit(*self._evaluations(seen, features), seen.uniforms(2)[:, 1])

    def _evaluations(self, seen: SearchHistory, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features ``(R, n, d)``, scores ``(R, n)``, and which of them there are."""
        y = winsorised(seen.valid) if self.winsorise else seen.valid
        return features[seen.indices.clamp_min(0)], y, seen.done


class _Fit(NamedTuple):
    """A fitted surrogate.

    Attributes:
        history: What it was fitted to.
        evaluations: Of every run.
        model: The posterior.
        shortlist: The best candidates by it, ``(R, k)``; None for all.
    """

    history: SearchHistory
    evaluations: int
    model: Any
    shortlist: LongTensor | None

    def is_of(self, other: SearchHistory) -> bool:
        """Whether it was fitted to these very evaluations."""
        mine = self.history
        same = mine.seed == other.seed and torch.equal(mine.runs, other.runs)
        same = same and torch.equal(mine.indices, other.indices)
        return same and torch.equal(mine.valid.nan_to_num(), other.valid.nan_to_num())


def _best(seen: SearchHistory, features: Tensor) -> Tensor:
    """Best score of every run, 0 before the first, ``(R,)``."""
    best = torch.where(seen.done, seen.valid, -torch.inf).amax(dim=1)
    return torch.where(seen.done.any(dim=1), best, 0.0).to(features.dtype)


def _visited(seen: SearchHistory) -> LongTensor:
    """Candidates tried; empty slots repeat the run's first candidate, which is visited anyway."""
    return torch.where(seen.indices < 0, seen.indices[:, :1], seen.indices)  # type: ignore[return-value]


def winsorised(scores: Tensor) -> Tensor:
    """Scores with the low tail pulled in, so that the median is the middle of their range; NaN stays, ``(R, n)``."""
    median = scores.nanmedian(dim=1, keepdim=True).values
    best = scores.nan_to_num(nan=-torch.inf).amax(dim=1, keepdim=True)
    return torch.where(scores.isnan(), scores, torch.maximum(scores, 2.0 * median - best))
