import json

import pytest
import torch

from lightning_nas.benchmarks.tabular import TabularBenchmark
from lightning_nas.callbacks.selection import MagnitudeSelection, RandomSelection
from lightning_nas.errors import UsageError
from lightning_nas.nn.mixing import UniformMixing
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


def test_equal_weights_select_nothing(tmp_path):
    selections = [RandomSelection("random"), MagnitudeSelection("Mine")]
    fitted(tmp_path / "second", selections, module=make_module(mixing=UniformMixing()))
    assert outcome(tmp_path / "second", "random")
    assert not (tmp_path / "second" / "selection" / "mine.json").exists()
    with pytest.raises(UsageError, match="UniformMixing all weights are equal"):
        fitted(tmp_path / "first", selections[::-1], module=make_module(mixing=UniformMixing()))


def test_what_is_known_of_the_training_stays_known(tmp_path):
    fitted(tmp_path, [MagnitudeSelection("Mine", digits())], epochs=2)
    before = outcome(tmp_path, "mine")
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    trainer = quiet_trainer(tmp_path, NASTrainer, callbacks=[MagnitudeSelection("Mine", digits())], limit_val_batches=1)
    trainer.search(make_module(), make_data(), ckpt_path=str(checkpoint), weights_only=True)
    after = outcome(tmp_path, "mine")
    for name in ("architecture", "training_seconds", "epochs", "trajectory"):
        assert after[name] == before[name], name


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
