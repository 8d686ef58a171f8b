import multiprocessing
import os

import pytest
import torch
from pytorch_lightning import Callback, seed_everything
from pytorch_lightning.callbacks import Checkpoint

from lightning_nas.datamodules.bilevel import BilevelDataModule
from lightning_nas.datamodules.vision import DigitsDataModule
from lightning_nas.errors import UsageError
from lightning_nas.modules.darts import DARTS, _ahead
from lightning_nas.nn.mixing import DirichletMixing, PerturbedMixing, UniformMixing
from lightning_nas.spaces.darts import DARTSNetwork
from lightning_nas.spaces.nasbench201 import NASBench201
from lightning_nas.spaces.natsbench_size import NATSBenchSize
from tests.contract import quiet_trainer

SIZES = {"channels": 4, "cells_per_stage": 1, "num_stages": 1}


def make_module(seed=0, **changes):
    seed_everything(seed, verbose=False)
    given = {"space": NASBench201(), "num_classes": 10, "image_shape": (1, 8, 8), "sizes": SIZES, "seed": seed}
    return DARTS(**given | changes)


def make_data(batch_size=16, num_train=64, num_valid=64, **changes):
    return BilevelDataModule(DigitsDataModule(num_train=num_train, num_valid=num_valid), batch_size, 64, **changes)


def batch(seed, size=12):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, 1, 8, 8, generator=generator).double(), torch.randint(10, (size,), generator=generator)


def a_step_later(module, alpha, train, optimizer):
    """The weights after a step of SGD at these architecture parameters, each a function of alpha."""
    weights = module.mixing.mean(alpha, module.active)
    parameters = dict(module.network.named_parameters())
    slopes = torch.autograd.grad(
        module.loss(train, weights), list(parameters.values()), create_graph=True, allow_unused=True
    )
    return _ahead(parameters, slopes, optimizer)


@pytest.mark.parametrize("momentum", [False, True])
def test_the_exact_gradient_is_that_of_the_loss_a_step_later(momentum):
    module = make_module(order="exact").double()
    optimizer, _ = module.make_optimizers()
    train, valid = batch(1), batch(2)
    if momentum:
        for parameter in module.network.parameters():
            optimizer.state[parameter]["momentum_buffer"] = 0.1 * torch.randn_like(parameter)
    optimizer.param_groups[0]["lr"] = 0.5
    module.network.eval()  # statistics stay, whatever is computed
    (found,) = module._alpha_gradient(train, valid, module.mixing.mean(module.alpha, module.active), optimizer)

    def later(alpha):
        from lightning_nas.nn.supernet import frozen_statistics

        with frozen_statistics(module.network):
            ahead = a_step_later(module, alpha, train, optimizer)
            return module.loss(valid, module.mixing.mean(alpha, module.active), ahead).item()

    for place in ((0, 0, 3), (0, 2, 1), (0, 5, 4)):
        sides = []
        for sign in (1.0, -1.0):
            alpha = module.alpha.detach().clone().requires_grad_()
            with torch.no_grad():
                alpha[place] += sign * 1e-5
            sides.append(later(alpha))
        assert found[place].item() == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=1e-3, abs=1e-9)


def test_the_finite_difference_is_close_to_the_exact_gradient():
    train, valid = batch(1), batch(2)
    found = {}
    for order in ("first", "second", "exact"):
        module = make_module(order=order, epsilon=1e-4).double()  # no ReLU changes its side within that length
        optimizer, _ = module.make_optimizers()
        optimizer.param_groups[0]["lr"] = 0.5
        weights = module.mixing.mean(module.alpha, module.active)
        (found[order],) = module._alpha_gradient(train, valid, weights, optimizer)
    error = (found["second"] - found["exact"]).norm() / found["exact"].norm()
    assert error < 1e-3
    assert (found["first"] - found["exact"]).norm() / found["exact"].norm() > 0.1


@pytest.mark.parametrize("order", ["first", "second"])
def test_looking_ahead_leaves_weights_and_statistics_as_they_were(order):
    module = make_module(order=order).double().train()
    optimizer, _ = module.make_optimizers()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    module._alpha_gradient(batch(1), batch(2), module.mixing.mean(module.alpha, module.active), optimizer)
    for name, value in module.state_dict().items():
        statistics = "running" in name or "tracked" in name
        if not statistics or (order == "second" and "running" in name):
            assert torch.equal(value, before[name]), name


def test_accumulated_steps_are_one_step_of_the_mean():
    train, valid = batch(1), batch(2)
    whole, parts = make_module().double().eval(), make_module(accumulate=2).double().eval()
    both = []
    for module, count in ((whole, 1), (parts, 2)):
        optimizers = module.make_optimizers()
        for number in range(count):  # in evaluation mode batches do not look at each other
            share = [(x[number::count], y[number::count]) for x, y in (train, valid)]
            module.search_step(*share, optimizers, (0,), 0.0, moves=number == count - 1)
        both.append(module)
    torch.testing.assert_close(both[0].alpha, both[1].alpha)


def test_a_checkpoint_knows_its_mixing_and_refuses_another(tmp_path):
    module = make_module(mixing=PerturbedMixing("gaussian", 0.1, 0.2))
    trainer = quiet_trainer(tmp_path, max_epochs=1, limit_val_batches=0, enable_checkpointing=True)
    trainer.fit(module, make_data())
    (path,) = tmp_path.rglob("*.ckpt")
    loaded = DARTS.load_from_checkpoint(path, weights_only=True)
    assert vars(loaded.mixing) == vars(module.mixing)
    assert torch.equal(loaded.alpha, module.alpha)
    with pytest.raises(UsageError, match="the checkpoint is of"):
        quiet_trainer(tmp_path, max_epochs=2).fit(make_module(), make_data(), ckpt_path=path, weights_only=True)


def test_noise_depends_on_the_step_alone():
    module = make_module(space=DARTSNetwork(), sizes={"part": "s4", "channels": 4, "num_layers": 3})
    images = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        found = []
        for place in ((0, 1), (0, 1), (0, 2)):
            module._begin(place)
            module.eval()
            found.append(module(images))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_half_precision_that_needs_scaling_is_refused(tmp_path):
    trainer = quiet_trainer(tmp_path, max_epochs=1)
    module = make_module()
    module._trainer = trainer
    trainer.strategy.precision_plugin.precision = "16-mixed"
    with pytest.raises(UsageError, match="bf16-mixed"):
        module.configure_optimizers()


def test_the_gap_of_skip_connections():
    module = make_module()
    with torch.no_grad():
        module.alpha.zero_()
        module.alpha[..., 1] = 1.0
    weights = module.mixture().weights[0, 0]
    assert module.skip_gap() == pytest.approx(float(weights[1] - weights[2]), rel=1e-5)


def test_settled_edges_have_one_operation_whatever_alpha_is():
    module = make_module()
    module.decided[0, 2] = 3
    mixture = module.mixture()
    assert mixture.weights[0, 2].tolist() == [0, 0, 0, 1, 0]
    assert mixture.active[0, 2].tolist() == [False, False, False, True, False]
    (gradient,) = torch.autograd.grad(mixture.weights.square().sum(), module.alpha)
    assert not gradient[0, 2].any()
    assert gradient[0, 1].any()


def test_edges_into_a_node_share_their_weight():
    module = make_module(edge_weights=True, sizes={**SIZES, "partial": 2})
    edges = module.mixture().edges
    for arriving in module.network.arriving(0):
        assert edges[0, arriving].sum().item() == pytest.approx(1.0)
    torch.testing.assert_close(module.mixture().weights.sum(dim=-1), edges)


def test_alpha_rests_while_it_warms_up_and_where_it_does_not_learn(tmp_path):
    for changes in ({"warmup_epochs": 2}, {"mixing": UniformMixing()}):
        module = make_module(**changes)
        before, weights = module.alpha.clone(), module.network.skeleton.classifier.weight.clone()
        quiet_trainer(tmp_path, max_epochs=2, limit_val_batches=0).fit(module, make_data())
        assert torch.equal(module.alpha, before)
        assert not torch.equal(module.network.skeleton.classifier.weight, weights)


def test_learning_rates_follow_the_cosine(tmp_path):
    class Rates(Callback):
        def on_train_epoch_start(self, trainer, module):
            seen.append(trainer.optimizers[0].param_groups[0]["lr"])

    cosine = [0.025, 0.001 + 0.024 * (2 + 2**0.5) / 4, 0.013, 0.001 + 0.024 * (2 - 2**0.5) / 4]
    for rise, shares in ((0, (1, 1, 1, 1)), (1, (1 / 2, 1, 1, 1)), (2, (1 / 3, 2 / 3, 1, 1))):
        seen = []
        module = make_module(lr_warmup_epochs=rise)
        quiet_trainer(tmp_path, max_epochs=4, limit_val_batches=0, callbacks=[Rates()]).fit(module, make_data())
        assert seen == pytest.approx([rate * share for rate, share in zip(cosine, shares, strict=True)])


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"mixing": DirichletMixing()}, {"mixing": PerturbedMixing()}, {"order": "second"},
        {"edge_weights": True, "sizes": {**SIZES, "partial": 2}, "accumulate": 2},
    ],
    ids=str,
)  # fmt: skip
def test_an_interrupted_search_goes_on_as_if_it_had_not_been(tmp_path, changes):
    def trainer(folder, epochs, **given):
        return quiet_trainer(tmp_path / folder, max_epochs=epochs, limit_val_batches=0, **given)

    whole = make_module(**changes)
    trainer("whole", 4).fit(whole, make_data())

    class Stop(Checkpoint):  # after all others, as checkpoints are written
        def on_train_epoch_end(self, trainer, module):
            if trainer.current_epoch == 1:
                trainer.save_checkpoint(tmp_path / "half.ckpt")
                trainer.should_stop = True

    trainer("half", 4, callbacks=[Stop()], enable_checkpointing=True).fit(make_module(**changes), make_data())
    resumed = make_module(seed=0, **changes)
    with torch.no_grad():
        resumed.alpha.add_(1.0)
    trainer("rest", 4).fit(resumed, make_data(), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def _fit_as_one_of_two(folder):
    class Keep(Callback):
        def on_train_end(self, trainer, module):
            torch.save(module.state_dict(), folder / f"{trainer.global_rank}.pt")

    trainer = quiet_trainer(
        folder, max_epochs=2, limit_val_batches=0, callbacks=[Keep()], devices=2, strategy="ddp_fork",
    )  # fmt: skip
    trainer.fit(make_module(mixing=DirichletMixing()), make_data())


def test_two_processes_have_one_alpha(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=_fit_as_one_of_two, args=(tmp_path,))
    os.environ.pop("LOCAL_RANK", None)
    process.start()
    process.join(120)
    assert process.exitcode == 0
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert torch.equal(first["alpha"], second["alpha"])
    assert not torch.equal(first["alpha"], make_module().alpha)
    for name in first:
        if "running" not in name:  # every process has statistics of its own batches
            assert torch.equal(first[name], second[name]), name


def test_a_supernet_learns(tmp_path):
    module, data = make_module(sizes={**SIZES, "channels": 8}), make_data(num_train=300, num_valid=300, batch_size=32)
    quiet_trainer(tmp_path, max_epochs=20, limit_val_batches=0).fit(module, data)
    (after,) = quiet_trainer(tmp_path).validate(module, data, verbose=False)
    assert after["val/accuracy"] > 40.0


def test_the_darts_space_trains_and_says_what_it_chose(tmp_path):
    module = make_module(space=DARTSNetwork(), sizes={"part": "s2", "channels": 4, "num_layers": 3})
    quiet_trainer(tmp_path, max_epochs=1, limit_train_batches=1, limit_val_batches=1).fit(module, make_data())
    arch = module.architecture(module.choice())
    assert module.space.parse(module.space.format(arch)) == arch
    assert 0 <= module.num_skips(module.choice()) <= 16


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"order": "third"}, "order='third'"),
        ({"order": "second", "accumulate": 2}, "accumulate=2"),
        ({"clip": 0.0}, "clip=0.0"),
        ({"space": NATSBenchSize()}, "has no supernet"),
        ({"sizes": {"width": 3}}, "width"),
        ({"sizes": {**SIZES, "partial": 3}}, "expected a divisor"),
        ({"sizes": {**SIZES, "partial": 0}}, "partial=0"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said(changes, said):
    with pytest.raises(UsageError, match=said):
        make_module(**changes)


def test_a_step_ahead_needs_sgd():
    module = make_module(order="second", optimizer=lambda parameters: torch.optim.Adam(parameters))
    with pytest.raises(UsageError, match="got Adam"):
        module.double()._alpha_gradient(
            batch(1), batch(2), module.mixing.mean(module.alpha, module.active), module.make_optimizers()[0]
        )
