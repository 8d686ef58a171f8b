"""Validity and uniqueness of cells decoded from the prior."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_nas.errors import UsageError
from lightning_nas.metrics import validity_and_uniqueness
from lightning_nas.spaces.base import CellGraph


class GraphAutoencoder(Protocol):
    """What the callback asks of a module, besides being a LightningModule."""

    def encode(self, graph: CellGraph) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of every vertex."""
        ...

    def decode(self, z: Tensor) -> Any:
        """Logits of operations and arcs."""
        ...

    def discretise(self, decoded: Any) -> CellGraph:
        """Most probable graph."""
        ...


class PriorValidity(Callback):
    """Decodes random latent points and logs which share are cells of the space (arXiv 2006.06936, Table 1).

    Points are normal with the mean and standard deviation that the training cells have at each vertex and dimension,
    as in the released code. Logs ``val/validity`` and ``val/uniqueness`` (strict: labels and wiring; graphs that are
    one member of the space count once), and, where the space defines it, ``val/validity_published``
    and ``val/uniqueness_published`` (the released code's test; distinct graphs, unused vertices included).

    Args:
        num_samples: Latent points decoded.
        every_n_epochs: Epochs between measurements; the last epoch always counts.
        seed: Seed of the points, the same at every measurement.
    """

    def __init__(self, num_samples: int = 10_000, every_n_epochs: int = 1, seed: int = 0) -> None:
        if num_samples < 1 or every_n_epochs < 1:
            raise UsageError(
                f"PriorValidity(num_samples={num_samples}, every_n_epochs={every_n_epochs}): expected >= 1"
            )
        self.num_samples, self.every_n_epochs, self.seed = num_samples, every_n_epochs, seed

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure after the epochs that are due; every process measures the same points."""
        epoch = trainer.current_epoch + 1
        due = epoch % self.every_n_epochs == 0 or epoch == trainer.max_epochs
        if trainer.sanity_checking or not due:
            return
        for name, value in self.measure(trainer, pl_module).items():
            pl_module.log(f"val/{name}", value, rank_zero_only=False, sync_dist=False)

    @torch.no_grad()
    def measure(self, trainer: Trainer, pl_module: Any) -> dict[str, float]:
        """Shares of valid and of unique cells among decoded latent points."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        batches = (trainer.strategy.batch_to_device(graph) for _, graph in data.cells(data.train_indices))
        mean, std = moments(pl_module.encode(graph)[0].cpu() for graph in batches)
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(self.num_samples, *mean.shape, generator=generator)
        z = (noise * std + mean).to(pl_module.device)
        decoded = pl_module.discretise(pl_module.decode(z))
        return validity_and_uniqueness(data.space, CellGraph(decoded.ops.cpu(), decoded.adjacency.cpu()))


def moments(parts: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over the first dimension of all parts; nothing is kept of them.

    Shapes:
        parts ``(b, V, D)`` -> two of ``(V, D)``.
    """
    count, shift, total, squares = 0, torch.zeros(()), torch.zeros(()), torch.zeros(())
    for part in parts:
        if not count:
            shift = part.mean(dim=0)  # sums of squares about a point near the mean lose no digits
        count += len(part)
        total = total + (part - shift).sum(dim=0, dtype=torch.float64)
        squares = squares + (part - shift).square().sum(dim=0, dtype=torch.float64)
    variance = (squares - total.square() / count).clamp_min(0.0) / (count - 1)
    return (shift + total / count).float(), variance.sqrt().float()
