import numpy as np
import pytest
import torch

from lightning_nas.errors import UsageError
from lightning_nas.nn.motif_network import SlopeNetwork

SHAPES = {"the paper's": {}, "wider": {"num_inputs": 4, "num_outputs": 3, "num_samples": 5, "hidden": (2, 3)}}


def problem(network, count=4):
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(count, network.num_parameters, generator=generator, dtype=torch.float64)
    inputs = torch.randn(count, *network.input_shape, generator=generator, dtype=torch.float64)
    labels = torch.randint(2, network.label_shape, generator=generator).double()
    return weights, network.prepared(torch.linspace(0.2, 2, count).double()), inputs, labels


def test_sizes_are_the_published_ones():
    network = SlopeNetwork()
    assert network.num_parameters == 11 + 2 + 20
    assert network.motifs([0.5, 1.0]).dtype == torch.float64


def test_the_loss_against_numpy():
    network = SlopeNetwork()
    weights, slopes, inputs, labels = problem(network, 2)
    found = network.loss(weights, slopes, inputs, labels)
    for number in range(2):
        w, x, y, c = (v.numpy() for v in (weights[number], inputs[number], labels, slopes[number]))
        first = 1 / (1 + np.exp(-c * (x @ w[:10, None] + w[10])))
        second = 1 / (1 + np.exp(-c * (first * w[11] + w[12])))
        output = 1 / (1 + np.exp(-(second @ w[None, 13:23] + w[23:])))
        expected = -(y * np.log(output) + (1 - y) * np.log(1 - output)).mean()
        assert found[number].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("sizes", SHAPES.values(), ids=list(SHAPES))
def test_derivatives_are_those_of_autograd(sizes):
    network = SlopeNetwork(**sizes)
    weights, slopes, inputs, labels = problem(network)
    direction = torch.randn_like(weights)
    weights.requires_grad_()
    inputs.requires_grad_()
    loss = network.loss(weights, slopes, inputs, labels).sum()
    (gradient,) = torch.autograd.grad(loss, weights, create_graph=True)
    with torch.no_grad():
        torch.testing.assert_close(network.gradient(weights, slopes, inputs, labels), gradient)
        found = network.second(weights, slopes, inputs, labels, direction)
    for ours, theirs in zip(found, torch.autograd.grad((gradient * direction).sum(), (weights, inputs)), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_saturated_outputs_have_a_finite_loss():
    network = SlopeNetwork()
    weights, slopes, inputs, labels = problem(network)
    weights[:, 13:] = 1e4
    assert network.loss(weights, slopes, inputs, labels).isfinite().all()


def test_what_cannot_be_is_said():
    with pytest.raises(UsageError, match="positive numbers"):
        SlopeNetwork(hidden=(1, 0))
