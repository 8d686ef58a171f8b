import copy

import pytest
import torch
import torch.nn.functional as F

from lightning_nas.errors import UsageError
from lightning_nas.nn.darts_supernet import EDGES, DARTSSupernet, groups_of
from lightning_nas.nn.supernet import Mixture
from lightning_nas.spaces.darts import DARTSNetwork

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def random_mixture(network, seed=0):
    weights = torch.rand(network.shape, generator=torch.Generator().manual_seed(seed))
    return Mixture(weights, None, torch.ones(network.shape, dtype=torch.bool))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("stem", "size"), [("cifar", 8), ("imagenet", 64)])
def test_a_settled_supernet_is_the_stand_alone_network(training, stem, size):
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    space, network = DARTSNetwork(), DARTSSupernet("s5", 4, 3, stem=stem)
    network(images, random_mixture(network))  # statistics of their own
    network.train(training)
    for seed in range(5):
        weights = random_mixture(network, seed).weights
        weights[..., :2] = 0.0  # evaluation networks do not normalise what they pool
        choice = network.choose(weights)
        arch = space.from_choice(choice, "s5")
        alone = space.build(arch, channels=4, num_layers=3, stem=stem)
        alone.load_state_dict(network.derived_state(choice))
        one_hot = F.one_hot(choice.clamp_min(0), 7) * (choice >= 0)[..., None]
        mixture = Mixture(one_hot.float(), None, one_hot.bool())
        torch.testing.assert_close(network(images, mixture), alone.train(training)(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("part", ["darts", "s1", "s2", "s3", "s4", "s5"])
def test_every_part_of_the_space_gives_architectures(part):
    network = DARTSSupernet(part, 4, 3)
    assert network(IMAGES, random_mixture(network)).shape == (2, 10)
    choice = network.choose(random_mixture(network, 1).weights)
    for kind in range(2):
        for arriving in network.arriving(kind):
            assert int((choice[kind, arriving] >= 0).sum()) == 2
    space = DARTSNetwork()
    assert space.parse(space.format(space.from_choice(choice, part))) == space.from_choice(choice, part)


def test_parts_are_those_published():
    normal, reduction = groups_of("s1")
    assert normal.operations[0] == ("skip_connect", "dil_conv_3x3")
    assert normal.operations[-1] == ("dil_conv_3x3", "dil_conv_5x5")
    assert reduction.operations[6] == ("max_pool_3x3", "sep_conv_3x3")
    assert groups_of("s4")[0].operations == (("noise", "sep_conv_3x3"),) * len(EDGES)
    with pytest.raises(UsageError, match="part='s6'"):
        groups_of("s6")


def test_none_is_never_chosen_and_strong_edges_stay():
    network = DARTSSupernet("darts", 4, 3)
    weights = torch.full(network.shape, 0.1)
    weights[..., 0] = 0.9
    weights[0, 2:5, 4] = torch.tensor([0.3, 0.2, 0.4])
    choice = network.choose(weights)
    assert choice[0, 2:5].tolist() == [4, -1, 4]
    assert 0 not in choice.tolist()[0]


def test_partial_channels_keep_all_widths():
    network = DARTSSupernet("darts", 8, 3, partial=4)
    whole = DARTSSupernet("darts", 8, 3)
    mixture = random_mixture(network)._replace(edges=torch.rand(2, 14))
    assert network(IMAGES, mixture).shape == (2, 10)
    assert sum(p.numel() for p in network.parameters()) < sum(p.numel() for p in whole.parameters())


def test_nothing_active_is_nothing():
    network = DARTSSupernet("s2", 4, 3)
    silent = Mixture(torch.ones(network.shape), None, torch.zeros(network.shape, dtype=torch.bool))
    scores = network(IMAGES, silent)
    torch.testing.assert_close(scores, network.classifier.bias.expand(2, -1))


@pytest.mark.parametrize("part", ["s2", "darts"])
def test_gradients_are_those_in_double_precision(part):
    torch.manual_seed(0)
    network = DARTSSupernet(part, 4, 3).to(memory_format=torch.channels_last)
    double = copy.deepcopy(network).double()
    mixture = random_mixture(network)
    grads = []
    for each in (network, double):
        weights = mixture.weights.to(next(each.parameters()).dtype).requires_grad_()
        images = IMAGES.repeat(16, 1, 1, 1).to(weights).contiguous(memory_format=torch.channels_last)
        out = each(images + 0.1 * torch.arange(32).view(-1, 1, 1, 1), mixture._replace(weights=weights))
        loss = F.cross_entropy(out, torch.arange(32) % 10)
        grads.append(torch.autograd.grad(loss, [*each.parameters(), weights], allow_unused=True))
    for one, other in zip(*grads, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one.double(), other, rtol=0.02, atol=2e-3)
