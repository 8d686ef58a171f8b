"""Training of sequence to sequence networks on a few labelled architectures, as NAO, SemiNAS and EmProx do it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_nas.errors import UsageError
from lightning_nas.nn.seq2seq import SequenceDecoder, SequenceEncoder

_CHUNK = 2048  # sequences embedded at a time


@dataclass(frozen=True)
class SequenceTraining:
    """How the networks are trained; the defaults are those of EmProx and of NASLib's NAO.

    Args:
        num_epochs: Passes over the architectures.
        batch_size: Architectures per step; the last, smaller batch counts, too.
        learning_rate: Of Adam.
        weight_decay: Of Adam.
        clip: Largest norm of a step's gradient.
    """

    num_epochs: int = 50
    batch_size: int = 100
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    clip: float = 5.0

    def __post_init__(self) -> None:
        if self.num_epochs < 0 or self.batch_size < 1 or min(self.learning_rate, self.clip) <= 0:
            raise UsageError(f"{self}: expected positive numbers (num_epochs may be 0)")

    def run(self, networks: nn.Module, size: int, loss: Callable[[Tensor], Tensor], generator: torch.Generator) -> None:
        """Minimise a loss.

        Args:
            networks: What learns.
            size: Number of architectures n.
            loss: Of a batch, given the places of its architectures in 0 … n - 1, ``(b,)``.
            generator: Draws the order of the architectures.
        """
        parameters = list(networks.parameters())
        optimizer = torch.optim.Adam(parameters, self.learning_rate, weight_decay=self.weight_decay, fused=True)
        for _ in range(self.num_epochs):
            for places in torch.randperm(size, generator=generator).split(self.batch_size):  # type: ignore[no-untyped-call]
                optimizer.zero_grad()
                with torch.enable_grad():
                    loss(places).backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(parameters, self.clip)
                optimizer.step()


class Autoencoder(nn.Module):
    """Encoder and decoder of one space's architectures.

    Args:
        num_tokens: Size of the vocabulary.
        hidden_dim: Width of everything.
        dropout: Share of the tokens' embeddings that are zeroed in training.
    """

    def __init__(self, num_tokens: int, hidden_dim: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.encoder = SequenceEncoder(num_tokens, hidden_dim, dropout)
        self.decoder = SequenceDecoder(num_tokens, hidden_dim, dropout)

    def read(self, tokens: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Embedding with dropout, ``(B, D)``, and the mean negative log-likelihood of the tokens."""
        steps, embedding = self.encoder(tokens, generator)
        logits = self.decoder(tokens, steps, embedding, generator)
        return embedding, F.cross_entropy(logits.flatten(0, 1), tokens.flatten())

    @torch.no_grad()
    def embed(self, tokens: Tensor) -> Tensor:
        """Embeddings without dropout, ``(n, L)`` -> ``(n, D)``."""
        return torch.cat([self.encoder(part)[1] for part in tokens.split(_CHUNK)])  # type: ignore[no-untyped-call]


@contextmanager
def seeded(seed: int) -> Iterator[torch.Generator]:
    """Fresh weights and random numbers that depend on the seed alone; torch's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield torch.Generator().manual_seed(seed)
