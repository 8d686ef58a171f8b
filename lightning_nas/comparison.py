"""Several search runs side by side: one table, one figure for each benchmark, one ledger entry for each experiment."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lightning_nas.errors import UsageError
from lightning_nas.ledger import Result, merge, write_result
from lightning_nas.outcomes import outcome_table
from lightning_nas.plots import search_figures
from lightning_nas.report import RunResult, find_runs, load_run, summarise_search


def load_runs(paths: Sequence[Path]) -> list[RunResult]:
    """All search runs at or below the given folders, each once.

    Raises:
        RunFolderError: A folder holds none, or a damaged one.
    """
    folders = [folder for path in paths for folder in find_runs(path)]
    return [load_run(folder) for folder in dict.fromkeys(folders)]


def chosen_strategies(found: Sequence[RunResult], names: Sequence[str] | None) -> list[RunResult]:
    """The same searches with these strategies alone, in this order; None for all.

    Raises:
        UsageError: No run has one of them.
    """
    if names is None:
        return list(found)
    known = list(dict.fromkeys(name for run in found for name in run.histories))
    if unknown := [name for name in names if name not in known]:
        raise UsageError(f"report: got the strategies {unknown}, expected some of {known}")
    parts = ({name: run.histories[name] for name in names if name in run.histories} for run in found)
    return [replace(run, histories=part) for run, part in zip(found, parts, strict=True) if part]


def within_budget(
    found: Sequence[RunResult], queries: int | None = None, epochs: int | None = None, seconds: float | None = None
) -> list[RunResult]:
    """The same searches as if every run had ended when a budget was spent; see :meth:`SearchHistory.within`.

    Raises:
        UsageError: The costs of a search are not known and a budget in seconds is given, or one is not positive.
    """
    cut = []
    for run in found:
        histories = {}
        for name, history in run.histories.items():
            try:
                histories[name] = history.within(queries, epochs, seconds)
            except UsageError as error:
                raise UsageError(f"{run.folder}, {name}: {error}") from None
        cut.append(replace(run, histories=histories))
    return cut


def collect_results(paths: Sequence[Path]) -> list[Result]:
    """What run folders have for the ledger: trainings with a LedgerCallback, searches with a ``ledger``.

    Args:
        paths: Run folders, or folders that hold some.

    Raises:
        RunFolderError: There are neither.
        UsageError: A search has no place in the ledger, and there is nothing else.
    """
    files = dict.fromkeys(path for root in paths for path in sorted(root.rglob("result/**/*.json")))
    results = [Result.from_json(path.read_text("utf-8"), str(path)) for path in files]
    searched = [root for root in paths if next(root.rglob("search/search.json"), None)]
    runs = load_runs(searched if results else paths)
    return results + [summarise_search(run) for run in runs if run.ledger is not None or not results]


def record_results(results: Sequence[Result], folder: Path) -> list[Path]:
    """Write the ledger's JSON files, results of one experiment combined; returns the files.

    Raises:
        UsageError: Results of one name do not belong together; nothing is written.
    """
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
    """Figures for each benchmark: regrets of different benchmarks do not compare."""
    groups: dict[str, list[RunResult]] = {}
    for run in found:
        groups.setdefault(json.dumps([run.benchmark, run.optimum], sort_keys=True), []).append(run)
    written = []
    for number, group in enumerate(groups.values(), start=1):
        names = [name for run in group for name in run.histories]
        shared = Path(os.path.commonpath([run.folder.absolute() for run in group]))
        shared = shared.relative_to(Path.cwd()) if shared.is_relative_to(Path.cwd()) else Path()
        histories = {
            f"{_within(run.folder, shared)}: {name}" if names.count(name) > 1 else name: history
            for run in group
            for name, history in run.histories.items()
        }
        path = output / ("regret" if len(groups) == 1 else f"regret-{number}")
        written += search_figures(histories, group[0].optimum, path, f"{group[0].space}, {_benchmark(group[0])}")
    return written


def _within(folder: Path, shared: Path) -> Path:
    """A folder without the part that all share, where that is not all of it."""
    short = folder.relative_to(shared) if folder.is_relative_to(shared) else folder
    return short if short.parts else folder


def _benchmark(run: RunResult) -> str:
    return str(run.benchmark.get("dataset") or run.benchmark.get("benchmark") or "unnamed")
