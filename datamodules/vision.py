"""Images held as pixels: the data on which candidate networks are trained for real."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from pytorch_lightning import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_nas.datamodules.cells import EpochShuffle
from lightning_nas.datamodules.splits import Purpose, Sizes, split_images
from lightning_nas.errors import BenchmarkDataError, UsageError
from lightning_nas.nn.images import LabelledImages, augmented, normalise, standard_augmentation

_TOTAL = 1797
_MEASURED = 10_000  # images whose mean and deviation stand for all

# Modules of Kornia or torch, but not typed so: the help would list all modules there are, and take only torch's.
Augment = Literal["standard"] | Callable[[Tensor], Any] | list[Callable[[Tensor], Any]] | None


class Source(NamedTuple):
    """Images somewhere, not yet split.

    Attributes:
        labels: Classes of all images: those to train on, the official validation part, the official test part.
        official: Images in the official validation part and in the test part; 0 where there is none.
        pixels: Gives the images of some rows, ``(n,)`` -> ``(n, C, H, W)`` uint8.
    """

    labels: Tensor
    official: tuple[int, int]
    pixels: Callable[[Tensor], Tensor]


class VisionDataModule(LightningDataModule, ABC):
    """Labelled images as pixels in memory; a subclass says what they are.

    Batches leave the dataloaders as pixels and become floats on the device: augmented while training, and normalised.

    Attributes:
        max_pixel: The brightest pixel there can be.
        train: Images to learn from, after :meth:`setup`; ``valid`` (empty for ``evaluation``) and ``test`` likewise.

    Args:
        purpose: ``search`` holds ``num_valid`` training images out to select by; ``evaluation`` trains on these, too.
        num_train: Images to train on, a part with equal shares of every class; default: all that are left.
        num_valid: Images to select by; a fraction is a share of the training images; default: the official validation
            part, or a fifth of the training images where there is none.
        num_test: Images of the test; default: the official test part, or a fifth of the images where there is none.
        augment: What happens to training images: ``standard`` (crop after padding by an eighth, horizontal flip),
            modules that change a batch of floats in 0 … 1, or null.
        seed: Draws the splits and the order of the training batches.
        batch_size: Images per batch of the dataloaders.
    """

    max_pixel: int = 255
    train: LabelledImages
    valid: LabelledImages
    test: LabelledImages

    def __init__(
        self,
        purpose: Purpose = "search",
        num_train: int | None = None,
        num_valid: int | float | None = None,
        num_test: int | None = None,
        augment: Augment = None,
        seed: int = 0,
        batch_size: int = 128,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise UsageError(f"{type(self).__name__}: got batch_size={batch_size}, expected at least 1")
        self.sizes = Sizes(purpose, num_train, num_valid, num_test)
        self.purpose, self.augment, self.seed, self.batch_size = purpose, augment, seed, batch_size

    @property
    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in the order of their labels."""

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, int, int]:
        """``(channels, height, width)`` of every image."""

    @property
    def origin(self) -> str:
        """What errors call the images: a file or folder where there is one."""
        return type(self).__name__

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Primitives that fix every image, label, split and change; a short name is under ``data``; needs no setup."""

    @abstractmethod
    def source(self) -> Source:
        """The images before they are split."""

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean pixel of every channel; where it is no constant of the data, measured by :meth:`setup`."""
        return self._mean_and_std[0]

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of the pixels of every channel, likewise."""
        return self._mean_and_std[1]

    @cached_property
    def _mean_and_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        counts = torch.zeros(self.image_shape[0], 256, dtype=torch.float64)
        for images in torch.split(self.train.images[:_MEASURED], 256):  # which may lie in a file larger than the memory
            counts += torch.stack([channel.flatten().bincount(minlength=256) for channel in images.unbind(dim=1)])
        share, level = counts / counts.sum(dim=1, keepdim=True), torch.arange(256, dtype=torch.float64)
        mean = share @ level
        std = (share @ level**2 - mean**2).clamp(min=0).sqrt()
        # A channel of one colour would be divided by 0.
        return tuple(mean.tolist()), tuple(std.clamp(min=1).tolist())

    def setup(self, stage: str) -> None:
        """Fill ``train``, ``valid`` and ``test``; repeats cost nothing."""
        if hasattr(self, "test"):
            return
        source = self.source()
        self._check_classes(source)
        split = split_images(source.labels, source.official, self.sizes, self.seed)
        images, labels = self._hold(source, split.order)
        self.train, self.valid, self.test = (LabelledImages(images[part], labels[part]) for part in split[1:])

    def _check_classes(self, source: Source) -> None:
        fit = len(source.labels) - source.official[1]
        for part, labels in (("training", source.labels[:fit]), ("test", source.labels[fit:])):
            absent = labels.bincount(minlength=self.num_classes) == 0
            if len(labels) and absent.any():
                name = self.classes[int(absent.nonzero()[0])]
                raise BenchmarkDataError(
                    f"{self.origin}: no {part} image of class {name!r}; expected at least one of each of the "
                    f"{self.num_classes} classes: add some, or take the class out"
                )

    def _hold(self, source: Source, order: Tensor) -> tuple[Tensor, Tensor]:
        """Images and labels in the given order."""
        return source.pixels(order), source.labels[order]

    def _split_identity(self) -> dict[str, Any]:
        return {**self.sizes._asdict(), "seed": self.seed, "augment": self._augment_identity()}

    def _augment_identity(self) -> str | list[str] | None:
        if self.augment is None or isinstance(self.augment, str):
            return self.augment
        return [_name(x, type(self).__name__) for x in self.augmentation]

    def normalise(self, images: Tensor) -> Tensor:
        """Pixels to a network's input, on any device."""
        return normalise(images, self.mean, self.std)

    def augmented(self, images: Tensor) -> Tensor:
        """Pixels to a network's input in training; draws from torch's global generator."""
        return augmented(images, self.augmentation, self.mean, self.std, self.max_pixel)

    @cached_property
    def augmentation(self) -> tuple[Callable[[Tensor], Any], ...]:
        """What changes a batch of training images, floats in 0 … 1, one after another."""
        if self.augment is None:
            return ()
        if isinstance(self.augment, str):
            return standard_augmentation(*self.image_shape[1:])
        return tuple(self.augment) if isinstance(self.augment, list) else (self.augment,)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Pixels to floats on the device, whatever the batch they are part of."""
        if self.trainer is None or not self.trainer.training:
            return self._finished(batch, self.normalise)
        # From the place of the batch alone, so that a training that was interrupted goes on as if it had not been.
        number = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        place = (self.seed, self.trainer.current_epoch, number, self.trainer.global_rank)
        (word,) = np.random.SeedSequence(place).generate_state(1, np.uint64)
        with torch.random.fork_rng(devices=[]):  # Kornia draws on the CPU
            torch.default_generator.manual_seed(int(word) >> 1)
            return self._finished(batch, self.augmented)

    @staticmethod
    def _finished(batch: Any, finish: Callable[[Tensor], Tensor]) -> Any:
        return apply_to_collection(batch, Tensor, lambda x: finish(x) if x.dtype == torch.uint8 else x)

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled batches of the training images."""
        return self._loader(self.train, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Batches of the validation images in order; none for ``evaluation``."""
        return self._loader(self.valid) if len(self.valid.labels) else []

    def test_dataloader(self) -> DataLoader[Any]:
        """Batches of the test images in order."""
        return self._loader(self.test)

    def _loader(self, split: LabelledImages, shuffle: bool = False) -> DataLoader[Any]:
        sampler = EpochShuffle(len(split.labels), self.seed) if shuffle else None
        # By name: Lightning makes loaders anew for distributed runs, and repeats positional arguments.
        alone = shuffle and len(split.labels) > 1 and len(split.labels) % self.batch_size == 1
        return DataLoader(
            ImageBatches(split), batch_size=self.batch_size, sampler=sampler, collate_fn=as_it_is,
            drop_last=alone,  # batch normalisation cannot do with one image
        )  # fmt: skip


class DigitsDataModule(VisionDataModule):
    """Scikit-learn's 1,797 handwritten digits of 8x8 pixels, split by a seed with equal shares of every digit.

    Args:
        num_train: Images to train on.
        num_valid: Images to select by; the rest of the 1,797 is for the test.
        seed: Draws the splits and the order of the training batches.
        batch_size: Images per batch of the dataloaders.
        purpose: ``search`` selects by ``num_valid`` images; ``evaluation`` trains on these, too.
        augment: What happens to training images: ``standard`` (crop after padding by an eighth, horizontal flip),
            modules that change a batch of floats in 0 … 1, or null.

    Shapes:
        images ``(N, 1, 8, 8)`` uint8 in 0 … 16, labels ``(N,)`` int64.

    Example:
        >>> data = DigitsDataModule()
        >>> data.setup("fit")
        >>> [len(split.labels) for split in (data.train, data.valid, data.test)]
        [900, 450, 447]
    """

    classes = tuple("0123456789")
    image_shape = (1, 8, 8)
    max_pixel = 16
    mean, std = (0.0,), (16.0,)

    def __init__(
        self,
        num_train: int = 900,
        num_valid: int = 450,
        seed: int = 0,
        batch_size: int = 128,
        purpose: Purpose = "search",
        augment: Augment = None,
    ) -> None:
        if min(num_train, num_valid) < 1 or num_train + num_valid >= _TOTAL:
            raise UsageError(
                f"DigitsDataModule: got num_train={num_train} and num_valid={num_valid}, expected two positive numbers "
                f"with a sum below {_TOTAL}, so that images are left for the test"
            )
        learnt = num_train if purpose == "search" else num_train + num_valid
        super().__init__(purpose, learnt, num_valid, _TOTAL - num_train - num_valid, augment, seed, batch_size)

    def identity(self) -> dict[str, Any]:
        """Name, sizes and seed: the images themselves never change."""
        sizes = {"num_train": self.sizes.num_train, "num_valid": self.sizes.num_valid, "seed": self.seed}
        # Without what is as it always was, so that results from before there was a choice stay valid.
        purpose = {} if self.purpose == "search" else {"purpose": self.purpose}
        return {"data": "digits", **sizes, **purpose} | ({"augment": self._augment_identity()} if self.augment else {})

    def source(self) -> Source:
        """Scikit-learn's own file."""
        from sklearn.datasets import load_digits

        pixels, digits = load_digits(return_X_y=True)
        images = torch.from_numpy(pixels).to(torch.uint8).view(-1, *self.image_shape)
        return Source(torch.from_numpy(digits).long(), (0, 0), images.__getitem__)


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


def _name(step: Callable[[Tensor], Any], owner: str) -> str:
    """What tells an augmentation from others; what it says of itself may leave its arguments out."""
    if isinstance(step, nn.Module):
        arguments = {
            f"{name}.{key}".lstrip("."): value for name, module in step.named_modules()
            for key, value in sorted(vars(module).items())
            if not key.startswith("_") and key != "training" and isinstance(value, bool | int | float | str | tuple)
        }  # fmt: skip
        return f"{type(step).__module__}.{step!r} {arguments}"
    name = getattr(step, "__qualname__", "<lambda>")
    if "<" in name:
        raise UsageError(
            f"{owner}: got augment={step!r}, which has no name that tells it from others; expected modules or "
            "functions that a file defines at its top level"
        )
    return f"{step.__module__}.{name}"


def as_it_is(batch: Any) -> Any:
    """Collate function for batches that are finished already (module level, so that workers can pickle it)."""
    return batch
