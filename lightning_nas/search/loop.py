"""The search loop: ask, evaluate, tell, for all runs at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from lightning_nas.benchmarks.base import Benchmark
from lightning_nas.search.history import SearchHistory
from lightning_nas.search.pool import CandidatePool
from lightning_nas.search.strategy import SearchStrategy


def search_rounds(
    strategy: SearchStrategy,
    history: SearchHistory,
    pool: CandidatePool[Any],
    benchmark: Benchmark[Any],
    batch_size: int = 1,
    start: int | None = None,
) -> Iterator[SearchHistory]:
    """Fill the history to its capacity; yields it after every round, when it is safe to be saved.

    The number of rounds depends on capacity and start alone, so processes that hold different runs (or none) stay in
    step.

    Args:
        strategy: Chooses candidates.
        history: R runs, continued from where they are; changed in place.
        pool: The candidates.
        benchmark: Scores them.
        batch_size: Candidates per run and round, q.
        start: Evaluations made before; None to see it from the history, which a process without runs cannot.
    """
    for done in range(history.length if start is None else start, history.capacity, batch_size):
        width = min(batch_size, history.capacity - done)
        if len(history.runs):
            chosen = strategy.ask(history, pool, width)
            columns = history.begin(chosen, benchmark.epochs)
            scores = benchmark.evaluate(pool.architectures(chosen))
            history.complete(columns, *(column.view(chosen.shape) for column in scores))
            strategy.tell(history)
        yield history


def best_so_far(history: SearchHistory) -> tuple[float, float]:
    """Validation and test accuracy of the incumbent, each averaged over runs."""
    if not history.length or not bool(history.done.any()):
        return float("nan"), float("nan")
    incumbent = history.incumbents()[:, history.length - 1, None]
    valid, test = history.valid.gather(1, incumbent), history.test.gather(1, incumbent)
    return float(torch.nanmean(valid)), float(torch.nanmean(test))
