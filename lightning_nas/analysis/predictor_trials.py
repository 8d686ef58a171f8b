"""Trials of performance predictors: the same architectures for all of them, one after another or on many workers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import LongTensor, Tensor

from lightning_nas.errors import BenchmarkDataError, UsageError
from lightning_nas.files import ensure_writable, fingerprint, write_atomically
from lightning_nas.predictors.predictor import Predictor
from lightning_nas.search.strategy import describe
from lightning_nas.spaces.base import FiniteSpace
from lightning_nas.workers.base import Job, Workers
from lightning_nas.workers.tasks import results_of

COLLAPSED = 80.0
"""Accuracy in percent above which an architecture has learnt something; a few others dominate squared errors."""


class Trial(NamedTuple):
    """One predictor on one draw of architectures.

    Attributes:
        predictor: Its name.
        num_train: Architectures with known accuracies, n.
        number: Which draw, from 0; the same one for all predictors.
    """

    predictor: str
    num_train: int
    number: int


@dataclass(frozen=True)
class TrialJob(Job):
    """All that a worker needs for any trial.

    Args:
        space: The search space.
        members: Architectures to draw from, by index, ``(N,)``.
        accuracies: Of these, in percent, ``(N,)``.
        predictors: By name.
        sizes: All numbers of training architectures that there are trials of.
        num_test: Architectures that are predicted; None for all that the largest training set leaves.
        seed: Draws depend on (seed, number of the trial) alone.
    """

    space: FiniteSpace[Any]
    members: LongTensor
    accuracies: Tensor
    predictors: dict[str, Predictor]
    sizes: tuple[int, ...]
    num_test: int | None = None
    seed: int = 0

    def run(self, task: Trial) -> dict[str, Any]:
        """Scores of one trial, or ``{"error": …}`` of a predictor that fails."""
        train, test = self.split(task)
        known, truth = self.accuracies[train], self.accuracies[test]
        self.space.graphs_at(self.members[train[:1]])  # type: ignore[arg-type]  # what a space computes once is nobody's time
        (seed,) = np.random.SeedSequence((self.seed, task.number, 1)).generate_state(1)
        try:
            start = time.perf_counter()
            fitted = self.predictors[task.predictor].fit(self.space, self.members[train], known, int(seed))  # type: ignore[arg-type]
            between = time.perf_counter()
            guess = fitted.predict(self.members[test])  # type: ignore[arg-type]
            end = time.perf_counter()
            if not guess.isfinite().all():
                raise ValueError(f"{int((~guess.isfinite()).sum())} of {len(guess)} predictions are not finite")
        except Exception as error:  # of somebody else's predictor; the others go on
            return {"error": f"{type(error).__name__}: {error}"}
        tuning = getattr(fitted, "tuning_seconds", 0.0)
        return {
            **scores(guess.numpy(), truth.numpy()),
            "fit": between - start - tuning,
            "tuning": tuning,
            "query": 1e3 * (end - between) / len(test),
        }

    def split(self, task: Trial) -> tuple[Tensor, Tensor]:
        """Places of the training and of the test architectures: all sizes of one trial share the test ones."""
        rng = np.random.default_rng((self.seed, task.number))
        order = torch.from_numpy(rng.permutation(len(self.members)))
        rest = order[max(self.sizes) :]
        return order[: task.num_train], rest if self.num_test is None else rest[: self.num_test]

    def identity(self, name: str) -> dict[str, Any]:
        """What fixes the scores of a predictor's trials, apart from their sizes, as primitives."""
        return {
            "predictor": describe(self.predictors[name]), "space": self.space.name, "largest": max(self.sizes),
            "num_test": self.num_test, "seed": self.seed,
            "accuracies": fingerprint({"members": self.members.tolist(), "values": self.accuracies.tolist()}),
        }  # fmt: skip


def scores(guess: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """How well predicted accuracies agree with the true ones, in percent points where they have a unit.

    Correlations of predictions that are all one number, which rank nothing, are 0. ``rmse_trained`` leaves out
    architectures at or below :data:`COLLAPSED` (it is absent where there are no others); ``precision@k`` is the share
    of the k best predicted that are among the k best.

    Shapes:
        both ``(m,)``.
    """
    from scipy.stats import kendalltau, pearsonr, spearmanr

    error = guess - truth
    flat = np.ptp(guess) == 0 or np.ptp(truth) == 0
    found = {
        "mae": float(np.abs(error).mean()),
        "rmse": float(np.sqrt((error**2).mean())),
        "pearson": 0.0 if flat else float(pearsonr(guess, truth).statistic),
        "spearman": 0.0 if flat else float(spearmanr(guess, truth).statistic),
        "kendall": 0.0 if flat else float(kendalltau(guess, truth).statistic),
    }
    trained = truth > COLLAPSED
    if trained.any():
        found["rmse_trained"] = float(np.sqrt((error[trained] ** 2).mean()))
    for k in (10, 20):
        if k <= len(truth):
            best = np.argsort(-guess, kind="stable")[:k], np.argsort(-truth, kind="stable")[:k]
            found[f"precision@{k}"] = len(np.intersect1d(*best)) / k
    return found


class TrialStore:
    """Scores of trials, a small file for each, so that a comparison goes on where it was stopped.

    Args:
        folder: Where they are.
        job: What fixes them.
    """

    def __init__(self, folder: Path, job: TrialJob) -> None:
        self.folder, self.job = folder, job
        self._names = {name: f"{name}-{fingerprint(job.identity(name))}" for name in job.predictors}

    def path(self, trial: Trial) -> Path:
        """The file of a trial."""
        return self.folder / self._names[trial.predictor] / f"{trial.num_train}-{trial.number}.json"

    def read(self, trial: Trial) -> dict[str, Any] | None:
        """Scores or error of a trial; None where it was not run."""
        path = self.path(trial)
        try:
            found = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise BenchmarkDataError(f"{path}: cannot be read ({error}); delete it, and it is computed anew") from error
        return dict(found)

    def missing(self, trials: Iterable[Trial]) -> list[Trial]:
        """Those that were not run, or failed."""
        return [trial for trial in trials if "mae" not in (self.read(trial) or {})]

    def fill(
        self,
        trials: Sequence[Trial],
        workers: Workers,
        track: Callable[[Sequence[int]], Iterable[int]] = iter,
    ) -> None:
        """Run what is missing; every finished trial is kept at once.

        Args:
            trials: All trials wanted.
            workers: Who does it.
            track: Shows progress.
        """
        missing = self.missing(trials)
        if not missing:
            return
        ensure_writable(self.folder)
        workers.prepare()
        workers.start(self.job)
        try:
            results = results_of(workers, missing, lambda trial: False, str)
            for _ in track(range(len(missing))):
                trial, found = next(results)
                with write_atomically(self.path(trial)) as file:
                    json.dump(found, file)
        finally:
            workers.stop()


def all_trials(predictors: Iterable[str], sizes: Sequence[int], num_trials: int) -> list[Trial]:
    """Every predictor on every draw at every size; one draw after the other, so that a part of them is a fair one."""
    names = list(predictors)
    return [Trial(name, size, number) for number in range(num_trials) for size in sizes for name in names]


def check_sizes(job: TrialJob, num_trials: int) -> None:
    """Whether there are architectures enough.

    Raises:
        UsageError: There are not, or a number is not positive.
    """
    left = len(job.members) - max(job.sizes, default=0)
    if not job.sizes or min(job.sizes) < 2 or num_trials < 1 or not 2 <= (job.num_test or left) <= left:
        raise UsageError(
            f"compare: got num_train={list(job.sizes)}, num_test={job.num_test}, num_trials={num_trials}; expected "
            f"positive numbers, at least 2 architectures to train and to test on, and no more than the "
            f"{len(job.members):,} that the benchmark has"
        )


def outcomes(store: TrialStore, trials: Iterable[Trial]) -> Mapping[tuple[str, int], list[dict[str, Any]]]:
    """What the trials of each predictor and size found, in their order."""
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for trial in trials:
        one = store.read(trial)
        if one is not None:
            found.setdefault((trial.predictor, trial.num_train), []).append(one)
    return found
