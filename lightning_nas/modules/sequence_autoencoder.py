"""Autoencoder of architectures as sequences (EmProx, Franken et al.; encoder and decoder of NAO, arXiv 1808.07233)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import OptimizerCallable
from torch import LongTensor, Tensor

from lightning_nas.errors import UsageError
from lightning_nas.nn.seq2seq import SequenceDecoder, SequenceEncoder
from lightning_nas.spaces.base import CellGraph
from lightning_nas.spaces.sequences import tokens_of, vocabulary_size


def token_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    """Mean negative log-likelihood of all tokens, padding included, ``(B, L, N)``, ``(B, L)`` -> scalar."""
    return F.cross_entropy(logits.flatten(0, 1), tokens.flatten())


class SequenceAutoencoder(LightningModule):
    """Embeds cells by an LSTM that reads them token by token, trained to write them again; accuracies play no part.

    A cell is read as :func:`~lightning_nas.spaces.sequences.tokens_of` has it. The embedding is a vector of length one.
    The paper trains on as few cells as there are accuracies (121) for 50 epochs, and omits most of what the released
    code has and this follows: both directions, the residual of the tokens' embeddings, steps of length one.

    Args:
        num_ops: Vertex labels of the space K (linked from the data).
        num_vertices: Vertices V of a cell (linked from the data).
        hidden_dim: Width of encoder and decoder, and dimensions D of the embedding.
        dropout: Share of the tokens' embeddings that are zeroed in training.
        optimizer: Optimiser; default Adam with learning rate 1e-3 and weight decay 1e-4.
        seed: Seed of dropout; draws depend on (seed, step, rank) alone, so training resumes exactly.

    Shapes:
        A batch is ``(index (B,), CellGraph)``; embeddings are ``(B, D)``.

    Example:
        >>> from lightning_nas.spaces.nasbench201 import NASBench201
        >>> space = NASBench201()
        >>> module = SequenceAutoencoder(len(space.vertex_labels), space.num_vertices).eval()
        >>> graph = space.graph(space[0])
        >>> module.embed(CellGraph(graph.ops[None], graph.adjacency[None])).shape
        torch.Size([1, 32])
    """

    method = "SequenceAutoencoder"

    def __init__(
        self,
        num_ops: int,
        num_vertices: int,
        hidden_dim: int = 32,
        dropout: float = 0.1,
        optimizer: OptimizerCallable | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if min(num_ops, num_vertices - 1, hidden_dim) < 1 or not 0.0 <= dropout < 1.0:
            raise UsageError(
                f"SequenceAutoencoder(num_ops={num_ops}, num_vertices={num_vertices}, hidden_dim={hidden_dim}, "
                f"dropout={dropout}): expected positive sizes, two vertices or more, and dropout in [0, 1)"
            )
        self.save_hyperparameters(ignore=["optimizer"])
        self.optimizer, self.seed = optimizer, seed
        num_tokens = vocabulary_size(num_ops)
        self.encoder = SequenceEncoder(num_tokens, hidden_dim, dropout)
        self.decoder = SequenceDecoder(num_tokens, hidden_dim, dropout)

    def embed(self, graph: CellGraph) -> Tensor:
        """Embedding of cells, ``(B, D)``."""
        embedding: Tensor = self.encoder(tokens_of(graph))[1]
        return embedding

    def _loss(self, tokens: LongTensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        steps, embedding = self.encoder(tokens, generator)
        logits = self.decoder(tokens, steps, embedding, generator)
        return token_loss(logits, tokens), logits

    def training_step(self, batch: tuple[Tensor, CellGraph], batch_idx: int) -> Tensor:
        """Likelihood of the right token at every place, given those before."""
        tokens = tokens_of(batch[1])
        loss, _ = self._loss(tokens, self._generator() if self.training else None)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(tokens))
        return loss

    def _generator(self) -> torch.Generator:
        entropy = np.random.SeedSequence((self.seed, self.global_step, self.global_rank)).generate_state(1, np.uint64)
        return torch.Generator(self.device).manual_seed(int(entropy[0]) >> 1)

    def validation_step(self, batch: tuple[Tensor, CellGraph], batch_idx: int) -> None:
        """Loss, and the shares of tokens and of whole sequences that are right, each token given those before."""
        tokens = tokens_of(batch[1])
        loss, logits = self._loss(tokens)
        right = logits.argmax(dim=-1) == tokens
        values = {
            "loss": loss,
            "token_accuracy": right.float().mean(),
            "sequence_accuracy": right.all(dim=1).float().mean(),
        }
        for name, value in values.items():
            on_bar = name == "token_accuracy"
            self.log(f"val/{name}", value, prog_bar=on_bar, batch_size=len(tokens), sync_dist=True)

    test_step = validation_step

    def predict_step(self, batch: tuple[Tensor, CellGraph], batch_idx: int) -> tuple[Tensor, Tensor]:
        """Index and embedding of every cell of the batch."""
        return batch[0], self.embed(batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One optimiser for all parameters."""
        parameters = self.parameters()
        if self.optimizer is not None:
            return self.optimizer(parameters)
        return torch.optim.Adam(parameters, lr=1e-3, weight_decay=1e-4)
