"""Ranking networks of many independent runs, trained side by side on pairs (RANK-NOSH, arXiv 2108.08019)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from botorch.models.model import Model
from torch import Tensor

from lightning_nas.errors import UsageError
from lightning_nas.modules.pairwise_ranker import Loss, pair_loss
from lightning_nas.nn.pairs import Standings, compare, uniform
from lightning_nas.nn.shared_gin import RunParameters, draw_uniform
from lightning_nas.predictors.surrogate import RunModel, standardise
from lightning_nas.search.nosh import Ranker

Scorer = Callable[[Tensor], Tensor]
"""Scores of candidates by every run's network, ``(c, d)`` or ``(R, c, d)`` -> ``(R, c)``."""

_CHUNK = 1 << 22  # candidates times runs times width at a time
_ROWS = 4  # architectures are filled up to a multiple: their pairs are then whole vector registers in every run


class RankingMLP:
    """Perceptrons that score architectures so that of two the better one scores higher.

    One network of each run, or several whose scores are averaged, made anew for every ranking; all are trained together
    on all pairs at every step. On the embeddings of a trained module it is the head of a siamese graph network whose
    encoder is pre-trained and held fixed.

    Args:
        hidden_dim: Width of the hidden layers.
        num_layers: Hidden layers.
        num_members: Networks of each run.
        num_steps: Steps of Adam.
        learning_rate: Of Adam.
        weight_decay: Of Adam.
        loss: ``logistic`` or ``hinge`` loss of a pair.
        margin: Difference of scores from which on the hinge loss is zero.
    """

    def __init__(
        self,
        hidden_dim: int = 64,
        num_layers: int = 1,
        num_members: int = 1,
        num_steps: int = 150,
        learning_rate: float = 0.01,
        weight_decay: float = 1e-4,
        loss: Loss = "logistic",
        margin: float = 0.1,
    ) -> None:
        sizes = hidden_dim, num_layers, num_members, num_steps
        if min(sizes) < 1 or learning_rate <= 0 or weight_decay < 0 or margin <= 0 or loss not in ("logistic", "hinge"):
            raise UsageError(
                f"{type(self).__name__}(hidden_dim={hidden_dim}, num_layers={num_layers}, num_members={num_members}, "
                f"num_steps={num_steps}, learning_rate={learning_rate}, weight_decay={weight_decay}, loss={loss!r}, "
                f"margin={margin}): expected positive numbers and loss 'logistic' or 'hinge'"
            )
        self.hidden_dim, self.num_layers, self.num_members, self.num_steps = sizes
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.loss: Loss = loss
        self.margin = margin

    def rank(self, X: Tensor, standings: Standings, weights: Tensor, seeds: Tensor) -> Scorer:
        """Train on pairs (see :class:`~lightning_nas.search.nosh.Ranker`)."""
        if len(X) == 1:
            return _First(self.rank(*_twice(X, standings, weights, seeds)))
        missing = -X.shape[1] % _ROWS
        X, weights = F.pad(X.float(), (0, 0, 0, missing)), F.pad(weights.float(), (0, missing, 0, missing))

        def loss(scores: Tensor) -> Tensor:
            return (weights * pair_loss(scores[:, :, None] - scores[:, None], self.loss, self.margin)).sum()

        return self._trained(X, loss, seeds)

    def _trained(self, X: Tensor, loss: Callable[[Tensor], Tensor], seeds: Tensor) -> Scorer:
        """Minimise a loss of the scores ``(R, n)`` of every member."""
        widths = [X.shape[-1], *[self.hidden_dim] * self.num_layers, 1]
        shapes: list[tuple[int, ...]] = [s for pair in pairwise(widths) for s in (pair, (1, pair[1]))]
        bounds: list[float | str] = [bound for inputs in widths[:-1] for bound in (inputs**-0.5,) * 2]
        members = []
        for number in range(self.num_members):
            networks = RunParameters(draw_uniform(shapes, bounds, (seeds + number / self.num_members) % 1.0))
            leaves = networks.leaves()
            for _ in range(self.num_steps):
                with torch.enable_grad():
                    gradients = torch.autograd.grad(loss(_forward(leaves, X)), leaves)
                networks.step(gradients, self.learning_rate, self.weight_decay)
            members.append([leaf.detach() for leaf in leaves])
        return _Scores(members)


class RegressionMLP(RankingMLP):
    """The same networks trained on accuracies instead: squared errors of the last one that each architecture has.

    Accuracies after different numbers of epochs are one target, as a predictor has them that does not know of levels.
    What was never trained is left out.
    """

    def rank(self, X: Tensor, standings: Standings, weights: Tensor, seeds: Tensor) -> Scorer:
        """Train on accuracies (see :class:`~lightning_nas.search.nosh.Ranker`)."""
        if len(X) == 1:
            return _First(self.rank(*_twice(X, standings, weights, seeds)))
        observed = (standings.level > 0) & ~standings.current.isnan()
        target, _, _ = standardise(standings.current, observed)
        share = observed / observed.sum(dim=1, keepdim=True).clamp_min(1)
        missing = -X.shape[1] % _ROWS
        X, target, share = F.pad(X.float(), (0, 0, 0, missing)), *(
            F.pad(part.float(), (0, missing)) for part in (target, share)
        )  # fmt: skip
        return self._trained(X, lambda scores: (share * (scores - target).square()).sum(), seeds)


class _Scores:
    """Mean score over members."""

    def __init__(self, members: Sequence[list[Tensor]]) -> None:
        self.members = members

    @torch.no_grad()
    def __call__(self, points: Tensor) -> Tensor:
        return self.each(points).mean(dim=0)

    @torch.no_grad()
    def each(self, points: Tensor) -> Tensor:
        """Scores by every member, ``(c, d)`` or ``(R, c, d)`` -> ``(S, R, c)``."""
        runs, _, width = self.members[0][0].shape
        size = max(1, _CHUNK // (runs * width))
        parts = points.float().split(size, dim=-2)  # type: ignore[no-untyped-call]
        return torch.stack([torch.cat([_forward(m, part) for part in parts], dim=-1) for m in self.members])


def _twice(X: Tensor, standings: Standings, *rest: Tensor) -> tuple[Any, ...]:
    """One run as two: a single one would be multiplied by another routine, which rounds in another way."""
    doubled = (torch.cat([part, part]) for part in (X, *rest))
    X, *rest = doubled  # type: ignore[assignment]
    return X, Standings(*(torch.cat([part, part]) for part in standings)), *rest  # type: ignore[arg-type]


class _First:
    """The first run's scores."""

    def __init__(self, scorer: Any) -> None:
        self.scorer = scorer

    def __call__(self, points: Tensor) -> Tensor:
        return self.each(points).mean(dim=0)

    def each(self, points: Tensor) -> Tensor:
        """Scores by every member, ``(c, d)`` or ``(1, c, d)`` -> ``(S, 1, c)``."""
        both = points if points.dim() == 2 else torch.cat([points, points])
        return self.scorer.each(both)[:, :1]  # type: ignore[no-any-return]


def _forward(parameters: Sequence[Tensor], points: Tensor) -> Tensor:
    """Scores of c candidates, ``(c, d)`` or ``(R, c, d)`` -> ``(R, c)``."""
    hidden = points
    *layers, weight, bias = parameters
    for first, shift in zip(layers[::2], layers[1::2], strict=True):
        hidden = F.relu(hidden @ first + shift)
    return (hidden @ weight + bias)[..., 0]


class RankingSurrogate:
    """A ranking as the surrogate of a Bayesian search: its score is the posterior mean, in units of the accuracies.

    Scores have no unit, so that a straight line through the evaluations gives them one. The variance is that of the
    line's residuals, the same everywhere, and, where a ranker has several members, that of their scores.

    Args:
        ranker: For example ``lightning_nas.predictors.ranking.RankingMLP``; several members say how sure they are.
        noise: Accuracies that differ by less make no pair; percentage points.
    """

    def __init__(self, ranker: Ranker, noise: float = 0.1) -> None:
        if noise < 0:
            raise UsageError(f"RankingSurrogate(noise={noise}): expected a number from 0 on")
        self.ranker, self.noise = ranker, noise

    def fit(self, X: Tensor, y: Tensor, observed: Tensor, seeds: Tensor) -> Model:
        """Learn to rank the evaluations so far (see :class:`~lightning_nas.search.bayesian.Surrogate`)."""
        standings = Standings.at_one_level(torch.where(observed, y.double(), torch.nan))
        scorer: Any = self.ranker.rank(X, standings, uniform(compare(standings, self.noise)), seeds)
        return RankingModel(scorer, X, y, observed)


class RankingModel(RunModel):
    """Posterior by the scores of R rankings, a normal distribution for every candidate by itself.

    Args:
        scorer: Scores by every run, perhaps with ``each``, those of its members.
        X: Features of the evaluations, ``(R, n, d)``.
        y: Scores, ``(R, n)``.
        observed: Which entries count, ``(R, n)``.
    """

    def __init__(self, scorer: Any, X: Tensor, y: Tensor, observed: Tensor) -> None:
        target, location, scale = standardise(y, observed)
        super().__init__(location.to(X.dtype), scale.to(X.dtype))
        self._scorer = scorer
        centred, self.centre, self.spread = standardise(scorer(X).double(), observed)
        count = observed.sum(dim=1).clamp_min(1)
        self.slope = ((centred * target).sum(dim=1) / count).clamp_min(1e-3)
        self.residual = ((target - self.slope[:, None] * centred).square() * observed).sum(dim=1) / count

    def marginal(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of c candidates, ``(c, d)`` or ``(R, c, d)`` -> two of ``(R, c)``, standardised."""
        each = self._scorer.each(points) if hasattr(self._scorer, "each") else self._scorer(points)[None]
        factor = (self.slope / self.spread)[:, None]
        mean = factor * (each.double().mean(dim=0) - self.centre[:, None])
        variance = factor.square() * each.double().var(dim=0, correction=0) + self.residual[:, None]
        return mean.to(points.dtype), variance.clamp_min(1e-6).to(points.dtype)

    def joint(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and covariance of q candidates: ``(R, q, d)`` -> ``(R, q)`` and ``(R, q, q)``, standardised."""
        mean, variance = self.marginal(points)
        return mean, torch.diag_embed(variance)
