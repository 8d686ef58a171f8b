"""Progress of a search: a live bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lightning_nas.benchmarks.base import Benchmark
from lightning_nas.search.history import SearchHistory
from lightning_nas.search.loop import best_so_far


class SearchProgress:
    """Shows ``query 37/150  incumbent 94.21  regret 0.16  ETA 02:10`` for one strategy.

    Where evaluations take their time, ``evaluation 75/300`` counts those of all runs as they come.

    Args:
        name: Name of the strategy.
        num_queries: Evaluations per run.
        benchmark: Asked for its optimum, and to say how far it is.
        enabled: False on all processes but one.
        interval: Seconds between lines when the output is no terminal.
        console: Where to write; default standard output.
        batch_size: Evaluations per run and round; None for no rounds.
    """

    def __init__(
        self,
        name: str,
        num_queries: int,
        benchmark: Benchmark[Any],
        enabled: bool = True,
        interval: float = 15.0,
        console: Console | None = None,
        batch_size: int | None = 1,
    ) -> None:
        self.name, self.num_queries, self.benchmark, self.enabled = name, num_queries, benchmark, enabled
        self.interval, self.batch_size = interval, batch_size
        self.console = console or Console()
        self._line_due = 0.0
        self._started = time.perf_counter()
        self._first: int | None = None
        self._begun = False
        self._history: SearchHistory | None = None
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def __enter__(self) -> SearchProgress:
        if not self.enabled:
            return self
        self.benchmark.on_result = self._within_round
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("[bold]{task.fields[name]:>16}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[state]}"),
                TimeElapsedColumn(),
                TextColumn("ETA"),
                TimeRemainingColumn(),
                console=self.console,
            )
            self._bar.start()
            self._task = self._bar.add_task("search", total=None, name=self.name, state="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.enabled:
            self.benchmark.on_result = None
        if self._bar is not None:
            self._bar.stop()

    def update(self, history: SearchHistory) -> None:
        """Show where a history stands."""
        if not self.enabled:
            return
        self._history = history
        evaluated = int(history.finished.sum())
        self._show(history, evaluated, counted=not self.batch_size and evaluated < history.status.numel())

    def _within_round(self, done: int, total: int) -> None:
        """Show how far the present round is; rounds on other processes are taken to be as far."""
        history = self._history
        if history is None or not self.batch_size or not total:
            return
        evaluated = int(history.finished.sum())
        if not self._begun:  # say so at once: the first training may take minutes
            self._begun, self._line_due = True, 0.0
        width = min(self.batch_size * len(history.runs), history.status.numel() - evaluated)
        # Equal architectures are trained once, so the round's evaluations may be more than its trainings.
        self._show(history, evaluated + width * done // total, counted=True)

    def _show(self, history: SearchHistory, evaluated: int, counted: bool) -> None:
        valid, test = best_so_far(history)
        total = history.status.numel()
        parts = [f"query {int(history.finished.min())}/{self.num_queries}"]
        parts += [f"evaluation {evaluated}/{total}"] if counted else []
        parts += [] if valid != valid else [f"incumbent {valid:.2f}"]
        if valid == valid and self.benchmark.optimum is not None:
            parts.append(f"regret {self.benchmark.optimum - test:.2f}")
        if self._bar is not None:
            self._bar.update(self._task, completed=evaluated, total=total, state="  ".join(parts))
            return
        now = time.perf_counter()
        self._first = evaluated if self._first is None else self._first
        if now >= self._line_due or (evaluated == total and not counted):
            self._line_due = now + self.interval
            if self._first < evaluated < total:
                left = (now - self._started) / (evaluated - self._first) * (total - evaluated)
                minutes, seconds = divmod(round(left), 60)
                parts.append(f"ETA {minutes:02d}:{seconds:02d}")
            self.console.print(f"{self.name:>16}  {'  '.join(parts)}", highlight=False)
