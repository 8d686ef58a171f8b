"""The search loop: ask, evaluate, tell, for all runs at once or for whichever evaluation is done first."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

import torch
from torch import LongTensor, Tensor

from lightning_nas.benchmarks.base import Benchmark, Evaluation, Evaluations
from lightning_nas.search.history import SearchHistory, Status
from lightning_nas.search.pool import CandidatePool
from lightning_nas.search.strategy import SearchStrategy
from lightning_nas.spaces.base import A


def search_rounds(
    strategy: SearchStrategy,
    history: SearchHistory,
    pool: CandidatePool[Any],
    benchmark: Benchmark[Any],
    batch_size: int = 1,
    start: int | None = None,
    budget: int | None = None,
) -> Iterator[SearchHistory]:
    """Fill the history to its capacity; yields it after every round, when it is safe to be saved.

    The number of rounds depends on the strategy, capacity and start alone, so processes that hold different runs (or
    none) stay in step.

    Args:
        strategy: Chooses candidates.
        history: R runs, continued from where they are; changed in place.
        pool: The candidates.
        benchmark: Scores them.
        batch_size: Candidates per run and round, q, unless the strategy says how many.
        start: Evaluations made before; None to see it from the history, which a process without runs cannot.
        budget: Training epochs of each run: evaluations that would exceed it in every run are not made, and nothing is
            yielded but the history as it is.
    """
    done = history.length if start is None else start
    while done < history.capacity:
        asked = width = min(strategy.round_size(done) or batch_size, history.capacity - done)
        if len(history.runs) and (budget is None or _left(history, budget)):
            chosen = strategy.ask(history, pool, width)
            epochs = strategy.fidelity(history, chosen)
            lengths = torch.full_like(chosen, benchmark.epochs) if epochs is None else epochs
            resumed = benchmark.resumes and strategy.resumes
            if budget is not None:
                width = _affordable(history, chosen, lengths, resumed, budget)  # type: ignore[arg-type]
                chosen, lengths = chosen[:, :width], lengths[:, :width]  # type: ignore[assignment]
                epochs = None if epochs is None else epochs[:, :width]  # type: ignore[assignment]
            if width:
                columns = history.begin(chosen, lengths, resumed)  # type: ignore[arg-type]
                scores = _evaluate(benchmark, pool.architectures(chosen), epochs)
                history.complete(columns, *(column.view(chosen.shape) for column in scores))
                strategy.tell(history)
            if width < asked:
                budget = 0  # what comes next would exceed it
        yield history
        done += asked  # whatever was affordable: processes stay in step


def _left(history: SearchHistory, budget: int) -> bool:
    """Whether any run has epochs left."""
    return int(history.charged.sum(dim=1).min()) < budget


def _affordable(history: SearchHistory, chosen: LongTensor, epochs: LongTensor, resumed: bool, budget: int) -> int:
    """How many of the candidates asked for, ``(R, q)``, some run can pay for."""
    before = history.epochs_before(chosen) if resumed else 0
    spent = history.charged.sum(dim=1, keepdim=True) + (epochs - before).clamp_min(0).cumsum(dim=1)
    return int((spent <= budget).any(dim=0).sum())


def _evaluate(benchmark: Benchmark[A], archs: list[A], epochs: Tensor | None) -> Evaluations:
    """Scores of architectures in their order, asked for in one call for each number of epochs."""
    if epochs is None:
        return benchmark.evaluate(archs)
    scores = [torch.full((len(archs),), torch.nan, dtype=torch.float64) for _ in Evaluations._fields]
    for number in epochs.unique().tolist():  # type: ignore[no-untyped-call]
        places = (epochs.flatten() == number).nonzero()[:, 0]
        for mine, given in zip(scores, benchmark.evaluate([archs[i] for i in places.tolist()], number), strict=True):
            mine[places] = given
    return Evaluations(*scores)


def search_asynchronously(
    strategy: SearchStrategy,
    history: SearchHistory,
    pool: CandidatePool[Any],
    benchmark: Benchmark[Any],
    steps: int | None = None,
) -> Iterator[SearchHistory]:
    """Fill the history to its capacity, asking for the next candidate as soon as an evaluation is done.

    Yields after every arrival, when it is safe to be saved: the next candidate has been entered as running by then.
    Evaluations that are running in the given history are submitted again before anything is asked, so a search goes
    on from what was saved. A candidate depends on the history of its run alone: on what was asked for, and on the
    scores that had come, in which order. So the same order of arrival gives the same search, interrupted or not.

    Args:
        strategy: Chooses candidates; it sees the evaluations of a run in order of arrival, the running ones last.
        history: R runs, continued from where they are; changed in place.
        pool: The candidates.
        benchmark: Scores them; its ``parallelism`` is the number of evaluations under way, fairly divided among runs.
        steps: How often to yield; None for once for every evaluation that is missing. A larger number, the same in all
            processes, keeps processes that hold different runs (or none) in step.
    """
    arrivals: SimpleQueue[tuple[int, int, Future[Evaluation]]] = SimpleQueue()

    def submit(row: int, column: int) -> None:
        (arch,) = pool.architectures(history.indices[row, column])  # type: ignore[arg-type]
        future = benchmark.submit(arch, int(history.epochs[row, column]))
        future.add_done_callback(lambda done: arrivals.put((row, column, done)))

    def employ_all() -> None:
        while (history.status == Status.EMPTY).any() and _under_way(history).sum() < benchmark.parallelism:
            row = _next_run(history)
            chosen, epochs = _propose(strategy, history, pool, row)
            lengths = benchmark.epochs if epochs is None else epochs
            submit(row, int(history.run(row).begin(chosen, lengths, benchmark.resumes and strategy.resumes)))

    missing = int((history.status < Status.DONE).sum())
    for row, column in (history.status == Status.RUNNING).nonzero().tolist():
        submit(row, column)
    employ_all()
    for step in range(missing if steps is None else steps):
        if step < missing:
            row, column, future = arrivals.get()
            scores = (torch.tensor([[score]], dtype=torch.float64) for score in future.result())
            history.run(row).complete(torch.tensor([[column]]), *scores)  # type: ignore[arg-type]
            strategy.tell(history.by_arrival())
            employ_all()
        yield history


def _under_way(history: SearchHistory) -> Tensor:
    return (history.status == Status.RUNNING).sum(dim=1)  # (R,)


def _next_run(history: SearchHistory) -> int:
    """Of the runs with a place left the one with the fewest evaluations under way, then the one that asked least."""
    turn = _under_way(history) * (history.capacity + 1) + history.count
    return int(turn.masked_fill(history.count == history.capacity, torch.iinfo(torch.long).max).argmin())


def _propose(
    strategy: SearchStrategy, history: SearchHistory, pool: CandidatePool[Any], row: int
) -> tuple[LongTensor, LongTensor | None]:
    """The next candidate of one run, ``(1, 1)``, and its epochs, as if there were no other: runs are not in step."""
    learned = strategy.state_dict()
    strategy.load_state_dict({name: value[row : row + 1] for name, value in learned.items()})
    run = history.run(row) if strategy.in_order_of_asking else history.run(row).by_arrival()
    chosen = strategy.ask(run, pool)
    epochs = strategy.fidelity(run, chosen)
    strategy.load_state_dict(learned)
    return chosen, epochs


def best_so_far(history: SearchHistory) -> tuple[float, float]:
    """Validation and test accuracy of the incumbent, each averaged over runs."""
    if not history.length or not bool(history.done.any()):
        return float("nan"), float("nan")
    incumbent = history.incumbents()[:, history.length - 1, None]
    valid, test = history.valid.gather(1, incumbent), history.test.gather(1, incumbent)
    return float(torch.nanmean(valid)), float(torch.nanmean(test))
