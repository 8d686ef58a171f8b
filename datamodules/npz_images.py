"""Images in one ``.npz`` file, as arrays of pixels or as the bytes of JPEG or PNG files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from torch import Tensor

from lightning_nas.datamodules.decoding import decode, shape_of
from lightning_nas.datamodules.image_cache import CachedImages
from lightning_nas.datamodules.splits import Purpose
from lightning_nas.datamodules.vision import Augment, Source
from lightning_nas.errors import BenchmarkDataError, UsageError
from lightning_nas.files import opened_npz


class NpzDataModule(CachedImages):
    """Images in one ``.npz`` file of arrays, for example MNIST.

    It holds ``train_images`` ``(N, H, W)``, ``(N, H, W, C)`` or ``(N, C, H, W)`` uint8, or instead ``train_bytes``
    uint8 and ``train_offsets``: JPEG or PNG files one after another, image i from ``offsets[i]`` to
    ``offsets[i + 1]``. With them ``train_labels`` ``(N,)`` from 0; ``test_…`` likewise if there is an official test
    part; ``label_names`` if there are names. JPEG and PNG files are decoded once and kept in the cache folder.

    Args:
        path: The file.
        image_size: Height and width in pixels to which the central square of JPEG and PNG images is scaled; default:
            they must be of one size already.
        purpose: ``search`` holds ``num_valid`` training images out to select by; ``evaluation`` trains on these, too.
        num_train: Images to train on, a part with equal shares of every class; default: all that are left.
        num_valid: Images to select by; a fraction is a share of the training images; default: a fifth of them.
        num_test: Images of the test; default: the official test part, or a fifth of the images where there is none.
        augment: What happens to training images: ``standard`` (crop after padding by an eighth, horizontal flip),
            modules that change a batch of floats in 0 … 1, or null.
        max_memory: GiB of pixels above which arrays are kept in a file in the cache folder, too.
        cache_dir: Folder of decoded images; default: ``$LIGHTNING_NAS_DATA`` or a cache folder in the home.
        seed: Draws the splits and the order of the training batches.
        batch_size: Images per batch of the dataloaders.
    """

    kind = "npz"

    def __init__(
        self,
        path: str,
        image_size: int | None = None,
        purpose: Purpose = "search",
        num_train: int | None = None,
        num_valid: int | float | None = None,
        num_test: int | None = None,
        augment: Augment = None,
        max_memory: float = 2.0,
        cache_dir: str | None = None,
        seed: int = 0,
        batch_size: int = 128,
    ) -> None:
        super().__init__(
            path, purpose, num_train, num_valid, num_test, augment, max_memory, cache_dir, seed, batch_size
        )
        if image_size is not None and image_size < 1:
            raise UsageError(f"NpzDataModule: got image_size={image_size}, expected at least 1")
        self.image_size = image_size

    @cached_property
    def checksum(self) -> str:
        """Digest of the file."""
        try:
            with self.path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise BenchmarkDataError(
                f"{self.path}: cannot be read ({error.strerror or error}); expected an .npz file of images"
            ) from error

    @cached_property
    def _parts(self) -> list[Part]:
        """The training part, and the test part if there is one."""
        with opened_npz(self.path) as file:
            parts = ["train", "test"] if any(name.startswith("test_") for name in file.files) else ["train"]
            return [read_part(self.path, file, name) for name in parts]

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The file's ``label_names``, else the numbers."""
        count = 1 + max(int(part.labels.max()) for part in self._parts)
        with opened_npz(self.path) as file:
            names = file["label_names"].tolist() if "label_names" in file.files else list(range(count))
        if len(names) < max(2, count):
            raise BenchmarkDataError(
                f"{self.path}: got {len(names)} classes and labels up to {count - 1}; expected at least two classes, "
                "and a name in label_names for every label from 0"
            )
        return tuple(map(str, names))

    @cached_property
    def image_shape(self) -> tuple[int, int, int]:
        """That of the first image."""
        shapes = {part.shape(self.image_size) for part in self._parts}
        if len(shapes) > 1:
            raise BenchmarkDataError(
                f"{self.path}: got images of {' and '.join(map(str, sorted(shapes)))} (channels, height, width) in the "
                "two parts; expected one shape, which image_size makes of JPEG and PNG"
            )
        return shapes.pop()

    @property
    def decodes(self) -> bool:  # type: ignore[override]
        """Whether the file holds JPEG or PNG."""
        return self._parts[0].offsets is not None

    def source(self) -> Source:
        """The file's images."""
        parts, shape = self._parts, self.image_shape

        def pixels(rows: Tensor) -> Tensor:
            images = torch.empty(len(rows), *shape, dtype=torch.uint8)
            for part, start in zip(parts, (0, len(parts[0].labels)), strict=False):
                mine = (rows >= start) & (rows < start + len(part.labels))
                images[mine] = part.pixels(rows[mine] - start, shape, self.image_size is not None)
            return images

        labels = torch.cat([part.labels for part in parts])
        return Source(labels, (0, len(labels) - len(parts[0].labels)), pixels)

    def setup(self, stage: str) -> None:
        """Split; what was read from the file is forgotten."""
        super().setup(stage)
        self.__dict__.pop("_parts", None)


@dataclass(frozen=True)
class Part:
    """The images of the training or test part.

    Args:
        name: What errors call it.
        labels: Classes, ``(N,)``.
        content: Pixels ``(N, C, H, W)``, or bytes.
        offsets: Where every image begins and ends in the bytes, ``(N + 1,)``; None for pixels.
    """

    name: str
    labels: Tensor
    content: np.ndarray
    offsets: np.ndarray | None

    def shape(self, image_size: int | None) -> tuple[int, int, int]:
        """Shape of the first image, or what it is scaled to."""
        if self.offsets is None:
            channels, height, width = self.content.shape[1:]
            return channels, height, width
        channels, height, width = shape_of(f"{self.name} 0", self._encoded(0))
        return (channels, height, width) if image_size is None else (channels, image_size, image_size)

    def pixels(self, rows: Tensor, shape: tuple[int, int, int], resize: bool) -> Tensor:
        """Images of some rows."""
        if self.offsets is None:
            return torch.from_numpy(self.content[rows.numpy()])
        indices = rows.tolist()
        return decode([f"{self.name} {i}" for i in indices], [self._encoded(i) for i in indices], shape, resize)

    def _encoded(self, row: int) -> bytes:
        assert self.offsets is not None
        return self.content[self.offsets[row] : self.offsets[row + 1]].tobytes()


def read_part(path: Path, file: NpzFile, part: str) -> Part:
    """Read and check the columns of a part.

    Args:
        path: Named in errors.
        file: The opened file.
        part: ``train`` or ``test``.

    Raises:
        BenchmarkDataError: A column is missing, or not of the type and shape it must have.
    """

    def wrong(got: str, expected: str) -> BenchmarkDataError:
        return BenchmarkDataError(f"{path}: got {got}, expected {expected}; mend the file or make it anew")

    as_pixels, as_files = {f"{part}_images", f"{part}_labels"}, {f"{part}_{x}" for x in ("bytes", "offsets", "labels")}
    if not as_pixels <= {*file.files} and not as_files <= {*file.files}:
        raise wrong(
            f"the columns {', '.join(sorted(file.files)) or '(none)'}",
            f"{', '.join(sorted(as_pixels))} or {', '.join(sorted(as_files))}",
        )
    labels = file[f"{part}_labels"]
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not labels.size or labels.min() < 0:
        raise wrong(f"{part}_labels {labels.dtype}{labels.shape}", "a column of integers from 0")
    offsets = None
    if f"{part}_images" in file.files:
        given = file[f"{part}_images"]
        content = _channels_first(given)
        fits = content.ndim == 4 and content.shape[1] in (1, 3) and content.dtype == np.uint8
        if not fits or len(content) != len(labels):
            raise wrong(
                f"{part}_images {given.dtype}{given.shape} for {len(labels)} labels",
                "as many images (N, H, W), (N, H, W, C) or (N, C, H, W) of 1 or 3 channels, uint8 in 0 … 255",
            )
    else:
        content, offsets = file[f"{part}_bytes"], file[f"{part}_offsets"]
        sound = content.dtype == np.uint8 and offsets.dtype.kind in "iu" and offsets.shape == (len(labels) + 1,)
        if not sound or offsets[0] < 0 or offsets[-1] > content.size or (offsets[1:] < offsets[:-1]).any():
            raise wrong(
                f"{part}_bytes {content.dtype}{content.shape} with {part}_offsets {offsets.dtype}{offsets.shape}",
                f"uint8 with {len(labels) + 1} rising integers up to the number of bytes",
            )
    return Part(f"{path}: {part} image", torch.from_numpy(labels.astype(np.int64)), content, offsets)


def _channels_first(images: np.ndarray) -> np.ndarray:
    """``(N, H, W)`` and ``(N, H, W, C)`` as ``(N, C, H, W)``."""
    if images.ndim == 3:
        return images[:, None]
    if images.ndim == 4 and images.shape[1] not in (1, 3) and images.shape[3] in (1, 3):
        return images.transpose(0, 3, 1, 2)
    return images
