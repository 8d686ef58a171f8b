"""What a supernet's architecture parameters look like, epoch by epoch, in TensorBoard."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

from lightning_nas.cell_drawing import architecture_figure
from lightning_nas.errors import UsageError
from lightning_nas.modules.darts import DARTS
from lightning_nas.nn.supernet import EdgeGroup
from lightning_nas.plots import STYLE

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class AlphaMonitor(Callback):
    """Draws the weights of all operations on all edges as a heat map, and the cells they stand for.

    Args:
        every: Epochs from one picture to the next.
    """

    def __init__(self, every: int = 1) -> None:
        if every < 1:
            raise UsageError(f"AlphaMonitor(every={every}): expected 1 or more")
        self.every = every

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw where it is time, and TensorBoard listens."""
        logger = trainer.logger
        if not isinstance(logger, TensorBoardLogger) or (trainer.current_epoch + 1) % self.every:
            return
        assert isinstance(pl_module, DARTS)
        with torch.no_grad():
            weights = pl_module.mixture().weights.cpu()
        arch = pl_module.architecture(pl_module.choice())
        if not trainer.is_global_zero:
            return
        for group, rows in zip(pl_module.network.groups, weights, strict=True):
            logger.experiment.add_figure(f"alpha/{group.name}", heat_map(group, rows), trainer.current_epoch)
        figure = architecture_figure(pl_module.space, arch)
        logger.experiment.add_figure("alpha/largest_weights", figure, trainer.current_epoch)
        text = f"`{pl_module.space.format(arch)}`"
        logger.experiment.add_text("alpha/largest_weights", text, trainer.current_epoch)


def heat_map(group: EdgeGroup, weights: Tensor) -> Figure:
    """Weights of operations (columns) on edges (rows), ``(E, K)``; white is 0, dark is 1."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        edges, candidates = weights.shape
        figure = Figure(figsize=(1.0 + 0.9 * candidates, 1.0 + 0.35 * edges), layout="constrained")
        ax = figure.subplots()
        ax.imshow(weights.numpy(), vmin=0.0, vmax=1.0, cmap="Blues", aspect="auto")
        for edge, row in enumerate(weights.tolist()):
            for place, value in enumerate(row):
                name = group.operations[edge][place]
                own = len(set(group.operations)) > 1  # the operations differ from edge to edge
                text = f"{name}\n{value:.2f}" if own else f"{value:.2f}"
                ax.text(place, edge, text, ha="center", va="center", fontsize=7, color="w" if value > 0.5 else "k")
        ax.set_yticks(range(edges), [f"{tail} → {head}" for tail, head in group.edges])
        ax.set_xticks(range(candidates), group.operations[0] if len(set(group.operations)) == 1 else [""] * candidates)
        ax.tick_params(axis="x", rotation=30)
        ax.set_title(f"{group.name}: weights of operations")
    return figure
