"""Several search runs side by side: one table, one figure for each benchmark, one ledger entry for each experiment."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from lightning_nas.ledger import merge, write_result
from lightning_nas.outcomes import outcome_table
from lightning_nas.plots import regret_figure, save_figure
from lightning_nas.report import RunResult, find_runs, load_run, summarise_search


def load_runs(paths: Sequence[Path]) -> list[RunResult]:
    """All search runs at or below the given folders, each once.

    Raises:
        RunFolderError: A folder holds none, or a damaged one.
    """
    folders = [folder for path in paths for folder in find_runs(path)]
    return [load_run(folder) for folder in dict.fromkeys(folders)]


def record_runs(found: Sequence[RunResult], folder: Path) -> list[Path]:
    """Write the ledger's JSON of every run, runs of one experiment combined; returns the files.

    Args:
        found: Runs that have a place in the ledger.
        folder: Folder of the ledger.

    Raises:
        UsageError: A run has no place in the ledger, or runs of one name do not belong together; nothing is written.
    """
    results = [summarise_search(run) for run in found]
    names = dict.fromkeys(result.name for result in results)
    merged = [merge([result for result in results if result.name == name]) for name in names]
    return [write_result(folder, result) for result in merged]


def comparison_table(found: Sequence[RunResult]) -> tuple[list[str], list[list[str]]]:
    """One row for each strategy of each run folder; a column that only some of them have is a dash for the others."""
    records = []
    for run in found:
        names, lines = outcome_table(run.outcomes, run.optimum)
        where = {"space": run.space, "benchmark": _benchmark(run), "folder": str(run.folder)}
        for line in lines:
            cells = dict(zip(names, line, strict=True))
            records.append({"strategy": cells.pop("strategy")} | where | cells)
    header = list(dict.fromkeys(name for record in records for name in record))
    return header, [[record.get(name, "-") for name in header] for record in records]


def comparison_figures(found: Sequence[RunResult], output: Path) -> list[Path]:
    """A figure for each benchmark: regrets of different benchmarks do not compare."""
    groups: dict[str, list[RunResult]] = {}
    for run in found:
        groups.setdefault(json.dumps([run.benchmark, run.optimum], sort_keys=True), []).append(run)
    written = []
    for number, group in enumerate(groups.values(), start=1):
        names = [name for run in group for name in run.histories]
        histories = {
            f"{run.folder}: {name}" if names.count(name) > 1 else name: history
            for run in group
            for name, history in run.histories.items()
        }
        figure = regret_figure(histories, group[0].optimum, f"{group[0].space}, {_benchmark(group[0])}")
        written += save_figure(figure, output / ("regret" if len(groups) == 1 else f"regret-{number}"))
    return written


def _benchmark(run: RunResult) -> str:
    return str(run.benchmark.get("dataset") or run.benchmark.get("benchmark") or "unnamed")
