"""NAO and SemiNAS: accuracies read off a sequence autoencoder (arXiv 1808.07233, arXiv 2002.10389)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import LongTensor, Tensor, nn

from lightning_nas.errors import UsageError
from lightning_nas.nn.seq2seq import dropped
from lightning_nas.predictors.predictor import Regression, RegressionPredictor
from lightning_nas.predictors.sequence_training import Autoencoder, SequenceTraining, seeded
from lightning_nas.predictors.targets import Target
from lightning_nas.spaces.base import FiniteSpace
from lightning_nas.spaces.sequences import GraphSequence, SequenceEncoding


class NAONetworks(Autoencoder):
    """An autoencoder with a perceptron that reads the accuracy off the embedding.

    Args:
        num_tokens: Size of the vocabulary.
        hidden_dim: Width of encoder and decoder, D.
        head_dim: Width of the perceptron's hidden layer.
        dropout: Share of the tokens' embeddings, and of the perceptron's values, that are zeroed in training.
    """

    def __init__(self, num_tokens: int, hidden_dim: int, head_dim: int, dropout: float) -> None:
        super().__init__(num_tokens, hidden_dim, dropout)
        self.dropout = dropout
        self.layers = nn.ModuleList([nn.Linear(hidden_dim, head_dim), nn.Linear(head_dim, hidden_dim)])
        self.readout = nn.Linear(hidden_dim, 1)

    def value(self, embedding: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Accuracy, in the unit of the targets, ``(B, D)`` -> ``(B,)``; dropout only with a generator."""
        hidden = embedding
        for layer in self.layers:
            hidden = dropped(torch.relu(layer(hidden)), self.dropout, generator)
        value: Tensor = self.readout(math.sqrt(0.5) * (embedding + hidden))[:, 0]
        return value

    @torch.no_grad()
    def values(self, tokens: Tensor) -> Tensor:
        """Accuracies of sequences, without dropout, ``(n, L)`` -> ``(n,)``."""
        return self.value(self.embed(tokens))


class NAO(RegressionPredictor):
    """Neural architecture optimisation: an LSTM autoencoder whose embedding also has to tell the accuracy.

    Sizes and training are those of NASLib, with which the published comparisons were made; the authors trained 20 times
    as long.

    Args:
        hidden_dim: Width of encoder and decoder.
        head_dim: Width of the perceptron that reads the accuracy.
        training: How the networks are trained.
        dropout: Share of embeddings and of the perceptron's values that are zeroed in training.
        trade_off: Weight of the squared error of the accuracies; the tokens' likelihood has the rest.
        target: What is learnt instead of the accuracies themselves; default: standardised ones.
        encoding: How architectures become sequences; default ``GraphSequence``.
    """

    def __init__(
        self,
        hidden_dim: int = 64,
        head_dim: int = 16,
        training: SequenceTraining | None = None,
        dropout: float = 0.1,
        trade_off: float = 0.8,
        target: Target | None = None,
        encoding: SequenceEncoding | None = None,
    ) -> None:
        super().__init__(target)
        if min(hidden_dim, head_dim) < 1 or not 0.0 <= dropout < 1.0 or not 0.0 <= trade_off <= 1.0:
            raise UsageError(
                f"{type(self).__name__}(hidden_dim={hidden_dim}, head_dim={head_dim}, dropout={dropout}, "
                f"trade_off={trade_off}): expected positive sizes, dropout in [0, 1) and trade_off in [0, 1]"
            )
        self.hidden_dim, self.head_dim, self.dropout, self.trade_off = hidden_dim, head_dim, dropout, trade_off
        self.training, self.encoding = training or SequenceTraining(), encoding or GraphSequence()

    def regression(self, space: FiniteSpace[Any], members: LongTensor, targets: Tensor, seed: int) -> Regression:
        """Train the networks on likelihood and accuracy together."""
        tokens = self.encoding.tokens(space, members)
        with seeded(seed) as generator:
            networks = NAONetworks(self.encoding.sizes(space)[0], self.hidden_dim, self.head_dim, self.dropout)
            self._train(networks, tokens, targets.float(), generator)
            self._go_on(networks, space, tokens, targets.float(), generator)
        return _Read(space, self.encoding, networks)

    def _train(self, networks: NAONetworks, tokens: Tensor, targets: Tensor, generator: torch.Generator) -> None:
        def loss(places: Tensor) -> Tensor:
            embedding, likelihood = networks.read(tokens[places], generator)
            error = (networks.value(embedding, generator) - targets[places]).square().mean()
            return self.trade_off * error + (1.0 - self.trade_off) * likelihood

        self.training.run(networks, len(tokens), loss, generator)

    def _go_on(
        self,
        networks: NAONetworks,
        space: FiniteSpace[Any],
        tokens: Tensor,
        targets: Tensor,
        generator: torch.Generator,
    ) -> None:
        """Whatever follows the training on known architectures (nothing)."""


class _Read(Regression):
    def __init__(self, space: FiniteSpace[Any], encoding: SequenceEncoding, networks: NAONetworks) -> None:
        self.space, self.encoding, self.networks = space, encoding, networks

    def __call__(self, members: LongTensor) -> Tensor:
        return self.networks.values(self.encoding.tokens(self.space, members)).double()

    def value(self, embedding: Tensor) -> Tensor:
        """What the perceptron reads off embeddings, with gradients, ``(B, D)`` -> ``(B,)``."""
        return self.networks.value(embedding)


class SemiNAS(NAO):
    """NAO that goes on to learn from its own predictions for random architectures beside the known accuracies.

    Args:
        hidden_dim: Width of encoder and decoder.
        head_dim: Width of the perceptron that reads the accuracy.
        training: How the networks are trained, in both parts.
        dropout: Share of embeddings and of the perceptron's values that are zeroed in training.
        trade_off: Weight of the squared error of the accuracies; the tokens' likelihood has the rest.
        target: What is learnt instead of the accuracies themselves; default: standardised ones.
        encoding: How architectures become sequences; default ``GraphSequence``.
        num_unlabelled: Random architectures for each known one.
        repeats: How often known architectures are seen for each time that the others are.
    """

    def __init__(
        self,
        hidden_dim: int = 64,
        head_dim: int = 16,
        training: SequenceTraining | None = None,
        dropout: float = 0.1,
        trade_off: float = 0.8,
        target: Target | None = None,
        encoding: SequenceEncoding | None = None,
        num_unlabelled: float = 1.0,
        repeats: int = 10,
    ) -> None:
        super().__init__(hidden_dim, head_dim, training, dropout, trade_off, target, encoding)
        if num_unlabelled <= 0 or repeats < 1:
            raise UsageError(f"SemiNAS(num_unlabelled={num_unlabelled}, repeats={repeats}): expected positive numbers")
        self.num_unlabelled, self.repeats = num_unlabelled, repeats

    def _go_on(
        self,
        networks: NAONetworks,
        space: FiniteSpace[Any],
        tokens: Tensor,
        targets: Tensor,
        generator: torch.Generator,
    ) -> None:
        count = min(len(space), max(1, round(self.num_unlabelled * len(tokens))))
        rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
        others = self.encoding.tokens(space, torch.from_numpy(rng.choice(len(space), count, replace=False)))  # type: ignore[arg-type]
        guesses = networks.values(others)
        together = (
            torch.cat([tokens.repeat(self.repeats, 1), others]),
            torch.cat([targets.repeat(self.repeats), guesses]),
        )
        self._train(networks, *together, generator)
