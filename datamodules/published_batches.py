"""Images in pickled batches, as the authors of CIFAR and of the small ImageNet published them."""

from __future__ import annotations

import hashlib
import math
import tarfile
import zlib
from abc import ABC
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
import torch

from lightning_nas.datamodules.restricted_pickle import load_arrays
from lightning_nas.datamodules.splits import Purpose
from lightning_nas.datamodules.vision import Augment, Source, VisionDataModule
from lightning_nas.errors import BenchmarkDataError
from lightning_nas.files import data_dir


class PublishedBatches(VisionDataModule, ABC):
    """Images in pickled batches of known checksums, in a folder or in the archive it was published in.

    Args:
        path: The published archive, its unpacked folder, or the folder with either; default: ``$LIGHTNING_NAS_DATA`` or
            a cache folder in the home.
        purpose: ``search`` holds ``num_valid`` training images out to select by; ``evaluation`` trains on these, too.
        num_train: Images to train on, a part with equal shares of every class; default: all that are left.
        num_valid: Images to select by; a fraction is a share of the training images; default: half of them for CIFAR,
            a fifth for ImageNet16.
        num_test: Images of the test, a part with equal shares of every class; default: the whole official test part.
        augment: What happens to training images: ``standard`` (crop after padding by an eighth, horizontal flip),
            modules that change a batch of floats in 0 … 1, or null.
        seed: Draws the splits and the order of the training batches.
        batch_size: Images per batch of the dataloaders.
    """

    kind: ClassVar[str]
    folder: ClassVar[str]
    archive: ClassVar[str | None]
    archive_md5: ClassVar[str | None]
    how_to_get: ClassVar[str]
    train_md5: ClassVar[dict[str, str]]
    test_md5: ClassVar[dict[str, str]]
    labels_key: ClassVar[str] = "labels"
    first_label: ClassVar[int] = 0
    valid_share: ClassVar[float] = 0.5

    def __init__(
        self,
        path: str | None = None,
        purpose: Purpose = "search",
        num_train: int | None = None,
        num_valid: int | float | None = None,
        num_test: int | None = None,
        augment: Augment = "standard",
        seed: int = 0,
        batch_size: int = 128,
    ) -> None:
        held_out = self.valid_share if num_valid is None else num_valid
        super().__init__(purpose, num_train, held_out, num_test, augment, seed, batch_size)
        self.path = data_dir(path)

    @property
    def origin(self) -> str:
        """The archive or folder."""
        return str(self.path)

    def identity(self) -> dict[str, Any]:
        """Name and split: the files' checksums are known."""
        return {"data": self.kind, **self._split_identity()}

    def prepare_data(self) -> None:
        """Complain now if the files are missing."""
        self._found()

    def _found(self) -> Path:
        """The archive or the folder of the batches."""
        some = next(iter(self.train_md5))
        for folder in (self.path, self.path / self.folder):
            if (folder / some).is_file():
                return folder
        for file in (self.path, self.path / self.archive if self.archive else self.path):
            if file.is_file() and self.archive:
                return file
        wanted = [*([self.archive] if self.archive else []), f"folder {self.folder} with {some}"]
        raise BenchmarkDataError(
            f"{self.path}: found no {' and no '.join(wanted)}; {self.how_to_get}, and give its place as path"
        )

    def _batches(self, names: dict[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
        found = self._found()
        if found.is_dir():
            for name, md5 in names.items():
                with self._checked(found / name, md5) as file:
                    yield str(found / name), load_arrays(str(found / name), file)
            return
        assert self.archive_md5 is not None
        with self._checked(found, self.archive_md5) as file:
            try:
                with tarfile.open(fileobj=file, mode="r:gz") as archive:
                    for name in names:
                        member = archive.extractfile(f"{self.folder}/{name}")
                        assert member is not None
                        yield f"{found}: {name}", load_arrays(f"{found}: {name}", member)
            except (tarfile.TarError, KeyError, EOFError, OSError, zlib.error) as error:
                raise BenchmarkDataError(f"{found}: cannot be unpacked ({error}); {self.how_to_get} again") from error

    def _checked(self, path: Path, md5: str) -> IO[bytes]:
        try:
            file = path.open("rb")
        except OSError as error:
            raise BenchmarkDataError(
                f"{path}: cannot be read ({error.strerror or error}); {self.how_to_get}, whole"
            ) from error
        got = hashlib.file_digest(file, "md5").hexdigest()
        if got != md5:
            file.close()
            raise BenchmarkDataError(
                f"{path}: has MD5 {got}, expected {md5} of the published file, so it is damaged, cut short or another "
                f"one; {self.how_to_get} again"
            )
        file.seek(0)
        return file

    def source(self) -> Source:
        """Read all batches."""
        pixels, labels, official_test = [], [], 0
        for names in (self.train_md5, self.test_md5):
            official_test = 0
            for name, batch in self._batches(names):
                images, classes = self._content(name, batch)
                kept = classes < self.num_classes
                pixels.append(images[kept])
                labels.append(classes[kept])
                official_test += int(kept.sum())
        everything = torch.from_numpy(np.concatenate(pixels)).view(-1, *self.image_shape)
        return Source(torch.from_numpy(np.concatenate(labels)), (0, official_test), everything.__getitem__)

    def _content(self, name: str, batch: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        images, classes = np.asarray(batch.get("data")), np.asarray(batch.get(self.labels_key))
        length = math.prod(self.image_shape)
        sound = images.dtype == np.uint8 and images.ndim == 2 and images.shape[1] == length
        if not sound or classes.dtype.kind not in "iu" or classes.shape != images.shape[:1]:
            raise BenchmarkDataError(
                f"{name}: holds {', '.join(map(str, batch))}, expected 'data' of N x {length} bytes and N labels from "
                f"{self.first_label} in {self.labels_key!r}; {self.how_to_get} again"
            )
        return images, classes.astype(np.int64) - self.first_label
