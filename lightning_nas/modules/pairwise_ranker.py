"""Pairwise ranking of architectures by a siamese graph network (RANK-NOSH, ICCV 2021, arXiv 2108.08019)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn
from torchmetrics.regression import KendallRankCorrCoef

from lightning_nas.errors import RunFolderError, UsageError
from lightning_nas.nn.gin import GINEncoder
from lightning_nas.spaces.base import CellGraph

Loss = Literal["logistic", "hinge"]

_CHUNK = 4096  # graphs scored at a time


def pair_loss(difference: Tensor, loss: Loss = "logistic", margin: float = 0.1) -> Tensor:
    """Loss of every pair whose first member is the better one, any shape.

    ``logistic`` is the cross-entropy of P(a beats b) = sigmoid(s_a - s_b); ``hinge`` is max(0, margin - (s_a - s_b)).

    Args:
        difference: Score of the better one minus that of the other, s_a - s_b.
        loss: Which of the two.
        margin: Difference from which on the hinge loss is zero.
    """
    return F.softplus(-difference) if loss == "logistic" else F.relu(margin - difference)


class PairwiseRanker(LightningModule):
    """Scores cells so that of two the better one scores higher; both pass through the same network (siamese).

    A graph isomorphism network, that of :class:`~lightning_nas.modules.arch2vec.Arch2Vec`, and a linear map; the mean
    over vertices is the embedding of a cell, a perceptron on it the score s. P(a beats b) = sigmoid(s_a - s_b) is
    antisymmetric by construction. Scores are in no unit: only their order means something. A space is ranked in one
    pass, in which each cell is scored once.

    Args:
        num_ops: Operation labels K (linked from the data).
        latent_dim: Dimensions D of the embedding; that of the pre-trained module, if there is one.
        hidden_dim: Width of the GIN layers, likewise.
        num_layers: GIN layers, likewise.
        head_dim: Width of the perceptron's hidden layer.
        num_features: Further features of a cell that the perceptron sees beside the embedding (linked from the data).
        loss: ``logistic`` or ``hinge`` loss of a pair.
        margin: Difference of scores from which on the hinge loss is zero.
        optimizer: Optimiser; default Adam with learning rate 1e-3 and weight decay 1e-4.
        seed: Seed of the run, for the ledger; training draws no random numbers.

    Shapes:
        A training batch is ``(index (B, 2), CellGraph (B, 2, …), features (B, 2, F), weight (B,))``, the better one
        first; others are ``(index (B,), CellGraph, features (B, F), accuracy (B,))``. Embeddings are ``(B, D)``.

    Example:
        >>> from lightning_nas.spaces.nasbench201 import NASBench201
        >>> space = NASBench201()
        >>> module = PairwiseRanker(num_ops=len(space.vertex_labels)).eval()
        >>> module.scores(space.graphs_at(torch.arange(3))).shape
        torch.Size([3])
    """

    method = "RANK-NOSH"

    def __init__(
        self,
        num_ops: int,
        latent_dim: int = 16,
        hidden_dim: int = 128,
        num_layers: int = 4,
        head_dim: int = 64,
        num_features: int = 0,
        loss: Loss = "logistic",
        margin: float = 0.1,
        optimizer: OptimizerCallable | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if min(num_ops, latent_dim, hidden_dim, num_layers, head_dim) < 1 or num_features < 0 or margin <= 0:
            raise UsageError(
                f"PairwiseRanker(num_ops={num_ops}, latent_dim={latent_dim}, hidden_dim={hidden_dim}, "
                f"num_layers={num_layers}, head_dim={head_dim}, num_features={num_features}, margin={margin}): "
                "expected positive numbers (num_features may be 0)"
            )
        if loss not in ("logistic", "hinge"):
            raise UsageError(f"PairwiseRanker(loss={loss!r}): expected 'logistic' or 'hinge'")
        self.save_hyperparameters(ignore=["optimizer"])
        self.num_ops, self.loss, self.margin = num_ops, loss, margin
        self.optimizer, self.seed = optimizer, seed
        # Named as in Arch2Vec, whose weights they can take.
        self.encoder = GINEncoder(num_ops, hidden_dim, num_layers)
        self.to_mu = nn.Linear(hidden_dim, latent_dim)
        self.head = nn.Sequential(nn.Linear(latent_dim + num_features, head_dim), nn.ReLU(), nn.Linear(head_dim, 1))
        self.kendall = KendallRankCorrCoef()

    def embed(self, graph: CellGraph) -> Tensor:
        """Embedding of cells, the mean over vertices, ``(B, D)``."""
        labels = F.one_hot(graph.ops + 1, self.num_ops + 1)[..., 1:].float()  # zeros for padding
        adjacency = (graph.adjacency | graph.adjacency.mT).float()  # messages flow both ways
        embedding: Tensor = self.to_mu(self.encoder(labels, adjacency).mean(dim=1))
        return embedding

    def forward(self, graph: CellGraph, features: Tensor | None = None) -> Tensor:
        """Scores of cells with the gradients of training, ``(B,)``."""
        embedding = self.embed(graph)
        seen = embedding if features is None else torch.cat([embedding, features], dim=-1)
        score: Tensor = self.head(seen)[:, 0]
        return score

    @torch.no_grad()
    def scores(self, graph: CellGraph, features: Tensor | None = None) -> Tensor:
        """Scores of any number of cells, part by part, ``(n,)``; the module must be in evaluation mode."""
        starts = range(0, len(graph.ops), _CHUNK)
        rows = (slice(start, start + _CHUNK) for start in starts)
        parts = [
            self(CellGraph(graph.ops[r], graph.adjacency[r]), None if features is None else features[r]) for r in rows
        ]
        return torch.cat(parts) if parts else torch.empty(0, device=self.device)

    def compare(self, first: CellGraph, second: CellGraph) -> Tensor:
        """Probability that each cell of the first batch beats its counterpart in the second, ``(B,)``."""
        # As one batch, so that batch normalisation treats both alike.
        both = CellGraph(torch.cat([first.ops, second.ops]), torch.cat([first.adjacency, second.adjacency]))
        left, right = self(both).chunk(2)
        return torch.sigmoid(left - right)

    def training_step(self, batch: tuple[Tensor, CellGraph, Tensor, Tensor], batch_idx: int) -> Tensor:
        """Mean loss of pairs, each with its weight."""
        _, graph, features, weight = batch
        scores = self(CellGraph(graph.ops.flatten(0, 1), graph.adjacency.flatten(0, 1)), features.flatten(0, 1))
        better, worse = scores.view(-1, 2).unbind(dim=1)
        loss = (weight * pair_loss(better - worse, self.loss, self.margin)).mean()
        values = {"loss": loss, "pair_accuracy": (better > worse).float().mean()}
        self.log_dict(
            {f"train/{name}": value for name, value in values.items()},
            on_step=False, on_epoch=True, batch_size=len(weight),
        )  # fmt: skip
        return loss

    def validation_step(self, batch: tuple[Tensor, CellGraph, Tensor, Tensor], batch_idx: int) -> None:
        """Kendall's tau between scores and accuracies of held-out cells."""
        _, graph, features, accuracy = batch
        self.kendall.update(self.scores(graph, features), accuracy)
        self.log("val/kendall_tau", self.kendall, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(accuracy))

    test_step = validation_step

    def predict_step(self, batch: tuple[Tensor, CellGraph, Tensor, Tensor], batch_idx: int) -> tuple[Tensor, Tensor]:
        """Index and embedding of every cell of the batch."""
        return batch[0], self.embed(batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One optimiser for all parameters."""
        if self.optimizer is not None:
            return self.optimizer(self.parameters())
        return torch.optim.Adam(self.parameters(), lr=1e-3, weight_decay=1e-4)


def take_pretrained(module: PairwiseRanker, path: Path) -> None:
    """Give a ranker the encoder of a trained module, ``Arch2Vec`` with its GIN or another ranker.

    Args:
        module: Whose encoder and embedding are replaced; the head stays as it is.
        path: A checkpoint that ``lightning-nas fit`` left, or its run folder.

    Raises:
        RunFolderError: There is no readable checkpoint.
        UsageError: It holds no encoder of these sizes.
    """
    file = path if path.is_file() else path / "checkpoints" / "last.ckpt"
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
    except Exception as error:  # missing, damaged, or something else
        raise RunFolderError(
            f"{file}: not a readable checkpoint ({type(error).__name__}); expected a run folder or checkpoint of "
            "'lightning-nas fit'"
        ) from error
    wanted = {
        name: tuple(value.shape) for name, value in module.state_dict().items()
        if name.startswith(("encoder.", "to_mu."))
    }  # fmt: skip
    odd = [name for name, shape in wanted.items() if name not in state or tuple(state[name].shape) != shape]
    if odd:
        raise UsageError(
            f"{file}: has no encoder for a PairwiseRanker({dict(module.hparams)}), {odd[0]} is missing or of another "
            "shape; expected Arch2Vec (encoder gin) or PairwiseRanker of the same sizes and space"
        )
    module.load_state_dict({name: state[name] for name in wanted}, strict=False)
