"""The verb ``lightning-nas tabulate``: a benchmark table of one's own.

A plain function for ``jsonargparse.auto_cli``.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import lightning_nas.short_names  # noqa: F401
from lightning_nas.benchmarks.live import LiveBenchmark
from lightning_nas.benchmarks.side_by_side import SideBySideBenchmark
from lightning_nas.benchmarks.tabulation import Tabulation, shards_of
from lightning_nas.configurations import expand_configs
from lightning_nas.files import ensure_writable
from lightning_nas.provenance import provenance
from lightning_nas.terminal import say


def tabulate(
    *,
    benchmark: LiveBenchmark | SideBySideBenchmark,  # type: ignore[type-arg]  # jsonargparse cannot read …[A]
    output: Path,
    num_shards: int = 50,
    part: str = "1/1",
    keep_shards: bool = False,
    licence: str = "unknown",
    citation: str = "",
    description: str = "",
) -> None:
    """Train every architecture of a finite space, isomorphic ones once, and write the results as one table.

    ``lightning-nas tabulate --config FILE_OR_NAME``. The table is what a TabularBenchmark reads. Work is cut into
    shards, files beside the table; an interrupted command continues when it is repeated, several processes or machines
    that share the folder each take a part, and whoever finds all shards there assembles the table.

    Args:
        benchmark: What is trained, and how.
        output: The table, an ``.npz``.
        num_shards: Number of shards.
        part: Of n processes the k-th, as ``k/n``.
        keep_shards: Keep the shards of an assembled table.
        licence: Licence of the table, kept with it.
        citation: What to cite, kept with it.
        description: Anything a reader must know, kept with it.
    """
    console = Console()
    work = Tabulation(benchmark, output, num_shards)
    if work.finished:
        say(console, f"{output}: is there already")
        return
    ensure_writable(work.folder)
    missing = work.missing()
    mine = list(shards_of(part, missing))
    say(
        console,
        f"{len(work.members):,} architectures, {len(work.distinct):,} of them distinct, {benchmark.num_seeds} seeds "
        f"each; {num_shards - len(missing)} of {num_shards} shards are there",
    )
    try:
        benchmark.prepare()
        _evaluate(work, mine, console)
    finally:
        benchmark.close()
    missing = work.missing()
    if work.finished:
        say(console, f"{output}: another part has assembled it")
        return
    if missing:
        say(console, f"{len(missing)} shards are left to other parts; repeat this command when they are there")
        return
    origin = provenance()
    about = {"licence": licence, "citation": citation, "description": description, "source": "lightning-nas tabulate"}
    about |= {"date": datetime.now(UTC).date().isoformat(), "commit": origin["commit"], "versions": origin["versions"]}
    table = work.assemble(about)
    if not keep_shards:
        work.remove_shards()
    say(console, f"{table.path}: {len(table):,} architectures, {table.path.stat().st_size / 1e6:.1f} MB")
    say(console, f"Next: lightning-nas data statistics {table.path}")


def arguments(verb: str, args: Sequence[str]) -> list[str]:
    """Let ``--config`` take the name of a shipped configuration.

    Args:
        verb: ``tabulate``.
        args: What was typed behind it.
    """
    sys.path.insert(0, os.getcwd())  # a user's own spaces lie where the command is typed
    return expand_configs(list(args))[0]


def _evaluate(work: Tabulation, shards: Sequence[int], console: Console) -> None:
    """Train shard by shard; a terminal sees a bar, anything else a line for every shard."""
    total = sum(len(work.indices(shard)) for shard in shards)
    columns = (
        TextColumn("training"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("ETA"),
        TimeRemainingColumn(elapsed_when_finished=False),
    )  # fmt: skip
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("training", total=total)
        before, started = 0, time.perf_counter()
        for number, shard in enumerate(shards, start=1):
            begun = before
            work.benchmark.on_result = lambda done, _, begun=begun: bar.update(task, completed=begun + done)
            work.evaluate(shard)
            before += len(work.indices(shard))
            if not console.is_terminal:
                left = round((time.perf_counter() - started) / before * (total - before))
                eta = f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}"
                say(console, f"{number} of {len(shards)} shards, {before:,} of {total:,} architectures, ETA {eta}")
