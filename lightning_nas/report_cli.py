"""The verb ``lightning-nas report``: tables and figures of run folders, and the ledger.

A plain function for ``jsonargparse.auto_cli``. What needs torch is imported where it is used, so that the ledger
renders at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from lightning_nas import tables
from lightning_nas.errors import NASError, UsageError
from lightning_nas.files import write_atomically
from lightning_nas.ledger import render_ledger
from lightning_nas.terminal import say

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
    queries: int | None = None,
    epochs: int | None = None,
    seconds: float | None = None,
    strategies: list[str] | None = None,
) -> None:
    """Compare search runs, and keep the ledger of results.

    ``lightning-nas report runs/a runs/b`` prints one table of all strategies; ``lightning-nas report --ledger`` renders
    RESULTS.md.

    Args:
        runs: Run folders, or folders that hold some; ``--runs`` may be left out.
        format: How the table is written: markdown, csv or latex (booktabs).
        output: With runs: folder for the table and joint figures of regret over queries, of its distribution at the end
            and, where costs are known, over seconds. With ``--ledger``: the page, default RESULTS.md.
        record: Folder of the ledger, usually docs/results; writes the JSON of every given run there. Runs of one
            experiment with different seeds are combined.
        ledger: Render the ledger from its JSON files.
        check: Write nothing; fail when the ledger's page is not what its JSON files render to.
        results: Folder of the ledger's JSON files.
        queries: Look at the first evaluations of each run only, this many.
        epochs: Look at what each run had before it exceeded this many training epochs, summed over its evaluations.
        seconds: Look at what each run had before it exceeded this many seconds on the benchmark's own clock.
        strategies: Show these alone, in the table and in the figures, for example '[random, rank_nosh]'.
    """
    console = Console()
    page = ledger or check
    if not runs and not page:
        raise UsageError("report: got nothing to do; give run folders ('lightning-nas report runs/a'), or --ledger")
    budget = {"queries": queries, "epochs": epochs, "seconds": seconds}
    given = [f"--{name}" for name, value in budget.items() if value is not None]
    if given and (not runs or page or record is not None):
        raise UsageError(
            f"report: got {' '.join(given)} with {'--record or --ledger' if runs else 'no run folders'}; a budget cuts "
            "the table and figures of run folders, and the ledger holds whole runs"
        )
    if record is not None and not runs:
        raise UsageError("report: got --record without run folders; try 'lightning-nas report runs/a --record ...'")
    if runs and page and record is None:
        raise UsageError("report: got run folders and --ledger; add --record docs/results, or leave one of them out")
    if runs and record is not None:
        _record(console, runs, record)
    if runs and not page and (record is None or output is not None):
        _compare(console, runs, format, output, budget, strategies)
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


def _record(console: Console, runs: Sequence[Path], folder: Path) -> None:
    from lightning_nas.comparison import collect_results, record_results

    for path in record_results(collect_results(runs), folder):
        say(console, f"Recorded: {path}")


def _compare(
    console: Console,
    runs: Sequence[Path],
    format: Format,
    output: Path | None,
    budget: Mapping[str, Any],
    strategies: Sequence[str] | None,
) -> None:
    from lightning_nas.comparison import (
        chosen_strategies,
        comparison_figures,
        comparison_table,
        load_runs,
        within_budget,
    )

    found = chosen_strategies(load_runs(runs), strategies)
    limits = [f"{value:,.10g} {name}" for name, value in budget.items() if value is not None]
    if limits:
        found = within_budget(found, **budget)
    header, rows = comparison_table(found)
    text = getattr(tables, f"{format}_table")(header, rows)
    say(console, text.rstrip("\n"))
    if format == "markdown":
        cut = f" Each run cut at {' and '.join(limits)}." if limits else ""
        say(console, f"\nSelected on validation, reported on test; mean ± standard deviation over runs.{cut}")
    if output is None:
        return
    path = output / f"report.{SUFFIXES[format]}"
    with write_atomically(path) as file:
        file.write(text)
    for written in (path, *comparison_figures(found, output)):
        say(console, f"Written: {written}")


def _ledger(console: Console, results: Path, page: Path, check: bool) -> None:
    text = render_ledger(results)
    if not check:
        with write_atomically(page) as file:
            file.write(text)
        say(console, f"Written: {page}")
    elif not page.is_file() or page.read_text("utf-8") != text:
        raise NASError(f"{page}: is not what {results} renders to; run 'lightning-nas report --ledger' and commit it")
    else:
        say(console, f"{page}: up to date with {results}")
