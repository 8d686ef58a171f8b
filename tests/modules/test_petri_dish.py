import logging
import os
import signal

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from lightning_nas.errors import UsageError
from lightning_nas.modules.petri_dish import LOWEST, PetriDish, matching_loss, standardised
from lightning_nas.nn.inner_loop import InnerAdam, InnerLoop, InnerSGD
from lightning_nas.nn.motif_network import SlopeNetwork
from tests.contract import ModuleContract, assert_identical, quiet_trainer, weights
from tests.datamodules.test_motifs import make_data

SLOPES = torch.linspace(0.3, 1.5, 7).double()
SCORES = 90 - 3 * SLOPES + torch.tensor([0.0, 0.1, -0.1, 0.2, 0.0, -0.2, 0.1]).double()


def make_dish(seed=0, steps=12, **changes):
    given = {"network": SlopeNetwork(4, 3, 5), "loop": InnerLoop(InnerAdam(0.1), steps), "num_dishes": 1, "seed": seed}
    return PetriDish(**given | changes)


class TestContract(ModuleContract):
    embedding_dim = 1

    def module(self, seed=0):
        return make_dish(seed, stages=[(3, 0.05), (9, 0.02)])

    def data(self, seed=0):
        return make_data()

    def test_gradients_of_two_processes_are_those_of_the_joint_batch(self, tmp_path):
        """An odd number of motifs over two processes: the step is that of one process."""
        found = {}
        for devices in (1, 2):
            module = make_dish(num_dishes=2)
            strategy = "ddp_fork" if devices == 2 else "auto"
            trainer = quiet_trainer(tmp_path, devices=devices, strategy=strategy, max_epochs=3, limit_val_batches=0)
            trainer.fit(module, make_data(num_train=7))
            path = tmp_path / f"{devices}.ckpt"
            trainer.save_checkpoint(path)
            found[devices] = torch.load(path, weights_only=True)["state_dict"]
        start = weights(make_dish(num_dishes=2))
        for name, value in found[1].items():
            torch.testing.assert_close(found[2][name], value, rtol=1e-9, atol=1e-12, msg=name)
        assert (found[1]["inputs"] - start["inputs"]).abs().max() > 0.01


def test_standardised_against_numpy():
    values = torch.tensor([[1.0, 2.0, 4.0, torch.nan], [5.0, 5.0, 5.0, 5.0]]).double()
    found = standardised(values).numpy()
    known = values[0, :3].numpy()
    np.testing.assert_allclose(found[0, :3], (known - known.mean()) / known.std())
    assert np.isnan(found[0, 3])
    assert (found[1] == 0).all()


def test_the_matching_loss_against_numpy():
    losses = torch.tensor([0.5, 0.9, torch.nan, 0.6]).double().requires_grad_()
    scores = torch.tensor([3.0, 1.0, 1e9, 2.0]).double()
    x, t = -np.array([0.5, 0.9, 0.6]), np.array([3.0, 1.0, 2.0])
    expected = (((x - x.mean()) / x.std() - (t - t.mean()) / t.std()) ** 2).mean()
    found = matching_loss(losses, scores)
    assert found.item() == pytest.approx(expected)
    (gradient,) = torch.autograd.grad(found, losses)
    assert gradient.isfinite().all()
    assert gradient[2] == 0
    assert matching_loss(-scores, scores).item() == pytest.approx(0.0)
    assert matching_loss(scores, scores).item() == pytest.approx(4.0)  # the opposite order


@pytest.mark.parametrize("optimizer", [InnerSGD(0.5), InnerAdam(0.05)], ids=str)
def test_the_gradient_of_the_outer_loss_is_that_of_finite_differences(optimizer):
    dish = make_dish(loop=InnerLoop(optimizer, 12), penalty=0.01)
    dish.valid_inputs.data.add_(0.1)
    dish.outer_loss(SLOPES, SCORES).sum().backward()
    for parameter in (dish.inputs, dish.valid_inputs):
        for place in ((0, 0, 1), (0, 4, 3), (0, 2, 0)):
            sides = []
            for sign in (1, -1):
                with torch.no_grad():
                    parameter[place] += sign * 1e-6
                    sides.append(float(dish.outer_loss(SLOPES, SCORES)))
                    parameter[place] -= sign * 1e-6
            difference = (sides[0] - sides[1]) / 2e-6
            assert parameter.grad[place].item() == pytest.approx(difference, rel=1e-5, abs=1e-8)


def test_a_dish_learns_to_rank():
    dish = make_dish(steps=60, stages=[(40, 0.1)])
    losses = dish.learn(SLOPES, SCORES)
    assert losses[-1] < 0.1 * losses[0]
    assert spearmanr(dish.score(SLOPES)[0], SCORES).statistic > 0.9


def test_dishes_side_by_side_do_not_know_of_each_other():
    together, alone = make_dish(num_dishes=3), make_dish()
    for dish in (together, alone):
        dish.learn(SLOPES, SCORES, 5)
    torch.testing.assert_close(together.inputs[:1], alone.inputs, rtol=1e-9, atol=1e-12)
    assert not torch.equal(together.inputs[0], together.inputs[1])
    own = torch.stack([SLOPES, SLOPES.flip(0), SLOPES])
    dish = make_dish(num_dishes=3)
    dish.learn(own, torch.stack([SCORES, SCORES.flip(0), SCORES]), 5)
    torch.testing.assert_close(dish.inputs, together.inputs, rtol=1e-9, atol=1e-12)


def test_the_median_of_the_dishes_that_match_best_counts():
    dish = make_dish(num_dishes=6, keep=0.5)
    dish.learn(SLOPES, SCORES, 3)
    assert len(dish.misfit.unique()) == 6
    dish.misfit.copy_(torch.tensor([0.3, 0.1, 0.4, 0.2, 0.6, 0.5]))
    scores = dish.score(SLOPES)
    torch.testing.assert_close(dish.consensus(SLOPES), scores[[0, 1, 3]].median(dim=0).values[None])
    two = torch.stack([scores[[0, 1]].mean(dim=0), scores[[3, 5]].mean(dim=0)])  # half of three is two
    torch.testing.assert_close(dish.consensus(SLOPES, num_runs=2), two)
    dish.keep = 0.01
    assert torch.equal(dish.consensus(SLOPES)[0], scores[1])


def test_a_motif_that_overflows_is_dropped_with_a_warning(caplog):
    dish = make_dish(loop=InnerLoop(InnerSGD(1.0), 5))
    slopes = SLOPES.clone()
    slopes[2] = torch.inf
    with caplog.at_level(logging.WARNING):
        dish.outer_loss(slopes, SCORES).sum().backward()
    assert "left 1 of 7 motifs out" in caplog.text
    gradient = dish.inputs.grad.clone()
    rest = [place for place in range(7) if place != 2]
    dish.zero_grad()
    dish.outer_loss(slopes[rest], SCORES[rest]).sum().backward()
    torch.testing.assert_close(gradient, dish.inputs.grad)
    assert gradient.abs().max() > 0
    assert dish.score(slopes)[0, 2] == LOWEST
    with pytest.raises(UsageError, match="0 of 7 motifs are left"):
        dish.outer_loss(torch.full_like(slopes, torch.inf), SCORES)


def test_stages_set_the_learning_rate_and_begin_anew():
    dish = make_dish(stages=[(2, 0.5), (3, 0.2)])
    optimizer = dish.make_optimizer()
    rates = []
    for number in range(7):
        optimizer.state["kept"] = number
        dish.begin_step(number, optimizer)
        rates.append((optimizer.param_groups[0]["lr"], "kept" in optimizer.state))
    assert rates == [(0.5, False), (0.5, True), (0.2, False), (0.2, True), (0.2, True), (0.2, True), (0.2, True)]


@pytest.mark.parametrize(("guard", "norms"), [({"clip": 1e-3}, [1e-3, 1e-3]), ({"normalise": True}, [1.0, 1.0])])
def test_gradients_of_every_dish_are_kept_short(guard, norms):
    dish = make_dish(num_dishes=2, **guard)
    dish.outer_loss(SLOPES, SCORES).sum().backward()
    dish.shape_gradients()
    both = torch.cat([dish.inputs.grad.flatten(1), dish.valid_inputs.grad.flatten(1)], dim=1)
    torch.testing.assert_close(both.norm(dim=1), torch.tensor(norms).double())


def test_the_checkpoint_is_the_whole_dish(tmp_path):
    dish = make_dish(loop=InnerLoop(InnerSGD(0.3), 9, max_norm=2.0), num_dishes=2)
    trainer = quiet_trainer(tmp_path, max_epochs=2, limit_val_batches=0)
    trainer.fit(dish, make_data())
    trainer.save_checkpoint(tmp_path / "dish.ckpt")
    loaded = PetriDish.load_from_checkpoint(tmp_path / "dish.ckpt", weights_only=True)
    assert loaded.loop == dish.loop
    assert torch.equal(loaded.score(SLOPES), dish.score(SLOPES))
    assert loaded.inputs.dtype == torch.float64


def test_killed_and_resumed_it_is_the_same_dish(tmp_path):
    """SIGKILL in the middle of an outer step, then on from the last checkpoint: the same dish bit for bit."""
    import multiprocessing

    from pytorch_lightning.callbacks import ModelCheckpoint

    def fit(kill_in=None, ckpt_path=None):
        dish = make_dish(stages=[(2, 0.05), (4, 0.02)])
        if kill_in is not None:
            original = dish.outer_loss

            def deadly(*args):
                loss = original(*args)
                if dish.current_epoch == kill_in:
                    os.kill(os.getpid(), signal.SIGKILL)
                return loss

            dish.outer_loss = deadly
        keep = ModelCheckpoint(tmp_path, save_last=True, save_on_train_epoch_end=True)
        trainer = quiet_trainer(
            tmp_path, max_epochs=6, enable_checkpointing=True, callbacks=[keep], limit_val_batches=0
        )  # fmt: skip
        trainer.fit(dish, make_data(), ckpt_path=ckpt_path)
        return weights(dish)

    child = multiprocessing.get_context("fork").Process(target=fit, args=(3,))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    resumed = fit(ckpt_path=tmp_path / "last.ckpt")
    (tmp_path / "last.ckpt").unlink()
    assert_identical(fit(), resumed)


@pytest.mark.parametrize(
    "changes", [{"num_dishes": 0}, {"keep": 0.0}, {"stages": []}, {"penalty": -1.0}, {"clip": 0.0}], ids=str
)
def test_what_cannot_be_is_said(changes):
    with pytest.raises(UsageError, match="expected"):
        make_dish(**changes)
