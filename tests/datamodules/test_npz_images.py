import io
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_nas.datamodules.npz_images import NpzDataModule
from lightning_nas.errors import BenchmarkDataError, UsageError

RNG = np.random.default_rng(0)
LABELS = {"train_labels": np.arange(60) % 3, "test_labels": np.arange(30, dtype=np.uint8) % 3}


def pixels(count, *shape):
    return RNG.integers(0, 256, (count, *shape), dtype=np.uint8)


def as_files(images, kind="PNG"):
    """Bytes of all images, one after another, and where each begins and ends."""
    encoded = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, kind)
        encoded.append(buffer.getvalue())
    offsets = np.cumsum([0, *map(len, encoded)])
    return np.frombuffer(b"".join(encoded), np.uint8), offsets


def files(prefix, images, kind="PNG"):
    return dict(zip((f"{prefix}_bytes", f"{prefix}_offsets"), as_files(images, kind), strict=True))


def ready(path, **arguments):
    data = NpzDataModule(str(path), **({"cache_dir": str(path.parent / "cache")} | arguments))
    data.prepare_data()
    data.setup("fit")
    return data


def contents(*splits):
    """Every image with its label, in no order."""
    return sorted(
        (int(label), image.numpy().tobytes()) for split in splits for image, label in zip(*split, strict=True)
    )


def expected(images, labels):
    """The same of channels-last arrays."""
    first = images[..., None] if images.ndim == 3 else images
    return sorted((int(label), image.transpose(2, 0, 1).tobytes()) for image, label in zip(first, labels, strict=True))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "images.npz"


@pytest.mark.parametrize("layout", ["grey", "channels last", "channels first", "files", "grey files"])
def test_every_layout_gives_the_same_images(path, layout):
    shape = (6, 5) if "grey" in layout else (6, 5, 3)
    train, test = pixels(60, *shape), pixels(30, *shape)
    if "files" in layout:
        columns = files("train", train) | files("test", test)
    else:
        turn = (0, 3, 1, 2) if layout == "channels first" else range(train.ndim)
        columns = {"train_images": train.transpose(turn), "test_images": test.transpose(turn)}
    np.savez(path, **columns, **LABELS)
    data = ready(path)
    assert data.image_shape == (1 if "grey" in layout else 3, 6, 5) == tuple(data.train.images.shape[1:])
    assert data.train.images.dtype == torch.uint8
    assert [len(split.labels) for split in (data.train, data.valid, data.test)] == [48, 12, 30]
    assert contents(data.train, data.valid) == expected(train, LABELS["train_labels"])
    assert contents(data.test) == expected(test, LABELS["test_labels"])
    assert data.classes == ("0", "1", "2")


def test_without_a_test_part_one_is_split_off_and_names_are_kept(path):
    images = pixels(60, 4, 4)
    names = np.array(["ant", "bee", "cat"])
    np.savez_compressed(path, train_images=images, train_labels=LABELS["train_labels"], label_names=names)
    data = ready(path)
    assert data.classes == ("ant", "bee", "cat")
    assert len(data.test.labels) == 12
    assert contents(data.train, data.valid, data.test) == expected(images, LABELS["train_labels"])


def test_files_are_decoded_once(path, monkeypatch):
    np.savez(path, **files("train", pixels(60, 6, 6, 3)), train_labels=LABELS["train_labels"])
    first = ready(path)
    monkeypatch.setattr("lightning_nas.datamodules.npz_images.decode", lambda *_: pytest.fail("decoded again"))
    second = ready(path, purpose="evaluation")
    assert torch.equal(second.test.images, first.test.images)
    assert torch.equal(second.test.labels, first.test.labels)
    (file,) = (path.parent / "cache" / "images").iterdir()
    assert first.train.images.untyped_storage().filename == str(file)


def test_the_default_cache_is_in_the_folder_of_all_data(path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_NAS_DATA", str(path.parent / "data"))
    np.savez(path, **files("train", pixels(60, 6, 6)), train_labels=LABELS["train_labels"])
    ready(path, cache_dir=None)
    assert len(list((path.parent / "data" / "images").iterdir())) == 1


def test_files_of_different_sizes_need_image_size(path):
    images = [*pixels(59, 6, 6), *pixels(1, 9, 7)]
    np.savez(path, **files("train", images), train_labels=LABELS["train_labels"])
    with pytest.raises(BenchmarkDataError, match=r"npz: train image 59 has 9x7 pixels, expected 6x6.*image_size"):
        ready(path)
    assert not list((path.parent / "cache" / "images").iterdir()), "a part of the images was left"
    assert ready(path, image_size=4).train.images.shape[1:] == (1, 4, 4)


def test_colour_among_grey_files_is_named(path):
    images = [*pixels(59, 6, 6), *pixels(1, 6, 6, 3)]
    np.savez(path, **files("train", images), train_labels=LABELS["train_labels"])
    with pytest.raises(BenchmarkDataError, match="train image 59 has colour and the first image has none"):
        ready(path)


def test_a_broken_file_is_named(path):
    columns = files("train", pixels(60, 6, 6, 3))
    content = columns["train_bytes"].copy()
    content[columns["train_offsets"][7] :][:30] = 0
    np.savez(path, **columns | {"train_bytes": content}, train_labels=LABELS["train_labels"])
    with pytest.raises(BenchmarkDataError, match=r"train image 7: not a readable image"):
        ready(path)


def test_identity_is_that_of_the_content(path):
    np.savez(path, train_images=pixels(60, 4, 4), train_labels=LABELS["train_labels"])
    identity = NpzDataModule(str(path)).identity()
    moved = path.rename(path.with_name("moved.npz"))
    assert NpzDataModule(str(moved)).identity() == identity
    assert identity["data"].startswith("npz-")
    assert NpzDataModule(str(moved), num_valid=9).identity() != identity
    np.savez(path, train_images=pixels(60, 4, 4), train_labels=LABELS["train_labels"])
    assert NpzDataModule(str(path)).identity()["checksum"] != identity["checksum"]


GOOD = {"train_images": pixels(60, 4, 4), "train_labels": LABELS["train_labels"]}
FILES = files("train", pixels(60, 4, 4)) | {"train_labels": LABELS["train_labels"]}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"x_train": GOOD["train_images"]}, "the columns x_train, expected train_images, train_labels or train_bytes"),
        (GOOD | {"test_images": pixels(5, 4, 4)}, "expected test_images, test_labels or test_bytes"),
        (GOOD | {"train_images": GOOD["train_images"] / 255}, r"train_images float64\(60, 4, 4\) .*uint8 in 0 … 255"),
        (GOOD | {"train_images": pixels(59, 4, 4)}, r"train_images uint8\(59, 4, 4\) for 60 labels"),
        (GOOD | {"train_images": pixels(60, 4, 4, 2)}, "of 1 or 3 channels"),
        (GOOD | {"train_images": pixels(60, 4)}, r"train_images uint8\(60, 4\)"),
        (GOOD | {"train_labels": LABELS["train_labels"] - 1}, r"train_labels int64\(60,\), expected a column of"),
        (GOOD | {"train_labels": np.eye(60)}, r"train_labels float64\(60, 60\)"),
        (GOOD | {"train_labels": np.zeros(60, int)}, "got 1 classes and labels up to 0; expected at least two classes"),
        (GOOD | {"label_names": np.array(["a", "b"])}, "got 2 classes and labels up to 2"),
        (GOOD | {"train_labels": 2 * LABELS["train_labels"]}, "no training image of class '1'"),
        (GOOD | {"test_images": pixels(2, 4, 4), "test_labels": np.arange(2)}, "no test image of class '2'"),
        (GOOD | {"test_images": pixels(3, 5, 4), "test_labels": np.arange(3)}, r"\(1, 4, 4\) and \(1, 5, 4\)"),
        (FILES | {"train_offsets": FILES["train_offsets"][1:]}, "expected uint8 with 61 rising integers"),
        (FILES | {"train_offsets": FILES["train_offsets"][::-1]}, "rising integers"),
        (FILES | {"train_bytes": FILES["train_bytes"][:-1]}, "up to the number of bytes"),
    ],
)  # fmt: skip
def test_columns_of_another_kind_are_refused(path, columns, message):
    np.savez(path, **columns)
    with pytest.raises(BenchmarkDataError, match=rf"images\.npz.*{message}"):
        ready(path)


def test_a_file_that_is_missing_or_no_npz_is_named(path):
    with pytest.raises(BenchmarkDataError, match=r"images\.npz: no such file or folder"):
        NpzDataModule(str(path))
    path.write_bytes(b"nothing")
    with pytest.raises(BenchmarkDataError, match=r"images\.npz: not a readable \.npz"):
        NpzDataModule(str(path)).prepare_data()
    np.savez(path, train_images=np.array([{}], object), train_labels=np.array([0]))
    with pytest.raises(BenchmarkDataError, match=r"images\.npz: not a readable \.npz"):
        NpzDataModule(str(path)).prepare_data()


def test_a_size_of_nothing_is_refused(path):
    np.savez(path, **GOOD)
    with pytest.raises(UsageError, match="image_size=0"):
        NpzDataModule(str(path), image_size=0)


@pytest.fixture(scope="module")
def real():
    folder = os.environ.get("LIGHTNING_NAS_IMAGES")
    if not folder:
        pytest.skip("set LIGHTNING_NAS_IMAGES to a folder with cifar10_jpeg.npz and mnist.npz")
    return Path(folder)


def test_mnist(real, tmp_path):
    data = NpzDataModule(str(real / "mnist.npz"), purpose="evaluation", cache_dir=str(tmp_path))
    data.setup("fit")
    assert data.image_shape == (1, 28, 28)
    assert data.train.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert len(data.test.labels) == 10_000
    assert float(data.train.images.double().mean()) / 255 == pytest.approx(0.1307, abs=1e-4)
    assert data.mean[0] / 255 == pytest.approx(0.1307, abs=2e-3)
    assert data.std[0] / 255 == pytest.approx(0.3081, abs=2e-3)


def test_cifar10_as_jpeg_files(real, tmp_path):
    data = NpzDataModule(str(real / "cifar10_jpeg.npz"), num_valid=25_000, augment="standard", cache_dir=str(tmp_path))
    data.prepare_data()
    data.setup("fit")
    assert data.classes == ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    assert [len(split.labels) for split in (data.train, data.valid, data.test)] == [25_000, 25_000, 10_000]
    assert data.train.labels.bincount().tolist() == [2500] * 10
    torch.testing.assert_close(torch.tensor(data.mean) / 255, torch.tensor([0.4914, 0.4822, 0.4465]), atol=6e-3, rtol=0)
    torch.testing.assert_close(torch.tensor(data.std) / 255, torch.tensor([0.247, 0.243, 0.262]), atol=6e-3, rtol=0)
    start = time.perf_counter()
    again = NpzDataModule(str(real / "cifar10_jpeg.npz"), num_valid=25_000, cache_dir=str(tmp_path))
    again.setup("fit")
    assert time.perf_counter() - start < 3, "the decoded images were not found again"
    assert torch.equal(again.valid.images, data.valid.images)
