import pytest
import torch

from lightning_nas.datamodules.bilevel import BilevelDataModule
from lightning_nas.datamodules.vision import DigitsDataModule
from lightning_nas.errors import UsageError


def make_data(num_train=60, num_valid=30, batch_size=10, **changes):
    data = BilevelDataModule(DigitsDataModule(num_train=num_train, num_valid=num_valid), batch_size, 16, **changes)
    data.setup("fit")
    return data


def seen(batches, level):
    return torch.cat([batch[level][0].flatten(1) for batch in batches])


def test_an_epoch_shows_the_larger_part_once_and_the_smaller_again():
    data = make_data()
    batches = list(data.train_dataloader())
    assert len(batches) == data.steps_per_epoch == 6
    train, valid = (seen(batches, level) for level in range(2))
    assert len(train) == len(valid) == 60
    for level, part in enumerate((data.images.train, data.images.valid)):
        shown = {tuple(image) for image in (train, valid)[level].tolist()}
        assert shown == {tuple(image) for image in part.images.flatten(1).tolist()}


def test_orders_differ_between_epochs_parts_and_seeds_and_repeat():
    data, other = make_data(num_valid=60), make_data(num_valid=60, seed=5)
    first, again, later, elsewhere = (
        list(source.batches(epoch)) for source, epoch in ((data, 0), (data, 0), (data, 1), (other, 0))
    )
    assert torch.equal(seen(first, 0), seen(again, 0))
    assert not torch.equal(seen(first, 0), seen(later, 0))
    assert not torch.equal(seen(first, 0), seen(elsewhere, 0))
    assert torch.equal(data.images.train.images, other.images.train.images)  # the split is that of the images


def test_several_processes_share_the_steps():
    data = make_data()
    whole = list(data.batches(3))
    parts = [list(data.batches(3, rank, 2)) for rank in range(2)]
    assert [len(part) for part in parts] == [3, 3]
    assert torch.equal(parts[1][0][0][0], whole[1][0][0])


def test_scores_are_taken_on_all_images_in_order():
    data = make_data()
    images = torch.cat([images for images, _ in data.scoring_batches()])
    torch.testing.assert_close(images, data.images.normalise(data.images.valid.images))
    assert torch.equal(torch.cat([labels for _, labels in data.scoring_batches()]), data.images.valid.labels)


def test_augmentation_depends_on_the_place():
    data = make_data()
    data.images.augment = "standard"
    batch = next(iter(data.train_dataloader()))
    one, same, other = (data.augmented(batch, place) for place in ((0, 1), (0, 1), (0, 2)))
    assert torch.equal(one[0][0], same[0][0])
    assert not torch.equal(one[0][0], other[0][0])


@pytest.mark.parametrize("changes", [{"batch_size": 1}, {"batch_size": 31}])
def test_what_cannot_be_is_said(changes):
    with pytest.raises(UsageError, match="expected"):
        make_data(**changes)
