"""The embedding in TensorBoard's projector."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger

from lightning_nas.benchmarks.base import Benchmark


class EmbeddingProjector(Callback):
    """Writes embeddings with the architectures' names, and accuracies when there are any, at the end of ``fit``.

    Args:
        benchmark: Source of accuracies; None for names only. Use one that answers at once (a table).
        num_cells: Cells shown, drawn at random from those that the benchmark knows; the projector gets slow beyond some
            thousands.
        seed: Seed of the draw.
    """

    def __init__(
        self,
        benchmark: Benchmark | None = None,  # type: ignore[type-arg]  # jsonargparse cannot read Benchmark[A]
        num_cells: int = 5000,
        seed: int = 0,
    ) -> None:
        self.benchmark, self.num_cells, self.seed = benchmark, num_cells, seed

    @torch.no_grad()
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Embed a random part of the space; other loggers than TensorBoard are left alone."""
        loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        if trainer.fast_dev_run or not loggers or not trainer.is_global_zero:  # type: ignore[attr-defined]
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        generator = torch.Generator().manual_seed(self.seed)
        known = None if self.benchmark is None else self.benchmark.members
        size = len(data.space) if known is None else len(known)
        chosen = torch.randperm(size, generator=generator)[: self.num_cells]
        chosen = chosen if known is None else known[chosen]
        was_training = pl_module.training
        pl_module.eval()
        batches = (trainer.strategy.batch_to_device(batch) for batch in data.cells(chosen))
        embeddings = torch.cat([pl_module.predict_step(batch, 0)[1].cpu() for batch in batches])
        pl_module.train(was_training)
        members = [data.space[i] for i in chosen.tolist()]
        names = [data.space.format(member) for member in members]
        rows: list[Any] = names
        header = None
        if self.benchmark is not None:
            scores = self.benchmark.evaluate(members)
            header = ["architecture", "valid", "test"]
            columns = zip(names, scores.valid.tolist(), scores.test.tolist(), strict=True)
            rows = [[name, f"{valid:.2f}", f"{test:.2f}"] for name, valid, test in columns]
        loggers[0].experiment.add_embedding(embeddings, rows, metadata_header=header, tag="embedding")
