import numpy as np
import pytest
import torch

from lightning_nas.errors import UsageError
from lightning_nas.nn.inner_loop import InnerAdam, InnerLoop, InnerSGD
from lightning_nas.nn.motif_cell import RecurrentNetwork
from tests.nn.test_recurrent_cells import random_cells

ACTS = (np.tanh, lambda x: np.maximum(x, 0), lambda x: x, lambda x: 1 / (1 + np.exp(-x)))


def problem(network, count=3):
    generator = torch.Generator().manual_seed(0)
    weights = 0.7 * torch.randn(count, network.num_parameters, generator=generator, dtype=torch.float64)
    inputs = torch.randn(count, *network.input_shape, generator=generator, dtype=torch.float64)
    labels = torch.randint(2, network.label_shape, generator=generator).double()
    return weights, random_cells(count, network.num_nodes), inputs, labels


def test_sizes_are_the_published_ones_without_gates():
    assert [RecurrentNetwork(gated=gated).num_parameters - 40 for gated in (False, True)] == [138, 276]


@pytest.mark.parametrize("gated", [False, True])
def test_the_loss_against_numpy(gated):
    network = RecurrentNetwork(2, 3, 4, num_samples=5, length=3, gated=gated, num_nodes=4)
    weights, cells, inputs, labels = problem(network)
    found = network.loss(weights, network.prepared(cells), inputs, labels)
    columns = 4 if gated else 2

    def step(state, values, act):
        if not gated:
            return act(values)
        gate = 1 / (1 + np.exp(-values[:, :2]))
        return state + gate * (act(values[:, 2:]) - state)

    for place in range(3):
        parts = np.split(weights[place].numpy(), np.cumsum([3 * columns, 2 * columns, 8 * columns, 8]))
        first = np.concatenate([parts[0].reshape(3, columns), parts[1].reshape(2, columns)])
        matrices, head = parts[2].reshape(4, 2, columns), parts[3].reshape(2, 4)
        cell, state, losses = cells[place].tolist(), np.zeros((5, 2)), []
        for x, y in zip(inputs[place].numpy(), labels.numpy(), strict=True):
            nodes = [step(state, np.concatenate([x, state], axis=1) @ first, np.tanh)]
            for number in range(4):
                source = nodes[cell[2 * number]]
                nodes.append(step(source, source @ matrices[number], ACTS[cell[2 * number + 1]]))
            state = np.mean(nodes[1:], axis=0)
            output = 1 / (1 + np.exp(-(state @ head + parts[4])))
            losses.append(-(y * np.log(output) + (1 - y) * np.log(1 - output)))
        assert found[place].item() == pytest.approx(np.mean(losses), rel=1e-10)


@pytest.mark.parametrize("optimizer", [InnerSGD(0.5), InnerAdam(0.05)], ids=str)
def test_the_gradient_through_its_training_is_that_of_finite_differences(optimizer):
    network = RecurrentNetwork(2, 3, 2, num_samples=2, length=2, num_nodes=4)
    weights, cells, inputs, labels = problem(network)
    loop = InnerLoop(optimizer, 4)

    def losses(inputs):
        trained = loop.train(network, weights, cells, inputs, labels)
        return network.loss(trained, network.prepared(cells), inputs.flip(0), labels)

    assert torch.autograd.gradcheck(losses, (inputs.requires_grad_(),), eps=1e-6, atol=1e-7, rtol=1e-4)


def test_what_cannot_be_is_said():
    with pytest.raises(UsageError, match="positive numbers"):
        RecurrentNetwork(width=0)
