import numpy as np
import pytest
import torch
from torch import nn

from lightning_nas.errors import UsageError
from lightning_nas.predictors.mlp import MLPEnsemble, _forward
from lightning_nas.predictors.targets import Standardised
from lightning_nas.spaces.encodings import OneHotEncoding
from tests.contract import TinySpace

SPACE = TinySpace()
ACCURACIES = 80 + SPACE.codes.double() @ torch.tensor([4.0, 2.0, 1.0, 0.5], dtype=torch.float64)
ORDER = torch.from_numpy(np.random.default_rng(0).permutation(len(SPACE)))
KNOWN, OTHERS = ORDER[:40], ORDER[40:]


def test_it_learns():
    predictor = MLPEnsemble(OneHotEncoding(), 2, 3, 16, 100, learning_rate=1e-2, target=Standardised(), penalty=0.0)
    guess = predictor.fit(SPACE, KNOWN, ACCURACIES[KNOWN]).predict(OTHERS)
    assert float(torch.corrcoef(torch.stack([guess, ACCURACIES[OTHERS]]))[0, 1]) > 0.9


def test_members_are_perceptrons_side_by_side():
    parameters = [p.detach() for p in MLPEnsemble(OneHotEncoding(), 3, 2, 5)._initial(12)]
    features = torch.randn(7, 12)
    together = _forward(parameters, features.expand(3, -1, -1))
    for member in range(3):
        layers = []
        for weight, bias in zip(parameters[::2], parameters[1::2], strict=True):
            layer = nn.Linear(*weight.shape[1:])
            layer.weight.data, layer.bias.data = weight[member].T, bias[member, 0]
            layers += [layer, nn.ReLU()]
        torch.testing.assert_close(together[member], nn.Sequential(*layers[:-1])(features)[:, 0].detach())
    assert len({float(p[0, 0]) for p in parameters[0]}) == 3


def test_weights_begin_by_the_rule_of_glorot():
    weight, bias = (p.detach() for p in MLPEnsemble(OneHotEncoding(), 40, 2, 30)._initial(12)[:2])
    assert float(weight.abs().max()) <= (6 / 42) ** 0.5
    assert float(weight.std()) == pytest.approx((2 / 42) ** 0.5, rel=0.02)
    assert not bias.any()


def test_what_cannot_be_is_said():
    with pytest.raises(UsageError, match="expected positive numbers"):
        MLPEnsemble(OneHotEncoding(), num_layers=0)
