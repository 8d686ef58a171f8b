"""The verbs ``lightning-nas data prepare``, ``data list``, ``data statistics`` and ``spaces``.

Plain functions for ``jsonargparse.auto_cli``. Whatever needs torch is imported where it is used, so that listing what
is there answers at once.
"""

from __future__ import annotations

import re
from functools import partial
from importlib import import_module
from pathlib import Path

from rich.console import Console
from rich.table import Table as Grid

from lightning_nas.benchmarks.catalog import PUBLISHED
from lightning_nas.benchmarks.table import SHIPPED, Table, find_table, read_table
from lightning_nas.benchmarks.table import data_dir as table_folder
from lightning_nas.errors import BenchmarkDataError, UsageError
from lightning_nas.terminal import say


def prepare(
    table: str,
    *,
    source: str,
    name: str | None = None,
    allow_partial: bool = False,
    trust_pickle: bool = False,
    data_dir: str | None = None,
) -> None:
    """Turn an official download into one compact table.

    Args:
        table: Which table, for example ``nasbench201``; ``lightning-nas data list`` names them all.
        source: The downloaded file or unpacked folder.
        name: Name of the table, when it shall have another one; needed for a table of some of the architectures.
        allow_partial: Make a table of what is there, although architectures or trainings are missing.
        trust_pickle: Read a pickled source. A pickle can run any code: only for files from the official pages.
        data_dir: Folder for the table; default ``$LIGHTNING_NAS_DATA`` or ``~/.cache/lightning_nas``.
    """
    from rich.progress import track

    if table not in PUBLISHED:
        raise UsageError(f"data prepare: got the table {table!r}, expected one of {', '.join(PUBLISHED)}")
    if name is not None and not re.fullmatch(r"[\w.-]+", name):
        raise UsageError(f"data prepare: got the name {name!r}, expected letters, digits, '_', '-', '.'")
    if allow_partial and not PUBLISHED[table].partial:
        raise UsageError(f"data prepare: {table} comes whole or not at all; leave --allow_partial out")
    console = Console()
    importer = import_module(f"lightning_nas.benchmarks.{table}")
    target = table_folder(data_dir) / f"{name or table}.npz"
    show = partial(track, description=f"Reading {Path(source).name}", console=console)
    options = {"allow_partial": True} if allow_partial else {}
    path = Path(source).expanduser()
    written: Table = importer.prepare(path, target, trust_pickle=trust_pickle, track=show, **options)
    say(
        console,
        f"{written.path}: {_rows(written)} architectures, {len(written.columns)} columns, "
        f"{written.path.stat().st_size / 1e3:,.0f} kB\n"
        f"Checked: {written.meta.get('checked', 'number and order of the architectures, published optima')}\n"
        f"Source: {written.meta['source']}\nLicence: {written.meta['licence']}\nCite: {written.meta['citation']}",
    )


def list_tables(data_dir: str | None = None) -> None:
    """Show which tables are there, and where to get the others.

    Args:
        data_dir: Folder of tables; default ``$LIGHTNING_NAS_DATA`` or ``~/.cache/lightning_nas``.
    """
    console = Console()
    folder = table_folder(data_dir)
    chosen = folder if data_dir else None
    prepared = sorted(folder.glob("*.npz")) if folder.is_dir() else []
    files = prepared + sorted(file for file in SHIPPED.glob("*.npz") if file.stem not in {p.stem for p in prepared})
    grid = Grid("table", "architectures", "data sets", "source")
    say(console, f"Tables in {folder}, and those that come with this package")
    damaged = []
    for file in files:
        try:
            table = read_table(file)
        except BenchmarkDataError as error:
            damaged.append(str(error))
            continue
        grid.add_row(file.stem, _rows(table), ", ".join(_datasets(table)), str(table.meta.get("source", "")))
    console.print(grid, markup=False)
    for message in damaged:
        say(console, f"Damaged: {message}")
    for published in PUBLISHED.values():
        if published.name in {file.stem for file in files}:
            continue
        say(console, f"\nNot there: {published.name}, {published.description}, {published.rows:,} architectures")
        for source in published.sources:
            say(console, f"  {source.file}, {source.size}, {source.url}\n    {published.command(source, chosen)}")
        say(console, f"  Licence: {published.licence}. Cite: {published.citation}")


def statistics(
    table: str,
    *,
    dataset: str | None = None,
    epochs: int | None = None,
    against: str | None = None,
    columns: list[str] = ["cifar10/test@200", "cifar100/test@200", "imagenet16/test@200"],  # noqa: B006  # a CLI default
    record: Path | None = None,
    data_dir: str | None = None,
) -> None:
    """Show what a table is worth: agreement between seeds, range, noise, and likeness to another table.

    Correlations are Spearman's, over connected architectures, isomorphic ones once.

    Args:
        table: Name of a table (``lightning-nas data list``), or path of an ``.npz``.
        dataset: Data set of the table, for example ``digits``; default: the only one.
        epochs: Training epochs of its columns; default: the most that it has test accuracies of.
        against: Another table of the same space.
        columns: Columns of the other table to compare the test accuracy with.
        record: Folder of the ledger, usually docs/results; writes the numbers there.
        data_dir: Folder of tables; default ``$LIGHTNING_NAS_DATA`` or ``~/.cache/lightning_nas``.
    """
    from lightning_nas.ledger import write_result
    from lightning_nas.spaces.base import FiniteSpace
    from lightning_nas.spaces.describe import find_spaces
    from lightning_nas.table_statistics import TableStatistics, ledger_entry
    from lightning_nas.tables import mean_std

    console = Console()
    here = read_table(find_table(table, data_dir))
    space = find_spaces().get(here.meta["space"])
    if not isinstance(space, FiniteSpace):
        name = here.meta["space"]
        raise UsageError(f"{here.path}: is a table of {name!r}, expected a finite space of this package")
    measured = TableStatistics(here, space, *_which(here, dataset, epochs))
    other = None if against is None else read_table(find_table(against, data_dir))
    rows = measured.rows(other, tuple(columns))
    for row in rows:
        value = mean_std(row.mean, row.std, 3)
        say(console, f"{row.label:>58}  {row.metric}: {value}{f' {row.unit}' if row.unit else ''}")
    if record is not None:
        say(console, f"Recorded: {write_result(record, ledger_entry(measured, rows))}")


def spaces(space: str | None = None, index: int | None = None, architecture: str | None = None) -> None:
    """List the search spaces, or show one of them or one of its architectures.

    Args:
        space: Name of a search space, for example ``nasbench201``; without it, all are listed.
        index: Number of an architecture of a finite space, from 0.
        architecture: An architecture in the space's own notation.
    """
    from lightning_nas.spaces.describe import describe, find_spaces, member, size, summary

    console = Console()
    found = find_spaces()
    if space is None and (index is not None or architecture is not None):
        raise UsageError(f"spaces: --index and --architecture need a space, one of {', '.join(found)}")
    if index is not None and architecture is not None:
        raise UsageError("spaces: got both --index and --architecture, expected one of them")
    if space is not None and space not in found:
        raise UsageError(f"spaces: got the space {space!r}, expected one of {', '.join(found)}")
    if space is None:
        grid = Grid("space", "architectures", "description")
        for name, known in found.items():
            grid.add_row(name, size(known), summary(known))
        console.print(grid, markup=False)
    elif index is None and architecture is None:
        say(console, f"{space}: {size(found[space])} architectures\n{summary(found[space])}")
    else:
        for label, value in describe(found[space], member(found[space], index, architecture)):
            say(console, f"{label:>14}  {value}")


def arguments(verb: str, args: list[str]) -> list[str]:
    """Let people write ``spaces NAME`` for ``--space NAME``, and flags without a value, which jsonargparse cannot.

    Args:
        verb: ``data`` or ``spaces``.
        args: What was typed behind the verb.

    Example:
        >>> arguments("spaces", ["nasbench201", "--index", "5"])
        ['--space', 'nasbench201', '--index', '5']
        >>> arguments("data", ["prepare", "--trust_pickle", "nasbench201"])
        ['prepare', '--trust_pickle=true', 'nasbench201']
    """
    if verb == "spaces" and args and not args[0].startswith("-"):
        return ["--space", *args]
    typed = list(args)
    for place, arg in enumerate(args):
        following = "".join(args[place + 1 : place + 2]).lower()
        if arg in ("--trust_pickle", "--allow_partial") and following not in ("true", "false"):
            typed[place] = f"{arg}=true"
    return typed


data = {"prepare": prepare, "list": list_tables, "statistics": statistics}


def _which(table: Table, dataset: str | None, epochs: int | None) -> tuple[str, int]:
    """Data set and epochs of a table's test accuracies, the given ones or those that go without saying."""
    known = [re.fullmatch(r"(.+)/test@(\d+)", column) for column in table.columns]
    found = [(match[1], int(match[2])) for match in known if match]
    chosen = [pair for pair in found if dataset in (None, pair[0]) and epochs in (None, pair[1])]
    if len({name for name, _ in chosen}) != 1:
        raise UsageError(
            f"{table.path}: got --dataset {dataset} --epochs {epochs}, expected one of "
            f"{', '.join(f'{name} {length}' for name, length in sorted(found))}"
        )
    return max(chosen)


def _rows(table: Table) -> str:
    """``3,258 of 423,624`` for a table of a part of a space; the space's size without torch where the table has it."""
    size = table.meta.get("space_size", len(table))
    return f"{len(table):,}" + (f" of {size:,}" if size != len(table) else "")


def _datasets(table: Table) -> list[str]:
    return sorted({name.split("/")[0] for name in table.columns if "@" in name})
