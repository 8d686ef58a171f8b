import pytest
import torch

from lightning_nas.nn.schedules import constant, cosine


def test_cosine_is_torchs():
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.4)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=17)
    for step in range(17):
        assert 0.4 * cosine(step / 17) == pytest.approx(theirs.get_last_lr()[0], rel=1e-6)
        optimizer.step()
        theirs.step()


def test_constant():
    assert {constant(x / 10) for x in range(11)} == {1.0}
