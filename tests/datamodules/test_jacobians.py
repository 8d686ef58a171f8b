import json
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler

from lightning_nas.datamodules.jacobians import JacobianDataModule, NetworkSet
from lightning_nas.datamodules.vision import DigitsDataModule
from lightning_nas.errors import UsageError
from lightning_nas.nn.jacobian import normalised
from lightning_nas.spaces.natsbench_size import NATSBenchSize
from lightning_nas.workers.base import ExecutorWorkers
from tests.datamodules.networks import BuildableSpace, SecondSpace

SPACE = BuildableSpace()


@pytest.fixture
def make(tmp_path):
    executor = ThreadPoolExecutor(1)

    def factory(networks=None, images=None, **changes):
        settings = {"num_images": 6, "num_initialisations": 2, "batch_size": 8, "eval_batch_size": 20} | changes
        data = JacobianDataModule(
            networks or NetworkSet(SPACE), images or DigitsDataModule(),
            workers=ExecutorWorkers(executor), folder=str(tmp_path), **settings,
        )  # fmt: skip
        data.prepare_data()
        data.setup()
        return data

    yield factory
    executor.shutdown()


def test_every_member_has_the_scores_of_its_canonical_one(make):
    data = make()
    batches = list(data.predict_dataloader())
    index, scores = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert index.tolist() == list(range(81))
    assert scores.shape == (81, 2, 6, 6)
    for number in range(81):
        twin = SPACE.index(SPACE[number][::-1])
        assert torch.equal(scores[number], scores[twin])
    assert len(torch.unique(scores.flatten(1), dim=0)) == 45
    assert len(data.train_rows) + len(data.val_rows) == 45


def test_training_batches_are_the_networks_they_say(make):
    data = make()
    _, everything = (torch.cat(parts) for parts in zip(*data.predict_dataloader(), strict=True))
    loader = data.train_dataloader()
    first = list(loader)
    assert [len(index) for index, _ in first] == [8] * 5  # of 40 or 41 networks
    for index, scores in first:
        assert torch.equal(scores, everything[index])
    loader.sampler.set_epoch(1)
    assert not torch.equal(first[0][0], next(iter(loader))[0])
    held_out = torch.cat([index for index, _ in data.val_dataloader()])
    assert not set(held_out.tolist()) & {i for index, _ in first for i in index.tolist()}


def test_the_images_are_not_needed_once_the_jacobians_are_there(make, tmp_path):
    make()
    gone = DigitsDataModule()
    gone.setup = None
    assert torch.equal(make(images=gone).rows(torch.arange(3))[1], make().rows(torch.arange(3))[1])


@pytest.mark.parametrize(("processes", "batches"), [(1, 5), (4, 1), (8, 1)])
def test_every_process_has_batches(make, processes, batches):
    """40 networks in batches of 8; Lightning gives each process its share."""
    data = make(val_fraction=5 / 45)
    data.trainer = SimpleNamespace(world_size=processes)
    loader = data.train_dataloader()
    sampler = DistributedSampler(loader.dataset, processes, 0)
    share = DataLoader(loader.dataset, 8, sampler=sampler, collate_fn=loader.collate_fn, drop_last=loader.drop_last)
    assert len(list(share)) == batches


def test_several_spaces_are_trained_on_together(make):
    data = make([NetworkSet(SPACE, {"channels": 2}, 10), NetworkSet(SecondSpace(), num_members=20)], val_fraction=0)
    assert data.space is None
    loaders = data.predict_dataloader()
    assert [len(set(torch.unique(SPACE.representatives[i]).tolist())) for i, _ in loaders[0]] == [10]
    assert [len(i) for i, _ in loaders[1]] == [20]
    index, scores = data.rows(torch.tensor([9, 10, 29, 0]))
    first, second = (data.jacobian_sets()[i].store for i in (0, 1))
    assert index.tolist() == [int(x) for x in (first.order[9], second.order[0], second.order[19], first.order[0])]
    assert torch.equal(scores[1:3], second.scores(torch.tensor([0, 19]), 2))
    assert torch.equal(scores[::3], first.scores(torch.tensor([9, 0]), 2))


def test_normalisation_is_done_when_reading(make, tmp_path):
    raw, data = make(), make(normalise=True)
    assert len(list(tmp_path.iterdir())) == 1
    rows = torch.arange(5)
    assert torch.equal(data.rows(rows)[1], normalised(raw.rows(rows)[1]))
    assert not torch.equal(data.rows(rows)[1], raw.rows(rows)[1])


@pytest.mark.parametrize(
    "changes",
    [
        {"networks": NetworkSet(SPACE, {"channels": 2})}, {"num_images": 5}, {"num_components": 4}, {"output": "norm"},
        {"seed": 1}, {"images": DigitsDataModule(seed=1)},
    ],
    ids=lambda changes: next(iter(changes)),
)  # fmt: skip
def test_whatever_changes_the_numbers_has_another_folder(make, tmp_path, changes):
    make()
    make(**changes)
    folders = list(tmp_path.iterdir())
    assert len(folders) == 2
    assert len({json.dumps(json.loads((folder / "identity.json").read_text())) for folder in folders}) == 2


def test_more_networks_and_initialisations_are_added_to_what_there_is(make, tmp_path):
    few = make(NetworkSet(SPACE, num_members=8), num_initialisations=1)
    more = make(num_initialisations=3)
    assert len(list(tmp_path.iterdir())) == 1
    rows = torch.arange(8)
    assert torch.equal(more.rows(rows)[1][:, :1], few.rows(rows)[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_images": 0}, "positive numbers"),
        ({"num_components": 7}, "no more components than images"),
        ({"val_fraction": 1.0}, r"val_fraction in \[0, 1\)"),
        ({"networks": []}, "expected networks"),
        ({"networks": NetworkSet(SPACE, num_members=46)}, "expected 1 to 45"),
        ({"num_images": 1000}, "at most the 900 training images"),
    ],
)
def test_what_cannot_be_is_said(make, changes, message):
    if changes.get("networks") == []:
        with pytest.raises(UsageError, match=message):
            JacobianDataModule([], DigitsDataModule())
        return
    with pytest.raises(UsageError, match=message):
        make(**changes)


def test_the_size_space_takes_any_images(make):
    data = make(NetworkSet(NATSBenchSize(), num_members=2), num_initialisations=1)
    _, scores = data.predict_dataloader().dataset[1]
    assert scores.shape == (1, 1, 6, 6)
    assert scores.abs().max() > 0


def test_local_workers_survive_a_death(make, tmp_path, monkeypatch):
    from pathlib import Path

    from lightning_nas.workers.local import LocalWorkers

    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    calm = make(NetworkSet(SPACE, num_members=40))
    member = int(calm.jacobian_sets()[0].store.order[3])
    (tmp_path / "troubled").mkdir()
    space = BuildableSpace(dies=SPACE[member], folder=str(tmp_path / "troubled"))
    data = JacobianDataModule(
        NetworkSet(space, num_members=40), DigitsDataModule(), 6, 2, workers=LocalWorkers(2), folder=str(tmp_path)
    )
    data.prepare_data()
    assert (tmp_path / "troubled" / "died").exists()
    assert torch.equal(data.rows(torch.arange(40))[1], calm.rows(torch.arange(40))[1])


def test_a_space_occurs_once(tmp_path):
    twice = [NetworkSet(BuildableSpace()), NetworkSet(BuildableSpace(), {"channels": 4})]
    with pytest.raises(UsageError, match="got the spaces buildable, buildable, expected each of them once"):
        JacobianDataModule(twice, DigitsDataModule(), 8, folder=str(tmp_path))
