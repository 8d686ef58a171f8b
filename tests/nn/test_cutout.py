import pytest
import torch

from lightning_nas.nn.cutout import cutout


def cut(side, seed=0, batch=3000, height=8, width=6):
    return cutout(torch.ones(batch, 2, height, width), side, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("side", [1, 2, 3, 4, 6])
def test_one_square_of_the_given_side_cut_off_at_the_border(side):
    holes = cut(side) == 0
    assert torch.equal(holes[:, 0], holes[:, 1])
    rows, columns = holes[:, 0].any(dim=2).sum(dim=1), holes[:, 0].any(dim=1).sum(dim=1)
    assert torch.equal(holes[:, 0].sum(dim=(1, 2)), rows * columns)  # a rectangle
    assert rows.max() == columns.max() == side
    assert rows.min() == columns.min() == side - side // 2 if side > 1 else 1


def test_every_place_is_as_likely():
    """A square of side 1 meets every pixel as often as any other, and one of side 4 the middle more than the corner."""
    share = (cut(1, batch=24000)[:, 0] == 0).float().mean(dim=0)
    assert share.sum() == pytest.approx(1.0)
    assert (share - 1 / 48).abs().max() < 0.006
    share = (cut(4, batch=4000)[:, 0] == 0).float().mean(dim=0)
    assert share[4, 3] > 1.5 * share[0, 0] > 0


def test_draws_come_from_the_generator_alone():
    before = torch.get_rng_state()
    assert torch.equal(cut(3), cut(3))
    assert not torch.equal(cut(3), cut(3, seed=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_generators_of_accelerators_are_left_alone(monkeypatch):
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("seeded all GPUs"))
    cut(3, batch=1)
