"""Labelled images as tensors of pixels, and what turns pixels into a network's input, on any device."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_nas.errors import BenchmarkDataError


class LabelledImages(NamedTuple):
    """Images and their classes, in memory or mapped from a file; of the latter a pickle holds but the file's name.

    Shapes:
        images ``(N, C, H, W)`` uint8 pixels, or float32 that needs no :func:`normalise`; labels ``(N,)`` int64.
    """

    images: Tensor
    labels: Tensor

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, tuple(_file_of(tensor) or _alone(tensor) for tensor in self)


class FileSlice(NamedTuple):
    """Where a tensor lies in a file that is mapped into memory.

    Attributes:
        path: The file.
        size: Its length in bytes.
        dtype: Type of the numbers.
        start: First byte.
        shape: Shape of the tensor.
    """

    path: str
    size: int
    dtype: torch.dtype
    start: int
    shape: tuple[int, ...]

    def open(self) -> Tensor:
        """Map the tensor; pages are read when they are needed, and never to be written (the file would change).

        Raises:
            BenchmarkDataError: The file is gone, or not the one that was mapped.
        """
        path = Path(self.path)
        found = path.stat().st_size if path.is_file() else None
        if found != self.size:  # torch would make a file of zeros
            raise BenchmarkDataError(
                f"{path}: {'no such file' if found is None else f'holds {found} bytes'}, expected a file of "
                f"{self.size} bytes of pixels; delete it and start again, which makes it anew"
            )
        try:
            whole = torch.from_file(self.path, shared=True, size=self.size, dtype=torch.uint8)
        except RuntimeError as error:
            raise BenchmarkDataError(
                f"{path}: cannot be mapped into memory ({error}); torch maps only files that may be written: "
                "mend the permissions, or choose another cache_dir"
            ) from error
        length = math.prod(self.shape) * self.dtype.itemsize
        return whole[self.start : self.start + length].view(self.dtype).view(self.shape)


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Pixels to a network's input, on the images' device.

    Args:
        images: Pixels.
        mean: What is subtracted, for every channel, in units of pixels.
        std: What is divided by, likewise.

    Shapes:
        ``(N, C, H, W)`` uint8 -> ``(N, C, H, W)`` float32.

    Example:
        >>> normalise(torch.tensor([0, 16], dtype=torch.uint8).view(1, 1, 1, 2), mean=(0,), std=(16,)).flatten()
        tensor([0., 1.])
    """
    floats = images.to(torch.float32, copy=True)
    centre, scale = (floats.new_tensor(tuple(values)).view(-1, 1, 1) for values in (mean, std))
    return floats.sub_(centre).div_(scale)


@torch.no_grad()
def augmented(
    images: Tensor,
    augmentation: Sequence[Callable[[Tensor], Tensor]],
    mean: Sequence[float],
    std: Sequence[float],
    max_pixel: int = 255,
) -> Tensor:
    """Change images at random, then :func:`normalise` them; Kornia draws from torch's global generator.

    Args:
        images: Pixels.
        augmentation: Modules that take and give a batch of floats in 0 … 1, one after another; none change nothing.
        mean: As for :func:`normalise`.
        std: As for :func:`normalise`.
        max_pixel: The brightest pixel, which becomes 1.

    Shapes:
        ``(N, C, H, W)`` uint8 -> ``(N, C, H, W)`` float32.
    """
    if not augmentation:
        return normalise(images, mean, std)
    changed = images.float().div_(max_pixel)
    for step in augmentation:
        changed = (step.to(images.device) if isinstance(step, nn.Module) else step)(changed)
    return normalise(changed.mul(max_pixel), mean, std)


def standard_augmentation(height: int, width: int) -> tuple[nn.Module, ...]:
    """The field's standard for small images: a crop after padding with zeros by an eighth, and a horizontal flip.

    For 32 pixels these are the 4 pixels of padding of "Deep Residual Learning" (arXiv 1512.03385, section 4.2).
    """
    from kornia.augmentation import RandomCrop, RandomHorizontalFlip

    padding = (width // 8, height // 8)  # left and right, top and bottom
    return RandomCrop((height, width), padding=padding), RandomHorizontalFlip()


def _file_of(tensor: Tensor) -> FileSlice | None:
    if tensor.device.type != "cpu" or not tensor.is_contiguous():
        return None
    storage = tensor.untyped_storage()
    if storage.filename is None:
        return None
    start = int(tensor.storage_offset()) * tensor.dtype.itemsize
    return FileSlice(storage.filename, storage.nbytes(), tensor.dtype, start, tuple(tensor.shape))


def _alone(tensor: Tensor) -> Tensor:
    """Without the rest of the storage it is a part of, which would be pickled with it."""
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def _restore(images: Tensor | FileSlice, labels: Tensor | FileSlice) -> LabelledImages:
    return LabelledImages(*(part.open() if isinstance(part, FileSlice) else part for part in (images, labels)))
