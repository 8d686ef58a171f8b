"""Images in folders: one folder per class."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from lightning_nas.datamodules.decoding import decode, in_threads, is_grey
from lightning_nas.datamodules.image_cache import CachedImages
from lightning_nas.datamodules.splits import Purpose
from lightning_nas.datamodules.vision import Augment, Source
from lightning_nas.errors import BenchmarkDataError, UsageError

_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_VALID = ("val", "valid", "validation")


class Listing(NamedTuple):
    """What lies in the folder.

    Attributes:
        classes: Names of the class folders in order.
        files: All images: those to train on, for validation, for the test, each by class and name.
        labels: Their classes.
        official: Images in the folders for validation and test.
    """

    classes: tuple[str, ...]
    files: list[Path]
    labels: list[int]
    official: tuple[int, int]


class ImageFolderDataModule(CachedImages):
    """Images in one folder per class: ``folder/<class>/*.png``, or ``folder/{train,test}/<class>/*.png`` and ``val``.

    Where there is ``val`` and no ``test``, ``val`` is the test. Every image's central square is scaled to
    ``image_size``; all become RGB unless all are grey.

    Args:
        folder: The folder.
        image_size: Height and width in pixels to which images are scaled.
        purpose: ``search`` holds images out to select by; ``evaluation`` trains on these, too.
        num_train: Images to train on, a part with equal shares of every class; default: all that are left.
        num_valid: Images to select by; a fraction is a share of the training images; default: those in ``val``, or a
            fifth of the training images.
        num_test: Images of the test; default: those in ``test``, or a fifth of all images where there is no such
            folder.
        augment: What happens to training images: ``standard`` (crop after padding by an eighth, horizontal flip),
            modules that change a batch of floats in 0 … 1, or null.
        max_memory: GiB of pixels above which they are written once to a file and read from it when needed.
        cache_dir: Folder of such files; default: ``$LIGHTNING_NAS_DATA`` or a cache folder in the home.
        seed: Draws the splits and the order of the training batches.
        batch_size: Images per batch of the dataloaders.
    """

    kind = "folder"

    def __init__(
        self,
        folder: str,
        image_size: int = 32,
        purpose: Purpose = "search",
        num_train: int | None = None,
        num_valid: int | float | None = None,
        num_test: int | None = None,
        augment: Augment = "standard",
        max_memory: float = 2.0,
        cache_dir: str | None = None,
        seed: int = 0,
        batch_size: int = 128,
    ) -> None:
        super().__init__(
            folder, purpose, num_train, num_valid, num_test, augment, max_memory, cache_dir, seed, batch_size
        )
        if image_size < 1:
            raise UsageError(f"ImageFolderDataModule: got image_size={image_size}, expected at least 1")
        self.image_size = image_size

    @cached_property
    def _listing(self) -> Listing:
        return list_images(self.path)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the class folders."""
        return self._listing.classes

    @cached_property
    def image_shape(self) -> tuple[int, int, int]:
        """One channel where all images are grey, else three; reads the headers of all images."""
        files = self._listing.files
        grey = all(in_threads(lambda file: is_grey(str(file), file), files))
        colours = "grey as all of them are" if grey else "in RGB"
        size = f"{self.image_size}x{self.image_size}"
        rank_zero_info(f"{self.path}: {len(files)} images of {len(self.classes)} classes, {size}, {colours}")
        if passed := _passed_over(self.path):
            count, suffixes = sum(passed.values()), ", ".join(sorted(passed))
            rank_zero_warn(f"{self.path}: {count} files are no images that can be read ({suffixes}) and are left out")
        return (1 if grey else 3), self.image_size, self.image_size

    @cached_property
    def checksum(self) -> str:
        """Digest of all images and their names within the folder."""
        digest = hashlib.sha256()
        for file, content in zip(self._listing.files, in_threads(_digest, self._listing.files), strict=True):
            digest.update(file.relative_to(self.path).as_posix().encode() + b"\0" + content)
        return digest.hexdigest()

    def source(self) -> Source:
        """The folder's images, decoded when asked for."""
        listing, shape = self._listing, self.image_shape

        def pixels(rows: Tensor) -> Tensor:
            files = [listing.files[row] for row in rows.tolist()]
            return decode([str(file) for file in files], files, shape, resize=True)

        return Source(torch.tensor(listing.labels), listing.official, pixels)


def list_images(folder: Path) -> Listing:
    """Find all images, in an order that depends on names alone.

    Args:
        folder: Holds class folders, or ``train`` and others that do.

    Raises:
        BenchmarkDataError: There is no such folder, fewer than two classes, or a class without images.
    """
    if not folder.is_dir():
        raise BenchmarkDataError(f"{folder}: no such folder; expected one with a sub-folder of images for every class")
    inside = {path.name for path in _folders(folder)}
    if "train" not in inside or (not inside & {*_VALID, "test"} and not _folders(folder / "train")):
        return _gather(folder, folder, [])
    valid, test = next((name for name in _VALID if name in inside), None), "test" if "test" in inside else None
    names = (None, valid) if test is None else (valid, test)  # as in ImageNet, where val is what one reports on
    return _gather(folder, folder / "train", [folder / name if name else None for name in names])


def _gather(folder: Path, train: Path, others: list[Path | None]) -> Listing:
    classes = tuple(path.name for path in _folders(train))
    if len(classes) < 2:
        raise BenchmarkDataError(
            f"{train}: found {len(classes)} sub-folders{f' ({classes[0]})' if classes else ''}, expected one for every "
            "class and at least two classes; sort the images into folders named like their classes"
        )
    files: list[Path] = []
    labels: list[int] = []
    official = []
    for part in (train, *others):
        strange = {path.name for path in _folders(part)} - {*classes} if part else set()
        if strange:
            raise BenchmarkDataError(
                f"{part}: holds a class {min(strange)!r} that {train} has not; expected the same classes: rename or "
                "remove the folder"
            )
        before = len(files)
        for label, name in enumerate(classes if part else ()):
            assert part is not None
            found = _images(part / name)
            if not found:
                raise BenchmarkDataError(
                    f"{part / name}: no images ({', '.join(sorted(_SUFFIXES))}), expected at least one of class "
                    f"{name!r}; put some there, or remove the class everywhere"
                )
            files += found
            labels += [label] * len(found)
        official.append(len(files) - before)
    _, valid, test = [*official, 0, 0][:3]
    return Listing(classes, files, labels, (valid, test))


def _folders(path: Path) -> list[Path]:
    return sorted((x for x in path.iterdir() if x.is_dir() and not x.name.startswith(".")), key=lambda x: x.name)


def _images(folder: Path) -> list[Path]:
    found = (
        Path(where, name) for where, _, names in os.walk(folder, followlinks=True) for name in names
        if not name.startswith(".") and Path(name).suffix.lower() in _SUFFIXES
    )  # fmt: skip
    return sorted(found, key=lambda file: file.relative_to(folder).as_posix())


def _passed_over(folder: Path) -> Counter[str]:
    """Suffixes of the files that are not among the images."""
    suffixes = (
        Path(name).suffix.lower() or name for _, _, names in os.walk(folder, followlinks=True) for name in names
        if not name.startswith(".")
    )  # fmt: skip
    return Counter(suffix for suffix in suffixes if suffix not in _SUFFIXES)


def _digest(file: Path) -> bytes:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").digest()
