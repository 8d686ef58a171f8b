import numpy as np
import pytest
import torch

from lightning_nas.errors import SpaceError
from lightning_nas.spaces.darts import DARTSNetwork
from lightning_nas.spaces.subset import Subset

SPACE = DARTSNetwork()
RNG = np.random.default_rng(0)
MEMBERS = [SPACE.sample(RNG) for _ in range(5)]
MEMBERS.append(next(SPACE.neighbors(MEMBERS[2])))


def test_members_are_numbered_in_their_order():
    some = Subset(SPACE, MEMBERS)
    assert list(some) == MEMBERS
    assert [some.index(arch) for arch in MEMBERS] == list(range(6))
    assert {some.sample(np.random.default_rng(i)) for i in range(60)} == set(MEMBERS)
    assert (some.name, some.num_vertices) == ("darts", 22)
    with pytest.raises(SpaceError, match="not among the 6"):
        some.index(SPACE.sample(RNG))


def test_all_else_is_as_in_the_larger_space():
    some = Subset(SPACE, MEMBERS)
    assert some.parse(some.format(MEMBERS[1])) == MEMBERS[1]
    graphs = some.graphs_at(torch.tensor([3, 0]))
    for row, place in enumerate((3, 0)):
        assert all(map(torch.equal, SPACE.graph(MEMBERS[place]), (graphs.ops[row], graphs.adjacency[row])))
    assert some.from_graph(some.graph(MEMBERS[4])) == MEMBERS[4]
    assert len(list(some.neighbors(MEMBERS[0]))) == 136
    network = some.build(MEMBERS[0], channels=4, cells_per_stage=1)
    assert network(torch.randn(2, 3, 8, 8)).shape == (2, 10)


def test_neighbours_are_those_among_the_members():
    assert Subset(SPACE, MEMBERS).neighbor_table().tolist() == [[-1], [-1], [5], [-1], [-1], [2]]


def test_equal_lists_are_equal_spaces():
    assert Subset(SPACE, MEMBERS) == Subset(DARTSNetwork(), list(MEMBERS))
    assert Subset(SPACE, MEMBERS) != Subset(SPACE, MEMBERS[::-1])


@pytest.mark.parametrize("members", [[], [MEMBERS[0], MEMBERS[1], MEMBERS[0]]], ids=["none", "twice"])
def test_what_cannot_be_is_said(members):
    with pytest.raises(SpaceError, match="each once"):
        Subset(SPACE, members)
