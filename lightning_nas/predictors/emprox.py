"""EmProx: accuracies of the nearest neighbours in the embedding of a sequence autoencoder (Franken et al.)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import LongTensor, Tensor

from lightning_nas.errors import UsageError
from lightning_nas.predictors.predictor import Regression, RegressionPredictor
from lightning_nas.predictors.sequence_training import Autoencoder, SequenceTraining, seeded
from lightning_nas.predictors.targets import Target
from lightning_nas.spaces.base import FiniteSpace
from lightning_nas.spaces.sequences import GraphSequence, SequenceEncoding

_SOFT = 0.1  # added to distances for a gradient; much less, and a known architecture sees nothing but itself
_EXACT = 1e-6  # unit vectors at this distance are the same in float32


class EmProx(RegressionPredictor):
    """Mean accuracy of the k nearest known architectures, weighted by the inverse of their distance.

    Distances are those of the embeddings of :class:`~lightning_nas.modules.sequence_autoencoder.SequenceAutoencoder`,
    which is trained on the known architectures alone and never sees their accuracies.

    ``mode="reference"`` has the released code's pool of known embeddings: not those of the trained encoder, but all
    that went through it in training, with dropout, as many of each architecture as there were epochs; k counts these.

    Args:
        hidden_dim: Dimensions of the embedding. (The paper says 128 and finds 32 best.)
        num_neighbors: Neighbours k; all, where fewer are known. The paper has 10 for errors, 60 for ranks.
        training: How the autoencoder is trained; with ``num_epochs: 0`` the encoder stays as it was made.
        dropout: Share of the tokens' embeddings that are zeroed in training.
        mode: ``paper`` or ``reference`` (see above).
        encoding: How architectures become sequences; default ``GraphSequence``.
        target: What is averaged instead of the accuracies themselves; default: standardised ones.
    """

    def __init__(
        self,
        hidden_dim: int = 32,
        num_neighbors: int = 10,
        training: SequenceTraining | None = None,
        dropout: float = 0.1,
        mode: Literal["paper", "reference"] = "paper",
        encoding: SequenceEncoding | None = None,
        target: Target | None = None,
    ) -> None:
        super().__init__(target)
        if min(hidden_dim, num_neighbors) < 1 or not 0.0 <= dropout < 1.0 or mode not in ("paper", "reference"):
            raise UsageError(
                f"EmProx(hidden_dim={hidden_dim}, num_neighbors={num_neighbors}, dropout={dropout}, mode={mode!r}): "
                "expected positive numbers, dropout in [0, 1) and mode 'paper' or 'reference'"
            )
        self.training = training or SequenceTraining()
        if mode == "reference" and self.training.num_epochs == 0:
            raise UsageError("EmProx(mode='reference'): got num_epochs=0, expected 1 or more: its pool is made by them")
        self.hidden_dim, self.num_neighbors, self.dropout = hidden_dim, num_neighbors, dropout
        self.mode, self.encoding = mode, encoding or GraphSequence()

    def regression(self, space: FiniteSpace[Any], members: LongTensor, targets: Tensor, seed: int) -> Regression:
        """Train the autoencoder, then keep the embeddings of what it knows."""
        tokens = self.encoding.tokens(space, members)
        seen: list[tuple[Tensor, Tensor]] = []
        with seeded(seed) as generator:
            networks = Autoencoder(self.encoding.sizes(space)[0], self.hidden_dim, self.dropout)

            def loss(places: Tensor) -> Tensor:
                embedding, likelihood = networks.read(tokens[places], generator)
                if self.mode == "reference":
                    seen.append((embedding.detach(), targets[places]))
                return likelihood

            self.training.run(networks, len(tokens), loss, generator)
        if self.mode == "paper":
            seen = [(networks.embed(tokens), targets)]
        known, values = (torch.cat(parts) for parts in zip(*seen, strict=True))
        return _Neighbors(space, self.encoding, networks, known, values, self.num_neighbors)


class _Neighbors(Regression):
    def __init__(
        self,
        space: FiniteSpace[Any],
        encoding: SequenceEncoding,
        networks: Autoencoder,
        known: Tensor,
        values: Tensor,
        num_neighbors: int,
    ) -> None:
        self.space, self.encoding, self.networks, self.known, self.values = space, encoding, networks, known, values
        self.num_neighbors = num_neighbors

    def __call__(self, members: LongTensor) -> Tensor:
        embeddings = self.networks.embed(self.encoding.tokens(self.space, members))
        # Without the usual detour over squares, which leaves nothing of small distances.
        distances = torch.cdist(embeddings, self.known, compute_mode="donot_use_mm_for_euclid_dist")
        return neighbors_mean(distances, self.values, self.num_neighbors)

    def value(self, embedding: Tensor) -> Tensor:
        """A smooth relative: all known ones, weighted by the inverse of their distance, ``(B, D)`` -> ``(B,)``."""
        distances = torch.cdist(embedding, self.known, compute_mode="donot_use_mm_for_euclid_dist")
        weights = 1.0 / (distances + _SOFT)
        return (weights * self.values.to(weights)).sum(dim=1) / weights.sum(dim=1)


def neighbors_mean(distances: Tensor, values: Tensor, num_neighbors: int) -> Tensor:
    """Mean of the values of the nearest, weighted by inverse distances.

    Where some are at no distance at all, their plain mean. Fewer known ones than asked for all count.

    Shapes:
        distances ``(m, n)``, values ``(n,)`` -> ``(m,)`` float64.
    """
    nearest, places = distances.double().topk(min(num_neighbors, distances.shape[1]), largest=False)
    found = values.double()[places]  # (m, k)
    exact = distances <= _EXACT
    # Of exact matches all count, even more than k of them.
    weights = 1.0 / nearest.clamp_min(_EXACT)
    mean = (weights * found).sum(dim=1) / weights.sum(dim=1)
    same = (exact * values.double()).sum(dim=1) / exact.sum(dim=1).clamp_min(1)
    return torch.where(exact.any(dim=1), same, mean)
