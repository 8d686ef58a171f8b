import multiprocessing
import os

import pytest
import torch
from pytorch_lightning import Callback

from lightning_nas.callbacks import perturbation
from lightning_nas.callbacks.perturbation import PerturbationSelection
from lightning_nas.callbacks.selection import MagnitudeSelection
from lightning_nas.errors import UsageError
from lightning_nas.spaces.darts import DARTSNetwork
from lightning_nas.trainer import NASTrainer
from tests.callbacks.test_selection import digits, fitted, outcome
from tests.contract import quiet_trainer
from tests.modules.test_darts import make_data, make_module


def test_selections_leave_the_supernet_as_it_is(tmp_path):
    trainer, module = fitted(tmp_path, [MagnitudeSelection("Mine")])
    before = {name: value.clone() for name, value in module.state_dict().items()}
    choice = PerturbationSelection("PT", tune_epochs=1).select(trainer, module)
    assert choice.shape == (1, 6)
    assert (choice >= 0).all()
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("mode", ["paper", "reference"])
def test_an_interrupted_selection_goes_on_where_it_was(tmp_path, mode, monkeypatch):
    whole = PerturbationSelection("PT", digits(), tune_epochs=1, mode=mode)
    fitted(tmp_path / "whole", [whole])
    decide, decisions = perturbation._Perturbation._decide, []

    def dies(self, kind, edge):
        decisions.append(edge)
        if len(decisions) == 4:
            raise KeyboardInterrupt
        decide(self, kind, edge)

    monkeypatch.setattr(perturbation._Perturbation, "_decide", dies)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fitted(tmp_path / "half", [PerturbationSelection("PT", digits(), tune_epochs=1, mode=mode)])
    assert not (tmp_path / "half" / "selection" / "pt.json").exists()
    module, data = make_module(), make_data()
    trainer = quiet_trainer(
        tmp_path / "half", NASTrainer, limit_val_batches=1,
        callbacks=[PerturbationSelection("PT", digits(), tune_epochs=1, mode=mode)],
    )  # fmt: skip
    (checkpoint,) = (tmp_path / "half").rglob("*.ckpt")
    trainer.search(module, data, ckpt_path=str(checkpoint), weights_only=True)
    assert len(decisions) == 4 + 3  # the one that was not finished, and the two that were left
    ours, theirs = (outcome(tmp_path / name, "pt") for name in ("half", "whole"))
    assert ours["architecture"] == theirs["architecture"]


def test_other_settings_are_another_selection(tmp_path, monkeypatch):
    decide, decisions = perturbation._Perturbation._decide, []

    def counts(self, kind, edge):
        decisions.append(edge)
        decide(self, kind, edge)

    trainer, module = fitted(tmp_path, [MagnitudeSelection("Mine")])
    monkeypatch.setattr(perturbation._Perturbation, "_decide", counts)
    for changes, expected in (({}, 6), ({}, 0), ({"lr": 0.01}, 6), ({"lr": 0.01, "min_lr": 0.001}, 6)):
        decisions.clear()
        PerturbationSelection("PT", tune_epochs=1, **changes).select(trainer, module)
        assert len(decisions) == expected, changes
    trainer.datamodule.images.seed = 5
    decisions.clear()
    PerturbationSelection("PT", tune_epochs=1, lr=0.01, min_lr=0.001).select(trainer, module)
    assert len(decisions) == 6


def test_in_the_darts_space_none_is_not_selected(tmp_path):
    module = make_module(space=DARTSNetwork(), sizes={"part": "s3", "channels": 4, "num_layers": 3})
    fitted(tmp_path, [PerturbationSelection("PT", tune_epochs=0)], module=module, num_train=16, num_valid=16)
    assert "none" not in outcome(tmp_path, "pt")["architecture"]


def test_in_the_darts_space_two_edges_stay_into_every_block(tmp_path):
    module = make_module(space=DARTSNetwork(), sizes={"part": "s2", "channels": 4, "num_layers": 3})
    selection = PerturbationSelection("PT", tune_epochs=0)
    _, module = fitted(tmp_path, [selection], module=module, num_train=16, num_valid=16)
    found = outcome(tmp_path, "pt")
    normal, reduction = module.space.parse(found["architecture"])
    assert len(normal) == len(reduction) == 16


def test_selecting_on_the_way_leaves_the_training_as_it_is(tmp_path):
    _, alone = fitted(tmp_path / "alone", [MagnitudeSelection("Mine")], epochs=3)
    selection = PerturbationSelection("PT", digits(), tune_epochs=1, every=1)
    _, module = fitted(tmp_path / "both", [MagnitudeSelection("Mine"), selection], epochs=3)
    for name, value in alone.state_dict().items():
        assert torch.equal(module.state_dict()[name], value), name
    points = outcome(tmp_path / "both", "pt")["trajectory"]
    assert [point["epoch"] for point in points] == [1, 2]  # the third is the selection at the end
    fitted(tmp_path / "short", [PerturbationSelection("PT", digits(), tune_epochs=1)], epochs=1)
    assert points[0]["architecture"] == outcome(tmp_path / "short", "pt")["architecture"]


class KeepChoice(Callback):
    def on_fit_end(self, trainer, module):
        choice = PerturbationSelection("PT", tune_epochs=1).select(trainer, module)
        torch.save(choice, f"{trainer.default_root_dir}/{trainer.global_rank}.pt")


def _select_as_one_of_two(folder):
    trainer = quiet_trainer(folder, max_epochs=1, limit_val_batches=0, callbacks=[KeepChoice()], devices=2,
                            strategy="ddp_fork")  # fmt: skip
    trainer.fit(make_module(), make_data())


def test_two_processes_select_one_architecture(tmp_path):
    (tmp_path / "selection").mkdir()
    process = multiprocessing.get_context("fork").Process(target=_select_as_one_of_two, args=(tmp_path,))
    os.environ.pop("LOCAL_RANK", None)
    process.start()
    process.join(120)
    assert process.exitcode == 0
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert (first >= 0).all()
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"lr": 0.0}, "lr=0.0"),
        ({"mode": "other"}, "mode='other'"),
        ({"every": 0}, "every=0"),
        ({"min_lr": 0.1}, "min_lr=0.1"),
    ],
)
def test_what_cannot_be_is_said(settings, said):
    with pytest.raises(UsageError, match=said):
        PerturbationSelection("PT", **settings)
