"""The supervised counterpart of arch2vec: its encoder, trained on the scores themselves."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
import torch
from botorch.models.model import Model
from torch import Tensor

from lightning_nas.errors import UsageError
from lightning_nas.nn.shared_gin import (
    FrozenGIN,
    GINShape,
    RunParameters,
    SharedGraphs,
    Statistics,
    draw_uniform,
    gin,
    share_vertices,
)
from lightning_nas.predictors.surrogate import LinearModel, select_by_evidence, standardise

# Numbers of colours are rounded up to these, so that runs of about one size are trained as one batch: what a run's rows
# are padded to depends on the run alone, and so does, to the last bit, its network.
_SIZES = torch.tensor([size for power in range(3, 20) for size in (2**power, 3 * 2 ** (power - 1))])

_REMEMBERED = 2**28
"""Bytes of candidates' graphs that a surrogate keeps."""


class SupervisedGIN:
    """arch2vec's encoder trained on scores, then Bayesian linear regression on its output (arXiv 2006.06936, Sec. 4).

    Graph isomorphism layers, a linear map, the mean over vertices and tanh give the features of a cell, another linear
    map its score. One network per run, made anew for every fit; all runs are trained together. Vertices that look alike
    to the network are computed once (see :class:`~lightning_nas.nn.shared_gin.SharedGraphs`). The regression replaces
    the last map; its prior and noise maximise the evidence over a grid. The candidates are normalised with the
    statistics of the evaluations, so that a prediction does not depend on what else is predicted, as it does in the
    published code. Scores are standardised.

    The features must be those of :class:`~lightning_nas.spaces.encodings.GraphEncoding`.

    Args:
        num_vertices: Vertices of the space's graphs: 7 for nasbench101, 8 for nasbench201, 11 for darts.
        latent_dim: Tanh features.
        hidden_dim: Width of the GIN layers.
        num_layers: GIN layers.
        num_epochs: Passes over the evaluations in each fit.
        batch_size: Evaluations per step of Adam, the last incomplete batch of an epoch left out; 0 for all of them.
        learning_rate: Of Adam.
        symmetric: Let vertices hear both their successors and their predecessors, as the unsupervised encoder does,
            instead of only their successors as published.
        noises: Grid of noise variances, as a share of the scores' variance.
        signals: Grid of prior variances of the features' weights times their number, in the same unit.

    Example:
        Train on 250 cells and predict the others (the comparison of the paper's Fig. 1)::

            X = GraphEncoding().encode(space)
            chosen = torch.randperm(len(space))[:250]
            everything = torch.ones(1, 250, dtype=torch.bool)
            model = SupervisedGIN(space.num_vertices).fit(X[chosen][None], y[chosen][None], everything, torch.zeros(1))
            posterior = model.posterior(X[:, None, None])       # (N, 1, 1, d): candidates one by one
            mean, variance = posterior.mean.flatten(), posterior.variance.flatten()

        Several runs at once: ``X (R, 250, d)``, ``seeds (R,)`` in [0, 1), ``X[:, None, None].expand(-1, R, 1, -1)``.
    """

    def __init__(
        self,
        num_vertices: int,
        latent_dim: int = 16,
        hidden_dim: int = 128,
        num_layers: int = 4,
        num_epochs: int = 100,
        batch_size: int = 10,
        learning_rate: float = 0.01,
        symmetric: bool = False,
        noises: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1),
        signals: tuple[float, ...] = (0.1, 1.0, 10.0, 100.0, 1000.0),
    ) -> None:
        sizes = num_vertices, latent_dim, hidden_dim, num_layers, num_epochs
        if min(sizes) < 1 or batch_size < 0 or min((learning_rate, *noises, *signals)) <= 0:
            raise UsageError(
                f"SupervisedGIN(num_vertices={num_vertices}, latent_dim={latent_dim}, hidden_dim={hidden_dim}, "
                f"num_layers={num_layers}, num_epochs={num_epochs}, batch_size={batch_size}, "
                f"learning_rate={learning_rate}, noises={noises}, signals={signals}): all must be positive, batch_size "
                "may be 0"
            )
        self.num_vertices, self.latent_dim, self.hidden_dim, self.num_layers = sizes[:4]
        self.num_epochs, self.batch_size, self.learning_rate = num_epochs, batch_size, learning_rate
        self.symmetric = symmetric
        self.noises, self.signals = tuple(noises), tuple(signals)
        self._merged: dict[bytes, SharedGraphs] = {}  # by a digest of the candidates

    def fit(self, X: Tensor, y: Tensor, observed: Tensor, seeds: Tensor) -> Model:
        """Condition on the evaluations so far (see :class:`~lightning_nas.search.bayesian.Surrogate`)."""
        target, location, scale = standardise(y, observed)
        labels, adjacency = self._graphs(X, observed)
        shape = self._shape(X)
        networks = RunParameters(self._initial(shape, seeds))
        for blocks in self._blocks(labels, adjacency, observed, target.float(), shape.num_labels + 1, seeds):
            for block in blocks:
                _train(networks, block, self.learning_rate)
        graphs = share_vertices(labels, adjacency, observed, self.num_layers, shape.num_labels + 1)
        with torch.no_grad():
            frozen, encoded = _freeze(networks.leaves()[:-2], graphs)
        features = torch.tanh(encoded).double() * observed[..., None]
        priors = tuple(signal / self.latent_dim for signal in self.signals)
        prior, noise = select_by_evidence(features, target, observed, priors, self.noises)
        return SupervisedGINModel(location.float(), scale.float(), features.float(), target, prior, noise, self, frozen)

    @staticmethod
    def _initial(shape: GINShape, seeds: Tensor) -> list[Tensor]:
        """First parameters of the encoder, then of the map to the score, ``(R, D, 1)`` and ``(R, 1, 1)``."""
        bound = shape.out_dim**-0.5
        return shape.initial(seeds) + draw_uniform([(shape.out_dim, 1), (1, 1)], [bound, bound], (seeds + 0.5) % 1.0)

    def _shape(self, X: Tensor) -> GINShape:
        num_labels, rest = divmod(X.shape[-1] - self.num_vertices**2, self.num_vertices)
        if rest or num_labels < 1:
            raise UsageError(
                f"SupervisedGIN(num_vertices={self.num_vertices}): got {X.shape[-1]} features, expected V*K + V*V of "
                "the encoding lightning_nas.spaces.encodings.GraphEncoding, V being the space's num_vertices"
            )
        return GINShape(num_labels, self.hidden_dim, self.num_layers, self.latent_dim)

    def _graphs(self, X: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
        """Labels, 0 for padding, ``(R, n, V)`` and who hears whom, ``(R, n, V, V)``; nothing where not observed."""
        V, K = self.num_vertices, self._shape(X).num_labels
        X = torch.where(observed[..., None], X, 0.0)
        one_hot = X[..., : V * K].view(*X.shape[:-1], V, K)
        if not bool(((X == 0) | (X == 1)).all()) or not bool((one_hot.sum(dim=-1) <= 1).all()):
            raise UsageError(
                "SupervisedGIN: got features that are not the graphs themselves; give the strategy the encoding "
                "lightning_nas.spaces.encodings.GraphEncoding"
            )
        labels = (one_hot @ torch.arange(1.0, K + 1, dtype=X.dtype)).long()
        adjacency = X[..., V * K :].view(*X.shape[:-1], V, V).bool()
        return labels, adjacency | adjacency.mT if self.symmetric else adjacency

    def merge(self, points: Tensor) -> SharedGraphs:
        """Graphs of q candidates of every run, ``(R, q, d)``."""
        everything = torch.ones(points.shape[:2], dtype=torch.bool)
        graphs = self._graphs(points, everything)
        return share_vertices(*graphs, everything, self.num_layers, self._shape(points).num_labels + 1)

    def merge_pool(self, points: Tensor) -> SharedGraphs:
        """Graphs of candidates, ``(c, d)``, as one group; remembered, since every query asks for the same ones."""
        key = blake2b(points.contiguous().numpy().data, digest_size=16).digest()
        graphs = self._merged.get(key)
        if graphs is None:
            graphs = self.merge(points[None])
            size = graphs.nbytes
            while self._merged and size + sum(known.nbytes for known in self._merged.values()) > _REMEMBERED:
                # Every other one, not the oldest: a pool too large to be remembered is gone through again and again.
                for old in list(self._merged)[::2]:
                    del self._merged[old]
            self._merged[key] = graphs
        return graphs

    def _blocks(
        self, labels: Tensor, adjacency: Tensor, observed: Tensor, target: Tensor, num_labels: int, seeds: Tensor
    ) -> Iterator[list[_Steps]]:
        """The steps of a few epochs at a time, for runs of one size together."""
        runs, length = observed.shape
        if not self.batch_size:  # batches of everything are always the same
            graphs = share_vertices(labels, adjacency, observed, self.num_layers, num_labels)
            once = torch.ones(runs, dtype=torch.long)
            same = _by_size(graphs, once, target[:, None], observed[:, None])
            yield [_Steps(*block[:3], self.num_epochs) for block in same]
            return
        batch = min(self.batch_size, length)
        number = (observed.sum(dim=1) // batch).clamp_min(1)  # steps of an epoch, (R,)
        most = int(number.max())
        every = torch.arange(runs)[:, None]
        rngs = [np.random.default_rng((int(seed * 2**53), 1)) for seed in seeds.tolist()]
        for start in range(0, self.num_epochs, _EPOCHS):
            epochs = min(_EPOCHS, self.num_epochs - start)
            draws = torch.from_numpy(np.stack([rng.random((epochs, length)) for rng in rngs]))
            # Those observed first, in random order; what is beyond a run's last full batch is left out.
            order = torch.where(observed[:, None], draws, 2.0).argsort(dim=2)[..., : most * batch]
            inside = torch.arange(most * batch) < number[:, None, None] * batch
            order = order.reshape(runs, -1)  # (R, epochs * most * batch)
            counted = observed[every, order] & inside.expand(-1, epochs, -1).reshape(runs, -1)
            graphs = share_vertices(
                torch.where(counted[..., None], labels[every, order], 0).view(-1, batch, self.num_vertices),
                (adjacency[every, order] & counted[..., None, None]).view(-1, batch, *adjacency.shape[2:]),
                counted.view(-1, batch), self.num_layers, num_labels,
            )  # fmt: skip
            shape = runs, epochs * most, batch
            yield _by_size(graphs, number, target[every, order].view(shape), counted.view(shape))


_EPOCHS = 10  # whose batches are prepared together


class _Steps(NamedTuple):
    """Steps of C runs whose batches are of one size.

    Attributes:
        runs: Which ones, ``(C,)``.
        graphs: Those of all steps, one step after the other: ``steps * C`` groups.
        scores: Target and weight of every graph, ``(steps * C, batch, 2)``.
        repeats: How often to go through all steps.
    """

    runs: Tensor
    graphs: SharedGraphs
    scores: Tensor
    repeats: int = 1


def _by_size(graphs: SharedGraphs, number: Tensor, targets: Tensor, counted: Tensor) -> list[_Steps]:
    """Runs with the same number of steps and of colours, rounded up.

    Args:
        graphs: Groups in the order (run, epoch, batch).
        number: Batches of an epoch that a run really has, ``(R,)``; further ones are empty.
        targets: ``(R, epochs * batches, batch)``.
        counted: Which targets there are, of the same shape.
    """
    runs, most, _ = targets.shape
    weights = counted / counted.sum(dim=-1, keepdim=True).clamp_min(1)
    scores = torch.stack([targets, weights], dim=-1)
    width = int(number.max())
    taken = torch.arange(most) % width < number[:, None]
    largest = graphs.sizes.view(runs, most, -1).amax(dim=1)  # (R, layers); empty batches have one colour
    rounded = _SIZES[torch.searchsorted(_SIZES, largest)]
    kinds, kind = torch.cat([number[:, None], rounded], dim=1).unique(dim=0, return_inverse=True)  # type: ignore[no-untyped-call]
    blocks = []
    for which, (_, *sizes) in enumerate(kinds.tolist()):
        chosen = (kind == which).nonzero()[:, 0]
        steps = taken[chosen[0]].nonzero()
        groups = (chosen * most + steps).flatten()  # (steps, C)
        blocks.append(_Steps(chosen, graphs.part(groups, sizes), scores.flatten(0, 1)[groups]))
    return blocks


def _train(networks: RunParameters, block: _Steps, learning_rate: float) -> None:
    """Go through the steps of runs of one size."""
    mine = networks.rows(block.runs)
    leaves, count = mine.leaves(), len(block.runs)
    parts = [slice(start, start + count) for start in range(0, len(block.scores), count)]
    for part in parts * block.repeats:
        mine.step(_gradients(leaves, block.graphs.part(part), *block.scores[part].unbind(-1)), learning_rate)
    networks.put(block.runs, mine)


def _freeze(encoders: list[Tensor], graphs: SharedGraphs) -> tuple[FrozenGIN, Tensor]:
    """Networks with the statistics of these graphs, and the graphs' representations ``(R, n, D)``."""
    collected, encoded = [], []
    for run, sizes in enumerate(graphs.sizes.tolist()):  # without the fillers, whose number depends on the other runs
        statistics: Statistics = []
        one = slice(run, run + 1)
        encoded.append(gin([parameter[one] for parameter in encoders], graphs.part(one, sizes), statistics))
        collected.append(statistics)
    joined = [
        (torch.cat([mean for mean, _ in norm]), torch.cat([variance for _, variance in norm]))
        for norm in zip(*collected, strict=True)
    ]
    return FrozenGIN(encoders, joined), torch.cat(encoded)


def _gradients(leaves: list[Tensor], graphs: SharedGraphs, target: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    """Of every run's weighted squared error; target and weight are ``(C, batch)``."""
    *encoder, readout, offset = leaves
    with torch.enable_grad():
        output = torch.tanh(gin(encoder, graphs)) @ readout + offset
        loss = ((output[..., 0] - target).square() * weight).sum()
        return torch.autograd.grad(loss, leaves)


class SupervisedGINModel(LinearModel):
    """Bayesian linear regressions on the tanh features of R trained networks (made by :class:`SupervisedGIN`)."""

    def __init__(
        self,
        location: Tensor,
        scale: Tensor,
        features: Tensor,
        target: Tensor,
        prior: Tensor,
        noise: Tensor,
        surrogate: SupervisedGIN,
        networks: FrozenGIN,
    ) -> None:
        super().__init__(location, scale, features, target, prior, noise)
        self._surrogate, self._networks = surrogate, networks

    def features(self, points: Tensor) -> Tensor:
        """Features of q candidates of every run, ``(R, q, d)`` -> ``(R, q, H)``."""
        return torch.tanh(self._networks.embed(self._surrogate.merge(points)))

    def pool_features(self, points: Tensor) -> Tensor:
        """Features of c candidates, shared by all runs ``(c, d)`` or each run's own ``(R, c, d)``: ``(R, H, c)``."""
        if points.dim() == 3:
            return self.features(points).mT
        return torch.tanh(self._networks.embed(self._surrogate.merge_pool(points))).mT
