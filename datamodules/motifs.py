"""Motifs with known scores: what a Petri dish is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import LongTensor, Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_nas.benchmarks.tabular import TabularBenchmark
from lightning_nas.datamodules.vision import as_it_is
from lightning_nas.errors import UsageError
from lightning_nas.spaces.base import FiniteSpace

Batch = tuple[Tensor, Tensor, Tensor]
"""Indices in the space ``(B,)``, motifs ``(B, …)``, scores ``(B,)``."""


class MotifDataset(Dataset[Batch]):
    """Motifs with their scores, fetched as whole batches.

    Args:
        index: Of the motifs in their space, ``(n,)``.
        motifs: As a motif-network reads them, ``(n, …)``.
        scores: Higher for better, ``(n,)``.
    """

    def __init__(self, index: Tensor, motifs: Tensor, scores: Tensor) -> None:
        self.parts = index, motifs, scores

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitem__(self, item: int) -> Batch:
        return self.__getitems__([item])

    def __getitems__(self, items: Sequence[int]) -> Batch:
        index, motifs, scores = (part[items] for part in self.parts)
        return index, motifs, scores


class Together(Dataset[Batch]):
    """All of a dataset as its only item, which distributed samplers then give to every process."""

    def __init__(self, dataset: MotifDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return 1

    def __getitem__(self, item: int) -> Batch:
        return self.dataset.parts


class MotifDataModule(LightningDataModule):
    """Motifs of a finite space with scores from a table; some for training, the others held out.

    An epoch is one batch of all training motifs. Every process gets all of them: the module shares them out, for scores
    are standardised over all.

    Args:
        benchmark: Whose validation scores.
        num_train: Motifs to train on, drawn at random without replacement (the paper: 30; released code: 18).
        interval: Architectures between these two numbers, both included, are candidates for training, for spaces whose
            architectures are numbers (the paper's figure: 0.41 to 1.50); None for all.
        val_fraction: Share of the training motifs that is held out for validation; without, all motifs of the space
            are for validation, those that were trained on, too.
        seed: Draws the motifs.
        eval_batch_size: Motifs scored at a time by ``predict``.
    """

    def __init__(
        self,
        benchmark: TabularBenchmark,  # type: ignore[type-arg]  # jsonargparse cannot read TabularBenchmark[A]
        num_train: int = 30,
        interval: tuple[float, float] | None = None,
        val_fraction: float = 0.0,
        seed: int = 0,
        eval_batch_size: int = 1000,
    ) -> None:
        super().__init__()
        if num_train < 2 or not 0 <= val_fraction < 1 or eval_batch_size < 1:
            raise UsageError(
                f"MotifDataModule(num_train={num_train}, val_fraction={val_fraction}, eval_batch_size="
                f"{eval_batch_size}): expected at least two motifs, a fraction in [0, 1) and a positive batch size"
            )
        self.benchmark, self.num_train, self.interval = benchmark, num_train, interval
        self.val_fraction, self.seed, self.eval_batch_size = val_fraction, seed, eval_batch_size

    @property
    def space(self) -> FiniteSpace[Any]:
        """The motifs' space."""
        space: FiniteSpace[Any] = self.benchmark.space
        return space

    def setup(self, stage: str | None = None) -> None:
        """Look up all scores and draw the training motifs."""
        members = self.benchmark.members
        everyone = torch.arange(len(self.space)) if members is None else members
        chosen = draw_motifs(self.space, everyone, self.num_train, self.interval, self.seed)  # type: ignore[arg-type]
        held_out = round(self.val_fraction * len(chosen))
        self.train_index: Tensor = chosen[: len(chosen) - held_out].sort().values
        self.val_index: Tensor = chosen[len(chosen) - held_out :].sort().values if held_out else everyone
        self.all_index: Tensor = everyone

    def _dataset(self, index: Tensor) -> MotifDataset:
        motifs = torch.from_numpy(np.array([self.space[place] for place in index.tolist()]))  # float64 or int64
        return MotifDataset(index, motifs, self.benchmark.lookup(index).valid)  # type: ignore[arg-type]

    def _together(self, index: Tensor) -> DataLoader[Batch]:
        return DataLoader(Together(self._dataset(index)), batch_size=None, collate_fn=as_it_is)

    def train_dataloader(self) -> DataLoader[Batch]:
        """One batch of all training motifs."""
        return self._together(self.train_index)

    def val_dataloader(self) -> DataLoader[Batch]:
        """One batch of the held-out motifs, or of all."""
        return self._together(self.val_index)

    def test_dataloader(self) -> DataLoader[Batch]:
        """One batch of all motifs of the space that have scores."""
        return self._together(self.all_index)

    def predict_dataloader(self) -> DataLoader[Batch]:
        """All motifs of the space that have scores, in order."""
        dataset = self._dataset(self.all_index)
        return DataLoader(dataset, batch_size=self.eval_batch_size, collate_fn=as_it_is)


def draw_motifs(
    space: FiniteSpace[Any], members: LongTensor, count: int, interval: tuple[float, float] | None, seed: int
) -> LongTensor:
    """Random members without replacement, perhaps of an interval, ``(count,)``.

    Raises:
        UsageError: There are not enough.
    """
    candidates = members.numpy()
    if interval is not None:
        low, high = interval
        numbers = np.array([space[place] for place in candidates.tolist()])
        if numbers.ndim != 1:
            raise UsageError(f"{space.name}: got interval={list(interval)}, but its architectures are no numbers")
        candidates = candidates[(numbers >= low) & (numbers <= high)]
    if len(candidates) < count:
        raise UsageError(
            f"{space.name}: got num_train={count}, expected at most {len(candidates)}, the members "
            f"{'there are' if interval is None else f'from {interval[0]} to {interval[1]}'}"
        )
    return torch.from_numpy(np.random.default_rng(seed).choice(candidates, count, replace=False))  # type: ignore[return-value]
