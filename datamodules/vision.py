"""Images held in memory: the data on which candidate networks are trained for real."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_nas.errors import UsageError
from lightning_nas.nn.training import LabelledImages

_TOTAL = 1797


class VisionDataModule(LightningDataModule, ABC):
    """Labelled images as plain tensors in memory; a subclass says what they are.

    Attributes:
        num_classes: Number of classes.
        image_shape: ``(channels, height, width)`` of every image.
        train: Images to learn from, after :meth:`setup`; ``valid`` and ``test`` likewise.

    Args:
        seed: Draws the splits and the order of the training batches.
        batch_size: Images per batch of the dataloaders.
    """

    num_classes: int
    image_shape: tuple[int, int, int]
    train: LabelledImages
    valid: LabelledImages
    test: LabelledImages

    def __init__(self, seed: int = 0, batch_size: int = 128) -> None:
        super().__init__()
        self.seed, self.batch_size = seed, batch_size

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Primitives that fix every image, label and split, with a short name under ``data``; needs no setup."""

    @abstractmethod
    def setup(self, stage: str) -> None:
        """Fill ``train``, ``valid`` and ``test``; repeats cost nothing."""

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled batches of the training images."""
        return _loader(self.train, self.batch_size, torch.Generator().manual_seed(self.seed))

    def val_dataloader(self) -> DataLoader[Any]:
        """Batches of the validation images in order."""
        return _loader(self.valid, self.batch_size)

    def test_dataloader(self) -> DataLoader[Any]:
        """Batches of the test images in order."""
        return _loader(self.test, self.batch_size)


class DigitsDataModule(VisionDataModule):
    """Scikit-learn's 1,797 handwritten digits of 8x8 pixels, split by a seed with equal shares of every digit.

    Args:
        num_train: Images to train on.
        num_valid: Images to select by; the rest of the 1,797 is for the test.
        seed: Draws the splits and the order of the training batches.
        batch_size: Images per batch of the dataloaders.

    Shapes:
        images ``(N, 1, 8, 8)`` float32 in 0 … 1, labels ``(N,)`` int64.

    Example:
        >>> data = DigitsDataModule()
        >>> data.setup("fit")
        >>> [len(split.labels) for split in (data.train, data.valid, data.test)]
        [900, 450, 447]
    """

    num_classes = 10
    image_shape = (1, 8, 8)

    def __init__(self, num_train: int = 900, num_valid: int = 450, seed: int = 0, batch_size: int = 128) -> None:
        super().__init__(seed, batch_size)
        if min(num_train, num_valid) < 1 or num_train + num_valid >= _TOTAL:
            raise UsageError(
                f"DigitsDataModule: got num_train={num_train} and num_valid={num_valid}, expected two positive numbers "
                f"with a sum below {_TOTAL}, so that images are left for the test"
            )
        self.num_train, self.num_valid = num_train, num_valid

    def identity(self) -> dict[str, Any]:
        """Name, sizes and seed: the images themselves never change."""
        return {"data": "digits", "num_train": self.num_train, "num_valid": self.num_valid, "seed": self.seed}

    def setup(self, stage: str) -> None:
        """Load and split."""
        if hasattr(self, "test"):
            return
        from sklearn.datasets import load_digits

        pixels, digits = load_digits(return_X_y=True)
        images = torch.from_numpy(pixels).float().div(16).view(-1, *self.image_shape)
        labels = torch.from_numpy(digits).long()
        order = stratified_order(labels, torch.Generator().manual_seed(self.seed))
        sizes = [self.num_train, self.num_valid, len(order) - self.num_train - self.num_valid]
        self.train, self.valid, self.test = (
            LabelledImages(images[rows], labels[rows]) for rows in torch.split(order, sizes)
        )


class ImageBatches(Dataset[tuple[Tensor, Tensor]]):
    """Labelled images that are fetched as whole batches: one indexing operation instead of one per image.

    Args:
        split: Images and labels.
    """

    def __init__(self, split: LabelledImages) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.split.images[index], self.split.labels[index]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        rows = torch.as_tensor(indices)
        return self.split.images[rows], self.split.labels[rows]


def stratified_order(labels: Tensor, generator: torch.Generator) -> Tensor:
    """A random order of which every leading part has, up to rounding, the same share of every class.

    Shapes:
        ``(N,)`` -> ``(N,)`` int64, a permutation.
    """
    order = torch.randperm(len(labels), generator=generator)
    one_hot = torch.nn.functional.one_hot(labels[order])
    place = one_hot.cumsum(dim=0)[torch.arange(len(order)), labels[order]]  # 1, 2, … within the class
    share = place.double() / one_hot.sum(dim=0)[labels[order]]
    return order[share.argsort(stable=True)]


def _loader(split: LabelledImages, batch_size: int, generator: torch.Generator | None = None) -> DataLoader[Any]:
    return DataLoader(
        ImageBatches(split), batch_size, shuffle=generator is not None, generator=generator, collate_fn=_identity
    )


def _identity(batch: Any) -> Any:
    return batch
