"""What ``lightning-nas predict`` leaves: the embedding of every architecture in a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_nas.errors import UsageError
from lightning_nas.files import ensure_writable, write_atomically
from lightning_nas.spaces.base import FiniteSpace
from lightning_nas.terminal import say


def assemble(outputs: Sequence[tuple[Tensor, Tensor]], size: int) -> tuple[Tensor, Tensor]:
    """Embeddings by index in a space, and which there are.

    Args:
        outputs: What ``predict_step`` gave, batch by batch: indices ``(B,)`` and embeddings ``(B, …)``.
        size: Architectures of the space, N.

    Returns:
        Embeddings ``(N, …)``, zero where there is none, and one or zero for every architecture, ``(N,)``. Those of
        several processes, each of which has its share, may be added up.
    """
    index, values = (torch.cat(parts) for parts in zip(*outputs, strict=True))
    table = values.new_zeros(size, *values.shape[1:])
    table[index] = values
    return table, values.new_zeros(size).index_fill(0, index, 1.0)


class EmbeddingWriter(Callback):
    """Writes ``embeddings.npz`` to the run folder at the end of ``predict``: embeddings with names.

    The file has ``index`` and ``architecture`` (in the space's notation), both ``(n,)``, and ``embedding`` ``(n, D)``,
    the mean over views where a module gives several. Data of several spaces leave ``embeddings-SPACE.npz`` for each.
    Modules whose predictions are no embeddings leave nothing.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that there is something for every process."""
        few = [space for space in _spaces(getattr(trainer, "datamodule", None)) if len(space) < trainer.world_size]
        if few:
            raise UsageError(
                f"predict: got {trainer.world_size} processes for {len(few[0])} architectures of {few[0].name!r}, "
                "expected one at least for each: --trainer.devices 1"
            )

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make sure that there is a place to write to."""
        self._outputs: dict[int, list[tuple[Tensor, Tensor]]] = {}
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            ensure_writable(Path(trainer.default_root_dir))

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect this process's share."""
        if isinstance(outputs, tuple) and len(outputs) == 2:
            self._outputs.setdefault(dataloader_idx, []).append(outputs)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the shares together and write them."""
        from rich.console import Console

        spaces = _spaces(getattr(trainer, "datamodule", None))
        if trainer.fast_dev_run or len(spaces) != len(self._outputs):  # type: ignore[attr-defined]
            return
        for number, outputs in sorted(self._outputs.items()):
            space = spaces[number]
            table, there = (trainer.strategy.reduce(part, reduce_op="sum") for part in assemble(outputs, len(space)))
            if not trainer.is_global_zero:
                continue
            index = there.nonzero()[:, 0].cpu()
            values = table[index.to(table.device)].float().cpu()
            values = values.view(len(index), -1, values.shape[-1]).mean(dim=1)
            names = [space.format(space[i]) for i in index.tolist()]
            name = "embeddings.npz" if len(spaces) == 1 else f"embeddings-{space.name}.npz"
            path = Path(trainer.default_root_dir, name)
            with write_atomically(path, "wb") as file:
                np.savez(file, index=index.numpy(), architecture=np.array(names), embedding=values.numpy())
            say(Console(), f"Written: {path}, {len(index):,} embeddings of {values.shape[1]} numbers")


def _spaces(data: Any) -> list[FiniteSpace[Any]]:
    """The finite spaces whose architectures the data's prediction loaders give, one by one."""
    if isinstance(space := getattr(data, "space", None), FiniteSpace):
        return [space]
    return [part.space for part in getattr(data, "networks", [])]
