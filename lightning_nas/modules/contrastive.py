"""Contrastive embeddings of untrained networks (Hesslow & Poli, arXiv 2102.04208)."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import OptimizerCallable
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from lightning_nas.errors import UsageError
from lightning_nas.nn.deep_sets import LINEAR, DeepSets, Init
from lightning_nas.nn.jacobian import spectral_rows

_CHUNK = 4096  # networks compared with all others at a time; bounds the memory of a validation of whole spaces


def nt_xent(first: Tensor, second: Tensor, others: Tensor | None = None, rank: int = 0, tau: float = 0.1) -> Tensor:
    """Normalised temperature-scaled cross entropy (SimCLR, arXiv 2002.05709, Eq. 1).

    Each view of a network has to find the network's other view among both views of all networks, itself left out.

    Args:
        first: Projections of one view of B networks.
        second: Projections of their other views.
        others: Both views of the networks of all processes, one block of 2B rows for each; default: these alone.
        rank: Which of the blocks holds these networks.
        tau: Temperature.

    Shapes:
        ``(B, P)``, ``(B, P)``, ``(W * 2B, P)`` -> scalar, the mean over 2B anchors.
    """
    anchors = F.normalize(torch.cat([first, second]), dim=-1)  # (2B, P)
    candidates = anchors if others is None else F.normalize(others, dim=-1)
    offset = rank * len(anchors)
    losses = []
    for place in torch.arange(len(anchors), device=anchors.device).split(_CHUNK):  # type: ignore[no-untyped-call]
        logits = anchors[place] @ candidates.mT / tau
        itself = torch.arange(len(place), device=place.device), place + offset
        logits = logits.index_put(itself, logits.new_tensor(-torch.inf))
        partner = (place + len(first)) % len(anchors) + offset
        losses.append(F.cross_entropy(logits, partner, reduction="none"))
    return torch.cat(losses).mean()


def retrieval(first: Tensor, second: Tensor) -> Tensor:
    """Share of networks whose view is closer (cosine) to their own other view than to any other network's.

    Shapes:
        ``(B, P)``, ``(B, P)`` -> scalar, mean over both directions.
    """
    views = F.normalize(first, dim=-1), F.normalize(second, dim=-1)
    chunks = torch.arange(len(first), device=first.device).split(_CHUNK)  # type: ignore[no-untyped-call]
    found = [
        (mine[chunk] @ others.mT).argmax(dim=1) == chunk for mine, others in (views, views[::-1]) for chunk in chunks
    ]
    return torch.cat(found).float().mean()


class ContrastiveEncoder(LightningModule):
    """Embeds networks by the Jacobians of their untrained initialisations: SimCLR on a deep-sets encoder.

    Two random initialisations of a network are two views of it, which the encoder learns to tell from those of all
    other networks in the batch. Neither graphs nor labels are looked at, so one encoder serves any set of networks.

    Args:
        num_components: Columns K of the Jacobians' principal scores (linked from the data).
        hidden_dim: Width of the encoder's layers.
        embedding_dim: Dimensions D of the embedding.
        projection_dim: Dimensions of what the loss compares, one linear map behind a ReLU of the embedding.
        temperature: Of the loss, tau.
        images_per_view: Of the N images, how many a view has in training, others in every step and for both views; None
            (paper and released code) for all. Fewer cost less, and an encoder of few initialisations learns them by
            heart later.
        spectrum: Give the encoder the directions of the scores beside the logarithms of the singular values (see
            ``spectral_rows``), instead of (paper and released code) their product, in which it hardly sees the small
            ones.
        init: How weights begin: ``he`` keeps the scale of what goes through the layers, ``torch`` (paper and released
            code) shrinks it.
        optimizer: Optimiser; default Adam with learning rate 1e-3 (released code: 5e-5).
        decay: Factor of the learning rate after every epoch.
        seed: Seed of the choice of views; draws depend on (seed, step, rank) alone, so training resumes exactly.

    Shapes:
        A batch is ``(index (B,), scores (B, I, N, K))``: I initialisations, N images. Embeddings are ``(B, D)``.

    Example:
        >>> module = ContrastiveEncoder(num_components=4, embedding_dim=8).eval()
        >>> module.embed(torch.randn(5, 2, 16, 4)).shape
        torch.Size([5, 8])
    """

    method = "Contrastive"  # as tables and the ledger have it

    def __init__(
        self,
        num_components: int,
        hidden_dim: int = 256,
        embedding_dim: int = 256,
        projection_dim: int = 256,
        temperature: float = 0.1,
        images_per_view: int | None = None,
        spectrum: bool = False,
        init: Init = "he",
        optimizer: OptimizerCallable | None = None,
        decay: float = 0.95,
        seed: int = 0,
    ) -> None:
        super().__init__()
        sizes = hidden_dim, embedding_dim, projection_dim, 1 if images_per_view is None else images_per_view
        if min(sizes) < 1 or temperature <= 0.0 or not 0.0 < decay <= 1.0:
            raise UsageError(
                f"ContrastiveEncoder(hidden_dim={hidden_dim}, embedding_dim={embedding_dim}, projection_dim="
                f"{projection_dim}, temperature={temperature}, images_per_view={images_per_view}, decay={decay}): "
                "expected positive sizes and temperature and decay in (0, 1]"
            )
        self.save_hyperparameters(ignore=["optimizer"])
        self.temperature, self.decay, self.seed, self.optimizer = temperature, decay, seed, optimizer
        self.images_per_view, self.spectrum = images_per_view, spectrum
        self.encoder = DeepSets(2 * num_components + 1 if spectrum else num_components, hidden_dim, embedding_dim, init)
        self.projection = nn.Sequential(nn.ReLU(), LINEAR[init](embedding_dim, projection_dim))

    def embed(self, scores: Tensor) -> Tensor:
        """Mean over initialisations of their embeddings, ``(B, I, N, K)`` -> ``(B, D)``."""
        return self.embed_views(scores).mean(dim=1)

    def embed_views(self, scores: Tensor) -> Tensor:
        """Embedding of every initialisation, ``(B, I, N, K)`` -> ``(B, I, D)``."""
        return cast("Tensor", self.encoder(self._rows(scores)))

    def _rows(self, scores: Tensor) -> Tensor:
        return spectral_rows(scores) if self.spectrum else scores

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Loss of two views of every network against the views of all networks, those of other processes included."""
        first, second = self._project(self._two_views(batch[1]))
        loss = self._loss(first, second)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(first))
        return loss

    def _two_views(self, scores: Tensor) -> Tensor:
        """Rows of two initialisations, ``(B, 2, N or fewer, K or 2K + 1)``; evaluation: the first two, whole."""
        size, count, images = scores.shape[:3]
        if count < 2:
            raise UsageError(
                f"ContrastiveEncoder: got {count} initialisation of every network, expected at least two to tell "
                "networks apart by: data.init_args.num_initialisations"
            )
        if not self.training:
            return self._rows(scores[:, :2])
        entropy = np.random.SeedSequence((self.seed, self.global_step, self.global_rank)).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(entropy[0]) >> 1)
        which = torch.rand(size, count, generator=generator).argsort(dim=1)[:, :2].to(scores.device)
        networks = torch.arange(size, device=scores.device)[:, None]
        rows = self._rows(scores[networks, which])  # of all images: their singular values are those of the whole
        if self.images_per_view is None or self.images_per_view >= images:
            return rows
        shown = torch.rand(2, images, generator=generator).argsort(dim=1)[:, : self.images_per_view].to(scores.device)
        return rows.gather(2, shown[None, :, :, None].expand(size, -1, -1, rows.shape[-1]))

    def _project(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        projected = self.projection(self.encoder(rows))  # (B, 2, P)
        return projected[:, 0], projected[:, 1]

    def _loss(self, first: Tensor, second: Tensor) -> Tensor:
        if self.trainer.world_size == 1:
            return nt_xent(first, second, tau=self.temperature)
        # With gradients: what other processes compare with these networks teaches the encoder, too.
        blocks = cast("Tensor", self.all_gather(torch.cat([first, second]), sync_grads=True))  # (W, 2B, P)
        return nt_xent(first, second, blocks.flatten(0, 1), self.global_rank, self.temperature)

    def on_validation_epoch_start(self) -> None:
        """Forget the views of the last epoch."""
        self._views: list[tuple[Tensor, Tensor]] = []

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Project the first two initialisations."""
        self._views.append(self._project(self._two_views(batch[1])))

    def on_validation_epoch_end(self) -> None:
        """Loss and top-1 retrieval among all held-out networks (this process's, and their mean over processes)."""
        first, second = (torch.cat(views) for views in zip(*self._views, strict=True))
        self.log("val/loss", nt_xent(first, second, tau=self.temperature), sync_dist=True)
        self.log("val/retrieval", retrieval(first, second), prog_bar=True, sync_dist=True)

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def predict_step(
        self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Index of every network of the batch ``(B,)``, and the embedding of every initialisation ``(B, I, D)``."""
        return batch[0], self.embed_views(batch[1])

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One optimiser, whose learning rate falls by a factor after every epoch."""
        parameters = self.parameters()
        optimizer = self.optimizer(parameters) if self.optimizer else torch.optim.Adam(parameters, lr=1e-3)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, self.decay)}
