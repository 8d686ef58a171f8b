import logging
import os
import pickle
import shutil
from itertools import chain

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_nas.datamodules.image_folder import ImageFolderDataModule
from lightning_nas.errors import BenchmarkDataError, UsageError

CLASSES = ("ant", "bee", "cat")


def picture(label, index, size=(12, 10), mode="RGB"):
    """One colour that tells class and number."""
    return Image.new("RGB", size, (80 * label + index, 255 - 80 * label, index)).convert(mode)


def write(folder, count, kind="png", **options):
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            picture(label, index, **options).save(folder / name / f"{index:03d}.{kind}")
    return folder


@pytest.fixture
def flat(tmp_path):
    return write(tmp_path / "flat", 20)


@pytest.fixture
def parted(tmp_path):
    folder = tmp_path / "parted"
    for part, count in (("train", 12), ("val", 4), ("test", 5)):
        write(folder / part, count)
    return folder


def make(folder, **arguments):
    return ImageFolderDataModule(str(folder), **({"image_size": 8, "cache_dir": f"{folder}-cache"} | arguments))


def ready(folder, **arguments):
    data = make(folder, **arguments)
    data.prepare_data()
    data.setup("fit")
    return data


def numbers(split):
    """(class, number) of the pictures in a split, by their colours."""
    colours = split.images[:, :, 0, 0].long()
    assert torch.equal(split.images, split.images[:, :, :1, :1].expand_as(split.images))
    assert torch.equal(colours[:, 0] - colours[:, 2], 80 * split.labels)
    return sorted(zip(split.labels.tolist(), colours[:, 2].tolist(), strict=True))


def everything(*ranges):
    return sorted((label, index) for label in range(3) for index in range(*ranges))


def test_a_flat_folder_is_split_by_class(flat):
    data = ready(flat)
    assert data.classes == CLASSES
    assert data.num_classes == 3
    assert data.image_shape == (3, 8, 8) == tuple(data.train.images.shape[1:])
    parts = [numbers(split) for split in (data.train, data.valid, data.test)]
    assert [len(part) for part in parts] == [38, 10, 12]
    assert sorted(chain(*parts)) == everything(20)


def test_folders_for_training_validation_and_test(parted):
    data = ready(parted)
    assert numbers(data.train) == everything(12)
    assert numbers(data.valid) == everything(4)
    assert numbers(data.test) == everything(5)
    final = ready(parted, purpose="evaluation")
    assert numbers(final.train) == sorted(everything(12) + everything(4))
    assert numbers(final.test) == everything(5)


def test_without_a_test_folder_val_is_the_test(parted):
    shutil.rmtree(parted / "test")
    data = ready(parted)
    assert numbers(data.test) == everything(4)
    assert len(data.train.labels) + len(data.valid.labels) == 36


def test_classes_may_be_called_train_and_test(tmp_path):
    for name in ("train", "bus"):
        (tmp_path / name).mkdir()
        for index in range(5):
            picture(0, index).save(tmp_path / name / f"{index}.png")
    assert make(tmp_path).classes == ("bus", "train")


def test_images_lie_deeper_and_other_files_are_passed_over(flat):
    (flat / "ant" / "images").mkdir()
    shutil.move(flat / "ant" / "000.png", flat / "ant" / "images" / "000.PNG")
    (flat / "ant" / "notes.txt").write_text("none")
    (flat / ".hidden").mkdir()
    (flat / "bee" / ".000.png").write_bytes(b"none")
    data = ready(flat)
    assert sorted(chain(*(numbers(split) for split in (data.train, data.valid, data.test)))) == everything(20)


def test_the_central_square_is_scaled(tmp_path):
    wide = np.zeros((16, 48, 3), np.uint8)
    wide[:, 16:32] = 200  # what is left of the sides would be dark
    wide[:8, 16:32, 1] = 100
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for index, image in enumerate((wide, wide.transpose(1, 0, 2), wide[:, 16:32])):
            Image.fromarray(image).save(tmp_path / name / f"{index}.png")
    data = ready(tmp_path, num_valid=1, num_test=1, seed=3)
    images = torch.cat([split.images for split in (data.train, data.valid, data.test)])
    assert (images[:, 0] == 200).all()
    upright = images[(images[:, 1, 0, 7] == 100)]
    assert len(upright) == 4
    assert (upright[:, 1, :3] == 100).all()
    assert (upright[:, 1, 5:] == 200).all()


def test_photographs_that_lie_on_their_side_are_put_up(tmp_path):
    image = Image.fromarray(np.repeat([[[250], [0]]], 3, axis=2).astype(np.uint8).repeat(8, 0).repeat(4, 1))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for index in range(3):
            image.save(tmp_path / name / f"{index}.jpg", exif=exif, quality=95)
    top = ready(tmp_path, num_valid=1, num_test=1).train.images
    assert (top[:, :, 0] > 200).all()
    assert (top[:, :, 7] < 50).all()


@pytest.mark.parametrize(
    ("modes", "channels"), [(("L", "1"), 1), (("L", "RGB"), 3), (("RGBA", "P"), 3), (("CMYK", "RGB"), 3)]
)
def test_channels_follow_from_all_images_and_are_said(tmp_path, caplog, modes, channels):
    for name, mode in zip(("one", "two"), modes, strict=True):
        (tmp_path / name).mkdir()
        for index in range(4):
            Image.new("RGB", (9, 9), (255, 255, 255)).convert(mode).save(
                tmp_path / name / f"{index}.{'tif' if mode == 'CMYK' else 'png'}"
            )
    with caplog.at_level(logging.INFO):
        data = ready(tmp_path)
    assert data.image_shape == (channels, 8, 8)
    assert (data.train.images == 255).all()
    assert ("grey as all of them are" if channels == 1 else "in RGB") in caplog.text
    assert "8 images of 2 classes, 8x8" in caplog.text


def test_identity_is_that_of_the_content(flat, tmp_path):
    identity = make(flat).identity()
    moved = shutil.copytree(flat, tmp_path / "elsewhere")
    assert make(moved).identity() == identity
    assert identity["data"].startswith("folder-")
    for change in ({"image_size": 9}, {"seed": 1}, {"purpose": "evaluation"}, {"num_train": 6}):
        assert make(flat, **change).identity() != identity
    os.rename(moved / "ant" / "000.png", moved / "ant" / "999.png")
    assert make(moved).identity()["checksum"] != identity["checksum"]
    os.rename(moved / "ant" / "999.png", moved / "ant" / "000.png")
    assert make(moved).identity() == identity
    os.rename(moved / "ant" / "019.png", moved / "bee" / "#.png")  # the same order, but another class
    assert make(moved).identity()["checksum"] != identity["checksum"]
    picture(2, 77).save(flat / "cat" / "000.png")
    assert make(flat).identity()["checksum"] != identity["checksum"]


def test_above_max_memory_the_pixels_lie_in_a_file(flat, tmp_path):
    in_memory, mapped = ready(flat), ready(flat, max_memory=1e-9)
    assert in_memory.train.images.untyped_storage().filename is None
    (file,) = (tmp_path / "flat-cache" / "images").iterdir()
    assert file.stat().st_size == 60 * (3 * 8 * 8 + 8)
    for part in ("train", "valid", "test"):
        ours, theirs = getattr(mapped, part), getattr(in_memory, part)
        assert ours.images.untyped_storage().filename == str(file)
        assert ours.images.is_contiguous()
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.labels, theirs.labels)
    again = pickle.loads(pickle.dumps(mapped.valid))
    assert torch.equal(again.images, mapped.valid.images)
    assert next(iter(mapped.train_dataloader()))[0].dtype == torch.uint8


def break_image(folder):
    (folder / "bee" / "003.png").write_bytes((folder / "bee" / "003.png").read_bytes()[:50])


def text_for_image(folder):
    (folder / "bee" / "003.png").write_text("nothing to see")


def deep_image(folder):
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(folder / "bee" / "003.png")


def empty_class(folder):
    shutil.rmtree(folder / "bee")
    (folder / "bee").mkdir()


def one_class(folder):
    shutil.rmtree(folder / "bee")
    shutil.rmtree(folder / "cat")


def no_folder(folder):
    shutil.rmtree(folder)


def only_a_file(folder):
    shutil.rmtree(folder)
    folder.write_text("")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_image, r"bee/003\.png: not a readable image .*; replace it or take it out"),
        (text_for_image, r"bee/003\.png: not a readable image .*; replace it or take it out"),
        (deep_image, r"bee/003\.png has more than 8 bits per channel .*convert"),
        (empty_class, r"flat/bee: no images .* of class 'bee'; put some there"),
        (one_class, r"flat: found 1 sub-folders \(ant\), expected .* at least two classes"),
        (no_folder, r"flat: no such file or folder"),
        (only_a_file, r"flat: no such folder"),
    ],
)
def test_what_is_wrong_is_named_before_any_work(flat, tmp_path, damage, message):
    damage(flat)
    for memory in (2.0, 1e-9):
        with pytest.raises(BenchmarkDataError, match=message):
            make(flat, max_memory=memory).prepare_data()
    cache = tmp_path / "flat-cache" / "images"
    assert not cache.exists() or not list(cache.iterdir())


def test_classes_of_the_parts_must_agree(parted):
    shutil.rmtree(parted / "test" / "bee")
    with pytest.raises(BenchmarkDataError, match=r"parted/test/bee: no images"):
        make(parted).prepare_data()
    write(parted / "test", 5)
    (parted / "test" / "dog").mkdir()
    with pytest.raises(BenchmarkDataError, match=r"parted/test: holds a class 'dog' that .*parted/train has not"):
        make(parted).prepare_data()


def test_a_part_without_class_folders_is_refused(tmp_path):
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        picture(0, 0).save(tmp_path / part / "0.png")
    with pytest.raises(BenchmarkDataError, match=r"train: found 0 sub-folders, expected one for every class"):
        make(tmp_path).prepare_data()


def test_a_size_of_nothing_is_refused(flat):
    with pytest.raises(UsageError, match="image_size=0"):
        make(flat, image_size=0)


def test_files_that_are_no_images_are_named(flat, caplog):
    for name in ("a.heic", "b.heic", "notes.txt", ".hidden.heic"):
        (flat / "bee" / name).touch()
    with pytest.warns(UserWarning, match=r"3 files are no images that can be read \(.heic, .txt\) and are left out"):
        ready(flat)
