import inspect

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningDataModule
from torch import nn
from torch.utils.data import DataLoader

from lightning_nas.datamodules.cells import EpochShuffle
from lightning_nas.errors import SpaceError, UsageError
from lightning_nas.modules.classifier import ImageClassifier, PercentAccuracy
from lightning_nas.nn.drop_path import DropPath
from lightning_nas.nn.optimizers import constant, cosine, one_cycle
from lightning_nas.spaces.categorical import CategoricalSpace
from lightning_nas.spaces.nasbench201 import NASBench201
from tests.contract import ModuleContract, quiet_trainer

CELL = "|nor_conv_3x3~0|+|none~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_1x1~1|skip_connect~2|"


def small(seed=0, **arguments):
    torch.manual_seed(seed)
    sizes = {"channels": 4, "cells_per_stage": 1, "num_stages": 2}
    return ImageClassifier(NASBench201(), CELL, 3, (1, 6, 6), seed=seed, **{**sizes, **arguments})


class Images(LightningDataModule):
    """Bright rows tell the class; the rest is noise."""

    num_classes, image_shape = 3, (1, 6, 6)
    classes, mean, std, max_pixel = ("top", "middle", "bottom"), (0.5,), (0.25,), 16

    def __init__(self, seed=0, batch_size=16, size=48):
        super().__init__()
        self.seed, self.batch_size = seed, batch_size
        generator = torch.Generator().manual_seed(7)
        self.labels = torch.arange(size) % 3
        self.images = torch.randn(size, 1, 6, 6, generator=generator)
        self.images[torch.arange(size), 0, 2 * self.labels] += 2.0

    def loader(self, shuffle=False):
        pairs = list(zip(self.images, self.labels, strict=True))
        sampler = EpochShuffle(len(pairs), self.seed) if shuffle else None
        return DataLoader(pairs, batch_size=self.batch_size, sampler=sampler)

    def train_dataloader(self):
        return self.loader(shuffle=True)

    val_dataloader = test_dataloader = predict_dataloader = lambda self: self.loader()


class Stop(Callback):
    """Ends a training early, at the end of an epoch, as a failure would."""

    def __init__(self, epochs):
        self.epochs = epochs

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = trainer.current_epoch + 1 >= self.epochs


class TestContract(ModuleContract):
    """Schedules depend on the length of the training, which is 4 epochs for all; some are stopped before."""

    arguments = {"cutout": 2, "drop_path": 0.3, "auxiliary_weight": 0.4, "label_smoothing": 0.1}

    def module(self, seed=0):
        return small(seed, **self.arguments)

    def data(self, seed=0):
        return Images(seed)

    def trained(self, folder, max_epochs, seed=0, ckpt_path=None, **arguments):
        return super().trained(folder, 4, seed, ckpt_path, callbacks=[Stop(max_epochs)], **arguments)

    def calm(self, module):
        """Layers in evaluation mode, but the module itself trains, or its auxiliary head would have no gradient."""
        module.eval()
        module.training, module.cutout = True, 0

    test_prediction_is_index_and_embedding_of_every_cell_in_order = None  # these are no embeddings


class TestContractOfOneCycle(TestContract):
    def module(self, seed=0):
        return small(seed, schedule=one_cycle)


# ---- the loss and what disturbs it ----


class Rates(Callback):
    """Writes down learning rates, probabilities of dropped paths, and what the network was shown."""

    def __init__(self):
        self.rates, self.probabilities, self.shown = [], [], []

    def on_train_start(self, trainer, pl_module):
        pl_module.network.stem.register_forward_pre_hook(
            lambda module, given: self.shown.append(given[0].clone()) if module.training else None
        )
        drops = [m for m in pl_module.network.modules() if isinstance(m, DropPath)]
        drops[0].register_forward_pre_hook(
            lambda module, _: self.probabilities.append(module.probability) if module.training else None
        )

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.rates.append(optimizer.param_groups[0]["lr"])


def fitted(folder, module, epochs=2, data=None, **arguments):
    watch = Rates()
    trainer = quiet_trainer(folder, max_epochs=epochs, callbacks=[watch], **arguments)
    trainer.fit(module, data or Images())
    return watch, trainer


@pytest.mark.parametrize("schedule", [cosine, constant])
def test_the_learning_rate_follows_the_schedule_from_step_to_step(tmp_path, schedule):
    watch, _ = fitted(tmp_path, small(schedule=schedule))
    assert watch.rates == pytest.approx([0.1 * schedule(step / 6) for step in range(6)])


def test_the_default_schedule_is_torchs_cosine(tmp_path):
    watch, _ = fitted(tmp_path, small())
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=6)
    for rate in watch.rates:
        assert rate == pytest.approx(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()


def test_accumulated_batches_are_one_step(tmp_path):
    watch, _ = fitted(tmp_path, small(), accumulate_grad_batches=3)
    assert watch.rates == pytest.approx([0.1, 0.05])


def test_a_training_without_end_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"no end.*max_epochs"):
        fitted(tmp_path, small(), epochs=-1)


def test_drop_path_rises_linearly_and_leaves_nothing_behind(tmp_path):
    module = small(drop_path=0.6)
    watch, _ = fitted(tmp_path, module)
    assert list(dict.fromkeys(watch.probabilities)) == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    left = [(d.probability, d.generator) for d in module.network.modules() if isinstance(d, DropPath)]
    assert set(left) == {(0.0, None)}


def test_cutout_zeroes_a_square_in_training_alone(tmp_path):
    data = Images()
    data.images += 10.0  # no pixel is zero
    whole, _ = fitted(tmp_path, small(), 1, data)
    cut, _ = fitted(tmp_path, small(cutout=2), 1, data)
    for before, after in zip(whole.shown, cut.shown, strict=True):
        holes = after == 0
        assert torch.equal(after[~holes], before[~holes])
        assert set(holes.sum(dim=(1, 2, 3)).tolist()) <= {1, 2, 4}
        assert holes.any(dim=(1, 2, 3)).all()
    assert len({tuple(holes.flatten().tolist()) for holes in torch.cat(cut.shown) == 0}) > 10


def test_the_loss_is_smoothed_cross_entropy_with_a_share_of_the_auxiliary_heads(tmp_path):
    module = small(auxiliary_weight=0.4, label_smoothing=0.2, drop_path=0.0)
    module.log = lambda *_, **__: None
    images, labels = Images().images[:8], Images().labels[:8]
    target = 0.8 * F.one_hot(labels, 3) + 0.2 / 3
    by_hand = [-(target * scores.log_softmax(dim=1)).sum(dim=1).mean() for scores in
               module.network.with_auxiliary(images)]  # fmt: skip
    torch.testing.assert_close(module.training_step((images, labels), 0), by_hand[0] + 0.4 * by_hand[1])


def test_it_learns_and_measures_in_percent(tmp_path):
    module = small(optimizer=lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9))
    data = Images(size=40)  # the last batch is smaller
    _, trainer = fitted(tmp_path, module, 10, data)
    with torch.no_grad():
        right = 100 * (module.eval()(data.images).argmax(dim=1) == data.labels).float().mean()
    (measured,) = trainer.test(module, data, verbose=False)
    assert measured["test/accuracy"] == pytest.approx(float(right))
    assert float(trainer.validate(module, data, verbose=False)[0]["val/accuracy"]) == pytest.approx(float(right))
    assert right > 80


def test_percent_accuracy_counts_images_not_batches():
    metric = PercentAccuracy(3)
    metric.update(torch.eye(3), torch.arange(3))
    metric.update(torch.eye(3)[:1], torch.tensor([2]))
    assert float(metric.compute()) == 75.0


class Counts(Callback):
    """Writes down how many images were counted by each process."""

    def __init__(self, folder):
        self.folder = folder

    def on_test_epoch_end(self, trainer, pl_module):
        metric = pl_module.test_accuracy
        seen = int((metric.tp + metric.fn).sum())
        torch.save((seen, float(metric.compute())), self.folder / f"{trainer.world_size}-{trainer.global_rank}.pt")


@pytest.mark.parametrize("size", [40, 33])
def test_two_processes_count_every_test_image_once(tmp_path, size):
    """33 images in batches of 4 over two processes: a sampler gives both 17, and one image twice."""
    module, data = small(), Images(batch_size=4, size=size)
    fitted(tmp_path, module, 1, data)
    for devices, strategy in ((1, "auto"), (2, "ddp_fork")):
        trainer = quiet_trainer(tmp_path, devices=devices, strategy=strategy, callbacks=[Counts(tmp_path)])
        trainer.test(module, data, verbose=False)
    (alone, accuracy), *both = (torch.load(tmp_path / f"{name}.pt") for name in ("1-0", "2-0", "2-1"))
    assert [seen for seen, _ in both] == [size - size // 2, size // 2]
    assert alone == size
    assert {share for _, share in both} == {accuracy}


# ---- what a checkpoint knows ----


def test_a_checkpoint_knows_how_images_were_read(tmp_path):
    _, trainer = fitted(tmp_path, small(), 1)
    trainer.save_checkpoint(tmp_path / "module.ckpt")
    assert images_of(tmp_path / "module.ckpt") == (("top", "middle", "bottom"), (0.5,), (0.25,), 16)


def images_of(checkpoint):
    hparams = ImageClassifier.load_from_checkpoint(checkpoint, weights_only=True).hparams
    return tuple(hparams[name] for name in ("classes", "mean", "std", "max_pixel"))


def other_images(**constants):
    data = Images()
    for name, value in constants.items():
        setattr(data, name, value)
    return data


def test_training_on_with_other_images_is_told_in_the_checkpoint(tmp_path):
    """They are normalised by their own constants, whatever the weights were trained with before."""
    _, trainer = fitted(tmp_path, small(), 1)
    trainer.save_checkpoint(tmp_path / "module.ckpt")
    module = ImageClassifier.load_from_checkpoint(tmp_path / "module.ckpt", weights_only=True)
    _, trainer = fitted(tmp_path, module, 1, other_images(classes=("a", "b", "c"), std=(9.0,), max_pixel=255))
    trainer.save_checkpoint(tmp_path / "module.ckpt")
    assert images_of(tmp_path / "module.ckpt") == (("a", "b", "c"), (0.5,), (9.0,), 255)


def test_measuring_on_other_images_changes_nothing(tmp_path):
    module = small(std=(9.0,))
    quiet_trainer(tmp_path).test(module, Images(), verbose=False)
    assert (module.hparams["mean"], module.hparams["std"]) == ((0.5,), (9.0,))


@pytest.mark.parametrize(
    "constants", [{"classes": ("a", "b", "c")}, {"mean": (0.6,)}, {"std": (9.0,)}, {"max_pixel": 255}]
)
def test_an_interrupted_training_does_not_continue_with_other_images(tmp_path, constants):
    _, trainer = fitted(tmp_path, small(), 1)
    trainer.save_checkpoint(tmp_path / "module.ckpt")
    checkpoint = {"ckpt_path": tmp_path / "module.ckpt", "weights_only": True}
    (name,) = constants
    with pytest.raises(UsageError, match=rf"data have {name}=.*the same images, or choose another --run_dir"):
        quiet_trainer(tmp_path, max_epochs=2).fit(small(), other_images(**constants), **checkpoint)
    quiet_trainer(tmp_path).test(small(), other_images(**constants), verbose=False, **checkpoint)


@pytest.mark.parametrize("other", [CELL.replace("avg_pool_3x3", "skip_connect"), CELL.replace("3x3~0", "1x1~0")])
def test_the_weights_of_another_architecture_are_refused(tmp_path, other):
    """Without weights on the changed edge they would fit."""
    _, trainer = fitted(tmp_path, small(), 1)
    trainer.save_checkpoint(tmp_path / "module.ckpt")
    module = ImageClassifier(NASBench201(), other, 3, (1, 6, 6), channels=4, cells_per_stage=1, num_stages=2)
    with pytest.raises(UsageError, match=r"the checkpoint is of .*--run_dir"):
        quiet_trainer(tmp_path, max_epochs=2).fit(
            module, Images(), ckpt_path=tmp_path / "module.ckpt", weights_only=True
        )


# ---- what does not fit together ----


class Plain(CategoricalSpace):
    """One layer; no cells, no paths, no head."""

    name = "plain"
    choices = (("relu", "tanh"),)
    vertex_labels, num_vertices = ("input", "relu", "tanh", "output"), 3
    graph = from_graph = None

    def __init__(self, width=2):
        self.width = width

    def build(self, arch, num_classes=10, in_channels=3, **_):
        act = (nn.ReLU, nn.Tanh)[arch[0]]
        return nn.Sequential(nn.Conv2d(in_channels, self.width, 3), act(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                             nn.Linear(self.width, num_classes))  # fmt: skip


class Strict(Plain):
    def build(self, arch, num_classes=10, in_channels=3):
        return super().build(arch, num_classes, in_channels)


class Network(nn.Sequential):
    def __init__(self, *layers):
        super().__init__(*layers)
        self.dead = nn.Linear(2, 2)

    def forward(self, x):
        for layer in list(self)[:-1]:
            x = layer(x)
        return x


class DeadEnd(Plain):
    """A network with weights that nothing depends on, as a cell with an edge into a node without outputs."""

    def build(self, arch, **sizes):
        return Network(*super().build(arch, **sizes))


class Frozen(Plain):
    def build(self, arch, **sizes):
        network = super().build(arch, **sizes)
        network[0].requires_grad_(False)
        return network


class WrongWidth(Plain):
    def build(self, arch, **_):
        return super().build(arch, num_classes=7, in_channels=1)


def test_any_space_will_do(tmp_path):
    module = ImageClassifier(Plain(width=5), "tanh", 3, (1, 6, 6), channels=9)
    _, trainer = quiet_fit(tmp_path, module)
    trainer.save_checkpoint(tmp_path / "module.ckpt")
    restored = ImageClassifier.load_from_checkpoint(tmp_path / "module.ckpt", weights_only=True)
    assert restored.space == Plain(width=5) != Plain()
    assert isinstance(restored.network[1], nn.Tanh)


def test_weights_that_a_space_froze_stay_frozen():
    network = ImageClassifier(Frozen(), "tanh", 3, (1, 6, 6)).network
    assert [weight.requires_grad for weight in network.parameters()] == [False, False, True, True]


@pytest.mark.parametrize("auxiliary_weight", [0.0, 0.4])
def test_two_processes_wait_for_no_gradient_of_a_dead_end(tmp_path, auxiliary_weight):
    module = ImageClassifier(DeadEnd(), "relu", 3, (1, 6, 6)) if not auxiliary_weight else small(auxiliary_weight=0.4)
    before = {name: weight.clone() for name, weight in module.named_parameters()}
    quiet_fit(tmp_path, module, devices=2, strategy="ddp_fork")
    changed = {name for name, weight in module.named_parameters() if not torch.equal(weight, before[name])}
    assert changed == {name for name in before if ".dead." not in name}


def quiet_fit(folder, module, **arguments):
    trainer = quiet_trainer(folder, max_epochs=1, **arguments)
    trainer.fit(module, Images())
    return module, trainer


@pytest.mark.parametrize(
    ("space", "arguments", "message"),
    [
        (Plain(), {"drop_path": 0.2}, "drop_path=0.2.*'plain' have no paths to drop.*drop_path: 0"),
        (Plain(), {"auxiliary_weight": 0.4}, "'plain' have no auxiliary head"),
        (Strict(), {"channels": 8}, "got channels.*made from num_classes, in_channels"),
        (Strict(), {"auxiliary_weight": 0.4}, "got auxiliary.*auxiliary_weight must be 0"),
        (WrongWidth(), {}, r"shape \(1, 7\), expected \(1, 3\)"),
        (Plain(), {"image_shape": (1, 2, 2)}, "'plain'.*cannot classify an image of shape .1, 2, 2.*halved"),
        (Plain(), {"drop_path": 1.0}, "drop_path=1.0"),
        (Plain(), {"label_smoothing": -0.1}, "label_smoothing=-0.1"),
        (Plain(), {"cutout": -1}, "cutout=-1"),
        (Plain(), {"architecture": "sigmoid"}, "got 'sigmoid' at position 0, expected one of relu, tanh"),
    ],
)
def test_what_does_not_fit_together_is_said_before_the_work_starts(space, arguments, message):
    given = {"architecture": "relu", "num_classes": 3, "image_shape": (1, 6, 6), **arguments}
    with pytest.raises((UsageError, SpaceError), match=message):
        ImageClassifier(space, **given)


def test_every_argument_is_explained():
    explained = inspect.getdoc(ImageClassifier)
    assert [name for name in inspect.signature(ImageClassifier).parameters if f"    {name}: " not in explained] == []
