import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_nas.errors import EvaluationError, UsageError
from lightning_nas.nn.training import (
    LabelledImages,
    NesterovSGD,
    TrainingRecipe,
    accuracy,
    shifted_windows,
    train_classifier,
)


def stripes(count, seed):
    """Images with one bright row, which is the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count,), generator=generator)
    images = torch.rand(count, 1, 6, 6, generator=generator)
    images[torch.arange(count), 0, labels + 1] += 0.4
    return LabelledImages(images, labels)


def fresh_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))


def train(recipe, seed=0):
    return train_classifier(
        fresh_network(), stripes(96, 1), stripes(40, 2), stripes(30, 3), recipe, torch.Generator().manual_seed(seed)
    )


def test_learns_and_repeats_exactly():
    recipe = TrainingRecipe(epochs=6, batch_size=16, learning_rate=0.1, shift=0)
    first, second = train(recipe), train(recipe)
    assert first[:3] == second[:3]
    assert len(first.curve) == 6
    assert first.valid == first.curve[-1] > 60
    assert first.test > 60
    assert first.seconds > 0
    assert train(recipe, seed=1).curve != first.curve


def test_shifts_change_training_and_evaluation():
    still, moved = (train(TrainingRecipe(epochs=3, batch_size=16, shift=shift)) for shift in (0, 1))
    assert still.curve != moved.curve
    assert moved.valid != moved.curve[-1]


def test_fewer_images_than_a_batch_and_one_step():
    assert len(train(TrainingRecipe(epochs=1, batch_size=1000)).curve) == 1


def test_a_diverging_training_is_an_error():
    with pytest.raises(EvaluationError, match=r"loss became nan in epoch \d of 3.*lower learning_rate"):
        train(TrainingRecipe(epochs=3, batch_size=16, learning_rate=1e30))


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"batch_size": 1}, {"shift": -1}])
def test_recipe_refuses_nonsense(wrong):
    with pytest.raises(UsageError, match="expected epochs >= 1"):
        TrainingRecipe(**wrong)


def test_the_optimizer_is_torchs():
    ours, theirs = fresh_network(), fresh_network()
    reference = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True)
    optimizer = NesterovSGD(ours.parameters(), 0.9, 0.01)
    ours[1].bias.requires_grad_(False)  # has no gradient, must not move
    theirs[1].bias.requires_grad_(False)
    images, labels = stripes(32, 5)
    for _ in range(4):
        F.cross_entropy(ours(images), labels).backward()
        optimizer.step(0.1)
        reference.zero_grad()
        F.cross_entropy(theirs(images), labels).backward()
        reference.step()
    for mine, its in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, its)
        assert mine.grad is None


def test_windows_are_zero_padded_crops():
    images = torch.arange(1.0, 19.0).view(2, 1, 3, 3)
    windows = shifted_windows(images, 1)
    assert windows.shape == (2, 1, 3, 3, 3, 3)
    padded = F.pad(images, [1] * 4)
    for down in range(3):
        for right in range(3):
            crop = padded[:, :, down : down + 3, right : right + 3]
            assert torch.equal(windows[:, :, down, right], crop)
    assert torch.equal(windows[:, :, 1, 1], images)
    index, down, right = torch.tensor([1, 0]), torch.tensor([0, 2]), torch.tensor([1, 2])
    batch = windows[index, :, down, right]  # the indexing of the training loop
    assert torch.equal(batch, torch.stack([windows[1, :, 0, 1], windows[0, :, 2, 2]]))


def test_accuracy_is_the_mean_over_moved_copies():
    split, network = stripes(25, 4), fresh_network()
    windows = shifted_windows(split.images, 1).flatten(2, 3)  # (N, 1, 9, H, W)
    network.eval()
    right = [(network(windows[:, :, i]).argmax(1) == split.labels).float().mean().item() for i in range(9)]
    assert accuracy(network, split, 1) == pytest.approx(100 * sum(right) / 9, rel=1e-5)
    assert not network.training
