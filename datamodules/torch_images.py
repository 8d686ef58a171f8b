"""Images from any map-style dataset of torch or torchvision."""

from __future__ import annotations

import hashlib
from collections.abc import Sized
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_nas.datamodules.decoding import grey_image, to_pixels
from lightning_nas.datamodules.splits import Purpose
from lightning_nas.datamodules.vision import Augment, Source, VisionDataModule
from lightning_nas.errors import BenchmarkDataError, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image


class TorchDataModule(VisionDataModule):
    """The images of a dataset ``(image, class number)``, for example one of torchvision's, read once into memory.

    An image is one of Pillow's, an array ``(H, W)`` or ``(H, W, C)`` uint8, or a tensor ``(C, H, W)`` uint8; so give
    the dataset no transforms.

    Args:
        train: Dataset to train on.
        test: Dataset for the test; default: a fifth of ``train`` is split off.
        image_size: Height and width in pixels to which the central square of every image is scaled; default: they must
            be of one size already.
        purpose: ``search`` holds ``num_valid`` training images out to select by; ``evaluation`` trains on these, too.
        num_train: Images to train on, a part with equal shares of every class; default: all that are left.
        num_valid: Images to select by; a fraction is a share of the training images; default: a fifth of them.
        num_test: Images of the test; default: all of ``test``, or a fifth of the images where there is none.
        augment: What happens to training images: ``standard`` (crop after padding by an eighth, horizontal flip),
            modules that change a batch of floats in 0 … 1, or null.
        seed: Draws the splits and the order of the training batches.
        batch_size: Images per batch of the dataloaders.
    """

    def __init__(
        self,
        train: Dataset,  # type: ignore[type-arg]  # jsonargparse cannot read Dataset[Any]
        test: Dataset | None = None,  # type: ignore[type-arg]
        image_size: int | None = None,
        purpose: Purpose = "search",
        num_train: int | None = None,
        num_valid: int | float | None = None,
        num_test: int | None = None,
        augment: Augment = None,
        seed: int = 0,
        batch_size: int = 128,
    ) -> None:
        super().__init__(purpose, num_train, num_valid, num_test, augment, seed, batch_size)
        if image_size is not None and image_size < 1:
            raise UsageError(f"TorchDataModule: got image_size={image_size}, expected at least 1")
        self.datasets = [dataset for dataset in (train, test) if dataset is not None]
        self.image_size = image_size

    @property
    def origin(self) -> str:
        """The dataset's class."""
        return type(self.datasets[0]).__name__

    @cached_property
    def _content(self) -> tuple[Tensor, Tensor]:
        """All images and labels, those of the test last."""
        parts = [read_dataset(dataset, self.image_size) for dataset in self.datasets]
        shapes = {tuple(images.shape[1:]) for images, _ in parts}
        if len(shapes) > 1:
            raise BenchmarkDataError(
                f"{self.origin}: got {' and '.join(map(str, shapes))} (channels, height, width) in training and test; "
                "expected one shape: image_size scales the images, a transform can change their channels"
            )
        images, labels = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return images, labels

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The dataset's own ``classes`` where it has any, as torchvision's do, else the numbers."""
        names = getattr(self.datasets[0], "classes", None)
        count = 1 + int(self._content[1].max())
        return tuple(map(str, names if names is not None and len(names) >= count else range(count)))

    @cached_property
    def image_shape(self) -> tuple[int, int, int]:
        """That of the first image."""
        channels, height, width = self._content[0].shape[1:]
        return channels, height, width

    @cached_property
    def checksum(self) -> str:
        """Digest of all pixels and labels."""
        digest = hashlib.sha256()
        for tensor in self._content:
            digest.update(str(tuple(tensor.shape)).encode() + b"\0")
            digest.update(tensor.numpy().data)
        return digest.hexdigest()

    def identity(self) -> dict[str, Any]:
        """Checksum and split; reads all images."""
        return {"data": f"torch-{self.checksum[:8]}", "checksum": self.checksum, **self._split_identity()}

    def prepare_data(self) -> None:
        """Check all images."""
        self.setup("fit")

    def setup(self, stage: str) -> None:
        """Split; the images in the datasets' order are forgotten when their checksum is known."""
        if not hasattr(self, "test"):
            self.identity()
            _ = self.image_shape, self.classes  # while the images are there
        super().setup(stage)
        self.__dict__.pop("_content", None)

    def source(self) -> Source:
        """The datasets' images."""
        images, labels = self._content
        official_test = len(cast(Sized, self.datasets[1])) if len(self.datasets) > 1 else 0
        return Source(labels, (0, official_test), images.__getitem__)


def read_dataset(dataset: Dataset[Any], image_size: int | None) -> tuple[Tensor, Tensor]:
    """All images and labels of a dataset.

    Args:
        dataset: Gives (image, class number) by index.
        image_size: Height and width to scale to; None where all are of one size.

    Raises:
        BenchmarkDataError: Something is no image, or of another size than the first.

    Shapes:
        images ``(N, C, H, W)`` uint8, labels ``(N,)`` int64.
    """
    name = type(dataset).__name__
    if not hasattr(dataset, "__len__") or not len(dataset):
        raise BenchmarkDataError(f"{name}: got no images, expected a map-style dataset with a length of at least 1")
    pixels, labels, shape = [], [], None
    for index in range(len(dataset)):
        where = f"{name}[{index}]"
        try:
            image, label = dataset[index]
            labels.append(int(label))
        except (TypeError, ValueError) as error:
            raise BenchmarkDataError(f"{where}: expected a pair (image, class number) ({error})") from error
        pillow = _as_pillow(where, image)
        if shape is None:
            size = (pillow.height, pillow.width) if image_size is None else (image_size, image_size)
            shape = (1 if grey_image(where, pillow) else 3, *size)
        pixels.append(to_pixels(where, pillow, shape, image_size is not None))
    if min(labels) < 0:
        raise BenchmarkDataError(f"{name}: got a class number {min(labels)}, expected numbers from 0")
    return torch.from_numpy(np.ascontiguousarray(np.stack(pixels))), torch.tensor(labels)


def _as_pillow(where: str, image: Any) -> Image:
    import PIL.Image

    if isinstance(image, PIL.Image.Image):
        return image
    array = image.permute(1, 2, 0).numpy() if isinstance(image, Tensor) and image.ndim == 3 else np.asarray(image)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3)):
        raise BenchmarkDataError(
            f"{where}: got {type(image).__name__} {array.dtype}{array.shape}, expected an image of Pillow's, an array "
            "(H, W) or (H, W, C) or a tensor (C, H, W), uint8 with 1 or 3 channels; give the dataset no transforms"
        )
    return PIL.Image.fromarray(np.ascontiguousarray(array.squeeze(2) if array.shape[2:] == (1,) else array))
