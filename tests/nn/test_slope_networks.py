import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lightning_nas.errors import UsageError
from lightning_nas.nn.slope_networks import SlopeNetworks, SlopeRecipe
from lightning_nas.spaces.sigmoid_slope import SigmoidSlope

RECIPE = SlopeRecipe(epochs=3, batch_size=16, learning_rate=0.02, width=7)


def stripes(size=80):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(size) % 4
    images = 0.2 * torch.rand(size, 16, generator=generator)
    images.view(-1, 4, 4)[torch.arange(size), labels] += 0.7
    return images, labels


def test_networks_side_by_side_are_networks_alone():
    images, labels = stripes()
    together = SlopeNetworks([0.3, 1.0, 0.3], [0, 0, 1], 16, 4, RECIPE)
    curve = together.train(images, labels, (images, labels))
    for place, (slope, seed) in enumerate([(0.3, 0), (1.0, 0), (0.3, 1)]):
        alone = SlopeNetworks([slope], [seed], 16, 4, RECIPE)
        torch.testing.assert_close(alone.train(images, labels, (images, labels))[0], curve[place], atol=1.3, rtol=0)
        for ours, theirs in zip(together.parameters, alone.parameters, strict=True):
            torch.testing.assert_close(ours[place], theirs[0], rtol=1e-3, atol=1e-4)


def test_one_step_is_that_of_the_space_s_network():
    """The network that the space builds, with the same weights, moved by torch's Adam on the same images."""
    images, labels = stripes(16)
    recipe = SlopeRecipe(epochs=1, batch_size=16, learning_rate=0.02, width=7)
    ours = SlopeNetworks([0.5], [3], 16, 4, recipe)
    network = SigmoidSlope().build(0.5, num_classes=4, in_channels=1, image_size=4, width=7)
    with torch.no_grad():
        for parameter, (weight, value) in zip(
            network.parameters(), [(place % 2 == 0, v[0]) for place, v in enumerate(ours.parameters)], strict=True
        ):
            parameter.copy_(value.T if weight else value[0])
    torch.testing.assert_close(ours.logits(images)[0], network(images.view(-1, 1, 4, 4)))
    optimizer = torch.optim.Adam(network.parameters(), 0.02)
    F.cross_entropy(network(images.view(-1, 1, 4, 4)), labels).backward()
    optimizer.step()
    ours.train(images, labels, (images, labels))
    torch.testing.assert_close(ours.logits(images)[0], network(images.view(-1, 1, 4, 4)), rtol=1e-4, atol=1e-5)


def test_training_teaches_something():
    images, labels = stripes()
    networks = SlopeNetworks([0.5], [0], 16, 4, SlopeRecipe(epochs=30, batch_size=16, width=10))
    before = networks.accuracy(images, labels)
    curve = networks.train(images, labels, (images, labels))
    assert curve[0, -1] > max(90.0, float(before))
    assert np.isfinite(curve.numpy()).all()


def test_what_cannot_be_is_said():
    with pytest.raises(UsageError, match="positive numbers"):
        SlopeRecipe(epochs=0)
    with pytest.raises(UsageError, match="at least one batch of 100"):
        SlopeNetworks([0.5], [0], 16, 4, SlopeRecipe()).train(*stripes(), stripes())
    with pytest.raises(UsageError, match="2 slopes and 1 seeds"):
        SlopeNetworks([0.5, 0.6], [0], 16, 4, RECIPE)
