from itertools import product

import numpy as np
import pytest
import torch

from lightning_nas.errors import SpaceError
from lightning_nas.spaces.base import CellGraph, FiniteSpace


class Bits(FiniteSpace[tuple[int, int]]):
    """Two bits as a chain of two vertices; only what the contract demands, so the defaults are tested."""

    name, vertex_labels, num_vertices = "bits", ("zero", "one"), 2

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return list(product((0, 1), repeat=2))[index]

    def index(self, arch):
        if arch not in list(self):
            raise SpaceError(f"bits: got {arch!r}")
        return list(self).index(arch)

    def neighbors(self, arch):
        yield (1 - arch[0], arch[1])
        if arch[0]:  # uneven on purpose: rows of the neighbour table are padded
            yield (arch[0], 1 - arch[1])

    def parse(self, text):
        return tuple(map(int, text))

    def format(self, arch):
        return "".join(map(str, arch))

    def graph(self, arch):
        return CellGraph(torch.tensor(arch), torch.tensor([[False, True], [False, False]]))

    def from_graph(self, graph):
        arch = tuple(graph.ops.tolist())
        self.index(arch)
        return arch

    def build(self, arch):
        return torch.nn.Identity()


def test_samples_are_members_and_repeat_with_the_seed():
    draws = [[Bits().sample(rng) for _ in range(50)] for rng in (np.random.default_rng(1), np.random.default_rng(1))]
    assert draws[0] == draws[1]
    assert set(draws[0]) == set(Bits())


def test_a_mutation_is_one_of_the_neighbours():
    space, rng = Bits(), np.random.default_rng(0)
    assert {space.mutate((1, 0), rng) for _ in range(30)} == {(0, 0), (1, 1)}


def test_defaults_for_all_members():
    space = Bits()
    ops, adjacency = space.all_graphs()
    assert ops.tolist() == [list(arch) for arch in space]
    assert adjacency.shape == (4, 2, 2)
    assert space.neighbor_table().tolist() == [[2, -1], [3, -1], [0, 3], [1, 2]]
    assert space.canonical((0, 1)) == (0, 1)


def test_validity_is_whether_the_graph_can_be_read_back():
    ops = torch.tensor([[0, 1], [0, 7], [1, 1]])
    assert Bits().is_valid(CellGraph(ops, torch.zeros(3, 2, 2, dtype=torch.bool))).tolist() == [True, False, True]


def test_spaces_made_alike_are_equal():
    assert Bits() == Bits()
    assert hash(Bits()) == hash(Bits())
    assert Bits() != 4


def test_the_contract_cannot_be_used_unfilled():
    with pytest.raises(TypeError, match="abstract"):
        FiniteSpace()
