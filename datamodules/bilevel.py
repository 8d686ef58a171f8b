"""Two streams of images side by side: one for a supernet's weights, one for its architecture parameters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_nas.datamodules.vision import ImageBatches, VisionDataModule, as_it_is
from lightning_nas.errors import UsageError

Batch = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Images and labels for the weights, images and labels for the architecture parameters."""


class BilevelDataModule(LightningDataModule):
    """Training images for the weights and validation images for the architecture, both augmented alike (DARTS).

    An epoch has as many steps as the larger part has batches; the smaller part begins again meanwhile, in a new order.

    Args:
        images: The images; its ``num_valid`` says how many are for the architecture (DARTS: half of the training ones).
        batch_size: Images of either kind per step and process.
        eval_batch_size: Images per batch in validation and in the scoring of a selection.
        seed: Of the order of batches and of augmentation; default: the seed of the images, which draws their split.
    """

    def __init__(
        self, images: VisionDataModule, batch_size: int = 64, eval_batch_size: int = 256, seed: int | None = None
    ) -> None:
        super().__init__()
        if batch_size < 2 or eval_batch_size < 1:
            raise UsageError(
                f"BilevelDataModule(batch_size={batch_size}, eval_batch_size={eval_batch_size}): expected 2 or more "
                "images to train on, 1 or more to validate"
            )
        self.images, self.batch_size, self.eval_batch_size = images, batch_size, eval_batch_size
        self.seed = images.seed if seed is None else seed

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.images.num_classes

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(channels, height, width)`` of every image."""
        return self.images.image_shape

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in the order of their labels."""
        return self.images.classes

    def identity(self) -> dict[str, Any]:
        """Primitives that fix every image and batch."""
        return {**self.images.identity(), "batch_size": self.batch_size, "order": self.seed}

    def prepare_data(self) -> None:
        """As the images do."""
        self.images.prepare_data()

    def setup(self, stage: str) -> None:
        """Split the images."""
        self.images.setup("fit")
        for name, part in (("train", self.images.train), ("validation", self.images.valid)):
            if len(part.labels) < self.batch_size:
                raise UsageError(
                    f"BilevelDataModule(batch_size={self.batch_size}): got {len(part.labels)} {name} images; expected "
                    "a batch of them at least: a smaller batch_size, or another images.num_valid"
                )

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every image of the larger part is seen, but for an incomplete batch."""
        return max(len(part.labels) // self.batch_size for part in (self.images.train, self.images.valid))

    def train_dataloader(self) -> DataLoader[Any]:
        """A pair of batches for every step; several processes share the steps of an epoch."""
        return DataLoader(BilevelSteps(self), batch_size=None)

    def val_dataloader(self) -> DataLoader[Any]:
        """Batches of the images for the architecture, in order and as they are."""
        return DataLoader(ImageBatches(self.images.valid), batch_size=self.eval_batch_size, collate_fn=as_it_is)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Pixels to floats on the device, augmented in training."""
        if self.trainer is None or not self.trainer.training:
            return tuple(self.images.normalise(part) if part.dtype == torch.uint8 else part for part in batch)
        number = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        return self.augmented(batch, (self.trainer.current_epoch, number, self.trainer.global_rank))

    def augmented(self, batch: Batch, place: tuple[int, ...]) -> Batch:
        """Pixels of both batches to floats, changed at random as the place says."""
        (word,) = np.random.SeedSequence((self.seed, *place)).generate_state(1, np.uint64)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(word) >> 1)
            first, second = ((self.images.augmented(images), labels) for images, labels in batch)
        return first, second

    def batches(
        self, epoch: int, rank: int = 0, world_size: int = 1, device: torch.device | None = None
    ) -> Iterator[Batch]:
        """The finished batches of an epoch outside of a trainer's loop, those of one of several processes."""
        steps = BilevelSteps(self)
        for number in range(rank, len(steps) - len(steps) % world_size, world_size):
            batch = steps.batch(epoch, number)
            first, second = ((images.to(device), labels.to(device)) for images, labels in batch)
            yield self.augmented((first, second), (epoch, number, rank))

    def scoring_batches(self, device: torch.device | None = None) -> list[tuple[Tensor, Tensor]]:
        """The images for the architecture as :meth:`val_dataloader` has them, finished."""
        return [
            (self.images.normalise(images.to(device)), labels.to(device)) for images, labels in self.val_dataloader()
        ]


class BilevelSteps(Dataset[Batch]):
    """The pairs of batches of an epoch, each by its number; orders depend on (seed, epoch) alone.

    Args:
        data: Whose images.
    """

    def __init__(self, data: BilevelDataModule) -> None:
        self.data = data
        self._orders: tuple[int, list[Tensor]] = (-1, [])

    def __len__(self) -> int:
        return self.data.steps_per_epoch

    def __getitem__(self, step: int) -> Batch:
        trainer = self.data.trainer
        return self.batch(0 if trainer is None else trainer.current_epoch, step)

    def batch(self, epoch: int, step: int) -> Batch:
        """The two batches of one step, as pixels."""
        if self._orders[0] != epoch:
            self._orders = epoch, [self._order(epoch, part) for part in range(2)]
        place = slice(step * self.data.batch_size, (step + 1) * self.data.batch_size)
        parts = self.data.images.train, self.data.images.valid
        first, second = (
            (part.images[order[place]], part.labels[order[place]])
            for part, order in zip(parts, self._orders[1], strict=True)
        )
        return first, second

    def _order(self, epoch: int, number: int) -> Tensor:
        """Places of all images of an epoch, whole passes one after another."""
        part = (self.data.images.train, self.data.images.valid)[number]
        rng = np.random.default_rng((self.data.seed, epoch, number))
        needed = self.data.batch_size * len(self)
        passes = [rng.permutation(len(part.labels)) for _ in range(-(-needed // len(part.labels)))]
        return torch.from_numpy(np.concatenate(passes))
