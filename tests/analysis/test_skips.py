import json

import pytest
import torch

from lightning_nas.analysis.skips import measure_shares, skips
from lightning_nas.errors import UsageError
from lightning_nas.ledger import read_results
from lightning_nas.nn.darts_supernet import DARTSSupernet
from lightning_nas.nn.nasbench201_supernet import NASBench201Supernet
from lightning_nas.nn.supernet import frozen_statistics
from lightning_nas.spaces.darts import DARTSNetwork
from tests.analysis.test_discretisation import run  # noqa: F401
from tests.analysis.test_shuffling import random_mixture
from tests.modules.test_darts import make_data, make_module


@pytest.mark.parametrize("partial", [1, 2])
@pytest.mark.parametrize("network", [NASBench201Supernet, DARTSSupernet])
def test_views_add_up_to_what_the_network_computes(network, partial):
    sizes = (4, 2, 2) if network is NASBench201Supernet else ("darts", 4, 3)
    network = network(*sizes, partial=partial)
    images, mixture = torch.randn(4, 3, 8, 8), random_mixture(network)
    with torch.no_grad(), frozen_statistics(network):
        network.train()
        views = list(network.views(images, mixture))
        edges = network.shape[1]
        assert len(views) % edges == 0
        cell = views[-edges:]
        kind, names = cell[0].kind, network.groups[cell[0].kind].operations
        (last,) = {head for _, head in network.groups[kind].edges[-1:]}
        total = 0.0
        for view in cell:
            if network.groups[kind].edges[view.edge][1] == last:
                weights = dict(zip(names[view.edge], mixture.weights[kind, view.edge], strict=True))
                total = total + sum(weights[name] * output for name, output in view.outputs.items())
        seen = total.shape[1]
    if partial == 1:
        torch.testing.assert_close(total, cell[0].last)
    else:  # the channels that operations see are every second one after the shuffle
        torch.testing.assert_close(total, cell[0].last[:, :: cell[0].last.shape[1] // seen])


def test_the_predicted_share_is_that_of_variances():
    module, data = make_module(), make_data()
    with torch.no_grad():
        for conv in module.network.skeleton.cells[0].conv3:
            conv.conv.weight.zero_()  # whose convolutions then are nothing, however they are normalised
    shares = measure_shares(module, data_of(data), 3)
    assert len(shares) == 6
    ((images, _),) = data.scoring_batches()
    module.train()
    with torch.no_grad(), frozen_statistics(module.network):
        view = next(iter(module.network.views(images, module.mixture())))
    of_conv, of_skip = view.last.var(), (view.tail - view.last).var()
    assert shares[0].predicted == pytest.approx(float(of_conv / (of_conv + of_skip)), rel=1e-4)
    assert all(share.learned == pytest.approx(0.5, abs=0.01) for share in shares)
    assert all(share.best in (0.0, 0.5, 1.0) for share in shares)


def data_of(data):
    data.setup("fit")
    return data


def test_a_run_leaves_a_table_and_a_figure(run, tmp_path):  # noqa: F811
    skips([run], num_shares=3, output=tmp_path, record=tmp_path / "ledger")
    (shares,) = json.loads((tmp_path / "skips.json").read_text()).values()
    assert len(shares) == 6
    (result,) = read_results(tmp_path / "ledger")
    assert {"share, learned", "Spearman, predicted and learned"} <= {row.metric for row in result.rows}
    assert (tmp_path / "skips.png").exists()


def test_reduction_cells_whose_inputs_are_larger_have_no_share():
    sizes = {"part": "s2", "channels": 4, "num_layers": 3}
    shares = measure_shares(make_module(space=DARTSNetwork(), sizes=sizes), data_of(make_data()), 2)
    assert sum(share.name.startswith("normal") for share in shares) == 14
    assert sum(share.name.startswith("reduction") for share in shares) == 14 - 8


def test_what_cannot_be_is_said():
    with pytest.raises(UsageError, match="num_shares=1"):
        skips([], num_shares=1)
    module = make_module(space=DARTSNetwork(), sizes={"part": "s4", "channels": 4, "num_layers": 3})
    with pytest.raises(UsageError, match="expected edges with"):
        measure_shares(module, make_data(), 3)
