import json
import subprocess
import sys
from functools import partial

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.cli import LightningArgumentParser

from lightning_nas.datamodules.vision import DigitsDataModule, Source, VisionDataModule
from lightning_nas.errors import BenchmarkDataError, UsageError


def ready(**arguments):
    data = DigitsDataModule(**arguments)
    data.setup("fit")
    return data


def test_splits_are_a_stratified_partition():
    data = ready()
    splits = (data.train, data.valid, data.test)
    assert [len(s.labels) for s in splits] == [900, 450, 447]
    assert all(s.images.shape[1:] == data.image_shape and s.images.dtype == torch.uint8 for s in splits)
    assert min(s.images.min() for s in splits) == 0
    assert max(s.images.max() for s in splits) == 16
    everything = torch.cat([s.labels for s in splits]).bincount()
    assert everything.sum() == 1797
    for split in splits:
        expected = everything * len(split.labels) / 1797
        assert ((split.labels.bincount() - expected).abs() < 2).all()


def test_no_image_is_in_two_splits():
    from sklearn.datasets import load_digits

    data = ready()
    ours = torch.cat([s.images for s in (data.train, data.valid, data.test)]).view(-1, 64).float()
    theirs = torch.from_numpy(load_digits().data).float()
    assert torch.equal(*(torch.unique(x, dim=0, return_counts=True)[1] for x in (ours, theirs)))


def test_the_seed_draws_the_splits():
    first, same, other = ready(), ready(), ready(seed=1)
    assert torch.equal(first.train.images, same.train.images)
    assert not torch.equal(first.train.images, other.train.images)
    assert first.identity() == same.identity() != other.identity()


def test_setup_twice_keeps_the_tensors():
    data = ready()
    before = data.train.images
    data.setup("test")
    assert data.train.images is before


@pytest.mark.parametrize(("num_train", "num_valid"), [(0, 10), (10, 0), (1000, 797)])
def test_sizes_that_leave_no_test_are_refused(num_train, num_valid):
    with pytest.raises(UsageError, match="below 1797"):
        DigitsDataModule(num_train, num_valid)


def test_loaders_give_whole_batches_of_pixels():
    data = ready(batch_size=256)
    batches = list(data.train_dataloader())
    first = [labels for _, labels in batches]
    assert all(images.dtype == torch.uint8 for images, _ in batches)
    assert [len(labels) for labels in first] == [256, 256, 256, 132]
    assert torch.equal(torch.cat(first).bincount(), data.train.labels.bincount())
    assert not torch.equal(torch.cat(first), data.train.labels)
    assert torch.equal(torch.cat([images for images, _ in data.val_dataloader()]), data.valid.images)
    assert torch.equal(torch.cat([labels for _, labels in data.test_dataloader()]), data.test.labels)


def test_digits_become_floats_up_to_one():
    data = ready()
    assert torch.equal(data.normalise(data.test.images), data.test.images.float() / 16)
    assert torch.equal(data.augmented(data.test.images), data.test.images.float() / 16)


def test_evaluation_trains_on_the_validation_images_and_keeps_the_test():
    search, evaluation = ready(), ready(purpose="evaluation")
    assert torch.equal(evaluation.train.images, torch.cat([search.train.images, search.valid.images]))
    assert torch.equal(evaluation.test.images, search.test.images)
    assert len(evaluation.valid.labels) == 0
    assert evaluation.val_dataloader() == []
    assert evaluation.identity() != search.identity()


def test_results_from_before_there_was_a_purpose_stay_valid():
    assert DigitsDataModule().identity() == {"data": "digits", "num_train": 900, "num_valid": 450, "seed": 0}
    assert ready().train.labels[:12].tolist() == [3, 5, 1, 6, 4, 9, 7, 0, 2, 8, 3, 5]


def test_identity_knows_the_augmentation():
    def identity(augment):
        return json.loads(json.dumps(DigitsDataModule(augment=augment).identity()))

    flips = [torch.nn.Dropout(p) for p in (0.1, 0.1, 0.2)]
    assert identity(flips[0]) == identity([flips[1]])
    choices = [None, "standard", inverted, flips[0], flips[2], flips]
    found = [identity(choice) for choice in choices]
    assert all(one != other for i, one in enumerate(found) for other in found[:i])


class Brighter(torch.nn.Module):
    """Says nothing of its arguments."""

    def __init__(self, by):
        super().__init__()
        self.by = by

    def forward(self, images):
        return (images + self.by).clamp(max=1)


def test_identity_knows_arguments_that_a_module_does_not_show():
    steps = [Brighter(0.1), Brighter(0.2), torch.nn.Sequential(Brighter(0.1)), torch.nn.Sequential(Brighter(0.2))]
    assert repr(steps[0]) == repr(steps[1])
    assert len({str(DigitsDataModule(augment=step).identity()) for step in steps}) == 4


@pytest.mark.parametrize("step", [lambda images: images, partial(torch.clamp, max=0.5)])
def test_augmentations_without_a_name_are_refused(step):
    with pytest.raises(UsageError, match="no name that tells it from others"):
        DigitsDataModule(augment=step).identity()


def noisy(images):
    return (images + 0.1 * torch.rand(images.shape)).clamp(max=1)


def test_a_batch_size_of_nothing_is_refused():
    with pytest.raises(UsageError, match="DigitsDataModule: got batch_size=0"):
        DigitsDataModule(batch_size=0)


class Greys(VisionDataModule):
    """Images of one grey each, 40 + 20; two channels of which the second is constant."""

    classes = ("dark", "bright")
    image_shape = (2, 8, 8)

    def __init__(self, labels=None, **arguments):
        super().__init__(**arguments)
        self.labels = torch.arange(60) % 2 if labels is None else labels

    def identity(self):
        return {"data": "greys"}

    def source(self):
        images = torch.full((60, 2, 8, 8), 7, dtype=torch.uint8)
        images[:, 0] = torch.arange(60, dtype=torch.uint8).view(-1, 1, 1)
        return Source(self.labels, (0, 20), images.__getitem__)


def test_mean_and_deviation_are_measured_on_the_training_images():
    data = Greys()
    data.setup("fit")
    pixels = data.train.images[:, 0].double()
    assert data.mean == pytest.approx((float(pixels.mean()), 7.0))
    assert data.std == pytest.approx((float(pixels.std(unbiased=False)), 1.0))  # not 0, by which nothing can be divided
    normalised = data.normalise(data.train.images)
    torch.testing.assert_close(normalised[:, 0].mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    assert torch.equal(normalised[:, 1], torch.zeros_like(normalised[:, 1]))


@pytest.mark.parametrize(("part", "rows"), [("training", slice(40)), ("test", slice(40, 60))])
def test_a_class_that_is_missing_is_named(part, rows):
    labels = torch.arange(60) % 2
    labels[rows] = 0
    with pytest.raises(BenchmarkDataError, match=f"Greys: no {part} image of class 'bright'"):
        Greys(labels).setup("fit")


class Probe(LightningModule):
    """Remembers what it is given in each stage."""

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(1, 2)
        self.seen = {"train": [], "valid": [], "test": []}

    def training_step(self, batch, batch_idx):
        self.seen["train"].append(batch)
        return self.head(batch[0].mean(dim=(1, 2, 3)).view(-1, 1)).sum()

    def validation_step(self, batch, batch_idx):
        self.seen["valid"].append(batch)

    def test_step(self, batch, batch_idx):
        self.seen["test"].append(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def inverted(images):
    return 1 - images


def fit(data, tmp_path, max_epochs=1, ckpt_path=None):
    probe = Probe()
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(
        accelerator="cpu", default_root_dir=tmp_path, max_epochs=max_epochs, num_sanity_val_steps=0, **quiet
    )
    trainer.fit(probe, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    trainer.test(probe, datamodule=data, verbose=False)
    return probe.seen


def test_an_interrupted_training_sees_the_same_augmented_images(tmp_path):
    def seen(*arguments):
        batches = fit(Greys(augment=noisy, num_valid=10, batch_size=7), tmp_path, *arguments)
        return [images for images, _ in batches["train"]]

    whole, first = seen(2), seen(1)
    torch.manual_seed(99)  # whatever was drawn meanwhile
    rest = seen(2, tmp_path / "last.ckpt")
    assert len(first) == len(rest) == len(whole) // 2
    for ours, theirs in zip([*first, *rest], whole, strict=True):
        assert torch.equal(ours, theirs)
    assert not torch.equal(whole[0].sort(dim=0).values, whole[len(first)].sort(dim=0).values)


def test_a_last_training_batch_of_one_image_is_left_out():
    for size, expected in ((29, [29]), (28, [28, 2])):
        data = Greys(num_valid=10, batch_size=size)
        data.setup("fit")
        assert [len(labels) for _, labels in data.train_dataloader()] == expected


def test_lightning_augments_in_training_alone_and_normalises_everywhere(tmp_path):
    data = Greys(augment=inverted, num_valid=10)
    seen = fit(data, tmp_path)
    for part in ("train", "valid", "test"):
        images = torch.cat([images for images, _ in seen[part]])
        assert images.dtype == torch.float32
        pixels = getattr(data, part).images
        pixels = 255 - pixels if part == "train" else pixels
        # The order of the training batches is another, so what is compared is sorted.
        expected = data.normalise(pixels)[:, 0, 0, 0].sort().values
        torch.testing.assert_close(images[:, 0, 0, 0].sort().values, expected)
    assert len(torch.cat([labels for _, labels in seen["train"]])) == 30


def test_lightning_validates_nothing_in_an_evaluation(tmp_path):
    data = Greys(purpose="evaluation")
    seen = fit(data, tmp_path)
    assert len(torch.cat([labels for _, labels in seen["train"]])) == 40
    assert len(torch.cat([labels for _, labels in seen["test"]])) == 20
    assert seen["valid"] == []


def test_every_epoch_has_another_order_which_a_resumed_run_repeats(tmp_path):
    def order(epoch):
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        return torch.cat([labels for _, labels in loader]).tolist()

    data = ready()
    assert order(1) == order(1) != order(0)


def test_pixels_are_found_in_batches_of_any_kind():
    data = ready()
    images, labels = data.train.images[:4], data.train.labels[:4]
    batch = data.on_after_batch_transfer({"weights": (images, labels), "alpha": [images.float(), labels]}, 0)
    assert torch.equal(batch["weights"][0], data.normalise(images))
    assert torch.equal(batch["weights"][1], labels)
    assert torch.equal(batch["alpha"][0], images.float())


def command_line(*arguments):
    parser = LightningArgumentParser()
    parser.add_lightning_class_args(VisionDataModule, "data", subclass_mode=True)
    return parser.instantiate_classes(parser.parse_args(["--data", "DigitsDataModule", *arguments])).data


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("null", []),
        ("standard", ["RandomCrop", "RandomHorizontalFlip"]),
        ("kornia.augmentation.RandomVerticalFlip", ["RandomVerticalFlip"]),
        (json.dumps([{"class_path": f"kornia.augmentation.Random{x}Flip"} for x in ("Vertical", "Horizontal")]),
         ["RandomVerticalFlip", "RandomHorizontalFlip"]),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_augmentation_by_name_or_class_path(given, expected):
    data = command_line("--data.augment", given)
    assert [type(step).__name__ for step in data.augmentation] == expected


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_arguments_of_augmentation_by_class_path():
    flip = {"class_path": "kornia.augmentation.RandomHorizontalFlip", "init_args": {"p": 1.0}}
    data = command_line("--data.augment", json.dumps(flip), "--data.purpose", "evaluation")
    data.setup("fit")
    assert data.purpose == "evaluation"
    flipped = data.test.images.flip(3).float() / 16
    torch.testing.assert_close(data.augmented(data.test.images), flipped)


def test_kornia_waits_until_it_is_used():
    names = ("vision", "image_folder", "npz_images", "torch_images", "cifar", "imagenet16")
    code = f"import sys; {'; '.join(f'import lightning_nas.datamodules.{name}' for name in names)}; " + (
        "print([x for x in ('kornia', 'torchvision') if x in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
