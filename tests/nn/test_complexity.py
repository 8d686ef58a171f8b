import pytest
import torch
from torch import nn

from lightning_nas.nn.complexity import count_flops, count_parameters


def test_parameters_that_are_not_trained_do_not_count():
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, bias=False))
    network[1].weight.requires_grad_(False)
    assert count_parameters(network) == 3 * 4 + 4


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_flops_of_a_convolution(groups, bias, stride):
    layer = nn.Conv2d(4, 6, 3, stride=stride, padding=1, groups=groups, bias=bias)
    pixels = (8 // stride) ** 2
    assert count_flops(layer, (4, 8, 8)) == pixels * 6 * (4 // groups * 9 + bias)


def test_a_layer_used_twice_counts_twice_and_normalisation_is_free():
    layer = nn.Conv2d(2, 2, 1, bias=False)
    network = nn.Sequential(layer, nn.BatchNorm2d(2), nn.ReLU(), layer, nn.Flatten(), nn.Linear(8, 3))
    assert count_flops(network, (2, 2, 2)) == 2 * (2 * 2 * 4) + 3 * 9


def test_counting_leaves_no_trace():
    network = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)).train()
    network[1].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    count_flops(network, (2, 4, 4))
    assert network.training
    assert not network[1].training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not network[0]._forward_hooks


def test_mode_and_hooks_are_restored_when_the_network_fails():
    network = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Linear(5, 1)).train()
    with pytest.raises(RuntimeError):
        count_flops(network, (2, 4, 4))
    assert network.training
    assert not network[0]._forward_hooks
