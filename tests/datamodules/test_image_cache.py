import os
import shutil
import time
from collections import namedtuple

import pytest
import torch

from lightning_nas.datamodules import image_cache
from lightning_nas.datamodules.image_cache import mapped_pixels, write_pixels
from lightning_nas.datamodules.vision import Source
from lightning_nas.errors import BenchmarkDataError, RunFolderError

SHAPE = (3, 4, 5)
IMAGES = torch.randint(256, (50, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(50) % 7
ORDER = torch.randperm(50, generator=torch.Generator().manual_seed(1))


class Images:
    """Remembers how many images were asked for at a time; fails when told."""

    def __init__(self, error=None, at=0):
        self.asked, self.error, self.at = [], error, at

    def __call__(self, rows):
        self.asked.append(len(rows))
        if self.error is not None and sum(self.asked) > self.at:
            raise self.error
        return IMAGES[rows]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "images" / "some.pixels"


def test_images_come_back_in_the_order_they_were_written(file):
    write_pixels(file, Source(LABELS, (0, 0), IMAGES.__getitem__), ORDER, SHAPE)
    images, labels = mapped_pixels(file, 50, SHAPE)
    assert torch.equal(images, IMAGES[ORDER])
    assert torch.equal(labels, LABELS[ORDER])


def test_few_images_are_in_memory_at_a_time(file, monkeypatch):
    monkeypatch.setattr(image_cache, "_CHUNK", 12 * 60 + 1)
    images = Images()
    write_pixels(file, Source(LABELS, (0, 0), images), ORDER, SHAPE)
    assert images.asked == [12, 12, 12, 12, 2]
    assert torch.equal(mapped_pixels(file, 50, SHAPE)[0], IMAGES[ORDER])


@pytest.mark.parametrize("error", [BenchmarkDataError("broken"), KeyboardInterrupt(), OSError(28, "No space left")])
def test_an_error_on_the_way_leaves_nothing(file, monkeypatch, error):
    monkeypatch.setattr(image_cache, "_CHUNK", 12 * 60)
    with pytest.raises(type(error)):
        write_pixels(file, Source(LABELS, (0, 0), Images(error, at=30)), ORDER, SHAPE)
    assert list(file.parent.iterdir()) == []


def test_what_a_killed_process_left_is_removed_when_it_is_old(file):
    file.parent.mkdir()
    dead, alive, other = (file.parent / name for name in (".some.pixels.a", ".some.pixels.b", ".else.pixels.a"))
    for left in (dead, alive, other):
        left.write_bytes(b"part")
    long_ago = time.time() - 2 * 3600
    os.utime(dead, (long_ago, long_ago))
    os.utime(other, (long_ago, long_ago))
    write_pixels(file, Source(LABELS, (0, 0), Images()), ORDER, SHAPE)
    assert sorted(file.parent.iterdir()) == sorted([file, alive, other])


def test_a_full_disk_is_found_before_any_image_is_decoded(file, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(50 * (60 + 8) - 1))
    images = Images()
    with pytest.raises(BenchmarkDataError, match=r"some\.pixels: the decoded images need .* GiB are free"):
        write_pixels(file, Source(LABELS, (0, 0), images), ORDER, SHAPE)
    assert images.asked == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(50 * (60 + 8)))
    write_pixels(file, Source(LABELS, (0, 0), images), ORDER, SHAPE)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot write there"):
        write_pixels(tmp_path / "file" / "some.pixels", Source(LABELS, (0, 0), Images()), ORDER, SHAPE)
