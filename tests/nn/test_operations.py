import pytest
import torch
import torch.nn.functional as F

from lightning_nas.nn.operations import ReLUConvBN, ResNetReduction, Zero, make_operation
from lightning_nas.spaces.nasbench201 import OPERATIONS


@pytest.fixture
def x():
    return torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_keeps_the_shape(name, x):
    assert make_operation(name, 4)(x).shape == x.shape


def test_zero_and_skip(x):
    assert torch.equal(Zero()(x), torch.zeros_like(x))
    assert torch.equal(make_operation("skip_connect", 4)(x), x)


def test_pooling_does_not_count_the_border(x):
    # Mean of the pixels that exist: sum over the window divided by the number of real ones in it.
    window = torch.ones(4, 1, 3, 3)
    expected = F.conv2d(x, window, padding=1, groups=4) / F.conv2d(torch.ones_like(x), window, padding=1, groups=4)
    torch.testing.assert_close(make_operation("avg_pool_3x3", 4)(x), expected)


@pytest.mark.parametrize(("name", "kernel"), [("nor_conv_1x1", 1), ("nor_conv_3x3", 3)])
def test_convolutions_apply_relu_convolution_normalisation(name, kernel, x):
    operation = make_operation(name, 4).train()
    weight = operation.state_dict()["1.weight"]
    assert weight.shape == (4, 4, kernel, kernel)
    response = F.conv2d(x.relu(), weight, padding=kernel // 2)
    mean, var = response.mean((0, 2, 3), keepdim=True), response.var((0, 2, 3), keepdim=True, unbiased=False)
    torch.testing.assert_close(operation(x), (response - mean) / (var + 1e-5).sqrt(), rtol=1e-4, atol=1e-5)


def test_supernets_can_switch_off_scale_and_statistics():
    assert [name for name, _ in make_operation("nor_conv_3x3", 4).named_parameters()] == [
        "1.weight",
        "2.weight",
        "2.bias",
    ]
    plain = make_operation("nor_conv_3x3", 4, affine=False, track_running_stats=False)
    assert list(plain.state_dict()) == ["1.weight"]


def test_reduction_halves_the_image_and_adds_the_shortcut(x):
    reduction = ResNetReduction(4, 8).eval()
    assert reduction(x).shape == (2, 8, 3, 3)
    for parameter in reduction.branch.parameters():
        torch.nn.init.zeros_(parameter)
    pooled = x.reshape(2, 4, 3, 2, 3, 2).mean((3, 5))
    expected = torch.einsum("bchw,dc->bdhw", pooled, reduction.state_dict()["shortcut.1.weight"][:, :, 0, 0])
    torch.testing.assert_close(reduction(x), expected)


def test_stride():
    assert ReLUConvBN(3, 5, 3, stride=2)(torch.zeros(1, 3, 8, 8)).shape == (1, 5, 4, 4)
