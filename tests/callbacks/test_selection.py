import json

import pytest
import torch

from lightning_nas.benchmarks.tabular import TabularBenchmark
from lightning_nas.callbacks.selection import (
    MagnitudeSelection,
    PerturbationSelection,
    RandomSelection,
)
from lightning_nas.errors import UsageError
from lightning_nas.spaces.darts import DARTSNetwork
from lightning_nas.spaces.nasbench201 import NASBench201
from lightning_nas.trainer import NASTrainer
from tests.contract import quiet_trainer
from tests.modules.test_darts import make_data, make_module


def digits():
    return {
        "digits": TabularBenchmark(
            NASBench201(), table="nasbench201-digits", dataset="digits", epochs=12, test_epochs=12
        )
    }


def fitted(folder, selections, epochs=1, module=None, max_steps=-1, **data):
    trainer = quiet_trainer(
        folder, NASTrainer, max_epochs=epochs, callbacks=selections, limit_val_batches=1, enable_checkpointing=True,
        max_steps=max_steps,
    )  # fmt: skip
    module = module or make_module()
    trainer.fit(module, make_data(**data))
    return trainer, module


def outcome(folder, slug):
    return json.loads((folder / "selection" / f"{slug}.json").read_text("utf-8"))


def test_the_largest_weights_are_written_down_after_every_epoch(tmp_path):
    _, module = fitted(tmp_path, [MagnitudeSelection("Mine", digits())], epochs=3)
    found = outcome(tmp_path, "mine")
    arch = module.architecture(module.choice())
    assert found["architecture"] == module.space.format(arch)
    assert found["skip_connections"] == arch.count(1)
    (index,) = (module.space.index(arch),)
    assert found["scores"]["digits"]["test"] == pytest.approx(
        float(digits()["digits"].lookup(torch.tensor([index])).test)
    )
    assert [point["epoch"] for point in found["trajectory"]] == [1, 2, 3]
    assert found["trajectory"][-1]["architecture"] == found["architecture"]
    assert json.loads((tmp_path / "genotype.json").read_text())["architecture"] == found["architecture"]


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
    from lightning_nas.callbacks import selection

    decide, decisions = selection._Perturbation._decide, []

    def dies(self, kind, edge):
        decisions.append(edge)
        if len(decisions) == 4:
            raise KeyboardInterrupt
        decide(self, kind, edge)

    monkeypatch.setattr(selection._Perturbation, "_decide", dies)
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
    from lightning_nas.callbacks import selection

    decide, decisions = selection._Perturbation._decide, []

    def counts(self, kind, edge):
        decisions.append(edge)
        decide(self, kind, edge)

    trainer, module = fitted(tmp_path, [MagnitudeSelection("Mine")])
    monkeypatch.setattr(selection._Perturbation, "_decide", counts)
    for changes, expected in (({}, 6), ({}, 0), ({"lr": 0.01}, 6), ({"lr": 0.01, "min_lr": 0.001}, 6)):
        decisions.clear()
        PerturbationSelection("PT", tune_epochs=1, **changes).select(trainer, module)
        assert len(decisions) == expected, changes
    trainer.datamodule.images.seed = 5
    decisions.clear()
    PerturbationSelection("PT", tune_epochs=1, lr=0.01, min_lr=0.001).select(trainer, module)
    assert len(decisions) == 6


def test_what_is_known_of_the_training_stays_known(tmp_path):
    fitted(tmp_path, [MagnitudeSelection("Mine", digits())], epochs=2)
    before = outcome(tmp_path, "mine")
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    trainer = quiet_trainer(tmp_path, NASTrainer, callbacks=[MagnitudeSelection("Mine", digits())], limit_val_batches=1)
    trainer.search(make_module(), make_data(), ckpt_path=str(checkpoint), weights_only=True)
    after = outcome(tmp_path, "mine")
    for name in ("architecture", "training_seconds", "epochs", "trajectory"):
        assert after[name] == before[name], name


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


def test_random_cells_depend_on_the_seed_alone(tmp_path):
    found = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        fitted(tmp_path / name, [RandomSelection("random")], module=make_module(seed))
        found.append(outcome(tmp_path / name, "random")["architecture"])
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: MagnitudeSelection(" "), "no label"),
        (lambda: PerturbationSelection("PT", lr=0.0), "lr=0.0"),
        (lambda: PerturbationSelection("PT", mode="other"), "mode='other'"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said(make, said):
    with pytest.raises(UsageError, match=said):
        make()


def test_what_does_not_fit_is_said_before_the_work(tmp_path):
    with pytest.raises(UsageError, match="with the label"):
        fitted(tmp_path, [MagnitudeSelection("Mine"), RandomSelection("mine")])
    module = make_module(space=DARTSNetwork(), sizes={"part": "s2", "channels": 4, "num_layers": 3})
    with pytest.raises(UsageError, match="another space"):
        fitted(tmp_path, [MagnitudeSelection("Mine", digits())], module=module)


def test_search_needs_a_selection_and_a_checkpoint(tmp_path):
    with pytest.raises(UsageError, match="no selection"):
        quiet_trainer(tmp_path, NASTrainer).search(make_module(), make_data())
    with pytest.raises(UsageError, match="no trained supernet"):
        quiet_trainer(tmp_path, NASTrainer, callbacks=[MagnitudeSelection("Mine")]).search(make_module(), make_data())
