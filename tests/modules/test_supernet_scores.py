import pytest
import torch

from lightning_nas.callbacks.selection import MagnitudeSelection
from lightning_nas.modules.supernet_scores import accuracy_without, missed_most
from lightning_nas.nn.mixing import UniformMixing
from lightning_nas.nn.supernet import frozen_statistics
from tests.callbacks.test_selection import fitted
from tests.modules.test_darts import make_module


def test_scores_are_those_of_the_supernet_without_the_operation(tmp_path):
    trainer, module = fitted(tmp_path, [MagnitudeSelection("Mine")])
    batches = trainer.datamodule.scoring_batches()
    mixture = module.mixture()
    for edge, code in ((0, 3), (4, 1), (5, 0)):
        weights = mixture.weights.detach().clone()
        weights[0, edge, code] = 0.0  # all are computed, one with nothing
        with torch.no_grad(), frozen_statistics(module.network):
            right = [module.network(x, mixture._replace(weights=weights)).argmax(1) == y for x, y in batches]
        active = mixture.active.clone()
        active[0, edge, code] = False
        assert accuracy_without(module, batches, active) == pytest.approx(torch.cat(right).float().mean().item())


def test_what_is_missed_most_is_what_the_network_lives_on():
    module, images = make_module(mixing=UniformMixing()), torch.randn(64, 1, 8, 8)
    with torch.no_grad():
        for edge in range(6):
            module.active[0, edge] = False
        module.active[0, 3] = torch.tensor([True, True, False, True, False])  # one edge from input to output
        module.network.train()
        labels = module.network(images, module.mixture()).argmax(dim=1)
        lone = module.mixture()
        agree = {}
        for code in (0, 1, 3):
            active = lone.active.clone()
            active[0, 3, code] = code == 0
            with frozen_statistics(module.network):
                agree[code] = float(
                    (module.network(images, lone._replace(active=active)).argmax(1) == labels).float().mean()
                )
    assert missed_most(module, lambda: [(images, labels)], 0, 3, [0, 1, 3]) == min(agree, key=agree.get)
    assert missed_most(module, lambda: [(images, labels)], 0, 3, [0]) == 0
