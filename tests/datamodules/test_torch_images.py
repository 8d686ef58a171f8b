import json

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning.cli import LightningArgumentParser
from torch.utils.data import Dataset

from lightning_nas.datamodules.torch_images import TorchDataModule
from lightning_nas.datamodules.vision import VisionDataModule
from lightning_nas.errors import BenchmarkDataError, UsageError

PIXELS = np.random.default_rng(0).integers(0, 256, (60, 6, 5, 3), dtype=np.uint8)


class Pictures(Dataset):
    """What torchvision's datasets are: an image and its class number by index.

    Args:
        count: Images.
        kind: What an image is.
        first: Number of the first image.
    """

    def __init__(self, count: int = 40, kind: str = "pillow", first: int = 0):
        self.count, self.kind, self.first = count, kind, first

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        pixels = PIXELS[self.first + index]
        image = {
            "pillow": lambda: Image.fromarray(pixels),
            "array": lambda: pixels,
            "tensor": lambda: torch.from_numpy(pixels).permute(2, 0, 1),
            "grey": lambda: Image.fromarray(pixels[..., 0]),
            "grey array": lambda: pixels[..., 0],
            "grey tensor": lambda: torch.from_numpy(pixels[None, ..., 0]),
            "floats": lambda: torch.from_numpy(pixels).permute(2, 0, 1) / 255,
            "text": lambda: "an image",
            "growing": lambda: Image.fromarray(pixels[: 3 + index // 10]),
        }[self.kind]()
        return image, np.int64(index % 2)


class Named(Pictures):
    classes = ["cat", "dog"]


def ready(*datasets, **arguments):
    data = TorchDataModule(*datasets, **arguments)
    data.prepare_data()
    data.setup("fit")
    return data


def contents(*splits):
    return sorted(
        (int(label), image.numpy().tobytes()) for split in splits for image, label in zip(*split, strict=True)
    )


def expected(rows, channels=3):
    return sorted(
        (index % 2, PIXELS[row, ..., :channels].transpose(2, 0, 1).tobytes()) for index, row in enumerate(rows)
    )


@pytest.mark.parametrize("kind", ["pillow", "array", "tensor", "grey", "grey array", "grey tensor"])
def test_images_of_every_kind(kind):
    channels = 1 if "grey" in kind else 3
    data = ready(Pictures(kind=kind), Pictures(20, kind, first=40))
    assert data.image_shape == (channels, 6, 5)
    assert [len(split.labels) for split in (data.train, data.valid, data.test)] == [32, 8, 20]
    assert contents(data.train, data.valid) == expected(range(40), channels)
    assert contents(data.test) == expected(range(40, 60), channels)


def test_without_a_test_set_a_fifth_is_split_off():
    data = ready(Pictures(50))
    assert [len(split.labels) for split in (data.train, data.valid, data.test)] == [32, 8, 10]
    assert contents(data.train, data.valid, data.test) == expected(range(50))


def test_names_of_classes_are_the_datasets_own():
    assert TorchDataModule(Named()).classes == ("cat", "dog")
    assert TorchDataModule(Pictures()).classes == ("0", "1")


def test_identity_is_that_of_the_images():
    identity = TorchDataModule(Pictures()).identity()
    assert TorchDataModule(Named(kind="tensor")).identity() == identity
    others = [
        TorchDataModule(Pictures(first=1)), TorchDataModule(Pictures(38)), TorchDataModule(Pictures(), seed=1),
        TorchDataModule(Pictures(), Pictures(20, first=40)), TorchDataModule(Pictures(), image_size=4),
    ]  # fmt: skip
    assert all(other.identity() != identity for other in others)


def test_sizes_that_differ_are_named_with_the_way_out():
    with pytest.raises(BenchmarkDataError, match=r"Pictures\[10\] has 4x5 pixels, expected 3x5.*give image_size"):
        ready(Pictures(kind="growing"))
    assert ready(Pictures(kind="growing"), image_size=4).train.images.shape[1:] == (3, 4, 4)


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ([Pictures(kind="floats")], r"Pictures\[0\]: got Tensor float32\(6, 5, 3\).*give the dataset no transforms"),
        ([Pictures(kind="text")], r"Pictures\[0\]: got str"),
        ([Pictures(0)], "Pictures: got no images"),
        ([iter([])], "got no images, expected a map-style dataset"),
        ([[(np.zeros((4, 4), np.uint8), "cat")]], r"list\[0\]: expected a pair \(image, class number\)"),
        ([[np.zeros((4, 4), np.uint8)]], r"list\[0\]: expected a pair"),
        ([[(np.zeros((4, 4), np.uint8), -1)]], "got a class number -1, expected numbers from 0"),
        ([[(np.zeros((4, 4), np.uint8), 2 * (i % 2)) for i in range(20)]], "no training image of class '1'"),
        ([Pictures(), Pictures(20, "grey")], r"got .*\(3, 6, 5\).* in training and test"),
        ([Pictures(), Pictures(1)], "no test image of class '1'"),
    ],
)  # fmt: skip
def test_other_datasets_are_refused(datasets, message):
    with pytest.raises(BenchmarkDataError, match=message):
        TorchDataModule(*datasets).prepare_data()


def test_a_size_of_nothing_is_refused():
    with pytest.raises(UsageError, match="image_size=0"):
        TorchDataModule(Pictures(), image_size=0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_datasets_by_class_path():
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(VisionDataModule, "data", subclass_mode=True)
    train = {"class_path": f"{__name__}.Pictures", "init_args": {"count": 30, "kind": "grey"}}
    given = {"class_path": "TorchDataModule", "init_args": {"train": train, "num_valid": 6}}
    data = parser.instantiate_classes(parser.parse_args(["--data", json.dumps(given)])).data
    data.setup("fit")
    assert data.image_shape == (1, 6, 5)
    assert [len(split.labels) for split in (data.train, data.valid, data.test)] == [18, 6, 6]
