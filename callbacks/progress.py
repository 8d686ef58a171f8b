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

    Args:
        name: Name of the strategy.
        num_queries: Evaluations per run.
        benchmark: Asked for its optimum.
        enabled: False on all processes but one.
        interval: Seconds between lines when the output is no terminal.
        console: Where to write; default standard output.
    """

    def __init__(
        self,
        name: str,
        num_queries: int,
        benchmark: Benchmark[Any],
        enabled: bool = True,
        interval: float = 15.0,
        console: Console | None = None,
    ) -> None:
        self.name, self.num_queries, self.benchmark, self.enabled = name, num_queries, benchmark, enabled
        self.interval = interval
        self.console = console or Console()
        self._line_due = 0.0
        self._started = time.perf_counter()
        self._first: int | None = None
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def __enter__(self) -> SearchProgress:
        if self.enabled and self.console.is_terminal:
            self._bar = Progress(
                TextColumn("[bold]{task.fields[name]:>16}"),
                BarColumn(bar_width=24),
                TextColumn("query {task.completed:.0f}/{task.total:.0f}  {task.fields[scores]}"),
                TimeElapsedColumn(),
                TextColumn("ETA"),
                TimeRemainingColumn(),
                console=self.console,
            )
            self._bar.start()
            self._task = self._bar.add_task("search", total=self.num_queries, name=self.name, scores="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, history: SearchHistory) -> None:
        """Show where a history stands."""
        if not self.enabled:
            return
        valid, test = best_so_far(history)
        scores = "" if valid != valid else f"incumbent {valid:.2f}"
        if scores and self.benchmark.optimum is not None:
            scores += f"  regret {self.benchmark.optimum - test:.2f}"
        count = history.length
        if self._bar is not None:
            self._bar.update(self._task, completed=count, scores=scores)
            return
        now = time.perf_counter()
        self._first = count if self._first is None else self._first
        if now >= self._line_due or count == self.num_queries:
            self._line_due = now + self.interval
            pace = (now - self._started) / max(count - self._first, 1)
            minutes, seconds = divmod(round(pace * (self.num_queries - count)), 60)
            eta = f"  ETA {minutes:02d}:{seconds:02d}" if self._first < count < self.num_queries else ""
            self.console.print(f"{self.name:>16}  query {count}/{self.num_queries}  {scores}{eta}", highlight=False)
