"""The verb ``lightning-nas report``: tables and figures of run folders, and the ledger.

A plain function for ``jsonargparse.auto_cli``. What needs torch is imported where it is used, so that the ledger
renders at once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console

from lightning_nas import tables
from lightning_nas.errors import NASError, UsageError
from lightning_nas.files import write_atomically
from lightning_nas.ledger import merge, render_ledger, write_result

if TYPE_CHECKING:
    from lightning_nas.report import RunResult

Format = Literal["markdown", "csv", "latex"]

SUFFIXES = {"markdown": "md", "csv": "csv", "latex": "tex"}


def report(
    runs: list[Path] | None = None,
    format: Format = "markdown",
    output: Path | None = None,
    record: Path | None = None,
    ledger: bool = False,
    check: bool = False,
    results: Path = Path("docs/results"),
) -> None:
    """Compare search runs, and keep the ledger of results.

    ``lightning-nas report runs/a runs/b`` prints one table of all strategies; ``lightning-nas report --ledger`` renders
    RESULTS.md.

    Args:
        runs: Run folders, or folders that hold some; ``--runs`` may be left out.
        format: How the table is written: markdown, csv or latex (booktabs).
        output: With runs: folder for the table and a joint figure of regret over queries. With ``--ledger``: the page,
            default RESULTS.md.
        record: Folder of the ledger, usually docs/results; writes the JSON of every given run there. Runs of one
            experiment with different seeds are combined.
        ledger: Render the ledger from its JSON files.
        check: Write nothing; fail when the ledger's page is not what its JSON files render to.
        results: Folder of the ledger's JSON files.
    """
    console = Console()
    page = ledger or check
    if not runs and not page:
        raise UsageError("report: got nothing to do; give run folders ('lightning-nas report runs/a'), or --ledger")
    if record is not None and not runs:
        raise UsageError("report: got --record without run folders; try 'lightning-nas report runs/a --record ...'")
    if runs and page and record is None:
        raise UsageError("report: got run folders and --ledger; add --record docs/results, or leave one of them out")
    if runs:
        found = _load(runs)
        if record is not None:
            _record(console, found, record)
        if not page:
            _compare(console, found, format, output)
    if page:
        _ledger(console, results, output or Path("RESULTS.md"), check)


def arguments(verb: str, args: Sequence[str]) -> list[str]:
    """Let people write ``report runs/a runs/b --ledger``, which jsonargparse cannot read.

    Args:
        verb: ``report``.
        args: What was typed behind the verb.

    Example:
        >>> arguments("report", ["runs/a", "runs/b", "--format", "csv", "--ledger"])
        ['--runs=["runs/a", "runs/b"]', '--format', 'csv', '--ledger=true']
    """
    folders: list[str] = []
    rest: list[str] = []
    typed = list(args)
    while typed:
        arg = typed.pop(0)
        if arg == "--runs":
            continue  # the folders behind it are taken like any others
        if arg in ("--ledger", "--check"):
            explicit = bool(typed) and typed[0].lower() in ("true", "false")
            rest.append(f"{arg}={typed.pop(0) if explicit else 'true'}")
        elif arg.startswith("-"):
            rest.append(arg)
            if "=" not in arg and arg not in ("-h", "--help") and typed:
                rest.append(typed.pop(0))
        else:
            folders.append(arg)
    return [*([f"--runs={json.dumps(folders)}"] if folders else []), *rest]


def _load(paths: Sequence[Path]) -> list[RunResult]:
    from lightning_nas.report import find_runs, load_run

    folders = [folder for path in paths for folder in find_runs(path)]
    return [load_run(folder) for folder in dict.fromkeys(folders)]


def _record(console: Console, found: Sequence[RunResult], folder: Path) -> None:
    from lightning_nas.report import summarise_search

    results = [summarise_search(run) for run in found]
    for name in dict.fromkeys(result.name for result in results):
        path = write_result(folder, merge([result for result in results if result.name == name]))
        _print(console, f"Recorded: {path}")


def _compare(console: Console, found: Sequence[RunResult], format: Format, output: Path | None) -> None:
    header, rows = _rows(found)
    table = getattr(tables, f"{format}_table")(header, rows)
    _print(console, table.rstrip("\n"))
    if format == "markdown":
        _print(console, "\nSelected on validation, reported on test; mean ± standard deviation over runs.")
    if output is None:
        return
    path = output / f"report.{SUFFIXES[format]}"
    with write_atomically(path) as file:
        file.write(table)
    for written in (path, *_figures(found, output)):
        _print(console, f"Written: {written}")


def _rows(found: Sequence[RunResult]) -> tuple[list[str], list[list[str]]]:
    """One row for each strategy of each run folder; a column that only some of them have is a dash for the others."""
    from lightning_nas.outcomes import outcome_table

    records = []
    for run in found:
        names, lines = outcome_table(run.outcomes, run.optimum)
        where = {"space": run.space, "benchmark": _benchmark(run), "folder": str(run.folder)}
        for line in lines:
            cells = dict(zip(names, line, strict=True))
            records.append({"strategy": cells.pop("strategy")} | where | cells)
    header = list(dict.fromkeys(name for record in records for name in record))
    return header, [[record.get(name, "-") for name in header] for record in records]


def _figures(found: Sequence[RunResult], output: Path) -> list[Path]:
    """A figure for each benchmark: regrets of different benchmarks do not compare."""
    from lightning_nas.plots import regret_figure, save_figure

    groups: dict[str, list[RunResult]] = {}
    for run in found:
        groups.setdefault(json.dumps([run.benchmark, run.optimum], sort_keys=True), []).append(run)
    written = []
    for number, group in enumerate(groups.values(), start=1):
        names = [name for run in group for name in run.histories]
        histories = {
            f"{run.folder.name}: {name}" if names.count(name) > 1 else name: history
            for run in group
            for name, history in run.histories.items()
        }
        figure = regret_figure(histories, group[0].optimum, f"{group[0].space}, {_benchmark(group[0])}")
        written += save_figure(figure, output / ("regret" if len(groups) == 1 else f"regret-{number}"))
    return written


def _benchmark(run: RunResult) -> str:
    return str(run.benchmark.get("dataset") or run.benchmark.get("benchmark") or "unnamed")


def _ledger(console: Console, results: Path, page: Path, check: bool) -> None:
    text = render_ledger(results)
    if not check:
        with write_atomically(page) as file:
            file.write(text)
        _print(console, f"Written: {page}")
    elif not page.is_file() or page.read_text("utf-8") != text:
        raise NASError(f"{page}: is not what {results} renders to; run 'lightning-nas report --ledger' and commit it")
    else:
        _print(console, f"{page}: up to date with {results}")


def _print(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)  # it is copied into papers
