"""Keeps what a training measured for the ledger of results."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer

from lightning_nas.errors import UsageError
from lightning_nas.ledger import Result, Row, write_result
from lightning_nas.provenance import provenance


@dataclass(frozen=True)
class LedgerRow:
    """One logged metric beside the published number.

    Args:
        metric: Name under which the module or a callback logs it, for example ``val/graph_accuracy``.
        text: What it is called in the ledger.
        paper: The published value as printed there; empty when there is none.
        percent: Whether the metric is a share, shown in percent.
        note: Anything a reader of this line must know.
    """

    metric: str
    text: str
    paper: str = ""
    percent: bool = True
    note: str = ""


class LedgerCallback(Callback):
    """Writes ``<run folder>/result/<name>.json`` when ``fit`` ends; ``lightning-nas report --record`` collects it.

    Args:
        name: File name in the ledger, the method first, for example ``arch2vec/nasbench201``.
        title: Heading in the ledger.
        source: Paper, arXiv id and table of the published numbers.
        reference_protocol: How the source measured.
        our_protocol: How this run measures, with every difference.
        scale: How much is run, for example ``20 epochs``.
        label: What is measured, the same for all rows.
        rows: The metrics to keep.
    """

    def __init__(
        self,
        name: str,
        title: str,
        source: str,
        reference_protocol: str,
        our_protocol: str,
        scale: str,
        label: str,
        rows: list[LedgerRow],
    ) -> None:
        self.name, self.title, self.source = name, title, source
        self.reference_protocol, self.our_protocol, self.scale = reference_protocol, our_protocol, scale
        self.label, self.rows = label, rows
        self._started = 0.0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the last value of every metric."""
        trained = trainer.fit_loop.epoch_progress.current.completed > 0 and trainer.callback_metrics
        if trainer.fast_dev_run or not trainer.is_global_zero or not trained:  # type: ignore[attr-defined]
            return
        seed = f"seed {getattr(pl_module, 'seed', 0)}"
        result = Result(
            name=self.name,
            title=self.title,
            source=self.source,
            reference_protocol=self.reference_protocol,
            our_protocol=self.our_protocol,
            scale=self.scale,
            date=datetime.now(UTC).date().isoformat(),
            seconds=time.perf_counter() - self._started,
            notes=(),
            rows=tuple(self._row(row, trainer, seed) for row in self.rows),
            **provenance(),
        )
        write_result(Path(trainer.default_root_dir) / "result", result)

    def _row(self, row: LedgerRow, trainer: Trainer, seed: str) -> Row:
        if row.metric not in trainer.callback_metrics:
            logged = ", ".join(sorted(trainer.callback_metrics))
            raise UsageError(f"LedgerCallback: no metric {row.metric!r} was logged, expected one of {logged}")
        value = float(trainer.callback_metrics[row.metric]) * (100 if row.percent else 1)
        unit = "%" if row.percent else ""
        return Row.of([value], label=self.label, metric=row.text, unit=unit, paper=row.paper, seeds=seed, note=row.note)
