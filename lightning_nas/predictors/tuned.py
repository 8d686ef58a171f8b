"""Choosing among predictors on held-out architectures."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import LongTensor, Tensor

from lightning_nas.errors import UsageError
from lightning_nas.predictors.predictor import FittedPredictor, Predictor
from lightning_nas.spaces.base import FiniteSpace


class TunedPredictor(Predictor):
    """The candidate whose predictions of held-out architectures rank them best, then fitted to all of them.

    Cross-validation: every architecture is predicted once, by a fit that has not seen it. What that takes is kept apart
    as ``tuning_seconds`` of the fitted predictor.

    Args:
        candidates: Predictors that differ in whatever is to be chosen.
        num_folds: Parts into which the known architectures are divided.
    """

    def __init__(self, candidates: list[Predictor], num_folds: int = 5) -> None:
        if not candidates or num_folds < 2:
            raise UsageError(
                f"TunedPredictor: got {len(candidates)} candidates and num_folds={num_folds}, expected at least one "
                "and two"
            )
        self.candidates, self.num_folds = candidates, num_folds

    def fit(self, space: FiniteSpace[Any], members: LongTensor, accuracies: Tensor, seed: int = 0) -> FittedPredictor:
        """Try all candidates, then fit the best one (the first of equals)."""
        start = time.perf_counter()
        found = [self._held_out(candidate, space, members, accuracies, seed) for candidate in self.candidates]
        best = self.candidates[int(np.argmax(found))]
        seconds = time.perf_counter() - start
        fitted = best.fit(space, members, accuracies, seed)
        fitted.tuning_seconds = seconds
        return fitted

    def _held_out(
        self, candidate: Predictor, space: FiniteSpace[Any], members: LongTensor, accuracies: Tensor, seed: int
    ) -> float:
        """Kendall's tau between the accuracies and what fits without them predict; -1 for constant predictions."""
        from scipy.stats import kendalltau

        folds = min(self.num_folds, len(members))
        fold = torch.from_numpy(np.random.default_rng(seed).permutation(len(members)) % folds)
        guess = torch.empty(len(members), dtype=torch.float64)
        for number in range(folds):
            out = fold == number
            fitted = candidate.fit(space, members[~out], accuracies[~out], seed)  # type: ignore[arg-type]
            guess[out] = fitted.predict(members[out])  # type: ignore[arg-type]
        tau = float(kendalltau(guess.numpy(), accuracies.numpy()).statistic)
        return -1.0 if np.isnan(tau) else tau
