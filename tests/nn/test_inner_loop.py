import logging

import pytest
import torch

from lightning_nas.errors import UsageError
from lightning_nas.nn.inner_loop import InnerAdam, InnerLoop, InnerSGD
from lightning_nas.nn.motif_network import SlopeNetwork

SLOPES = torch.tensor([0.2, 0.7, 1.9], dtype=torch.float64)
SGD, ADAM = InnerSGD(0.7), InnerAdam(0.05)


def problem(network, count=3):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, *network.input_shape, generator=generator, dtype=torch.float64)
    labels = torch.randint(2, network.label_shape, generator=generator).double()
    return network.initial(generator).expand(count, -1).clone(), inputs, labels


def plain_training(network, optimizer, num_steps, weights, slopes, inputs, labels):
    """What the loop stands for, by torch's own optimisers, motif by motif."""
    trained = []
    for start, slope, x in zip(weights, slopes, inputs, strict=True):
        here = start.clone().requires_grad_()
        descent = torch.optim.SGD([here], optimizer.learning_rate)
        if isinstance(optimizer, InnerAdam):
            descent = torch.optim.Adam([here], optimizer.learning_rate, optimizer.betas, optimizer.eps)
        for _ in range(num_steps):
            descent.zero_grad()
            network.loss(here[None], network.prepared(slope[None]), x[None], labels).sum().backward()
            descent.step()
        trained.append(here.detach())
    return torch.stack(trained)


@pytest.mark.parametrize("optimizer", [SGD, ADAM], ids=str)
def test_it_trains_as_torch_does(optimizer):
    network = SlopeNetwork(4, 3, 5, (2, 3))
    weights, inputs, labels = problem(network)
    ours = InnerLoop(optimizer, 15).train(network, weights, SLOPES, inputs, labels)
    theirs = plain_training(network, optimizer, 15, weights, SLOPES, inputs, labels)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    assert (ours - weights).abs().max() > 0.1


@pytest.mark.parametrize("max_norm", [None, 0.05])
@pytest.mark.parametrize("segment", [None, 4])
@pytest.mark.parametrize("optimizer", [SGD, ADAM], ids=str)
def test_the_gradient_is_that_of_finite_differences(optimizer, segment, max_norm):
    network = SlopeNetwork(3, 2, 4, (1, 2))
    weights, inputs, labels = problem(network)
    loop = InnerLoop(optimizer, 10, max_norm, segment)

    others = inputs.flip(0)

    def losses(weights, inputs):
        trained = loop.train(network, weights, SLOPES, inputs, labels)
        return network.loss(trained, network.prepared(SLOPES), others, labels)

    assert torch.autograd.gradcheck(
        losses, (weights.requires_grad_(), inputs.requires_grad_()), eps=1e-6, atol=1e-7, rtol=1e-4
    )


def test_a_long_chain_in_segments_is_the_same_chain():
    network = SlopeNetwork()
    found = []
    for segment in (None, 16, 1):
        weights, inputs, labels = problem(network)
        inputs.requires_grad_()
        trained = InnerLoop(num_steps=250, segment=segment).train(network, weights, SLOPES, inputs, labels)
        (gradient,) = torch.autograd.grad(trained.square().sum(), inputs)
        found.append((trained.detach(), gradient))
    for trained, gradient in found[1:]:
        assert torch.equal(trained, found[0][0])
        assert torch.equal(gradient, found[0][1])
    assert found[0][1].abs().max() > 1e-3


def test_a_motif_that_overflows_leaves_the_others_alone():
    network = SlopeNetwork()
    weights, inputs, labels = problem(network)
    inputs = inputs.clone()
    inputs[1] = torch.inf
    slopes = SLOPES
    inputs.requires_grad_()
    trained = InnerLoop(ADAM, 5).train(network, weights, slopes, inputs, labels)
    assert trained.isfinite().all(dim=1).tolist() == [True, False, True]
    (gradient,) = torch.autograd.grad(trained[[0, 2]].sum() + 0.0 * trained[1].nan_to_num().sum(), inputs)
    assert gradient.isfinite().all()
    assert gradient[1].abs().max() == 0
    alone, own, _ = problem(network)
    own.requires_grad_()
    (expected,) = torch.autograd.grad(InnerLoop(ADAM, 5).train(network, alone, slopes, own, labels)[0].sum(), own)
    torch.testing.assert_close(gradient[0], expected[0])


def test_a_gradient_that_overflows_is_dropped_with_a_warning(caplog):
    network = SlopeNetwork()
    weights, inputs, labels = problem(network)
    inputs.requires_grad_()
    trained = InnerLoop(SGD, 3).train(network, weights, SLOPES, inputs, labels)
    with caplog.at_level(logging.WARNING):
        cotangent = torch.ones_like(trained)
        cotangent[0] = 1e308
        (gradient,) = torch.autograd.grad(trained, inputs, cotangent)
    assert "1 of 3 motifs are without a gradient" in caplog.text
    assert gradient[0].abs().max() == 0
    assert (gradient[1:].flatten(1).abs().amax(dim=1) > 0).all()


@pytest.mark.parametrize("given", [{"num_steps": -1}, {"max_norm": 0.0}, {"segment": 0}], ids=str)
def test_what_cannot_be_is_said(given):
    with pytest.raises(UsageError, match="expected num_steps"):
        InnerLoop(**given)
    with pytest.raises(UsageError, match="positive learning_rate"):
        InnerSGD(0.0)
    with pytest.raises(UsageError, match="positive learning_rate"):
        InnerAdam(betas=(1.0, 0.9))
