import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from lightning_nas.errors import BenchmarkDataError
from lightning_nas.nn.images import FileSlice, LabelledImages, augmented, normalise, standard_augmentation

SHAPE = (3000, 3, 4, 4)


@pytest.fixture
def mapped(tmp_path):
    """A split in the middle of a file of 4,000 labels and images."""
    images = torch.randint(256, (4000, *SHAPE[1:]), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(4000)
    file = tmp_path / "images.pixels"
    file.write_bytes(labels.numpy().tobytes() + images.numpy().tobytes())
    size = file.stat().st_size
    whole = FileSlice(str(file), size, torch.uint8, 8 * 4000, tuple(images.shape)).open()
    numbers = FileSlice(str(file), size, torch.int64, 0, (4000,)).open()
    assert torch.equal(whole, images)
    assert torch.equal(numbers, labels)
    return LabelledImages(whole[500:3500], numbers[500:3500])


def test_a_pickle_of_a_mapped_split_holds_the_name_of_the_file(mapped, tmp_path):
    pickled = pickle.dumps(mapped)
    assert len(pickled) < 10_000 < mapped.images.nbytes
    (tmp_path / "split.pickle").write_bytes(pickled)
    code = (
        "import pickle, pathlib; split = pickle.loads(pathlib.Path('split.pickle').read_bytes());"
        "print(type(split).__name__, tuple(split.images.shape), int(split.images.long().sum()), int(split.labels[0]))"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert answer.stdout.split("\n")[0] == f"LabelledImages {SHAPE} {int(mapped.images.long().sum())} 500"


def test_a_pickle_of_other_splits_holds_their_images_and_no_others():
    images = torch.randint(256, (100, 3, 32, 32), dtype=torch.uint8)
    part = LabelledImages(images[:10], torch.arange(100)[:10])
    pickled = pickle.dumps(part)
    assert part.images.nbytes < len(pickled) < 2 * part.images.nbytes
    again = pickle.loads(pickled)
    assert torch.equal(again.images, part.images)
    assert torch.equal(again.labels, part.labels)


def test_a_mapped_split_that_is_not_contiguous_is_pickled_whole(mapped):
    again = pickle.loads(pickle.dumps(LabelledImages(mapped.images[::2], mapped.labels[::2])))
    assert torch.equal(again.images, mapped.images[::2])
    assert torch.equal(again.labels, mapped.labels[::2])


def test_a_file_that_is_gone_or_changed_is_named(mapped):
    pickled = pickle.dumps(mapped)
    file = mapped.images.untyped_storage().filename
    os.truncate(file, 100)
    with pytest.raises(BenchmarkDataError, match=r"images\.pixels: holds 100 bytes, expected a file of 224000"):
        pickle.loads(pickled)
    os.unlink(file)
    with pytest.raises(BenchmarkDataError, match=r"images\.pixels: no such file"):
        pickle.loads(pickled)
    assert not os.path.exists(file)


def test_normalise_against_numpy():
    images = torch.arange(256, dtype=torch.uint8).repeat(3, 1).view(3, 16, 4, 4).transpose(0, 1)
    mean, std = (125.3, 3.0, 0.0), (63.0, 62.1, 2.0)
    expected = (images.numpy().transpose(0, 2, 3, 1) - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(normalise(images, mean, std).numpy(), expected.transpose(0, 3, 1, 2), rtol=0, atol=1e-5)
    floats = images.float()
    normalise(floats, mean, std)
    assert torch.equal(floats, images.float()), "the argument was changed"


def moved(image, down, across, flip, padding):
    """An independent crop of one image at an offset into its padding."""
    padded = np.pad(image.numpy(), ((0, 0), (padding, padding), (padding, padding)))
    crop = padded[:, down : down + image.shape[1], across : across + image.shape[2]]
    return torch.from_numpy((crop[:, :, ::-1] if flip else crop).copy())


def test_standard_augmentation_crops_and_flips_every_image_for_itself():
    image = torch.arange(1, 257).remainder(256).to(torch.uint8).view(1, 16, 16)
    torch.manual_seed(1)
    result = augmented(image.expand(400, 1, 16, 16), standard_augmentation(16, 16), (0.0,), (1.0,))
    choices = [(d, a, f) for d in range(5) for a in range(5) for f in (False, True)]
    possible = torch.stack([moved(image, *choice, padding=2) for choice in choices])
    distance = (result.round().to(torch.uint8)[:, None] != possible[None]).flatten(2).sum(dim=2)
    assert (distance.min(dim=1).values == 0).all()
    assert len(distance.argmin(dim=1).unique()) > 45  # of 50; each is missed with probability 0.0003


def test_augmentation_repeats_with_torchs_seed_alone():
    images = torch.randint(256, (20, 3, 8, 8), dtype=torch.uint8)
    steps = standard_augmentation(8, 8)

    def draw(seed):
        torch.manual_seed(seed)
        return augmented(images, steps, (0.0,) * 3, (1.0,) * 3)

    first = draw(0)
    assert torch.equal(first, draw(0))
    assert not torch.equal(first, draw(1))


def test_augmentation_sees_floats_up_to_one_and_normalisation_comes_after():
    seen = []
    images = torch.tensor([0, 4, 16], dtype=torch.uint8).view(1, 1, 1, 3)

    def negative(x):
        seen.append(x)
        return 1 - x

    result = augmented(images, [negative], mean=(8.0,), std=(2.0,), max_pixel=16)
    assert seen[0].flatten().tolist() == [0, 0.25, 1]
    assert result.flatten().tolist() == [4, 2, -4]
    assert torch.equal(augmented(images, (), (8.0,), (2.0,)), normalise(images, (8.0,), (2.0,)))
