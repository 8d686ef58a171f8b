"""What an analysis of several runs leaves that are not embeddings: a table, figures, numbers, a line in the ledger."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from lightning_nas.analysis.findings import table_of
from lightning_nas.files import write_atomically
from lightning_nas.ledger import Result, Row, write_result
from lightning_nas.plots import save_figure
from lightning_nas.provenance import provenance
from lightning_nas.terminal import say

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_WIDE = 5  # labels, or numbers of each, that a terminal has columns for


def _table(title: str, rows: Sequence[Row]) -> Any:
    """A column for each label; where they are many, a line, and of its numbers the first."""
    if len({row.label for row in rows}) <= _WIDE:
        return table_of(title, rows)
    shown = list(dict.fromkeys(row.metric for row in rows))[:_WIDE]
    return table_of(title, [_transposed(row) for row in rows if row.metric in shown])


def _transposed(row: Row) -> Row:
    metric = f"{row.metric} ({row.unit})" if row.unit else row.metric
    return replace(row, label=metric, metric=row.label, unit="")


@dataclass
class Study:
    """The outcome of an analysis, fields as those of the ledger's :class:`~lightning_nas.ledger.Result`.

    Args:
        name: File name in the ledger.
        title: Heading there, and of the table.
        source: Paper, arXiv id and table of published numbers.
        reference_protocol: How the source measured.
        protocol: How this was measured.
        scale: How much was run.
        rows: The numbers.
        figures: Figures by file name without suffix.
        details: Further numbers for the JSON; primitives.
        seconds: Seconds of what was analysed, beside those of the analysis.
        started: Time at which the analysis began, seconds of ``time.perf_counter``.
    """

    name: str
    title: str
    source: str
    reference_protocol: str
    protocol: str
    scale: str
    rows: Sequence[Row]
    figures: dict[str, Figure]
    details: dict[str, Any]
    seconds: float = 0.0
    started: float = field(default_factory=time.perf_counter)


def keep_study(study: Study, folder: Path, record: Path | None) -> list[Path]:
    """Print the table, write figures and numbers; returns the files.

    Args:
        study: What was found.
        folder: Where to.
        record: Folder of the ledger; None for no entry there.
    """
    console = Console()
    console.print(_table(study.title, [row for row in study.rows if row.n]), markup=False)
    written = [path for name, figure in study.figures.items() for path in save_figure(figure, folder / name)]
    path = folder / f"{study.name.rpartition('/')[2]}.json"
    with write_atomically(path) as file:
        json.dump(study.details, file, indent=1, ensure_ascii=False)
        file.write("\n")
    written.append(path)
    if record is not None:
        origin = provenance()
        result = Result(
            name=study.name, title=study.title, source=study.source, reference_protocol=study.reference_protocol,
            our_protocol=study.protocol, scale=study.scale, command=origin["command"], commit=origin["commit"],
            versions=origin["versions"], date=datetime.now(UTC).date().isoformat(),
            seconds=study.seconds + time.perf_counter() - study.started, notes=(), rows=tuple(study.rows),
        )  # fmt: skip
        written.append(write_result(record, result))
    for each in written:
        say(console, f"Written: {each}")
    return written
