import pytest
import torch
from torch import nn

from lightning_nas.nn.cells import NASBench201Cell
from lightning_nas.nn.drop_path import DropPath, has_drop_path, set_drop_path


def dropped(probability, seed=0, batch=4000):
    drop = DropPath()
    drop.probability, drop.generator = probability, torch.Generator().manual_seed(seed)
    return drop(torch.ones(batch, 2, 3, 3))


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.8])
def test_whole_images_are_dropped_and_the_mean_stays(probability):
    y = dropped(probability)
    values = y.flatten(1)
    assert torch.equal(values, values[:, :1].expand_as(values))
    share = float((values[:, 0] == 0).float().mean())
    assert share == pytest.approx(probability, abs=0.03)
    assert values.max() == pytest.approx(1 / (1 - probability))
    assert float(y.mean()) == pytest.approx(1.0, abs=0.1)


def test_draws_come_from_the_generator_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert torch.equal(dropped(0.5), dropped(0.5))
    assert not torch.equal(dropped(0.5), dropped(0.5, seed=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_nothing_is_dropped_in_evaluation():
    drop = DropPath().eval()
    drop.probability = 0.9
    x = torch.ones(100, 1)
    assert drop(x) is x


def test_setting_reaches_every_depth_and_tells_whether_there_is_any():
    network = nn.Sequential(nn.ReLU(), nn.Sequential(DropPath(), nn.ModuleList([DropPath()])))
    generator = torch.Generator()
    set_drop_path(network, 0.25, generator)
    drops = [m for m in network.modules() if isinstance(m, DropPath)]
    assert [(d.probability, d.generator) for d in drops] == [(0.25, generator)] * 2
    assert has_drop_path(network)
    assert not has_drop_path(network[0])
    assert not network.state_dict()


def test_a_cell_drops_every_edge_but_its_skip_connections():
    """All else dropped, what remains of a cell is the sum over its paths of skip connections."""
    x = torch.rand(50, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    mixed = NASBench201Cell(
        ["nor_conv_3x3", "skip_connect", "avg_pool_3x3", "skip_connect", "nor_conv_1x1", "skip_connect"], 4
    )
    set_drop_path(mixed, 1 - 1e-9)
    torch.testing.assert_close(mixed(x), 2 * x)  # 0→3 and 0→2→3
    set_drop_path(mixed, 0.0)
    assert (mixed(x) - 2 * x).abs().max() > 0.1
