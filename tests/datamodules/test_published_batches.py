import hashlib
import pickle
import shutil
import tarfile

import numpy as np
import pytest
import torch

from lightning_nas.datamodules.cifar import CIFAR10DataModule, CIFAR100DataModule
from lightning_nas.datamodules.imagenet16 import ImageNet16DataModule
from lightning_nas.errors import BenchmarkDataError

SIZES = {"num_valid": 40, "augment": None}


def md5(file):
    return hashlib.md5(file.read_bytes()).hexdigest()


def write_batch(file, cls, rng, labels):
    """A batch as it was published: rows of bytes, channel after channel, and lists of numbers."""
    pixels = rng.integers(0, 256, (len(labels), int(np.prod(cls.image_shape))), dtype=np.uint8)
    content = {"data": pixels, cls.labels_key: [int(label) for label in labels], "batch_label": file.name}
    file.write_bytes(pickle.dumps(content, 2))
    return pixels.reshape(-1, *cls.image_shape)


@pytest.fixture(params=[CIFAR10DataModule, CIFAR100DataModule, ImageNet16DataModule])
def published(request, tmp_path, monkeypatch):
    """A small copy in the published layout with checksums to match, and what it holds."""
    cls, rng = request.param, np.random.default_rng(0)
    folder = tmp_path / "here" / cls.folder
    folder.mkdir(parents=True)
    pixels, labels = [], []
    for table in ("train_md5", "test_md5"):
        sums = {}
        for name in getattr(cls, table):
            # As in ImageNet, there are classes that are not used: these are to be left out.
            count = cls().num_classes + (3 if cls.first_label else 0)
            classes = rng.permutation(np.tile(np.arange(count), 2)) + cls.first_label
            images = write_batch(folder / name, cls, rng, classes)
            used = classes < cls().num_classes + cls.first_label
            pixels.append(images[used])
            labels.append(classes[used] - cls.first_label)
            sums[name] = md5(folder / name)
        monkeypatch.setattr(cls, table, sums)
    if cls.archive:
        with tarfile.open(folder.parent / cls.archive, "w:gz") as archive:
            archive.add(folder, cls.folder)
        monkeypatch.setattr(cls, "archive_md5", md5(folder.parent / cls.archive))
    tests = len(labels[-1])
    return cls, folder, np.concatenate(pixels), np.concatenate(labels), tests


def by_content(images, labels):
    return sorted((int(label), bytes(image.tobytes())) for image, label in zip(images, labels, strict=True))


def ready(cls, path, **arguments):
    data = cls(str(path), **(SIZES | arguments))
    data.prepare_data()
    data.setup("fit")
    return data


def test_every_image_with_its_label_is_in_the_right_part(published):
    cls, folder, images, labels, tests = published
    data = ready(cls, folder)
    assert data.train.images.dtype == torch.uint8
    assert data.train.images.shape[1:] == data.image_shape
    fit = torch.cat([data.train.images, data.valid.images]), torch.cat([data.train.labels, data.valid.labels])
    assert by_content(*(x.numpy() for x in fit)) == by_content(images[:-tests], labels[:-tests])
    assert by_content(*(x.numpy() for x in data.test)) == by_content(images[-tests:], labels[-tests:])
    assert len(data.valid.labels) == 40


def test_archive_folder_and_the_folder_around_them_are_the_same(published):
    cls, folder, *_ = published
    expected = ready(cls, folder)
    places = [folder.parent]
    if cls.archive:
        elsewhere = folder.parent.parent / "elsewhere"
        elsewhere.mkdir()
        shutil.move(folder.parent / cls.archive, elsewhere)
        places += [elsewhere, elsewhere / cls.archive]
    for place in places:
        data = ready(cls, place)
        assert torch.equal(data.train.images, expected.train.images)
        assert torch.equal(data.test.labels, expected.test.labels)
        assert data.identity() == expected.identity()


def test_the_default_folder_is_that_of_all_data(published, monkeypatch):
    cls, folder, *_ = published
    monkeypatch.setenv("LIGHTNING_NAS_DATA", str(folder.parent))
    cls().prepare_data()


def test_what_is_missing_is_named_with_where_to_get_it(published, tmp_path):
    cls = published[0]
    with pytest.raises(BenchmarkDataError, match=rf"empty: found no .*{cls.folder}.*; get .*(bytes|GB)\)"):
        cls(str(tmp_path / "empty")).prepare_data()


def test_an_incomplete_folder_names_the_file(published):
    cls, folder, *_ = published
    name = [*cls.train_md5, *cls.test_md5][-1]
    (folder / name).unlink()
    with pytest.raises(BenchmarkDataError, match=f"{name}: cannot be read .*get "):
        cls(str(folder)).setup("fit")


def test_a_wrong_checksum_is_an_error_before_anything_is_read(published):
    cls, folder, *_ = published
    name, expected = list(cls.train_md5.items())[-1]
    with (folder / name).open("ab") as file:
        file.write(b"!")
    with pytest.raises(
        BenchmarkDataError, match=f"{name}: has MD5 {md5(folder / name)}, expected {expected}.*https://"
    ):
        cls(str(folder)).setup("fit")
    if cls.archive:
        archive = folder.parent / cls.archive
        archive.write_bytes(archive.read_bytes()[:-20])
        with pytest.raises(BenchmarkDataError, match=f"{cls.archive}: has MD5 .*, expected {cls.archive_md5}"):
            cls(str(archive)).setup("fit")


@pytest.mark.parametrize(
    "content",
    [
        {"labels": [1, 2]}, {"data": np.zeros((2, 7), np.uint8), "labels": [1, 2]},
        {"data": np.zeros((2, 3072), np.uint8), "labels": [1]}, {"data": np.zeros((2, 3072)), "labels": [1, 2]},
        {"data": np.zeros((2, 3072), np.uint8), "labels": ["a", "b"]},
    ],
)  # fmt: skip
def test_a_batch_of_another_layout_is_refused(tmp_path, monkeypatch, content):
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps(content))
    monkeypatch.setattr(CIFAR10DataModule, "train_md5", {"data_batch_1": md5(tmp_path / "data_batch_1")})
    with pytest.raises(BenchmarkDataError, match=r"data_batch_1: holds .*, expected 'data' of N x 3072 bytes"):
        CIFAR10DataModule(str(tmp_path)).setup("fit")


def test_an_archive_without_its_batches_is_refused(tmp_path, monkeypatch):
    archive = tmp_path / CIFAR10DataModule.archive
    with tarfile.open(archive, "w:gz"):
        pass
    monkeypatch.setattr(CIFAR10DataModule, "archive_md5", md5(archive))
    with pytest.raises(BenchmarkDataError, match=f"{archive.name}: cannot be unpacked"):
        CIFAR10DataModule(str(archive)).setup("fit")


def test_identity_needs_no_files_and_knows_the_split():
    assert CIFAR10DataModule("nowhere").identity()["data"] == "cifar10"
    same = CIFAR10DataModule("elsewhere").identity()
    assert CIFAR10DataModule("nowhere").identity() == same
    for change in ({"seed": 1}, {"purpose": "evaluation"}, {"num_train": 5}, {"num_valid": 5}, {"num_test": 5}):
        assert CIFAR10DataModule(**change).identity() != same
    assert CIFAR100DataModule().identity() != same


def test_the_published_sizes():
    sizes = {CIFAR10DataModule: (10, 32), CIFAR100DataModule: (100, 32), ImageNet16DataModule: (120, 16)}
    for cls, (classes, side) in sizes.items():
        assert cls().num_classes == classes == len(set(cls.classes))
        assert cls().image_shape == (3, side, side)
        assert len(cls.mean) == len(cls.std) == 3
        sums = [*cls.train_md5.values(), *cls.test_md5.values()]
        assert all(len(x) == 32 for x in sums)
        assert len(set(sums)) == len(sums)
