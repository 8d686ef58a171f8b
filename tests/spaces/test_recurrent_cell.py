import numpy as np
import pytest
import torch

from lightning_nas.errors import EncodingError, SpaceError
from lightning_nas.spaces.base import CellGraph
from lightning_nas.spaces.nasbench201 import NASBench201
from lightning_nas.spaces.recurrent_cell import NAO_PTB, RecurrentCell, RecurrentOneHot, RecurrentSequence
from lightning_nas.spaces.subset import RandomSubset


def test_notation_and_graphs_come_back():
    space, rng = RecurrentCell(), np.random.default_rng(0)
    for cell in (NAO_PTB, *(space.sample(rng) for _ in range(20))):
        assert space.parse(space.format(cell)) == cell
        assert space.from_graph(space.graph(cell)) == cell
    ops, adjacency = space.graph(NAO_PTB)
    assert (ops.tolist()[:3], ops.tolist()[-1]) == ([0, 2, 2], 5)
    assert adjacency[:, -1].sum() == 11
    for wrong in (CellGraph(ops, ~adjacency), CellGraph(ops.flip(0), adjacency)):
        with pytest.raises(SpaceError, match="expected 'input'"):
            space.from_graph(wrong)


def test_all_predecessors_and_activations_are_drawn():
    space, rng = RecurrentCell(), np.random.default_rng(0)
    cells = np.array([space.sample(rng) for _ in range(2000)])
    for node in range(11):
        assert set(cells[:, 2 * node]) == set(range(node + 1))
        assert set(cells[:, 2 * node + 1]) == {0, 1, 2, 3}
    assert abs((cells[:, 1::2] == 2).mean() - 0.25) < 0.02


def test_neighbours_differ_in_one_place():
    space = RecurrentCell(3)
    cell = (0, 1, 1, 0, 2, 3)
    neighbors = list(space.neighbors(cell))
    assert len(neighbors) == len(set(neighbors)) == (0 + 1 + 2) + 3 * 3
    assert {sum(a != b for a, b in zip(cell, other, strict=True)) for other in neighbors} == {1}


def test_tokens_are_nao_s():
    space = RandomSubset(RecurrentCell(), 5, seed=1)
    encoding = RecurrentSequence()
    tokens = encoding.tokens(space)
    assert encoding.sizes(space) == (16, 22)
    assert ((tokens[:, ::2] >= 1) & (tokens[:, ::2] <= 11)).all()
    assert ((tokens[:, 1::2] >= 12) & (tokens[:, 1::2] <= 15)).all()
    assert encoding.cells_of(tokens) == list(space)
    assert torch.equal(encoding.tokens(space, torch.tensor([3, 0])), tokens[[3, 0]])
    allowed = encoding.allowed(11)
    assert allowed.gather(1, tokens.T).all()
    assert allowed.sum() == sum(range(1, 12)) + 44
    with pytest.raises(EncodingError, match="expected 'recurrent_cell'"):
        encoding.sizes(NASBench201())


def test_one_hot_features_tell_cells_apart():
    space = RandomSubset(RecurrentCell(3), 6, seed=1)
    features = RecurrentOneHot().encode(space)
    assert features.shape == (6, 1 + 2 + 3 + 12)
    assert (features.sum(dim=1) == 6).all()
    differences = [sum(a != b for a, b in zip(space[0], cell, strict=True)) for cell in space]
    assert ((features - features[0]).abs().sum(dim=1) / 2).tolist() == differences
    with pytest.raises(EncodingError, match="expected numbered cells"):
        RecurrentOneHot().encode(NASBench201())


def test_a_random_subset_is_made_of_different_cells():
    space = RandomSubset(RecurrentCell(), 50, seed=3)
    assert len(set(space)) == 50
    assert space == RandomSubset(RecurrentCell(), 50, seed=3)
    assert list(space) != list(RandomSubset(RecurrentCell(), 50, seed=4))
    assert list(space)[:20] == list(RandomSubset(RecurrentCell(), 20, seed=3))
    with pytest.raises(SpaceError, match="only 4 different"):
        RandomSubset(RecurrentCell(1), 5)


def test_the_network_reads_tokens():
    network = RecurrentCell().build(NAO_PTB, vocabulary_size=7, width=4)
    logits, state = network(torch.zeros(3, 2, dtype=torch.long))
    assert (logits.shape, state.shape) == ((1, 3, 2, 7), (1, 2, 4))


def test_what_cannot_be_is_said():
    space = RecurrentCell()
    for text in ("0 1", "a b", "1 0 " + "0 0 " * 10, "0 4 " + "0 0 " * 10):
        with pytest.raises(SpaceError, match="22 integers"):
            space.parse(text)
    with pytest.raises(SpaceError, match="at least 1"):
        RecurrentCell(0)
