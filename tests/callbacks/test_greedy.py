from itertools import pairwise

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import Checkpoint

from lightning_nas.callbacks.greedy import SGAS, ProgressivePruning, widened
from lightning_nas.errors import UsageError
from lightning_nas.nn.mixing import DirichletMixing
from lightning_nas.nn.nasbench201_supernet import NASBench201Supernet
from lightning_nas.nn.supernet import Mixture
from lightning_nas.spaces.darts import DARTSNetwork
from lightning_nas.trainer import NASTrainer
from tests.callbacks.test_selection import fitted, outcome
from tests.contract import quiet_trainer
from tests.modules.test_darts import SIZES, make_data, make_module


@pytest.mark.parametrize("operation", ["magnitude", "perturbation"])
def test_edges_are_settled_one_after_another(tmp_path, operation):
    class Count(Callback):
        def on_train_epoch_start(self, trainer, module):
            counts.append(int((module.decided >= 0).sum()))

    counts = []
    _, module = fitted(tmp_path, [SGAS("SGAS", None, 1, 2, operation), Count()], epochs=11)
    assert counts == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert (module.decided > 0).all()  # none is never settled on
    assert outcome(tmp_path, "sgas")["architecture"] == module.space.format(module.architecture(module.decided))


def test_the_most_important_and_certain_edge_is_first():
    module, sgas = make_module(), SGAS("SGAS")
    with torch.no_grad():
        module.alpha.zero_()
        module.alpha[0, 2, 0] = -3.0  # important, but anything may happen there
        module.alpha[0, 4, 3] = 4.0  # important and certain
        module.alpha[0, 1, 0] = 4.0  # nothing
    assert sgas._next(module, 0) == 4
    module.decided[0, 4] = 3
    assert sgas._next(module, 0) != 4


def test_without_none_the_most_certain_edge_is_first():
    module = make_module(space=DARTSNetwork(), sizes={"part": "s2", "channels": 4, "num_layers": 3})
    for seed in range(20):
        with torch.no_grad():
            module.alpha.copy_(0.5 * torch.randn(module.alpha.shape, generator=torch.Generator().manual_seed(seed)))
        gaps = (module.alpha[0, :, 0] - module.alpha[0, :, 1]).abs()
        assert SGAS("SGAS")._next(module, 0) == int(gaps.argmax())


def test_parameters_of_settled_edges_stay(tmp_path):
    class Keep(Callback):
        def on_train_epoch_end(self, trainer, module):
            rows.append((module.decided.clone(), module.alpha.detach().clone()))

    rows = []
    fitted(tmp_path, [SGAS("SGAS", None, 1, 1), Keep()], epochs=6)
    for (decided, before), (_, after) in pairwise(rows):
        assert torch.equal(before[decided >= 0], after[decided >= 0])
        assert not torch.equal(before[decided < 0], after[decided < 0])


def test_an_end_before_all_edges_are_settled_is_said(tmp_path):
    with pytest.raises(UsageError, match="ended with 1 settled edges"):
        fitted(tmp_path, [SGAS("SGAS", None, 1, 1)], epochs=9, max_steps=8)


def test_in_the_darts_space_the_other_edges_of_a_full_block_leave(tmp_path):
    module = make_module(space=DARTSNetwork(), sizes={"part": "s2", "channels": 4, "num_layers": 3})
    _, module = fitted(tmp_path, [SGAS("SGAS", None, 1, 1)], epochs=8, module=module, num_train=16, num_valid=16)
    for kind in range(2):
        for arriving in module.network.arriving(kind):
            settled = module.decided[kind, arriving] >= 0
            assert int(settled.sum()) == 2
            assert not module.active[kind, arriving][~settled].any()
    assert module.space.parse(outcome(tmp_path, "sgas")["architecture"])


def test_too_short_a_training_is_said_before_it(tmp_path):
    with pytest.raises(UsageError, match="max_epochs of at least that, got 10"):
        fitted(tmp_path, [SGAS("SGAS", None, 1, 2)], epochs=10)


def test_pruned_operations_leave_and_others_get_channels(tmp_path):
    module = make_module(mixing=DirichletMixing(), sizes={**SIZES, "channels": 8, "partial": 4})
    _, module = fitted(tmp_path, [ProgressivePruning(1, 3, 2)], epochs=2, module=module)
    assert (module.active.sum(dim=-1) == 3).all()
    assert module.network.skeleton.cells[0].seen == 4
    assert module.sizes["partial"] == 2
    optimizer = module.optimizers()[0]
    for parameter in module.network.parameters():
        assert optimizer.state[parameter]["momentum_buffer"].shape == parameter.shape


def test_a_widened_network_copies_channels():
    torch.manual_seed(0)
    old, new = (NASBench201Supernet(8, 1, 1, partial=partial) for partial in (4, 2))
    rng, maps = np.random.default_rng(0), {}
    state = {
        name: widened(old, name, value, new.state_dict()[name].shape, rng, maps)
        for name, value in old.state_dict().items()
    }
    new.load_state_dict(state)
    before, after = (net.skeleton.cells[0].conv3[0].conv.weight for net in (old, new))
    for edge in range(3):
        ours, theirs = before[2 * edge : 2 * edge + 2], after[4 * edge : 4 * edge + 4]
        assert torch.equal(theirs[:2, :2], ours)
        copies = maps[2, 4]
        assert torch.equal(theirs, ours[copies][:, copies])
    mixture = Mixture(torch.full((1, 6, 5), 0.2), None, torch.ones(1, 6, 5, dtype=torch.bool))
    assert new(torch.randn(2, 3, 8, 8), mixture).shape == (2, 10)


@pytest.mark.parametrize("stop", [0, 2])
def test_a_search_in_stages_resumes_in_either(tmp_path, stop):
    def fit(folder, callbacks=(), ckpt_path=None):
        module = make_module(mixing=DirichletMixing(), sizes={**SIZES, "channels": 8, "partial": 4})
        trainer = quiet_trainer(
            tmp_path / folder, NASTrainer, max_epochs=4, limit_val_batches=0, enable_checkpointing=True,
            callbacks=[ProgressivePruning(2, 3, 2, warmup_epochs=1), *callbacks],
        )  # fmt: skip
        trainer.fit(module, make_data(), ckpt_path=ckpt_path, weights_only=True)
        return module

    class Stop(Checkpoint):
        def on_train_epoch_end(self, trainer, module):
            if trainer.current_epoch == stop:
                trainer.save_checkpoint(tmp_path / "half.ckpt")
                trainer.should_stop = True

    whole = fit("whole")
    fit("half", [Stop()])
    resumed = fit("rest", ckpt_path=tmp_path / "half.ckpt")
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("pruning", "said"),
    [(ProgressivePruning(1, 9), "only 5 operations"), (ProgressivePruning(1, 3, 3), "expected a divisor")],
)
def test_pruning_that_cannot_be_is_said_before_the_work(tmp_path, pruning, said):
    with pytest.raises(UsageError, match=said):
        fitted(tmp_path, [pruning])


@pytest.mark.parametrize(
    "make",
    [lambda: SGAS("SGAS", interval=0), lambda: SGAS("SGAS", operation="other"), lambda: ProgressivePruning(1, 0)],
)
def test_what_cannot_be_is_said(make):
    with pytest.raises(UsageError, match="expected"):
        make()
