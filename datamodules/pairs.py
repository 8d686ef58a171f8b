"""Pairs of architectures with known accuracies, of which one is the better: what a ranking network is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import LongTensor, Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_nas.benchmarks.tabular import TabularBenchmark
from lightning_nas.datamodules.cells import EpochShuffle
from lightning_nas.errors import UsageError
from lightning_nas.nn.pairs import Standings, balanced, compare, uniform
from lightning_nas.spaces.base import CellGraph, FiniteSpace
from lightning_nas.spaces.encodings import Encoding
from lightning_nas.spaces.functional import live_graphs

Batch = tuple[Tensor, CellGraph, Tensor, Tensor]
"""Indices, graphs, features, and the weight of a pair or the accuracy of a cell."""


class _Cells(Dataset[Batch]):
    """Members, or pairs of them, that are fetched as whole batches."""

    def __init__(self, data: PairDataModule, members: Tensor, values: Tensor) -> None:
        self.data, self.members, self.values = data, members, values

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, item: int) -> Batch:
        return self.__getitems__([item])

    def __getitems__(self, items: Sequence[int] | Tensor) -> Batch:
        rows = torch.as_tensor(items)
        chosen = self.members[rows]  # (B,) or (B, 2)
        graphs, features = self.data.cells(chosen.flatten())
        shaped = (part.view(*chosen.shape, *part.shape[1:]) for part in (*graphs, features))
        ops, adjacency, features = shaped
        return chosen, CellGraph(ops, adjacency), features, self.values[rows]


class PairDataModule(LightningDataModule):
    """All pairs among a few architectures with known accuracies; others to validate on; the whole space to predict.

    The known ones may form a pyramid as in RANK-NOSH (arXiv 2108.08019): all are trained for the first number of
    epochs, the best of them for the second, and so on. Whoever came further is the better one, whether one level or
    another, and pairs within a level count as much as pairs across. Isomorphic architectures are known once.

    Args:
        benchmark: The table with the accuracies; its space is the data's.
        num_known: Architectures of each level, drawn by ``seed``; one number for each of ``epochs``, falling.
        epochs: Training epochs of each level; default: the benchmark's own alone.
        num_val: Further architectures to validate on, with the benchmark's own epochs.
        features: Encoding of the architectures that a ranker sees beside their graphs; none by default.
        live: Show only what carries a signal (:func:`~lightning_nas.spaces.functional.live_graphs`).
        noise: Accuracies that differ by less make no pair; percentage points.
        balance: Let pairs within levels count as much as pairs across; else all pairs count the same.
        batch_size: Pairs per batch in training (per process).
        eval_batch_size: Architectures per batch in validation and prediction.
        seed: Seed of the draw and of the order of batches.

    Shapes:
        See :class:`~lightning_nas.modules.pairwise_ranker.PairwiseRanker`.
    """

    def __init__(
        self,
        benchmark: TabularBenchmark,  # type: ignore[type-arg]  # jsonargparse cannot read TabularBenchmark[A]
        num_known: list[int] = [121],  # noqa: B006  # a CLI default
        epochs: list[int] | None = None,
        num_val: int = 100,
        features: Encoding | None = None,
        live: bool = False,
        noise: float = 0.1,
        balance: bool = True,
        batch_size: int = 256,
        eval_batch_size: int = 4096,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.levels = [benchmark.epochs] if epochs is None else list(epochs)
        falling = all(later <= earlier for earlier, later in pairwise(num_known))
        if len(num_known) != len(self.levels) or not falling or min(*num_known, batch_size, eval_batch_size) < 1:
            raise UsageError(
                f"PairDataModule(num_known={num_known}, epochs={self.levels}, batch_size={batch_size}): expected as "
                "many numbers of architectures as of epochs, falling, and positive sizes"
            )
        self.benchmark, self.num_known, self.num_val = benchmark, list(num_known), num_val
        self.features, self.live, self.noise, self.balance = features, live, noise, balance
        self.batch_size, self.eval_batch_size, self.seed = batch_size, eval_batch_size, seed
        everything: LongTensor = torch.arange(len(self.space))  # type: ignore[assignment]
        self._members = everything if benchmark.members is None else benchmark.members
        distinct = torch.unique(self.space.representatives[self._members])
        if num_known[0] < 2 or num_val < 2 or num_known[0] + num_val > len(distinct):
            raise UsageError(
                f"PairDataModule: got num_known={num_known} and num_val={num_val}, expected 2 or more of each, and not "
                f"more than the {len(distinct)} different architectures of the table together"
            )
        self._held: tuple[CellGraph, Tensor] | None = None

    @property
    def space(self) -> FiniteSpace:  # type: ignore[type-arg]
        """The benchmark's space."""
        return self.benchmark.space

    @property
    def num_ops(self) -> int:
        """Operation labels of the space's graphs (linked to the model)."""
        return len(self.space.vertex_labels)

    @property
    def num_features(self) -> int:
        """Features of an architecture beside its graph (linked to the model)."""
        if self.features is None:
            return 0
        return int(self.features.encode_members(self.space, self._members[:1]).shape[1])  # type: ignore[arg-type]

    def setup(self, stage: str | None = None) -> None:
        """Draw the known architectures, train the pyramid on the table, and pair them."""
        if self._held is not None:
            return
        space, members = self.space, self._members
        graphs = live_graphs(space, members) if self.live else space.graphs_at(members)
        features = torch.empty(len(members), 0)
        if self.features is not None:
            raw = self.features.encode_members(space, members)
            features = (raw - raw.mean(dim=0)) / raw.std(dim=0, correction=0).clamp_min(1e-6)
        self._place = torch.full((len(space),), -1)
        self._place[members] = torch.arange(len(members))
        self._held = graphs, features
        # The first of each kind, in random order: isomorphic architectures would make contradictory pairs.
        order = members[torch.randperm(len(members), generator=torch.Generator().manual_seed(self.seed))]
        _, first = np.unique(space.representatives[order].numpy(), return_index=True)
        order = order[torch.from_numpy(first).sort().values]
        self.known: LongTensor = order[: self.num_known[0]]  # type: ignore[assignment]
        self.held_out: LongTensor = order[self.num_known[0] :][: self.num_val]  # type: ignore[assignment]
        self.standings = self._pyramid(self.known)
        pairs = compare(self.standings, self.noise)
        weight = (balanced if self.balance else uniform)(pairs)[0]
        better, worse = weight.nonzero(as_tuple=True)
        if not len(better):
            raise UsageError(
                f"PairDataModule(noise={self.noise}): no two of the {len(self.known)} architectures differ by so much; "
                "expected a smaller noise or more architectures"
            )
        self.pairs = torch.stack([self.known[better], self.known[worse]], dim=1)  # (P, 2)
        self.weights = weight[better, worse] * len(better)  # one on average

    def _pyramid(self, known: LongTensor) -> Standings:
        """All at the first level, the best of each at the next."""
        score = torch.full((1, len(known), len(self.levels) + 1), torch.nan, dtype=torch.float64)
        level = torch.zeros(1, len(known), dtype=torch.long)
        chosen = torch.arange(len(known))
        for number, (count, epochs) in enumerate(zip(self.num_known, self.levels, strict=True), start=1):
            if number > 1:
                best = score[0, chosen, number - 1].nan_to_num(nan=-torch.inf).argsort(descending=True, stable=True)
                chosen = chosen[best[:count]]
            score[0, chosen, number] = self.benchmark.lookup(known[chosen], epochs).valid  # type: ignore[arg-type]
            level[0, chosen] = number
        time = torch.arange(score.shape[-1], dtype=torch.float64).expand_as(score)
        return Standings(level, score, torch.where(score.isnan(), torch.nan, time))  # type: ignore[arg-type]

    def cells(self, members: Tensor) -> tuple[CellGraph, Tensor]:
        """Graphs and features of members, ``(n,)`` -> ``(n, V)``, ``(n, V, V)`` and ``(n, F)``."""
        assert self._held is not None, "setup() comes before the loaders"
        (ops, adjacency), features = self._held
        rows = self._place[members]
        return CellGraph(ops[rows].long(), adjacency[rows].bool()), features[rows]

    def _loader(self, dataset: Dataset[Batch], batch_size: int, shuffle: bool = False) -> DataLoader[Batch]:
        sampler = EpochShuffle(len(dataset), self.seed) if shuffle else None  # type: ignore[arg-type]
        # By name: Lightning makes loaders anew for prediction and distributed runs, and repeats positional arguments.
        return DataLoader(dataset, batch_size=batch_size, sampler=sampler, collate_fn=_identity)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled pairs, the better one first."""
        return self._loader(_Cells(self, self.pairs, self.weights.float()), self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Held-out architectures with their accuracies."""
        accuracies = self.benchmark.lookup(self.held_out).valid.float()
        return self._loader(_Cells(self, self.held_out, accuracies), self.eval_batch_size)

    def test_dataloader(self) -> DataLoader[Batch]:
        """The same architectures as for validation: nothing is selected on them."""
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader[Batch]:
        """All architectures of the table in the order of their indices."""
        accuracies = self.benchmark.lookup(self._members).valid.float()
        return self._loader(_Cells(self, self._members, accuracies), self.eval_batch_size)


def _identity(batch: Any) -> Any:
    return batch
