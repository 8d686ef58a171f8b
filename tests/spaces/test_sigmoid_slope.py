import numpy as np
import pytest
import torch

from lightning_nas.errors import SpaceError
from lightning_nas.spaces.base import CellGraph
from lightning_nas.spaces.sigmoid_slope import SigmoidSlope


def test_the_grid_is_the_released_one():
    space = SigmoidSlope()
    assert (space[0], space[99], len(space)) == (0.01, 2.01, 100)
    np.testing.assert_allclose(np.diff(space.slopes), 2 / 99, atol=2e-6)
    assert [space.index(slope) for slope in space] == list(range(100))


def test_any_number_of_the_interval_is_an_architecture():
    space = SigmoidSlope()
    assert space.parse("0.5") == 0.5
    assert space.format(0.5) == "0.500000"
    with pytest.raises(SpaceError, match="none of the 100 numbered"):
        space.index(0.5)
    for text in ("steep", "2.02", "0"):
        with pytest.raises(SpaceError, match=r"expected a (number|slope)"):
            space.parse(text)


def test_notation_neighbours_and_graphs():
    space = SigmoidSlope(0.1, 0.5, 5)
    assert [space.parse(space.format(slope)) for slope in space] == list(space)
    assert [list(space.neighbors(slope)) for slope in (0.1, 0.3)] == [[0.2], [0.2, 0.4]]
    assert [space.from_graph(space.graph(slope)) for slope in space] == list(space)
    ops, adjacency = space.graph(0.3)
    for wrong in (CellGraph(ops.flip(0), adjacency), CellGraph(ops, ~adjacency)):
        with pytest.raises(SpaceError, match="in a row"):
            space.from_graph(wrong)


def test_the_network_is_steep():
    space = SigmoidSlope()
    torch.manual_seed(0)
    network = space.build(0.25, in_channels=1, image_size=28)
    assert sum(p.numel() for p in network.parameters()) == 784 * 100 + 100 + 100 * 100 + 100 + 1000 + 10
    x = torch.tensor([1.0, -2.0])
    torch.testing.assert_close(network[2](x), 1 / (1 + torch.exp(-0.25 * x)))
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_what_cannot_be_is_said():
    with pytest.raises(SpaceError, match="expected 0 < low < high"):
        SigmoidSlope(2.0, 1.0)
