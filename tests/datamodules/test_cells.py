import pytest
import torch
from pytorch_lightning import LightningModule
from torch.utils.data import default_collate

from lightning_nas.datamodules.cells import CellDataModule, CellDataset, EpochShuffle, identity
from lightning_nas.errors import UsageError
from tests.contract import TinySpace, quiet_trainer


def ready(**arguments):
    data = CellDataModule(TinySpace(), **arguments)
    data.setup("fit")
    return data


def test_a_batch_is_what_collating_single_cells_gives():
    space = TinySpace()
    dataset = CellDataset(torch.arange(80, -1, -1), space.all_graphs())
    index, graphs = dataset.__getitems__([3, 0, 77])
    assert index.tolist() == [77, 80, 3]
    one_by_one = default_collate([tuple(space.graph(space[i])) for i in index.tolist()])
    assert torch.equal(graphs.ops, one_by_one[0])
    assert torch.equal(graphs.adjacency, one_by_one[1])
    assert dataset[5][0].tolist() == [75]
    assert len(dataset) == 81


def test_a_loader_fetches_whole_batches(monkeypatch):
    sizes = []
    fetch = CellDataset.__getitems__
    monkeypatch.setattr(CellDataset, "__getitems__", lambda self, items: sizes.append(len(items)) or fetch(self, items))
    list(ready(batch_size=30, val_fraction=0).train_dataloader())
    assert sizes == [30, 30, 21]


@pytest.mark.parametrize(("fraction", "train", "held_out"), [(0.1, 73, 8), (0.2, 65, 16), (0.5, 41, 40), (0.0, 81, 81)])
def test_split_sizes(fraction, train, held_out):
    data = ready(val_fraction=fraction)
    assert (len(data.train_indices), len(data.val_indices)) == (train, held_out)
    if fraction:
        assert sorted([*data.train_indices.tolist(), *data.val_indices.tolist()]) == list(range(81))


def test_split_by_index_holds_out_the_last_ones():
    assert ready(split="index", val_fraction=0.1).val_indices.tolist() == list(range(73, 81))


def test_random_splits_follow_the_seed():
    first, again, other = (ready(seed=seed).val_indices.tolist() for seed in (0, 0, 1))
    assert first == again != other
    assert first != sorted(first)


def test_the_order_of_batches_follows_seed_and_epoch():
    def order(seed, epoch):
        sampler = EpochShuffle(50, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    orders = [order(seed, epoch) for seed in (0, 1, 2) for epoch in (0, 1, 2)]
    assert len({tuple(o) for o in orders}) == 9
    assert all(sorted(o) == list(range(50)) for o in orders)
    torch.manual_seed(99)  # nothing global matters
    assert order(2, 1) == orders[7]
    assert len(EpochShuffle(50, 0)) == 50


class Witness(LightningModule):
    """Remembers which cells it saw; file by rank, as processes do not come back."""

    def __init__(self, folder):
        super().__init__()
        self.folder, self.seen = folder, []
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        self.seen.append((self.current_epoch, batch[0].tolist()))
        return self.weight * batch[0].float().mean()

    def validation_step(self, batch, batch_idx):
        if not self.trainer.sanity_checking:
            self.seen.append((-1, batch[0].tolist()))

    def predict_step(self, batch, batch_idx):
        self.seen.append((-2, batch[0].tolist()))
        return batch[0]

    def on_fit_end(self):
        torch.save(self.seen, self.folder / f"fit-{self.global_rank}.pt")

    def on_predict_end(self):
        torch.save(self.seen, self.folder / f"predict-{self.global_rank}.pt")

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def test_the_order_after_resume_is_the_order_without(tmp_path):
    def see(max_epochs, ckpt_path=None, global_seed=0):
        torch.manual_seed(global_seed)
        module = Witness(tmp_path)
        trainer = quiet_trainer(tmp_path, max_epochs=max_epochs)
        trainer.fit(module, CellDataModule(TinySpace(), batch_size=7, seed=3), ckpt_path=ckpt_path)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        return module.seen

    first = see(2)
    rest = see(4, tmp_path / "last.ckpt", global_seed=5)
    assert first + rest == see(4, global_seed=6)
    orders = {epoch: [cell for e, batch in first + rest if e == epoch for cell in batch] for epoch in range(4)}
    assert len({tuple(o) for o in orders.values()}) == 4


def test_two_processes_cover_all_cells_once(tmp_path):
    module, data = Witness(tmp_path), CellDataModule(TinySpace(), batch_size=5, eval_batch_size=16, val_fraction=0.26)
    trainer = quiet_trainer(tmp_path, max_epochs=2, devices=2, strategy="ddp_fork")
    trainer.fit(module, data)
    parts = [torch.load(tmp_path / f"fit-{rank}.pt") for rank in (0, 1)]
    data.setup("fit")

    def cells(part, epoch):
        return [cell for e, batch in part if e == epoch for cell in batch]

    for epoch in (0, 1):
        ours, theirs = (cells(part, epoch) for part in parts)
        assert len(ours) == len(theirs) == 30
        assert not set(ours) & set(theirs)
        assert sorted(ours + theirs) == sorted(data.train_indices.tolist())
    assert cells(parts[0], 0) != cells(parts[0], 1)
    # 21 held-out cells: the 22nd place repeats one.
    held_out = cells(parts[0], -1)[:11] + cells(parts[1], -1)[:11]
    assert set(held_out) == set(data.val_indices.tolist())

    trainer.predict(module, data, return_predictions=False)
    everything = [cells(torch.load(tmp_path / f"predict-{rank}.pt"), -2) for rank in (0, 1)]
    assert [len(part) for part in everything] == [41, 40]
    assert sorted(everything[0] + everything[1]) == list(range(81))


def test_cells_come_in_the_order_asked_for():
    wanted = torch.tensor([80, 3, 41, 3])
    batches = list(ready(eval_batch_size=3).cells(wanted))
    assert [index.tolist() for index, _ in batches] == [[80, 3, 41], [3]]
    space = TinySpace()
    assert torch.equal(batches[0][1].ops[2], space.graph(space[41]).ops)


def test_evaluation_loaders_are_in_order():
    data = ready(val_fraction=0.1, eval_batch_size=50)
    for loader, indices in (
        (data.val_dataloader(), data.val_indices),
        (data.test_dataloader(), data.val_indices),
        (data.predict_dataloader(), torch.arange(81)),
    ):
        assert torch.equal(torch.cat([index for index, _ in loader]), indices)


def test_labels_are_kept_small_and_come_out_as_indices():
    data = ready()
    assert data._graphs.ops.dtype == torch.int8
    _, graphs = next(iter(data.train_dataloader()))
    assert (graphs.ops.dtype, graphs.adjacency.dtype) == (torch.int64, torch.bool)


def test_sizes_for_the_model():
    assert CellDataModule(TinySpace()).num_ops == 5
    assert CellDataModule(TinySpace()).num_vertices == 6
    assert identity(batch := (1, 2)) is batch


@pytest.mark.parametrize(
    "arguments",
    [{"val_fraction": 1.0}, {"val_fraction": -0.1}, {"batch_size": 0}, {"eval_batch_size": 0}],
)
def test_nonsense_is_refused(arguments):
    (name, value), *_ = arguments.items()
    with pytest.raises(UsageError, match=f"{name}={value}.*expected"):
        CellDataModule(TinySpace(), **arguments)
