"""What an analysis leaves: figures, numbers, a table on the terminal, TensorBoard, a line in the ledger."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_nas.analysis.runs import TrainedRun
from lightning_nas.files import write_atomically
from lightning_nas.ledger import Result, Row, write_result
from lightning_nas.loading import home
from lightning_nas.plots import save_figure
from lightning_nas.provenance import provenance
from lightning_nas.tables import mean_std
from lightning_nas.terminal import say

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NO_PAPER = "none: not published for this space and method"


@dataclass
class Findings:
    """The outcome of one analysis.

    Args:
        name: Name of the analysis, as typed.
        title: What it is, in a few words.
        rows: The numbers, as the ledger has them.
        protocol: How they were measured, everything that shapes them.
        scale: How much was measured.
        figures: Figures by file name without suffix.
        details: Further numbers for the JSON; primitives.
        dataset: Data set of the accuracies, if there are any.
        source: Paper, arXiv id and figure of the published numbers.
        reference_protocol: How the source measured.
        notes: Anything a reader must know.
        started: Time at which the analysis began, seconds of ``time.perf_counter``.
    """

    name: str
    title: str
    rows: list[Row]
    protocol: str
    scale: str
    figures: dict[str, Figure]
    details: dict[str, Any] = field(default_factory=dict)
    dataset: str | None = None
    source: str = NO_PAPER
    reference_protocol: str = NO_PAPER
    notes: tuple[str, ...] = ()
    started: float = field(default_factory=time.perf_counter)


def publish(findings: Findings, runs: Sequence[TrainedRun], output: Path | None, record: Path | None) -> list[Path]:
    """Write everything and print the table; returns the files.

    Args:
        findings: What was found.
        runs: The runs it was found in; the first one's log gets TensorBoard's images and scalars.
        output: Folder for figures and numbers; None for ``analysis/NAME`` in the first run's folder.
        record: Folder of the ledger; None for no entry there.
    """
    from rich.console import Console

    seconds = time.perf_counter() - findings.started
    folder = output or home(runs[0].folder) / "analysis" / findings.name
    result = _result(findings, runs, seconds)
    written = [path for name, figure in findings.figures.items() for path in save_figure(figure, folder / name)]
    path = folder / f"{findings.name}.json"
    with write_atomically(path) as file:
        json.dump(_numbers(findings, runs, result), file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")
    written.append(path)
    _log(findings, home(runs[0].folder))
    console = Console()
    console.print(table_of(findings.title, findings.rows), markup=False)
    for note in findings.notes:
        say(console, f"Note: {note}")
    if record is not None:
        written.append(write_result(record, result))
    for path in written:
        say(console, f"Written: {path}")
    return written


def table_of(title: str, rows: Sequence[Row]) -> Any:
    """The rows as a table for the terminal: one line for each metric, one column for each label."""
    from rich.table import Table

    labels = list(dict.fromkeys(row.label for row in rows))
    grid = Table(title=title, title_justify="left")
    grid.add_column("")
    for label in labels:
        grid.add_column(label, justify="right")
    for metric in dict.fromkeys(row.metric for row in rows):
        found = {row.label: row for row in rows if row.metric == metric}
        unit = next(iter(found.values())).unit
        cells = [_cell(found[label]) if label in found else "" for label in labels]
        grid.add_row(metric + (f" ({unit})" if unit else ""), *cells)
    return grid


def _cell(row: Row) -> str:
    ours = mean_std(row.mean, row.std, 3)
    return f"{ours} (paper: {row.paper})" if row.paper else ours


def _result(findings: Findings, runs: Sequence[TrainedRun], seconds: float) -> Result:
    origin = provenance()
    kind, space = runs[0].method, runs[0].spaces
    normalised = "_normalised" if getattr(runs[0].data, "normalise", False) is True else ""
    spectrum = "_spectrum" if getattr(runs[0].module, "spectrum", False) is True else ""
    end = spectrum + normalised + (f"_{findings.dataset}" if findings.dataset else "")
    return Result(
        name=f"{kind}/{space}_{findings.name}{end}".lower(),
        title=f"{findings.title}, {kind} on {space}" + (f", {findings.dataset}" if findings.dataset else ""),
        source=findings.source,
        reference_protocol=findings.reference_protocol,
        our_protocol=findings.protocol,
        scale=findings.scale,
        command=origin["command"],
        commit=origin["commit"],
        versions=origin["versions"],
        date=datetime.now(UTC).date().isoformat(),
        seconds=seconds,
        notes=findings.notes,
        rows=tuple(findings.rows),
    )


def _numbers(findings: Findings, runs: Sequence[TrainedRun], result: Result) -> dict[str, Any]:
    return {
        "analysis": findings.name,
        "space": runs[0].spaces,
        "dataset": findings.dataset,
        "runs": [str(run.folder) for run in runs],
        **{key: value for key, value in asdict(result).items() if key not in ("name", "rows")},
        "rows": [asdict(row) for row in findings.rows],
        "details": findings.details,
    }


def _log(findings: Findings, folder: Path) -> None:
    """Images and scalars beside those of the training."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for name, figure in findings.figures.items():
            tag = f"analysis/{findings.name}" + ("" if name == findings.name else f"/{name}")
            writer.add_image(tag, _pixels(figure), dataformats="HWC")
        for row in findings.rows:
            tag = f"analysis/{findings.name}/{row.label}/{row.metric}".replace(" ", "_")
            writer.add_scalar(tag, row.mean)


def _pixels(figure: Figure) -> np.ndarray:
    """A figure as ``(H, W, 3)`` bytes, 150 dots per inch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(150)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]
