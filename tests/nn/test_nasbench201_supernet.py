import pytest
import torch
import torch.nn.functional as F

from lightning_nas.nn.cells import EDGES
from lightning_nas.nn.nasbench201_supernet import CANDIDATES, NASBench201Supercell, NASBench201Supernet
from lightning_nas.nn.operations import make_operation
from lightning_nas.nn.supernet import Mixture, shuffled
from lightning_nas.spaces.nasbench201 import NASBench201

ALL = torch.ones(1, 6, 5, dtype=torch.bool)


def plain_operations(cell):
    """The operations of every edge by themselves, with the supercell's weights."""
    places = [[edge for edge, (tail, _) in enumerate(EDGES) if tail == node] for node in range(3)]
    edges = []
    for edge, (tail, _) in enumerate(EDGES):
        operations = [make_operation(name, cell.seen, affine=False).double() for name in CANDIDATES]
        for code, convs in ((2, cell.conv1), (3, cell.conv3)):
            operations[code].load_state_dict(convs[tail].state_of(places[tail].index(edge)), strict=False)
        edges.append(operations)
    return edges


def plainly(cell, x, weights, edge_weights, active):
    """The cell as its definition has it: every edge a weighted sum of its operations."""
    operations, nodes = plain_operations(cell), [x]
    for head in range(1, 4):
        total = torch.zeros_like(x)
        for edge, (tail, end) in enumerate(EDGES):
            if end != head:
                continue
            seen, passing = nodes[tail][:, : cell.seen], nodes[tail][:, cell.seen :]
            mixed = torch.zeros_like(seen)
            for code, operation in enumerate(operations[edge]):
                if active[edge][code]:
                    mixed = mixed + weights[edge, code] * operation(seen)
            passing = passing if edge_weights is None else passing * edge_weights[edge]
            total = total + shuffled(torch.cat([mixed, passing], dim=1), cell.partial)
        nodes.append(total)
    return nodes[-1]


@pytest.mark.parametrize("partial", [1, 2])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_the_cell_is_the_sum_of_weighted_operations(partial, share):
    generator = torch.Generator().manual_seed(3)
    cell = NASBench201Supercell(4, partial).double()
    x = torch.randn(3, 4, 5, 5, generator=generator, dtype=torch.float64)
    weights = torch.rand(6, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    edges = torch.rand(6, generator=generator, dtype=torch.float64, requires_grad=True)
    for edge_weights in (None, edges):
        active = (torch.rand(6, 5, generator=generator) <= share).tolist()
        ours = cell(x, weights * torch.tensor(active), edge_weights, active)
        theirs = plainly(cell, x, weights, edge_weights, active)
        torch.testing.assert_close(ours, theirs)
        direction = torch.randn(ours.shape, generator=generator, dtype=torch.float64)
        gradients = [
            torch.autograd.grad((out * direction).sum(), [weights, edges], retain_graph=True, allow_unused=True)
            for out in (ours, theirs)
        ]
        for mine, other in zip(*gradients, strict=True):
            assert (mine is None) == (other is None) or not (mine if other is None else other).any()
            if mine is not None and other is not None:
                torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("training", [True, False])
def test_a_settled_supernet_is_the_stand_alone_network(training):
    space, generator = NASBench201(), torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, 8, 8, generator=generator)
    network = NASBench201Supernet(4, 1, 2)
    for _ in range(2):
        network(images, Mixture(torch.rand(1, 6, 5, generator=generator), None, ALL))  # statistics of their own
    network.train(training)
    for number in torch.randint(len(space), (20,), generator=generator).tolist():
        arch = space[number]
        choice = torch.tensor([arch])
        alone = space.build(arch, channels=4, cells_per_stage=1, num_stages=2)
        alone.load_state_dict(network.derived_state(choice))
        one_hot = F.one_hot(choice, 5)
        mixture = Mixture(one_hot.float(), None, one_hot.bool())
        torch.testing.assert_close(network(images, mixture), alone.train(training)(images), rtol=1e-4, atol=1e-5)
        assert space.from_choice(choice) == arch


def test_channels_lie_side_by_side_as_said():
    network = NASBench201Supernet(4, 1, 1)
    blocks = {name: network.blocks(name) for name in network.state_dict()}
    assert blocks["skeleton.cells.0.conv3.0.conv.weight"] == 3
    assert blocks["skeleton.cells.0.conv1.2.norm.running_var"] == 1
    assert blocks["skeleton.stem.0.weight"] == blocks["skeleton.classifier.weight"] == 1
