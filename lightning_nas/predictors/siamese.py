"""The siamese graph network of RANK-NOSH (arXiv 2108.08019) as a performance predictor."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import LongTensor, Tensor

from lightning_nas.errors import UsageError
from lightning_nas.modules.pairwise_ranker import Loss, PairwiseRanker, pair_loss, take_pretrained
from lightning_nas.nn.pairs import Standings, compare
from lightning_nas.predictors.predictor import FittedPredictor, Predictor, Regression
from lightning_nas.predictors.sequence_training import seeded
from lightning_nas.predictors.targets import Transform, interpolate
from lightning_nas.spaces.base import CellGraph, FiniteSpace
from lightning_nas.spaces.encodings import Encoding
from lightning_nas.spaces.functional import live_graphs

_BEYOND = 1e-3  # points for a unit of score beyond the known ones: enough to keep the order


class SiameseRanking(Predictor):
    """Trains :class:`~lightning_nas.modules.pairwise_ranker.PairwiseRanker` on pairs of known architectures.

    A step takes some architectures and all pairs among them: each passes through the network once, however many pairs
    it is in. The scores of several networks are averaged. Scores are in no unit: the predicted accuracy is that of the
    known architecture which scores alike, interpolated.

    Args:
        latent_dim: Dimensions of the embedding.
        hidden_dim: Width of the GIN layers.
        num_layers: GIN layers.
        head_dim: Width of the perceptron that scores embeddings.
        loss: ``logistic`` or ``hinge`` loss of a pair.
        margin: Difference of scores from which on the hinge loss is zero.
        noise: Accuracies that differ by less make no pair; percentage points.
        num_epochs: Passes over the architectures.
        batch_size: Architectures per step; the last, smaller batch counts, too, unless it is a single one.
        learning_rate: Of Adam, falling to 0 along half a cosine.
        weight_decay: Of Adam.
        features: What the perceptron sees beside the embedding; none by default.
        live: Show the network only what carries a signal (:func:`~lightning_nas.spaces.functional.live_graphs`): cells
            that compute the same look more alike.
        pretrained: Run folder or checkpoint whose encoder is the first one: of Arch2Vec, or of a ranker that was
            trained on accuracies of other images.
        num_members: Networks, which differ in their first weights and batches.
    """

    def __init__(
        self,
        latent_dim: int = 16,
        hidden_dim: int = 128,
        num_layers: int = 4,
        head_dim: int = 64,
        loss: Loss = "logistic",
        margin: float = 0.1,
        noise: float = 0.1,
        num_epochs: int = 100,
        batch_size: int = 64,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-4,
        features: Encoding | None = None,
        pretrained: str | None = None,
        num_members: int = 1,
        live: bool = True,
    ) -> None:
        if min(num_epochs, batch_size - 1, num_members) < 1 or learning_rate <= 0 or min(noise, weight_decay) < 0:
            raise UsageError(
                f"SiameseRanking(num_epochs={num_epochs}, batch_size={batch_size}, num_members={num_members}, "
                f"learning_rate={learning_rate}, noise={noise}, weight_decay={weight_decay}): expected positive "
                "numbers, batch_size of 2 or more; noise and weight_decay may be 0"
            )
        self.latent_dim, self.hidden_dim, self.num_layers, self.head_dim = latent_dim, hidden_dim, num_layers, head_dim
        self.loss: Loss = loss
        self.margin, self.noise = margin, noise
        self.num_epochs, self.batch_size = num_epochs, batch_size
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.features, self.pretrained, self.num_members, self.live = features, pretrained, num_members, live

    def fit(self, space: FiniteSpace[Any], members: LongTensor, accuracies: Tensor, seed: int = 0) -> FittedPredictor:
        """Train all networks on the pairs of known architectures."""
        seen = _Seen(space, self.features, members, self.live)
        wins = compare(Standings.at_one_level(accuracies.double()[None]), self.noise).wins[0]
        modules = [
            self._trained(space, seen, members, wins, seed + 7919 * number) for number in range(self.num_members)
        ]
        regression = _Scores(seen, modules)
        return FittedPredictor(regression, _AlikeAccuracies(regression(members), accuracies.double()))

    def _trained(
        self, space: FiniteSpace[Any], seen: _Seen, members: LongTensor, wins: Tensor, seed: int
    ) -> PairwiseRanker:
        graphs, features = seen(members)
        with seeded(seed) as generator, torch.enable_grad():
            module = PairwiseRanker(
                len(space.vertex_labels), self.latent_dim, self.hidden_dim, self.num_layers, self.head_dim,
                features.shape[1], self.loss, self.margin,
            )  # fmt: skip
            if self.pretrained is not None:
                take_pretrained(module, Path(self.pretrained))
            optimizer = torch.optim.Adam(
                module.parameters(), self.learning_rate, weight_decay=self.weight_decay, fused=True
            )
            for epoch in range(self.num_epochs):
                for group in optimizer.param_groups:
                    group["lr"] = self.learning_rate * (0.5 + 0.5 * math.cos(math.pi * epoch / self.num_epochs))
                order = torch.randperm(len(members), generator=generator)
                for rows in order.split(self.batch_size):  # type: ignore[no-untyped-call]
                    better, worse = wins[rows][:, rows].nonzero(as_tuple=True)
                    if not len(better):  # a single one, or all alike
                        continue
                    scores = module(CellGraph(graphs.ops[rows], graphs.adjacency[rows]), features[rows])
                    loss = pair_loss(scores[better] - scores[worse], self.loss, self.margin).mean()
                    optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
        return module.eval()


class _Seen:
    """Graphs of a space's members, and their features in units of the spread over known ones."""

    def __init__(self, space: FiniteSpace[Any], encoding: Encoding | None, known: LongTensor, live: bool) -> None:
        self.space, self.encoding, self.live = space, encoding, live
        if encoding is not None:
            features = encoding.encode_members(space, known)
            self.centre, self.spread = features.mean(dim=0), features.std(dim=0, correction=0)

    def __call__(self, members: LongTensor) -> tuple[CellGraph, Tensor]:
        graphs = live_graphs(self.space, members) if self.live else self.space.graphs_at(members)
        if self.encoding is None:
            return graphs, torch.empty(len(members), 0)
        features = self.encoding.encode_members(self.space, members)
        # What is the same in all known architectures has no unit, and a network has learnt nothing about it.
        return graphs, torch.where(self.spread > 0, (features - self.centre) / self.spread.clamp_min(1e-6), 0.0)


class _Scores(Regression):
    def __init__(self, seen: _Seen, modules: list[PairwiseRanker]) -> None:
        self.seen, self.modules = seen, modules

    def __call__(self, members: LongTensor) -> Tensor:
        graphs, features = self.seen(members)
        return torch.stack([module.scores(graphs, features) for module in self.modules]).double().mean(dim=0)


class _AlikeAccuracies(Transform):
    """From scores to accuracies by the known architectures: the k-th score stands for the k-th accuracy.

    What scores beyond all known ones hardly exceeds their accuracies: a score has no unit to extend them by.
    """

    def __init__(self, scores: Tensor, accuracies: Tensor) -> None:
        self.knots, first = torch.unique(scores.sort().values, return_inverse=True)
        ordered = accuracies.sort().values
        total = torch.zeros_like(self.knots).index_add_(0, first, ordered)
        self.values = total / torch.bincount(first)

    def forward(self, accuracies: Tensor) -> Tensor:
        raise NotImplementedError("scores are learnt from pairs, not from accuracies")

    def backward(self, values: Tensor) -> Tensor:
        inside = values.double().clamp(float(self.knots[0]), float(self.knots[-1]))
        return interpolate(inside, self.knots, self.values) + _BEYOND * (values.double() - inside)
