import numpy as np
import pytest
import torch
from torch import nn

from lightning_nas.nn.jacobian import input_jacobian, normalised, principal_scores, spectral_rows
from lightning_nas.spaces.nasbench201 import NASBench201

SPACE = NASBench201()
MIXED = SPACE.parse("|nor_conv_3x3~0|+|nor_conv_1x1~0|avg_pool_3x3~1|+|skip_connect~0|none~1|nor_conv_3x3~2|")
DEAD = SPACE.parse("|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|none~2|")


def network(arch=MIXED, seed=0):
    torch.manual_seed(seed)
    return SPACE.build(arch, channels=4, cells_per_stage=1)


def images(count=6):
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def plain(net, batch, scalar):
    """The way of the released code: gradients of everything by one backward pass."""
    batch = batch.clone().requires_grad_()
    scalar(net.train()(batch)).backward()
    return batch.grad.flatten(1)


@pytest.mark.parametrize(("output", "scalar"), [("sum", torch.sum), ("norm", lambda scores: scores.abs().sum())])
def test_it_is_the_gradient_of_a_full_backward_pass(output, scalar):
    expected = plain(network(), images(), scalar)
    torch.testing.assert_close(input_jacobian(network(), images(), output), expected, rtol=1e-4, atol=1e-5)
    assert expected.abs().max() > 0.01


def test_images_are_seen_together():
    """Statistics of batch normalisation are those of all images, and gradients go through them."""
    together = input_jacobian(network(), images())
    apart = torch.cat([input_jacobian(network(), half) for half in images().chunk(2)])
    assert (together - apart).abs().max() > 0.1 * together.abs().max()


def test_the_network_is_left_as_it_was():
    net = network().eval()
    net.classifier.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with torch.no_grad():
        input_jacobian(net, images())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(module.training for module in net.modules())
    frozen = [name for name, parameter in net.named_parameters() if not parameter.requires_grad]
    assert frozen == ["classifier.weight"]
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize("net", [network(DEAD), nn.Sequential(nn.Flatten(), nn.Linear(192, 3)).requires_grad_(False)])
def test_what_does_not_depend_on_the_images_is_zero(net):
    class Constant(nn.Module):
        def forward(self, x):
            return torch.ones(len(x), 10)

    dead = net if hasattr(net, "stem") else Constant()
    jacobian = input_jacobian(dead, images())
    assert torch.equal(jacobian, torch.zeros(6, 192))
    scores = principal_scores(jacobian, 4)
    assert torch.equal(scores, torch.zeros(6, 4))
    assert torch.equal(normalised(scores), torch.zeros(6, 4))


def test_scores_are_those_of_a_singular_value_decomposition():
    matrices = (
        torch.randn(3, 6, 40, generator=torch.Generator().manual_seed(2)) * torch.logspace(0, 2, 3)[:, None, None]
    )
    scores = principal_scores(matrices, 4)
    for matrix, ours in zip(matrices.numpy().astype(np.float64), scores.numpy(), strict=True):
        left, singular, _ = np.linalg.svd(matrix, full_matrices=False)
        theirs = (left * singular)[:, :4]
        for column in range(4):
            distance = min(np.linalg.norm(ours[:, column] - sign * theirs[:, column]) for sign in (1, -1))
            assert distance < 1e-4 * np.linalg.norm(theirs[:, column])
        assert np.all((ours**3).sum(axis=0) > 0)


def test_signs_do_not_depend_on_the_order_of_images_or_the_sign_of_the_jacobian():
    matrix = torch.randn(6, 40, generator=torch.Generator().manual_seed(2))
    order = torch.randperm(6, generator=torch.Generator().manual_seed(3))
    scores = principal_scores(matrix, 6)
    torch.testing.assert_close(principal_scores(matrix[order], 6), scores[order], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(principal_scores(-matrix, 6), scores, rtol=1e-4, atol=1e-4)


def test_normalised_scores_have_a_largest_singular_value_of_one():
    scores = principal_scores(torch.randn(5, 6, 40), 3)
    values = normalised(scores).norm(dim=-2)
    torch.testing.assert_close(values[:, 0], torch.ones(5))
    torch.testing.assert_close(values[:, 1], scores[..., 1].norm(dim=-1) / scores[..., 0].norm(dim=-1))


def test_spectral_rows_are_directions_beside_logarithms_of_singular_values():
    scores = principal_scores(torch.randn(3, 8, 20, generator=torch.Generator().manual_seed(0)) * 0.3, 5)
    scores[1] *= 1e-3
    rows = spectral_rows(scores)
    assert rows.shape == (3, 8, 11)
    for matrix, row in zip(scores.numpy(), rows.numpy(), strict=True):
        left, singular, right = np.linalg.svd(matrix, full_matrices=False)
        np.testing.assert_allclose(np.abs(row[:, :5]), np.abs(left @ right) * 8**0.5, atol=1e-3)
        sizes = 4 * np.log10(singular + 1e-4)
        expected = [sizes[0] + 4, *(sizes - sizes[0])]
        np.testing.assert_allclose(row[:, 5:], np.tile(expected, (8, 1)), atol=1e-3)
    torch.testing.assert_close(rows[..., :5].square().mean(dim=1), torch.ones(3, 5))


def test_spectral_rows_of_nothing_are_finite_and_all_alike():
    rows = spectral_rows(torch.zeros(2, 4, 3))
    assert not rows[..., :3].any()
    assert (rows[..., 3] == -12).all()
    assert not rows[..., 4:].any()
