"""arch2vec: unsupervised architecture embeddings (Yan et al., NeurIPS 2020, arXiv 2006.06936)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import OptimizerCallable
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from lightning_nas.errors import UsageError
from lightning_nas.nn.gcn import GCNEncoder, GraphConvolution, normalised_adjacency
from lightning_nas.nn.gin import GINEncoder, refine
from lightning_nas.nn.graph_decoders import JointDecoder
from lightning_nas.spaces.base import CellGraph


class Decoded(NamedTuple):
    """Logits of a decoded batch: ops ``(B, V, K)``, adjacency ``(B, V, V)`` (only its strict upper triangle counts)."""

    ops: Tensor
    adjacency: Tensor


def reconstruction_loss(decoded: Decoded, graph: CellGraph, averaged: bool = False) -> tuple[Tensor, Tensor]:
    """Negative log-likelihoods of the operations' one-hot rows and of the arcs (Eq. 4-5), per vertex.

    Every label and every entry of the strict upper triangle is a Bernoulli variable. (The paper writes a softmax for
    the operations, its code a sigmoid for each label; with the softmax far fewer decoded latent points are cells.)

    Args:
        decoded: Logits.
        graph: Target; padded vertices (-1) have all-zero rows.
        averaged: Average over labels and over all V² entries as the released code does, where the lower triangle is
            zero in prediction and target, instead of summing what belongs to a vertex.

    Returns:
        Loss of the operations and of the adjacency, two scalars.
    """
    vertices, num_ops = decoded.ops.shape[-2:]
    row, column = torch.triu_indices(vertices, vertices, offset=1, device=graph.ops.device)
    target = graph.adjacency[:, row, column].to(decoded.adjacency)
    ops_loss = F.binary_cross_entropy_with_logits(decoded.ops, one_hot(graph.ops, num_ops))
    adjacency_loss = F.binary_cross_entropy_with_logits(decoded.adjacency[:, row, column], target)
    if averaged:
        return ops_loss, adjacency_loss * len(row) / vertices**2
    return ops_loss * num_ops, adjacency_loss * len(row) / vertices


def kl_divergence(mu: Tensor, log_std: Tensor) -> Tensor:
    """Mean over vertices of KL(N(mu, diag(exp(log_std)²)) || N(0, I)), Eq. 6; ``(B, V, D)`` -> scalar."""
    return -0.5 * (1.0 + 2.0 * log_std - mu.square() - (2.0 * log_std).exp()).sum(dim=-1).mean()


def one_hot(ops: Tensor, num_ops: int) -> Tensor:
    """One-hot rows with zeros for padding (-1), ``(B, V)`` -> ``(B, V, K)`` float."""
    return F.one_hot(ops + 1, num_ops + 1)[..., 1:].float()


def dot_product_limit(graphs: CellGraph, num_layers: int = 4) -> Tensor:
    """Which graphs a dot-product decoder behind a GIN can reconstruct at best, ``(B,)`` bool.

    Vertices with the same colour after as many rounds of refinement as there are layers have equal latent vectors z.
    As z . z > 0, they get an arc to each other, and every other vertex is joined to all of them or to none. Twins
    without an arc, two padded vertices, and symmetries that swap vertices with different neighbours break that.

    Args:
        graphs: B cells.
        num_layers: Layers of the encoder.
    """
    linked = graphs.adjacency | graphs.adjacency.mT
    colours = graphs.ops + 1
    for _ in range(num_layers):
        colours = refine(colours, linked)
    vertices = colours.shape[-1]
    places = 2 ** torch.arange(vertices, device=colours.device)
    rows = ((linked | torch.eye(vertices, dtype=torch.bool, device=colours.device)) * places).sum(dim=-1)  # as bits
    fine = (rows[:, :, None] == rows[:, None]) | (colours[:, :, None] != colours[:, None])
    return fine.flatten(1).all(dim=1)


def one_cycle(step: int, total: float) -> float:
    """Factor of the learning rate: linearly up in the first tenth of the steps, then half a cosine down to 0.

    Args:
        step: Steps done.
        total: Steps of the whole training.
    """
    warm_up = total / 10
    if total in (0, math.inf):
        return 1.0
    if step + 1 < warm_up:
        return (step + 1) / warm_up
    return 0.5 + 0.5 * math.cos(math.pi * min(1.0, (step - warm_up) / (total - warm_up)))


class Arch2Vec(LightningModule):
    """Variational graph autoencoder of cells: GIN encoder, dot-product decoder, one latent vector per vertex.

    ``encoder="gcn"`` makes it the VGAE, and ``variational=False`` besides the GAE, of Kipf & Welling (arXiv
    1611.07308), which the paper compares with; decoder and losses are the same.

    ``mode="reference"`` repeats what the released code does rather than what the paper says: after the first epoch the
    network stays in evaluation mode, so from then on it trains as a plain autoencoder with frozen batch normalisation,
    no sampling and no dropout; losses are averaged over all entries; the KL term is divided by batch size times V
    once more. Take its other habits, too: dropout 0.3, batches of 32, learning rate 1e-3, the last tenth held out.
    Its batches are the same in every epoch, ours are not; with ``encoder="gcn"`` its heads end in a ReLU and its layers
    drop out their inputs, which is not repeated.

    Args:
        num_ops: Operation labels K (linked from the data).
        latent_dim: Dimensions D of the embedding.
        hidden_dim: Width of the encoder's layers.
        num_layers: Layers of the encoder below the heads.
        dropout: Probability of zeroing a latent entry before decoding, in training; the paper has none, its code 0.3.
        kl_weight: Weight of the KL divergence per vertex, beta; ignored by mode reference.
        mode: ``paper`` or ``reference`` (see above).
        encoder: ``gin``, or ``gcn`` for graph convolutions with self loops (in mode reference without), heads included.
        variational: Sample latent vectors in training and keep them close to the prior; False: a plain autoencoder.
        decoder: ``dot_product`` joins vertices with similar latent vectors, and so always those with equal ones (twins;
            padding); ``joint`` is a perceptron on all vertices at once, which can give back every cell.
        num_vertices: Vertices V of a cell (linked from the data); only the decoder ``joint`` needs it.
        optimizer: Optimiser; default Adam with learning rate 1e-3.
        schedule: ``constant`` learning rate, or ``one_cycle``: up in the first tenth of the steps, then along half a
            cosine down to 0.
        seed: Seed of noise and dropout; draws depend on (seed, step, rank) alone, so training resumes exactly.

    Shapes:
        A batch is ``(index (B,), CellGraph)``; embeddings are ``(B, D)``.

    Example:
        >>> from lightning_nas.spaces.nasbench201 import NASBench201
        >>> space = NASBench201()
        >>> module = Arch2Vec(num_ops=len(space.vertex_labels)).eval()
        >>> graph = space.graph(space[0])
        >>> module.embed(CellGraph(graph.ops[None], graph.adjacency[None])).shape
        torch.Size([1, 16])
    """

    def __init__(
        self,
        num_ops: int,
        latent_dim: int = 16,
        hidden_dim: int = 128,
        num_layers: int = 4,
        dropout: float = 0.0,
        kl_weight: float = 1 / 256,
        mode: Literal["paper", "reference"] = "paper",
        optimizer: OptimizerCallable = torch.optim.Adam,
        seed: int = 0,
        encoder: Literal["gin", "gcn"] = "gin",
        variational: bool = True,
        decoder: Literal["dot_product", "joint"] = "dot_product",
        num_vertices: int | None = None,
        schedule: Literal["constant", "one_cycle"] = "constant",
    ) -> None:
        super().__init__()
        if not 0.0 <= dropout < 1.0 or kl_weight < 0.0 or min(latent_dim, hidden_dim, num_layers) < 1:
            raise UsageError(
                f"Arch2Vec(dropout={dropout}, kl_weight={kl_weight}, latent_dim={latent_dim}, hidden_dim={hidden_dim}, "
                f"num_layers={num_layers}): expected dropout in [0, 1), kl_weight >= 0 and positive sizes"
            )
        for value, known in (
            (mode, ("paper", "reference")), (encoder, ("gin", "gcn")),
            (decoder, ("dot_product", "joint")), (schedule, ("constant", "one_cycle")),
        ):  # fmt: skip
            if value not in known:
                raise UsageError(f"Arch2Vec: got {value!r}, expected {' or '.join(map(repr, known))}")
        self.save_hyperparameters(ignore=["optimizer"])
        self.num_ops, self.dropout, self.kl_weight, self.mode, self.seed = num_ops, dropout, kl_weight, mode, seed
        self.optimizer, self.schedule, self.variational = optimizer, schedule, variational
        self.encoder: GINEncoder | GCNEncoder

        def head() -> nn.Module:
            if encoder == "gin":
                return nn.Linear(hidden_dim, latent_dim)
            return GraphConvolution(hidden_dim, latent_dim, activate=False)

        if encoder == "gin":
            self.encoder = GINEncoder(num_ops, hidden_dim, num_layers)
        else:
            self.encoder = GCNEncoder(num_ops, hidden_dim, num_layers, mode)
        self.to_mu = head()
        if variational:
            self.to_log_std = head()
        if decoder == "dot_product":
            self.to_ops = nn.Linear(latent_dim, num_ops)
        elif num_vertices is None:
            raise UsageError("Arch2Vec(decoder='joint'): got no num_vertices, expected the space's number of vertices")
        else:
            self.decoder = JointDecoder(num_vertices, latent_dim, num_ops)

    @property
    def method(self) -> str:
        """Name of the method, as papers have it."""
        if isinstance(self.encoder, GINEncoder):
            return type(self).__name__
        return "VGAE" if self.variational else "GAE"

    def encode(self, graph: CellGraph) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of every vertex, two of ``(B, V, D)``; -inf for a plain autoencoder."""
        parts = [self._heads(*hidden) for hidden in self._hidden(graph)]
        mu, log_std = (part[0] if len(part) == 1 else torch.cat(part) for part in zip(*parts, strict=True))
        return mu, log_std

    def _heads(self, *hidden: Tensor) -> tuple[Tensor, Tensor]:
        mu = self.to_mu(*hidden)
        return mu, self.to_log_std(*hidden) if self.variational else torch.full_like(mu, -torch.inf)

    def _hidden(self, graph: CellGraph) -> Iterator[tuple[Tensor, ...]]:
        """What the heads are applied to, in one part or several."""
        adjacency = graph.adjacency | graph.adjacency.mT  # messages flow both ways
        if isinstance(self.encoder, GCNEncoder):
            norm = normalised_adjacency(adjacency.float(), self_loops=self.mode == "paper")
            yield self.encoder(one_hot(graph.ops, self.num_ops), norm), norm
        elif self.training or torch.is_grad_enabled():
            yield (self.encoder(one_hot(graph.ops, self.num_ops), adjacency.float()),)
        else:
            features = torch.eye(self.num_ops + 1, device=adjacency.device)[:, 1:]  # padding first, as all-zero row
            for hidden in self.encoder.chunks(graph.ops + 1, features, adjacency):
                yield (hidden,)

    def decode(self, z: Tensor) -> Decoded:
        """Logits of operations and arcs, ``(B, V, D)`` -> ``(B, V, K)`` and ``(B, V, V)``."""
        if hasattr(self, "decoder"):
            return Decoded(*self.decoder(z))
        return Decoded(self.to_ops(z), z @ z.mT)

    def discretise(self, decoded: Decoded) -> CellGraph:
        """Most probable label of every vertex and arcs of probability above one half."""
        return CellGraph(decoded.ops.argmax(dim=-1), (decoded.adjacency > 0).triu(diagonal=1))

    def embed(self, graph: CellGraph) -> Tensor:
        """Embedding of cells: the mean of mu over all vertices, ``(B, D)`` (the paper says sum, the code means)."""
        if isinstance(self.encoder, GCNEncoder):
            return self.encode(graph)[0].mean(dim=1)
        # The head is linear, so the mean can go first, which leaves it an eighth of the work.
        means: Tensor = self.to_mu(torch.cat([hidden.mean(dim=1) for (hidden,) in self._hidden(graph)]))
        return means

    def training_step(self, batch: tuple[Tensor, CellGraph], batch_idx: int) -> Tensor:
        """Negative evidence lower bound of one batch."""
        graph = batch[1]
        mu, log_std = self.encode(graph)
        z = mu
        if self.training:
            generator = self._generator()
            if self.variational:
                z = mu + log_std.exp() * torch.empty_like(mu).normal_(generator=generator)
            if self.dropout:
                keep = torch.empty_like(mu).bernoulli_(1.0 - self.dropout, generator=generator)
                z = z * keep / (1.0 - self.dropout)
        values = self._losses(self.decode(z), graph, mu, log_std)
        self.log_dict(
            {f"train/{k}": v for k, v in values.items()}, on_step=False, on_epoch=True, batch_size=len(graph.ops)
        )
        return values["loss"]

    def _losses(self, decoded: Decoded, graph: CellGraph, mu: Tensor, log_std: Tensor) -> dict[str, Tensor]:
        reference = self.mode == "reference"
        ops_loss, adjacency_loss = reconstruction_loss(decoded, graph, averaged=reference)
        kl = kl_divergence(mu, log_std) if self.variational else mu.new_zeros(())
        loss = ops_loss + adjacency_loss + (1 / graph.ops.numel() if reference else self.kl_weight) * kl
        return {"loss": loss, "ops_loss": ops_loss, "adjacency_loss": adjacency_loss, "kl": kl}

    def _generator(self) -> torch.Generator:
        entropy = np.random.SeedSequence((self.seed, self.global_step, self.global_rank)).generate_state(1, np.uint64)
        return torch.Generator(self.device).manual_seed(int(entropy[0]) >> 1)

    def on_train_epoch_start(self) -> None:
        """The released code switches to evaluation mode after its first epoch and never back."""
        if self.mode == "reference" and self.current_epoch > 0:
            self.eval()

    def validation_step(self, batch: tuple[Tensor, CellGraph], batch_idx: int) -> None:
        """Losses and accuracies of decoding z = mu, of whole graphs and, as published, of single entries.

        A whole graph is right when all its arcs are, and the labels of all vertices that are no padding; an arc from or
        to padding is wrong.
        """
        graph = batch[1]
        mu, log_std = self.encode(graph)
        decoded = self.decode(mu)
        guess = self.discretise(decoded)
        real = graph.ops >= 0
        right_ops, right_arcs = (guess.ops == graph.ops) | ~real, guess.adjacency == graph.adjacency
        upper = torch.ones_like(right_arcs[0]).triu(diagonal=1)
        values = {
            "loss": self._losses(decoded, graph, mu, log_std)["loss"],
            "graph_accuracy": (right_ops.all(dim=1) & right_arcs.flatten(1).all(dim=1)).float().mean(),
            "ops_accuracy": right_ops[real].float().mean(),
            "adjacency_accuracy": right_arcs[:, upper].float().mean(),
            # As published, with padded vertices, whose all-zero rows count as the label "input".
            "ops_accuracy_published": (guess.ops == graph.ops.clamp_min(0)).float().mean(),
        }
        for name, value in values.items():
            on_bar = name == "graph_accuracy"
            self.log(f"val/{name}", value, prog_bar=on_bar, batch_size=len(graph.ops), sync_dist=True)

    test_step = validation_step

    def predict_step(self, batch: tuple[Tensor, CellGraph], batch_idx: int) -> tuple[Tensor, Tensor]:
        """Index and embedding of every cell of the batch."""
        return batch[0], self.embed(batch[1])

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One optimiser for all parameters, and its schedule, step by step."""
        optimizer = self.optimizer(self.parameters())
        if self.schedule == "constant":
            return optimizer
        total = self.trainer.estimated_stepping_batches
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: one_cycle(step, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
