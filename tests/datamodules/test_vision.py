import pytest
import torch
from pytorch_lightning import LightningModule, Trainer

from lightning_nas.datamodules.splits import stratified_order
from lightning_nas.datamodules.vision import DigitsDataModule
from lightning_nas.errors import UsageError


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


def test_stratified_order_is_a_permutation_with_even_prefixes():
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    order = stratified_order(labels, torch.Generator().manual_seed(3))
    assert sorted(order.tolist()) == list(range(100))
    assert labels[order[:50]].bincount().tolist() == [30, 15, 5]


@pytest.mark.parametrize(("num_train", "num_valid"), [(0, 10), (10, 0), (1000, 797)])
def test_sizes_that_leave_no_test_are_refused(num_train, num_valid):
    with pytest.raises(UsageError, match="below 1797"):
        DigitsDataModule(num_train, num_valid)


def test_loaders_give_whole_batches():
    data = ready(batch_size=256)
    first = [labels for _, labels in data.train_dataloader()]
    assert [len(labels) for labels in first] == [256, 256, 256, 132]
    assert torch.equal(torch.cat(first).bincount(), data.train.labels.bincount())
    assert not torch.equal(torch.cat(first), data.train.labels)
    assert torch.equal(torch.cat([images for images, _ in data.val_dataloader()]), data.valid.images)
    assert torch.equal(torch.cat([labels for _, labels in data.test_dataloader()]), data.test.labels)


class Mean(LightningModule):
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(64, 10)

    def training_step(self, batch, batch_idx):
        images, labels = batch
        return torch.nn.functional.cross_entropy(self.head(images.flatten(1)), labels)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_lightning_trains_on_it(tmp_path):
    trainer = Trainer(fast_dev_run=2, accelerator="cpu", logger=False, default_root_dir=tmp_path)
    trainer.fit(Mean(), datamodule=DigitsDataModule())
    assert trainer.global_step == 2
