import pytest
import torch

from lightning_nas.nn.deep_sets import DeepSets


def test_the_order_of_elements_does_not_matter_but_they_do():
    torch.manual_seed(0)
    network, sets = DeepSets(5, 16, 7).double(), torch.randn(3, 2, 9, 5).double()
    shuffled = sets[:, :, torch.randperm(9)]
    embedded = network(sets)
    assert embedded.shape == (3, 2, 7)
    torch.testing.assert_close(network(shuffled), embedded)
    changed = sets.clone()
    changed[:, :, 0] += 1
    assert (network(changed) - embedded).abs().max() > 1e-5


def test_the_mean_is_taken_over_finished_elements():
    torch.manual_seed(0)
    network, sets = DeepSets(5, 16, 7), torch.randn(3, 9, 5)
    one_by_one = torch.stack([network.element(element) for element in sets.flatten(0, 1)]).view(3, 9, 16)
    torch.testing.assert_close(network(sets), network.whole(one_by_one.mean(dim=1)))
    maps = [layer for layer in network.modules() if isinstance(layer, torch.nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in maps] == [
        (5, 16), *[(16, 16)] * 6, (16, 7)
    ]  # fmt: skip


def test_what_goes_in_is_not_forgotten():
    sets = torch.randn(200, 9, 16)
    kept = {init: DeepSets(16, 64, 64, init)(sets).detach() for init in ("he", "torch")}
    # How much of a result tells sets apart, and how much is the same for all.
    share = {init: float(found.std(dim=0).mean() / found.mean(dim=0).abs().mean()) for init, found in kept.items()}
    assert share["he"] > 5 * share["torch"]
    assert float(kept["he"].std()) > 20 * float(kept["torch"].std(dim=0).mean())


def test_fresh_weights_are_he_s():
    layer = DeepSets(400, 300).element[0]
    before = layer.weight.clone()
    layer.reset_parameters()
    assert float(layer.weight.std()) == pytest.approx((2 / 400) ** 0.5, rel=0.02)
    assert not layer.bias.any()
    assert not torch.equal(before, layer.weight)
