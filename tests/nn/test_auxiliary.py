import pytest
import torch

from lightning_nas.nn.auxiliary import AuxiliaryHead, HasAuxiliary
from lightning_nas.nn.cells import StagedNetwork
from lightning_nas.nn.complexity import count_parameters
from lightning_nas.nn.operations import ReLUConvBN


def staged(**arguments):
    torch.manual_seed(0)
    return StagedNetwork(lambda width: ReLUConvBN(width, width, 3), channels=4, in_channels=1, **arguments)


def test_the_head_has_the_size_of_darts():
    """Pooling, 1 x 1 to 128, 2 x 2 to 768, linear: what its code has behind 576 channels on CIFAR-10."""
    assert count_parameters(AuxiliaryHead(576, 10)) == 576 * 128 + 2 * 128 + 128 * 768 * 4 + 2 * 768 + 768 * 10 + 10


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_features_of_any_size(size):
    assert AuxiliaryHead(6, 3)(torch.ones(2, 6, size, size)).shape == (2, 3)


@pytest.mark.parametrize(("cells", "stages"), [(1, 1), (1, 2), (1, 3), (2, 3), (5, 3), (3, 2)])
def test_a_staged_network_branches_off_behind_two_thirds(cells, stages):
    network = staged(cells_per_stage=cells, num_stages=stages, auxiliary=True).eval()
    assert isinstance(network, HasAuxiliary)
    seen = []
    network.auxiliary.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    images = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    scores, auxiliary = network.with_auxiliary(images)
    torch.testing.assert_close(scores, network(images))
    assert len(seen) == 1  # not by forward
    features = network.stem(images)
    for block in list(network.cells)[: 2 * len(network.cells) // 3 + 1]:
        features = block(features)
    torch.testing.assert_close(seen[0], features)
    assert auxiliary.shape == (2, 10)


def test_other_weights_do_not_depend_on_the_head():
    plain, with_head = staged().state_dict(), staged(auxiliary=True).state_dict()
    assert all(torch.equal(value, with_head[name]) for name, value in plain.items())
    assert {name for name in with_head if name not in plain} == {n for n in with_head if n.startswith("auxiliary.")}
