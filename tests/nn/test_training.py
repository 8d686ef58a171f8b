import io
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_nas.errors import EvaluationError, UsageError
from lightning_nas.nn.darts import GenotypeNetwork, in_thirds
from lightning_nas.nn.drop_path import DropPath
from lightning_nas.nn.images import LabelledImages
from lightning_nas.nn.training import (
    Training,
    TrainingData,
    TrainingRecipe,
    moved,
    shifted_windows,
)


def stripes(count, seed):
    """Images with one bright row, which is the class, as pixels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count,), generator=generator)
    images = torch.randint(150, (count, 1, 6, 6), generator=generator)
    images[torch.arange(count), 0, labels + 1] += 50
    return LabelledImages(images.to(torch.uint8), labels)


def data(*augmentation):
    return TrainingData(stripes(96, 1), stripes(40, 2), stripes(30, 3), (100.0,), (60.0,), 255, augmentation)


def fresh_network(seed=0, dropout=0.0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(dropout), nn.Flatten(),
        nn.Linear(144, 4),
    )  # fmt: skip


def training(recipe, seeds=(0,), **network):
    networks = [fresh_network(seed, **network) for seed in seeds]
    torch.manual_seed(5)
    return Training(networks, data(), recipe, seeds)


def trained(recipe, seeds=(0,), **network):
    made = training(recipe, seeds, **network)
    made.run(recipe.epochs)
    return made.results()


QUICK = TrainingRecipe(epochs=4, batch_size=16, learning_rate=0.05, shift=0, test_shift=0)


def test_learns_and_repeats_exactly():
    (first,), (second,) = trained(QUICK), trained(QUICK)
    assert first[:2] == second[:2]
    assert len(first.curve) == 4
    assert min(first.curve[-1], first.test) > 60  # chance is 25
    assert first.seconds > 0
    assert trained(QUICK, seeds=[1])[0].curve != first.curve


def test_seeds_side_by_side_are_those_alone():
    together = trained(QUICK, seeds=[3, 4])
    assert together[0].curve != together[1].curve
    images = TrainingData(*(in_float64(split) for split in (data().train, data().valid, data().test)), (0.0,), (1.0,))
    recipe = replace(QUICK, shift=1)
    wide = Training([fresh_network(seed).double() for seed in (3, 4)], images, recipe, [3, 4])
    wide.run(2)
    assert wide.network.merged
    for place, seed in enumerate([3, 4]):
        alone = Training([fresh_network(seed).double()], images, recipe, [seed])
        alone.run(2)
        assert alone.results()[0].curve == wide.results()[place].curve
        for name, expected in alone.network.networks[0].state_dict().items():
            ours = wide.network.wide.state_dict()[name]
            if expected.dim():  # not the count of batches
                ours = ours.chunk(2)[place].view_as(expected)
            torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12, msg=name)


def in_float64(split):
    return LabelledImages((split.images.double() - 100) / 60, split.labels)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_a_saved_training_goes_on_bit_for_bit(optimizer, seeds):
    recipe = TrainingRecipe(epochs=4, batch_size=16, learning_rate=0.01, optimizer=optimizer, shift=1)
    whole = training(recipe, seeds, dropout=0.5)
    whole.run(4)
    part = training(recipe, seeds, dropout=0.5)
    part.run(1)
    file = io.BytesIO()
    torch.save(part.state_dict(), file)
    torch.rand(3)  # what others draw meanwhile does no harm
    file.seek(0)
    rest = training(recipe, seeds, dropout=0.5)
    rest.load_state_dict(torch.load(file, weights_only=True))
    assert rest.epoch == 1
    rest.run(4)
    assert [r[:2] for r in rest.results()] == [r[:2] for r in whole.results()]
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, rest.network.state_dict()[name]), name


def test_training_ends_with_the_recipe():
    made = training(QUICK)
    made.run(1000)
    assert made.epoch == QUICK.epochs


def test_shifts_change_training_and_test():
    still, moved, judged = (
        trained(TrainingRecipe(epochs=2, batch_size=16, shift=shift, test_shift=test_shift))[0]
        for shift, test_shift in ((0, 0), (1, 0), (0, 1))
    )
    assert still.curve != moved.curve
    assert still.curve == judged.curve
    assert still.test != judged.test


def test_augmentation_and_normalisation_reach_training_images_alone():
    seen = []

    class Spy(nn.Module):
        def forward(self, images):
            seen.append(images)
            return images

    made = Training([fresh_network()], data(Spy()), QUICK, [0])
    inputs = []
    made.network.register_forward_pre_hook(lambda _, given: inputs.append((made.network.training, given[0])))
    made.run(1)
    assert all(float(images.min()) >= 0 and float(images.max()) <= 1 for images in seen)
    training_inputs = [given for training, given in inputs if training]
    assert len(seen) == len(training_inputs) == 96 // 16
    for images, given in zip(seen, training_inputs, strict=True):
        torch.testing.assert_close(given[0], (images * 255 - 100) / 60)
    pixels = made.data.valid.images.float()
    torch.testing.assert_close(next(given[0] for training, given in inputs if not training), (pixels - 100) / 60)


def test_fewer_images_than_a_batch_and_one_step():
    assert len(trained(TrainingRecipe(epochs=1, batch_size=1000))[0].curve) == 1


def test_a_diverging_training_is_an_error():
    with pytest.raises(EvaluationError, match=r"loss became (nan|inf) in epoch \d of 3.*lower learning_rate"):
        trained(TrainingRecipe(epochs=3, batch_size=16, learning_rate=1e30))


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0},
        {"batch_size": 1},
        {"shift": -1},
        {"test_shift": -1},
        {"schedule": "x"},
        {"optimizer": "x"},
        {"cutout": -1},
        {"drop_path": 1.0},
        {"auxiliary_weight": -0.1},
        {"gradient_clip": -1.0},
    ],
)
def test_recipes_out_of_range(change):
    with pytest.raises(UsageError, match="expected"):
        TrainingRecipe(**change)


def test_windows_are_moved_copies():
    images = torch.arange(18, dtype=torch.float32).view(1, 2, 3, 3)
    windows = shifted_windows(images, 1)
    assert windows.shape == (1, 2, 3, 3, 3, 3)
    assert torch.equal(windows[:, :, 1, 1], images)
    down = F.pad(images, (0, 0, 0, 1))[:, :, 1:]  # seen from one row further down
    assert torch.equal(windows[:, :, 2, 1], down)
    assert shifted_windows(images, 0).shape == (1, 2, 1, 1, 3, 3)


@pytest.mark.parametrize("shift", [0, 2])
def test_every_image_of_a_batch_moves_by_itself(shift):
    images = torch.rand(5, 2, 4, 4)
    down, right = torch.randint(2 * shift + 1, (2, 5))
    windows = shifted_windows(images, shift)
    expected = [windows[n, :, i, j] for n, (i, j) in enumerate(zip(down, right, strict=True))]
    assert torch.equal(moved(images, shift, down, right), torch.stack(expected))


def test_never_all_images_are_copied(monkeypatch):
    counts = []

    def pad(images, *arguments):
        counts.append(len(images))
        return original(images, *arguments)

    original = F.pad
    monkeypatch.setattr(F, "pad", pad)
    everything = stripes(500, 0)
    made = Training([fresh_network()], replace(data(), train=everything, test=everything), TrainingRecipe(), [0])
    made.run(1)
    made.results()
    assert set(counts) == {50, 128, 500 % 128}


@pytest.mark.parametrize("name", ["train", "valid", "test"])
def test_an_empty_split_is_refused(name):
    with pytest.raises(UsageError, match=rf"no images in {name}, expected.*purpose='search'"):
        replace(data(), **{name: stripes(0, 0)})


DARTS = replace(QUICK, epochs=2, cutout=3, drop_path=0.4, auxiliary_weight=0.4, gradient_clip=0.5)
CELL = [("sep_conv_3x3", 0), ("skip_connect", 1), ("max_pool_3x3", 0), ("dil_conv_3x3", 2)] * 2


def darts_training(recipe=DARTS, seeds=(0,), *augmentation):
    networks = []
    for seed in seeds:
        torch.manual_seed(seed)
        auxiliary = bool(recipe.auxiliary_weight)
        networks.append(GenotypeNetwork(CELL, CELL, in_thirds(3), 2, 4, 1, auxiliary=auxiliary))
    return Training(networks, data(*augmentation), recipe, seeds)


def weights(training):
    return {name: value.clone() for name, value in training.network.state_dict().items()}


@pytest.mark.parametrize("change", [{"cutout": 3}, {"drop_path": 0.4}, {"auxiliary_weight": 0.4}, {"gradient_clip": 1}])
def test_every_part_of_the_recipe_of_darts_changes_the_training(change):
    plain, other = darts_training(QUICK), darts_training(replace(QUICK, **change))
    plain.run(1), other.run(1)
    mine, theirs = plain.network.networks[0].classifier.weight, other.network.networks[0].classifier.weight
    assert not torch.equal(mine, theirs)


def test_with_the_recipe_of_darts_seeds_side_by_side_are_those_alone():
    both = darts_training(seeds=(3, 4))
    both.run(2)
    for place, seed in enumerate((3, 4)):
        alone = darts_training(seeds=(seed,))
        alone.run(2)
        mine, theirs = both.network.networks[place].state_dict(), alone.network.networks[0].state_dict()
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
        assert both.results()[place].curve == alone.results()[0].curve


def test_with_the_recipe_of_darts_a_saved_training_goes_on_bit_for_bit():
    whole, first, second = (darts_training(seeds=(0, 1)) for _ in range(3))
    whole.run(2)
    first.run(1)
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    second.run(2)
    expected = weights(whole)
    assert all(torch.equal(value, expected[name]) for name, value in weights(second).items())


def test_paths_are_dropped_more_and_more_and_gradients_are_clipped(monkeypatch):
    made = darts_training(seeds=(0, 1))
    paths = [module for module in made.network.modules() if isinstance(module, DropPath)]
    seen, step = [], made.optimizer.step

    def spy(learning_rate):
        norms = [
            torch.stack([p.grad.norm() for p in network.parameters() if p.grad is not None]).norm().item()
            for network in made.network.networks
        ]
        assert max(norms) <= 0.5 + 1e-5
        seen.append({path.probability for path in paths})
        step(learning_rate)

    monkeypatch.setattr(made.optimizer, "step", spy)
    made.run(2)
    assert [len(probabilities) for probabilities in seen] == [1] * 12
    assert [probabilities.pop() for probabilities in seen] == pytest.approx([0.4 * number / 12 for number in range(12)])
    assert len({path.generator for path in paths}) == 2  # one for each network


def test_the_loss_of_the_auxiliary_head_is_added():
    made = darts_training(replace(DARTS, drop_path=0.0))
    images, targets = torch.randn(1, 8, 1, 6, 6), torch.randint(4, (1, 8))
    scores, auxiliary = made.network.networks[0].with_auxiliary(images[0])
    expected = F.cross_entropy(scores, targets[0]) + 0.4 * F.cross_entropy(auxiliary, targets[0])
    torch.testing.assert_close(made._losses(images, targets), expected[None])


def test_squares_are_cut_out_of_training_images_alone():
    made = training(replace(QUICK, cutout=2), seeds=(0, 1))
    pixels = torch.full((2, 16, 1, 6, 6), 200, dtype=torch.uint8)
    seen = made._input(pixels, training=True)
    assert seen.shape == pixels.shape
    missing = (seen == 0).flatten(2).sum(dim=2)
    assert {1, 2, 4} >= set(missing.flatten().tolist())
    assert (missing == 4).any()
    assert not torch.equal(seen[0], seen[1])
    assert (made._input(pixels) != 0).all()
    assert ((made._input(torch.ones(2, 16, 1, 6, 6), training=True) == 0).flatten(2).sum(dim=2) > 0).all()


def test_what_a_network_lacks_is_said():
    with pytest.raises(UsageError, match=r"auxiliary_weight=0\.4, expected 0"):
        training(replace(QUICK, auxiliary_weight=0.4))
    with pytest.raises(UsageError, match=r"drop_path=0\.1, expected 0"):
        training(replace(QUICK, drop_path=0.1))


def test_a_recipe_is_known_by_what_it_was_before_it_could_do_more():
    old = TrainingRecipe().identity()
    assert list(old) == [
        "epochs", "batch_size", "learning_rate", "schedule", "optimizer", "momentum", "weight_decay", "shift",
        "test_shift",
    ]  # fmt: skip
    assert TrainingRecipe(cutout=16, shift=0).identity() == old | {"cutout": 16, "shift": 0}
