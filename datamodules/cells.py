"""Cells of a finite search space, held in a handful of tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from pytorch_lightning import LightningDataModule
from torch import LongTensor, Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from lightning_nas.errors import UsageError
from lightning_nas.spaces.base import CellGraph, FiniteSpace

Batch = tuple[Tensor, CellGraph]


class CellDataset(Dataset[Batch]):
    """Members of a space by index; a whole batch is one indexing operation on each tensor.

    Args:
        indices: Members of the space, ``(n,)``.
        graphs: Graphs of the whole space; integers of any size, which become int64 in a batch.
    """

    def __init__(self, indices: Tensor, graphs: CellGraph) -> None:
        self.indices = indices
        self.graphs = graphs

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: int) -> Batch:
        return self.__getitems__([item])

    def __getitems__(self, items: list[int] | Tensor) -> Batch:
        """A finished batch, so that the loader has nothing to collate."""
        chosen = self.indices[items]
        return chosen, CellGraph(self.graphs.ops[chosen].long(), self.graphs.adjacency[chosen])


class EpochShuffle(Sampler[int]):
    """A permutation that depends on (seed, epoch) alone, so that a resumed run sees the batches it would have seen.

    Args:
        size: Number of items.
        seed: Seed of all permutations.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed, self.epoch = size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        yield from torch.randperm(self.size, generator=generator).tolist()


def identity(batch: Batch) -> Batch:
    """Collate function for batches that are finished already (module level, so that workers can pickle it)."""
    return batch


class CellDataModule(LightningDataModule):
    """All cells of a finite space: a part to train on, a part held out, the whole space to predict.

    Args:
        space: The search space.
        batch_size: Cells per batch in training (per process).
        eval_batch_size: Cells per batch in validation and prediction; the encoder works through it in smaller parts.
        val_fraction: Share of the cells held out; 0 trains on all of them and validates on all of them.
        split: ``random`` holds out cells drawn by ``seed``; ``index`` the last ones in index order, as published.
        seed: Seed of the split and of the order of batches.
    """

    def __init__(
        self,
        space: FiniteSpace,  # type: ignore[type-arg]  # jsonargparse cannot read FiniteSpace[A]
        batch_size: int = 32,
        eval_batch_size: int = 16384,
        val_fraction: float = 0.1,
        split: Literal["random", "index"] = "random",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0.0 <= val_fraction < 1.0 or min(batch_size, eval_batch_size) < 1:
            raise UsageError(
                f"CellDataModule(batch_size={batch_size}, eval_batch_size={eval_batch_size}, "
                f"val_fraction={val_fraction}): expected positive batch sizes and val_fraction in [0, 1)"
            )
        self.space = space
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.val_fraction, self.split, self.seed = val_fraction, split, seed
        self._graphs: CellGraph | None = None

    @property
    def num_ops(self) -> int:
        """Operation labels of the space's graphs (linked to the model)."""
        return len(self.space.vertex_labels)

    @property
    def num_vertices(self) -> int:
        """Vertices of the space's padded graphs (linked to the model)."""
        return self.space.num_vertices

    def setup(self, stage: str | None = None) -> None:
        """Put the whole space into tensors and split it."""
        if self._graphs is None:
            ops, adjacency = self.space.all_graphs()
            # An eighth of the memory, which counts where there are half a million cells.
            self._graphs = CellGraph(ops.to(torch.int8 if self.num_ops < 128 else torch.int64), adjacency.bool())
        size = len(self.space)
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(size, generator=generator) if self.split == "random" else torch.arange(size)
        held_out = round(self.val_fraction * size)
        self.train_indices: LongTensor = order[: size - held_out]  # type: ignore[assignment]
        self.val_indices: LongTensor = order[size - held_out :] if held_out else order  # type: ignore[assignment]

    def _loader(self, indices: Tensor, batch_size: int, shuffle: bool = False) -> DataLoader[Batch]:
        assert self._graphs is not None, "setup() comes before the loaders"
        dataset = CellDataset(indices, self._graphs)
        sampler = EpochShuffle(len(dataset), self.seed) if shuffle else None
        # By name: Lightning makes loaders anew for prediction and distributed runs, and repeats positional arguments.
        return DataLoader(dataset, batch_size=batch_size, sampler=sampler, collate_fn=identity)  # type: ignore[arg-type]

    def cells(self, indices: Tensor) -> Iterator[Batch]:
        """Large batches of any members in the given order, for callbacks; draws no random numbers, as loaders do."""
        assert self._graphs is not None, "setup() comes before cells()"
        dataset = CellDataset(indices, self._graphs)
        for items in torch.split(torch.arange(len(indices)), self.eval_batch_size):
            yield dataset.__getitems__(items)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled training cells."""
        return self._loader(self.train_indices, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Held-out cells in order."""
        return self._loader(self.val_indices, self.eval_batch_size)

    def test_dataloader(self) -> DataLoader[Batch]:
        """The same cells as for validation: nothing is selected on them."""
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader[Batch]:
        """The whole space in index order."""
        return self._loader(torch.arange(len(self.space)), self.eval_batch_size)
