import copy

import pytest
import torch
from torch import nn

from lightning_nas.nn.drop_path import DropPath, set_drop_path
from lightning_nas.nn.side_by_side import SideBySide, StackedLinear
from lightning_nas.spaces.nasbench201 import NASBench201

SHAPE = (2, 8, 8)


def networks(build, count=3):
    made = []
    for seed in range(count):
        torch.manual_seed(seed)
        made.append(build())
    return made


def cell():
    space = NASBench201()
    arch = space.parse("|nor_conv_3x3~0|+|nor_conv_1x1~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|none~2|")
    return space.build(arch, channels=4, cells_per_stage=1, num_stages=2, num_classes=5, in_channels=2)


def plain():
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, stride=2, padding=1, groups=2), nn.BatchNorm2d(6, affine=False), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24, 5, bias=False),
    )  # fmt: skip


class Concatenates(nn.Module):
    """Mixes the channels of different networks when they are side by side."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 3, 1), nn.Conv2d(2, 3, 1)
        self.head = nn.Conv2d(6, 5, 1)

    def forward(self, x):
        return self.head(torch.cat([self.first(x), self.second(x)], dim=1)).mean(dim=(2, 3))


def other_layers():
    return nn.Sequential(nn.Conv2d(2, 4, 1), nn.GroupNorm(2, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))


class StartsAtZero(Concatenates):
    """All its scores are equal at first, merged or not."""

    def __init__(self):
        super().__init__()
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)


class NormalisesAllAtOnce(nn.Module):
    """Is another function side by side in training only."""

    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(2, 5, 1)

    def forward(self, x):
        return self.head(x / x.square().mean() if self.training else x).mean(dim=(2, 3))


def gradients_of_every_network(together, name):
    """Of one weight; None for a branch that nothing comes after."""
    if not together.merged:
        return [network.get_parameter(name).grad for network in together.networks]
    gradient = together.wide.get_parameter(name).grad
    return [None] * together.size if gradient is None else gradient.chunk(together.size)


@pytest.mark.parametrize(
    ("build", "merged"),
    [
        (cell, True), (plain, True), (Concatenates, False), (StartsAtZero, False), (NormalisesAllAtOnce, False),
        (other_layers, False),
    ],
)  # fmt: skip
def test_scores_and_gradients_are_those_of_the_networks_alone(build, merged):
    alone = networks(build)
    together = SideBySide(alone, SHAPE)
    assert together.merged == merged
    images = torch.randn(3, 16, *SHAPE, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([network(x) for network, x in zip(alone, images, strict=True)])  # in training mode
    scores = together(images)
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)
    expected.square().mean(dim=(1, 2)).sum().backward()
    scores.square().mean(dim=(1, 2)).sum().backward()
    for name, _ in alone[0].named_parameters():
        for network, ours in zip(alone, gradients_of_every_network(together, name), strict=True):
            theirs = network.get_parameter(name).grad
            if theirs is None:
                assert ours is None, name
            else:
                torch.testing.assert_close(ours.view_as(theirs), theirs, rtol=1e-3, atol=1e-6, msg=name)
    # Running statistics of batch normalisation have moved alike, too.
    expected = torch.stack([network.eval()(x) for network, x in zip(alone, images, strict=True)])
    torch.testing.assert_close(together.eval()(images), expected, rtol=1e-4, atol=1e-5)


def test_one_network_is_left_as_it_is():
    (network,) = networks(plain, count=1)
    together = SideBySide([network], SHAPE).eval()
    images = torch.randn(1, 4, *SHAPE)
    assert not together.merged
    assert torch.equal(together(images)[0], network.eval()(images[0]))


def test_the_given_networks_their_modes_and_random_numbers_stay_as_they_are():
    alone = networks(cell, count=2)
    alone[1].eval()
    before = copy.deepcopy([network.state_dict() for network in alone])
    state = torch.get_rng_state()
    together = SideBySide(alone, SHAPE)
    assert torch.equal(torch.get_rng_state(), state)
    assert [network.training for network in alone] == [True, False]
    together(torch.randn(2, 4, *SHAPE)).sum().backward()
    for network, saved in zip(alone, before, strict=True):
        assert all(torch.equal(value, saved[name]) for name, value in network.state_dict().items())
        assert all(p.grad is None for p in network.parameters())


def test_dropout_does_not_keep_networks_apart_but_dropped_paths_do():
    def build():
        return nn.Sequential(plain(), nn.Dropout(0.5), DropPath())

    assert SideBySide(networks(build), SHAPE).merged
    dropping = networks(build)
    for network in dropping:
        set_drop_path(network, 0.1)
    assert not SideBySide(dropping, SHAPE).merged  # an image's path would be dropped for all networks or none


def test_networks_differ_and_do_not_see_each_other():
    together = SideBySide(networks(cell), SHAPE).eval()
    images = torch.randn(1, 4, *SHAPE).expand(3, -1, -1, -1, -1).clone()
    scores = together(images)
    assert not torch.allclose(scores[0], scores[1], rtol=1e-2)
    images[2] += 1
    torch.testing.assert_close(together(images)[:2], scores[:2])


def test_stacked_linear_is_each_layer_on_its_share():
    layers = networks(lambda: nn.Linear(3, 2), count=2)
    features = torch.randn(5, 6)
    expected = torch.cat([layer(share) for layer, share in zip(layers, features.chunk(2, dim=1), strict=True)], dim=1)
    torch.testing.assert_close(StackedLinear(layers)(features), expected)
