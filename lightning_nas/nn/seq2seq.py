"""Sequence to sequence networks of architectures: LSTM encoder and attentive decoder (NAO, arXiv 1808.07233)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import LongTensor, Tensor, nn

_HALF = math.sqrt(0.5)


def dropped(values: Tensor, probability: float, generator: torch.Generator | None) -> Tensor:
    """Dropout with random numbers of one's own; nothing is dropped without a generator."""
    if generator is None or probability == 0.0:
        return values
    # Four times faster than bernoulli_ with a generator.
    uniform = torch.rand(values.shape, generator=generator, device=values.device, dtype=values.dtype)
    return values * (uniform >= probability).to(values.dtype).div_(1.0 - probability)


class SequenceEncoder(nn.Module):
    """One bidirectional LSTM layer; every step keeps its token's embedding and has length one.

    Args:
        num_tokens: Size of the vocabulary, N.
        dim: Width of everything, D.
        dropout: Share of the tokens' embeddings that are zeroed in training.

    Shapes:
        tokens ``(B, L)`` -> steps ``(B, L, D)`` and embeddings ``(B, D)``, all of length one.
    """

    def __init__(self, num_tokens: int, dim: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.dropout = dropout
        self.tokens = nn.Embedding(num_tokens, dim)
        self.lstm = nn.LSTM(dim, dim, batch_first=True, bidirectional=True)
        self.project = nn.Linear(2 * dim, dim)

    def forward(self, tokens: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Steps and embedding; dropout only with a generator."""
        inputs = dropped(self.tokens(tokens), self.dropout, generator)
        hidden, _ = self.lstm(inputs)  # (B, L, 2D)
        steps = F.normalize(inputs + self.project(hidden), dim=-1)
        return steps, self.pool(steps)

    @staticmethod
    def pool(steps: Tensor) -> Tensor:
        """Their mean, made one long, ``(B, L, D)`` -> ``(B, D)``: it forgets where each step stood."""
        return F.normalize(steps.mean(dim=1), dim=-1)


class SequenceDecoder(nn.Module):
    """One LSTM layer that begins with the embedding and attends to the encoder's steps.

    Args:
        num_tokens: Size of the vocabulary, N; token 0 begins a sequence.
        dim: Width of everything, D.
        dropout: Share of the tokens' embeddings that are zeroed in training.

    Shapes:
        tokens ``(B, L)``, steps ``(B, L, D)``, embeddings ``(B, D)`` -> logits ``(B, L, N)``.
    """

    def __init__(self, num_tokens: int, dim: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.dropout = dropout
        self.tokens = nn.Embedding(num_tokens, dim)
        self.lstm = nn.LSTM(dim, dim, batch_first=True)
        self.query = nn.Linear(dim, dim, bias=False)
        self.combine = nn.Linear(2 * dim, dim, bias=False)
        self.logits = nn.Linear(dim, num_tokens)

    def forward(
        self, tokens: Tensor, steps: Tensor, embedding: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Logits of every token given the right ones before it (teacher forcing); dropout only with a generator."""
        before = dropped(self.tokens(F.pad(tokens[:, :-1], (1, 0))), self.dropout, generator)
        return self._read(before, steps, (embedding[None], embedding[None]))[0]

    def _read(
        self, inputs: Tensor, steps: Tensor, state: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        hidden, state = self.lstm(inputs, state)
        hidden = _HALF * (inputs + hidden)
        weights = (self.query(hidden) @ steps.mT).softmax(dim=-1)  # (B, L, L)
        context = torch.cat([weights @ steps, hidden], dim=-1)
        hidden = _HALF * (hidden + torch.tanh(self.combine(context)))
        return self.logits(hidden), state

    @torch.no_grad()
    def write(self, steps: Tensor, embedding: Tensor, allowed: Tensor) -> LongTensor:
        """The most probable token at every place, one after the other.

        Args:
            steps: The encoder's, or others of their kind.
            embedding: What they pool to.
            allowed: Which tokens may stand at each place, ``(L, N)`` bool.

        Shapes:
            ``(B, L, D)``, ``(B, D)`` -> ``(B, L)``.
        """
        state = embedding[None].contiguous(), embedding[None].contiguous()
        token = torch.zeros(len(steps), 1, dtype=torch.long, device=steps.device)
        written = []
        for place in allowed:
            logits, state = self._read(self.tokens(token), steps, state)
            token = logits.masked_fill(~place, -torch.inf).argmax(dim=-1)
            written.append(token)
        return torch.cat(written, dim=1)  # type: ignore[return-value]
