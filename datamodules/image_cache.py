"""Decoded images in one file that is mapped into memory: written once, opened at once, shared by all processes."""

from __future__ import annotations

import math
import shutil
import time
from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from lightning_nas.datamodules.splits import Purpose
from lightning_nas.datamodules.vision import Augment, Source, VisionDataModule
from lightning_nas.errors import BenchmarkDataError
from lightning_nas.files import data_dir, ensure_writable, write_atomically
from lightning_nas.nn.images import FileSlice

_VERSION = 1  # part of the file's name: raise it whenever images are decoded or ordered differently
_CHUNK = 64 * 2**20  # bytes of pixels that are decoded at a time
_ABANDONED = 3600  # seconds after which nobody writes to a temporary file any more


class CachedImages(VisionDataModule, ABC):
    """Images from files, which are kept decoded in the cache folder where decoding is slow or memory is short.

    Args:
        path: File or folder.
        purpose: See :class:`VisionDataModule`, as for what follows.
        num_train: Images to train on.
        num_valid: Images to select by.
        num_test: Images of the test.
        augment: What happens to training images.
        max_memory: GiB of pixels above which they are kept in a file and not in memory.
        cache_dir: Folder of such files.
        seed: Draws the splits and the order of the training batches.
        batch_size: Images per batch of the dataloaders.
    """

    kind: ClassVar[str]
    decodes: bool = False
    """Whether reading the images takes long enough to keep them decoded however few they are."""

    def __init__(
        self,
        path: str,
        purpose: Purpose,
        num_train: int | None,
        num_valid: int | float | None,
        num_test: int | None,
        augment: Augment,
        max_memory: float,
        cache_dir: str | None,
        seed: int,
        batch_size: int,
    ) -> None:
        super().__init__(purpose, num_train, num_valid, num_test, augment, seed, batch_size)
        self.path = Path(path).expanduser()
        if not self.path.exists():
            raise BenchmarkDataError(
                f"{self.path}: no such file or folder; give {type(self).__name__} the path of images"
            )
        self.max_memory, self.cache_dir = max_memory, cache_dir

    @property
    def origin(self) -> str:
        """File or folder."""
        return str(self.path)

    @cached_property
    @abstractmethod
    def checksum(self) -> str:
        """Digest of everything the images and labels are read from, not of where it lies."""

    def identity(self) -> dict[str, Any]:
        """Checksum, shape and split, so that results outlive a move of the files."""
        name = f"{self.kind}-{self.checksum[:8]}"
        return {
            "data": name, "checksum": self.checksum, "image_shape": list(self.image_shape), **self._split_identity()
        }  # fmt: skip

    def prepare_data(self) -> None:
        """Check the files, and decode them once, on one process of a distributed run."""
        self.setup("fit")

    def _hold(self, source: Source, order: Tensor) -> tuple[Tensor, Tensor]:
        size = len(order) * math.prod(self.image_shape)
        if not self.decodes and size <= self.max_memory * 2**30:
            return super()._hold(source, order)
        shape = "x".join(map(str, self.image_shape))
        name = f"{self.kind}-{self.checksum[:16]}-{shape}-seed{self.seed}-v{_VERSION}.pixels"
        file = data_dir(self.cache_dir) / "images" / name
        if not file.exists():
            write_pixels(file, source, order, self.image_shape)
        return mapped_pixels(file, len(order), self.image_shape)


def write_pixels(file: Path, source: Source, order: Tensor, shape: tuple[int, int, int]) -> None:
    """Write labels (int64) and behind them pixels, in the given order, whole or not at all.

    Args:
        file: Target.
        source: Labels and pixels.
        order: All rows.
        shape: Shape of an image.

    Raises:
        BenchmarkDataError: The disk is too small, or an image cannot be read.
        RunFolderError: The folder cannot be written.
    """
    ensure_writable(file.parent)
    for left in file.parent.glob(f".{file.name}.*"):  # by a process that was killed
        if time.time() - left.stat().st_mtime > _ABANDONED:
            left.unlink(missing_ok=True)
    needed, free = len(order) * (8 + math.prod(shape)), shutil.disk_usage(file.parent).free
    if needed > free:
        raise BenchmarkDataError(
            f"{file}: the decoded images need {needed / 2**30:.2f} GiB, and {free / 2**30:.2f} GiB are free; make "
            "room, choose another cache_dir, or smaller images"
        )
    rank_zero_info(f"writing {len(order)} decoded images ({needed / 2**30:.2f} GiB) once to {file}")
    with write_atomically(file, "wb") as out:
        out.write(source.labels[order].numpy().tobytes())
        for rows in torch.split(order, max(1, _CHUNK // math.prod(shape))):
            out.write(source.pixels(rows).contiguous().numpy().data)


def mapped_pixels(file: Path, count: int, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Images and labels of a file by :func:`write_pixels`; pages are read when they are needed."""
    start = 8 * count
    size = start + count * math.prod(shape)
    images = FileSlice(str(file.resolve()), size, torch.uint8, start, (count, *shape))
    return images.open(), FileSlice(images.path, size, torch.int64, 0, (count,)).open()
