from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_nas.nn.optimizers import AdamW, NesterovSGD, constant, cosine, one_cycle


@pytest.mark.parametrize("ours", [NesterovSGD, AdamW])
def test_updates_are_those_of_torch(ours):
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4))
    networks = [network, deepcopy(network)]
    dead = nn.Parameter(torch.ones(3))  # never gets a gradient
    mine = ours([*networks[0].parameters(), dead], 0.1, 0.9, 0.01)
    if ours is AdamW:
        theirs = torch.optim.AdamW(networks[1].parameters(), betas=(0.9, 0.999), weight_decay=0.01)
    else:
        theirs = torch.optim.SGD(networks[1].parameters(), momentum=0.9, weight_decay=0.01, nesterov=True)
    for step in range(5):
        images, labels = torch.randn(8, 1, 6, 6), torch.randint(4, (8,))
        for network in networks:
            F.cross_entropy(network(images), labels).backward()
        mine.step(0.01 * (step + 1))
        theirs.param_groups[0]["lr"] = 0.01 * (step + 1)
        theirs.step()
        theirs.zero_grad()
        for a, b in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
            torch.testing.assert_close(a, b)
            assert a.grad is None
    assert torch.equal(dead, torch.ones(3))


def test_schedules_begin_and_end_where_they_should():
    assert [one_cycle(x) for x in (0, 0.3, 1)] == pytest.approx([0.04, 1, 0])
    assert [cosine(x) for x in (0, 0.5, 1)] == pytest.approx([1, 0.5, 0])
    assert constant(0.7) == 1
