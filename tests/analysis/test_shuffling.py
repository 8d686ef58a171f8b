import json

import numpy as np
import pytest
import torch

from lightning_nas.analysis.shuffling import Stack, shuffling
from lightning_nas.errors import UsageError
from lightning_nas.ledger import read_results
from lightning_nas.nn.darts_supernet import DARTSSupernet
from lightning_nas.nn.nasbench201_supernet import NASBench201Supernet
from lightning_nas.nn.supernet import Mixture
from tests.analysis.test_discretisation import run  # noqa: F401


def random_mixture(network, seed=0):
    weights = torch.rand(network.shape, generator=torch.Generator().manual_seed(seed))
    return Mixture(weights, None, torch.ones(network.shape, dtype=torch.bool))


@pytest.mark.parametrize(
    ("network", "pair"),
    [(NASBench201Supernet(4, 1, 1), (1, 5)), (DARTSSupernet("s5", 4, 3), (3, 8))],
    ids=["201", "darts"],
)
def test_edges_change_places_and_back(network, pair):
    images, mixture = torch.randn(3, 3, 8, 8), random_mixture(network)
    network(images, mixture)
    network.eval()
    before = network(images, mixture)
    network.swap(0, *pair)
    assert (network(images, mixture) - before).abs().max() > 1e-4
    network.swap(0, *pair)
    torch.testing.assert_close(network(images, mixture), before)


def test_what_one_edge_computed_the_other_does_after():
    network = NASBench201Supernet(4, 1, 1)
    cell = network.skeleton.cells[0]
    ours, theirs = (value.clone() for value in (cell.conv3[0].block(1)[0], cell.conv3[2].block(0)[0]))
    network.swap(0, 1, 5)  # the second edge from node 0, the one from node 2
    assert torch.equal(cell.conv3[0].block(1)[0], theirs)
    assert torch.equal(cell.conv3[2].block(0)[0], ours)


def test_edges_of_different_kinds_stay():
    with pytest.raises(UsageError, match="cannot change places"):
        DARTSSupernet("s5", 4, 3).swap(1, 0, 4)  # stride 2 and 1
    with pytest.raises(UsageError, match="cannot change places"):
        DARTSSupernet("s1", 4, 3).swap(0, 0, 1)


def test_residual_stacks_of_nothing_are_the_identity():
    stack = Stack(3, 4, 10, 1, residual=True)
    for layer in stack.layers:
        torch.nn.init.zeros_(layer[1].weight)
    x = torch.randn(2, 1, 8, 8)
    expected = stack.classifier(stack.stem(x).relu().mean(dim=(2, 3)))
    torch.testing.assert_close(stack(x), expected)


def test_the_table_has_three_kinds_of_networks(run, tmp_path):  # noqa: F811
    shuffling([run], num_swaps=2, num_layers=3, channels=4, epochs=1, output=tmp_path, record=tmp_path / "ledger")
    (result,) = read_results(tmp_path / "ledger")
    assert {row.label for row in result.rows} == {"DrNAS", "VGG", "ResNet"}
    found = json.loads((tmp_path / "shuffling.json").read_text())
    assert all(np.isfinite(values).all() for part in found.values() for values in part.values())
    with pytest.raises(UsageError, match="num_swaps=0"):
        shuffling([run], num_swaps=0)
