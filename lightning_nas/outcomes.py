"""What the runs of a search arrived at: incumbents, their spread over runs, differences between strategies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lightning_nas.search.history import SearchHistory, Status
from lightning_nas.tables import mean_std


@dataclass(frozen=True)
class Outcome:
    """Where the runs of one strategy ended: the incumbent (best validation accuracy) of each.

    Attributes:
        runs: Global run numbers.
        queries: Finished evaluations, failed ones included.
        column: Which evaluation is the incumbent, from 0; -1 when the run has no score yet.
        valid: Its validation accuracy, percent; NaN when the run has no score yet.
        test: Its test accuracy, percent.
        seconds: Benchmark seconds the run used, as far as they are known; NaN when none is.

    Shapes:
        All ``(R,)``.
    """

    runs: np.ndarray
    queries: np.ndarray
    column: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    seconds: np.ndarray

    @property
    def scored(self) -> np.ndarray:
        """Runs that have an incumbent, ``(R,)`` bool."""
        return np.asarray(~np.isnan(self.valid))


def outcome(history: SearchHistory) -> Outcome:
    """Final incumbents of all runs; an interrupted run counts with what it has."""
    done, size = history.done.numpy(), len(history.runs)
    finished = done | (history.status == Status.FAILED).numpy()
    cost = np.where(finished, history.cost.numpy(), np.nan)
    known = ~np.isnan(cost)
    column = history.incumbents()[:, -1].numpy() if history.capacity else np.zeros(size, dtype=np.int64)
    column = np.where(done.any(axis=1), column, -1)
    valid, test = (
        np.where(column >= 0, np.take_along_axis(values.numpy(), column[:, None], 1)[:, 0], np.nan)
        if history.capacity
        else np.full(size, np.nan)
        for values in (history.valid, history.test)
    )
    seconds = np.where(known.any(axis=1), np.where(known, cost, 0.0).sum(axis=1), np.nan)
    return Outcome(history.runs.numpy(), finished.sum(axis=1), column, valid, test, seconds)


def paired_differences(ours: Outcome, reference: Outcome) -> np.ndarray:
    """Test accuracy of one strategy minus that of another, for every run number that both have, ``(pairs,)``."""
    _, mine, theirs = np.intersect1d(ours.runs, reference.runs, return_indices=True)
    differences = ours.test[mine] - reference.test[theirs]
    return np.asarray(differences[~np.isnan(differences)])


def paired_difference(ours: Outcome, reference: Outcome) -> tuple[float, float, int]:
    """Mean difference in test accuracy over equal run numbers, half its 95 % paired-t interval, and the pairs.

    Runs of one number draw the same first candidates, so their difference is less noisy than the strategies are.

    Args:
        ours: Runs of one strategy.
        reference: Runs of another; it is subtracted.

    Returns:
        Difference in percentage points (NaN without pairs), half width (NaN below two pairs), number of pairs.
    """
    from scipy.stats import t

    differences = paired_differences(ours, reference)
    n = len(differences)
    if n < 2:
        return (float(differences[0]) if n else math.nan), math.nan, n
    half = float(t.ppf(0.975, n - 1)) * float(differences.std(ddof=1)) / math.sqrt(n)
    return float(differences.mean()), half, n


def outcome_table(outcomes: Mapping[str, Outcome], optimum: float | None) -> tuple[list[str], list[list[str]]]:
    """Header and a row of text for each strategy: where its runs ended.

    The single best run is chosen by validation, too: the largest test accuracy would flatter methods with many runs.

    Args:
        outcomes: Where the runs ended, by strategy.
        optimum: Best reachable test accuracy in percent, if known.
    """
    header = ["strategy", "runs", "queries", "validation (%)", "test (%)", "test of best run (%)"]
    header += ["test regret (points)"] if optimum is not None else []
    timed = any(not np.isnan(end.seconds).all() for end in outcomes.values())
    header += ["benchmark seconds per run"] if timed else []
    rows = []
    for name, end in outcomes.items():
        few, many = (int(end.queries.min()), int(end.queries.max())) if len(end.queries) else (0, 0)
        cells = [name, str(int(end.scored.sum())), str(few) if few == many else f"{few}-{many}"]
        cells += [spread(end.valid), spread(end.test), mean_std(_best_test(end), None)]
        cells += [spread(optimum - end.test)] if optimum is not None else []
        cells += [_seconds(end.seconds)] if timed else []
        rows.append(cells)
    return header, rows


def spread(values: np.ndarray) -> str:
    """``mean ± std`` of what is known; no std for a single value."""
    known = values[~np.isnan(values)]
    return mean_std(float(known.mean()) if len(known) else math.nan, _std(known))


def _best_test(end: Outcome) -> float:
    return float(end.test[np.nan_to_num(end.valid, nan=-np.inf).argmax()]) if end.scored.any() else math.nan


def _seconds(values: np.ndarray) -> str:
    known = values[~np.isnan(values)]
    return f"{known.mean():,.0f}" if len(known) else "-"


def _std(values: np.ndarray) -> float | None:
    return float(values.std(ddof=1)) if len(values) > 1 else None
