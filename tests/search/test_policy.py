import numpy as np
import torch
from torch import nn

from lightning_nas.search.policy import LSTMPolicy

SEEDS = [(0, run) for run in range(3)]


def as_modules(policy, run):
    """The same network in torch's own layers."""
    weight, bias, readout, offset = (p[run] for p in policy.parameters)
    cell, linear = nn.LSTMCell(policy.size, policy.hidden_size), nn.Linear(policy.hidden_size, policy.size)
    # Torch orders the gates as input, forget, candidate, output.
    enter, keep, leave, candidate = weight.T.chunk(4)
    b = bias[0].chunk(4)
    rows = torch.cat([enter, keep, candidate, leave])
    state = {
        "weight_ih": rows[:, : policy.size], "weight_hh": rows[:, policy.size :],
        "bias_ih": torch.cat([b[0], b[1], b[3], b[2]]), "bias_hh": torch.zeros_like(bias[0]),
    }  # fmt: skip
    cell.load_state_dict(state)
    cell.bias_hh.requires_grad_(False)  # one bias does
    linear.load_state_dict({"weight": readout.T, "bias": offset[0]})
    return cell, linear


def walk(cell, linear, inputs):
    state, means = None, []
    for x in inputs:
        state = cell(x[None], state)
        means.append(linear(state[0])[0])
    return torch.stack(means)


def test_steps_and_updates_are_those_of_torch():
    policy = LSTMPolicy(SEEDS, 4, 6, 0.05)
    torch.manual_seed(0)
    modules = [as_modules(policy, run) for run in range(3)]
    parameters = [[p for m in pair for p in m.parameters() if p.requires_grad] for pair in modules]
    optimizers = [torch.optim.Adam(own, lr=0.05) for own in parameters]
    for _ in range(3):
        inputs, push = torch.randn(3, 5, 4), torch.randn(3, 5, 4)
        state, means = policy.blank(), []
        for x in inputs.unbind(1):
            mean, state = policy.step(x, state)
            means.append(mean)
        for run, (pair, optimizer) in enumerate(zip(modules, optimizers, strict=True)):
            expected = walk(*pair, inputs[run])
            torch.testing.assert_close(torch.stack(means, 1)[run], expected, rtol=1e-5, atol=1e-5)
            optimizer.zero_grad()
            (expected * push[run]).sum().backward()
            optimizer.step()
        policy.improve(inputs, push)
    assert policy.updates == 3


def test_initial_weights_depend_on_the_seed_alone():
    all_of_them, one = LSTMPolicy(SEEDS, 4, 6, 0.1), LSTMPolicy(SEEDS[1:2], 4, 6, 0.1)
    for mine, alone in zip(all_of_them.parameters, one.parameters, strict=True):
        assert torch.equal(mine[1:2], alone)
        assert not torch.equal(mine[0], mine[2])
        assert mine.abs().max() <= 1 / np.sqrt(6)
