import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_nas.nn.nasbench201_supernet import NASBench201Supernet
from lightning_nas.nn.supernet import frozen_statistics, pooled_sum, runs_of, scaled_norm, shuffled


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_pooled_sum_is_the_sum_of_pooled_and_plain_tensors():
    plain, pooled = numbers(3).requires_grad_(), numbers(3, seed=1).requires_grad_()
    sources = [numbers(2, 4, 5, 6, seed=seed).requires_grad_() for seed in (2, 3, 4)]
    expected = sum(
        a * x + b * F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        for a, b, x in zip(plain, pooled, sources, strict=True)
    )
    found = pooled_sum(plain, pooled, sources)
    torch.testing.assert_close(found, expected)
    weight = numbers(2, 4, 5, 6, seed=9)
    for ours, theirs in zip(
        torch.autograd.grad((found * weight).sum(), [plain, pooled, *sources]),
        torch.autograd.grad((expected * weight).sum(), [plain, pooled, *sources]),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_pooled_sum_can_be_differentiated_twice():
    plain, pooled = numbers(2).requires_grad_(), numbers(2, seed=1).requires_grad_()
    sources = [numbers(1, 2, 3, 4, seed=seed).requires_grad_() for seed in (2, 3)]
    assert torch.autograd.gradgradcheck(lambda a, b, *x: pooled_sum(a, b, x), (plain, pooled, *sources))


def test_a_scaled_norm_is_the_norm_times_the_scale():
    norm, other = (nn.BatchNorm2d(4, affine=False).double() for _ in range(2))
    x, scale = numbers(3, 4, 2, 2), numbers(4, seed=1)
    torch.testing.assert_close(scaled_norm(norm, x, scale), other(x) * scale[:, None, None])
    torch.testing.assert_close(norm.running_var, other.running_var)
    part = slice(1, 3)
    scaled_norm(norm, x[:, part], scale[part], part)
    other(x)
    torch.testing.assert_close(norm.running_mean[part], other.running_mean[part])
    assert not torch.equal(norm.running_mean, other.running_mean)
    norm.eval(), other.load_state_dict(norm.state_dict())
    torch.testing.assert_close(scaled_norm(norm, x, scale), other.eval()(x) * scale[:, None, None])


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_one_scale_for_all_channels_has_the_gradient_of_as_many(memory, size):
    norm = nn.BatchNorm2d(32, affine=False)
    x, out = (torch.randn(64, 32, size, size).to(memory_format=memory) for _ in range(2))
    x.requires_grad_()
    weight = torch.tensor(0.5, requires_grad=True)
    found = torch.autograd.grad(scaled_norm(norm, x, weight.expand(32)), (x, weight), out)
    expected = torch.autograd.grad(norm(x) * weight, (x, weight), out)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_frozen_statistics_are_those_of_the_batch_and_leave_no_trace():
    network = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)).double().eval()
    before = {name: value.clone() for name, value in network.state_dict().items() if "tracked" not in name}
    x = numbers(5, 2, 3, 3) + 4.0
    with frozen_statistics(network):
        inside = network(x)
    assert inside.mean().abs() < 1e-6 < network(x).mean().abs()
    for name, value in before.items():
        assert torch.equal(network.state_dict()[name], value), name
    assert not network[1].training
    assert network[1].momentum == 0.1


def test_channels_are_shuffled_between_groups():
    x = torch.arange(6.0).view(1, 6, 1, 1)
    assert shuffled(x, 2).flatten().tolist() == [0, 3, 1, 4, 2, 5]
    assert shuffled(x, 1) is x


@pytest.mark.parametrize(("flags", "runs"), [([], []), ([False], []), ([True] * 3, [slice(0, 3)])], ids=str)
def test_runs(flags, runs):
    assert runs_of(flags) == runs


def test_the_choice_of_a_space_that_keeps_all_edges_may_be_none():
    network = NASBench201Supernet(4, 1, 1)
    weights = torch.zeros(1, 6, 5)
    weights[0, :, 0], weights[0, 2, 3] = 0.4, 0.6
    assert network.choose(weights).tolist() == [[0, 0, 3, 0, 0, 0]]
