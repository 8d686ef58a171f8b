import numpy as np
import pytest
import torch
from scipy.stats import norm, rankdata

from lightning_nas.predictors.targets import RankGauss, Raw, Standardised

ACCURACIES = torch.tensor([91.0, 10.0, 88.5, 90.0, 88.5, 93.25], dtype=torch.float64)


@pytest.mark.parametrize("target", [Raw(), Standardised(), RankGauss()], ids=lambda t: type(t).__name__)
def test_there_and_back(target):
    transform = target.fit(ACCURACIES)
    forward = transform.forward(ACCURACIES)
    torch.testing.assert_close(transform.backward(forward), ACCURACIES)
    order = ACCURACIES.argsort()
    assert (forward[order].diff() >= 0).all()
    beyond = torch.tensor([-40.0, 5.0, 50.0, 89.0, 99.0], dtype=torch.float64)
    assert (transform.forward(beyond).diff() > 0).all()
    torch.testing.assert_close(transform.backward(transform.forward(beyond)), beyond)


def test_standardised_is_the_z_score():
    values = ACCURACIES.numpy()
    expected = (values - values.mean()) / values.std()
    np.testing.assert_allclose(Standardised().fit(ACCURACIES).forward(ACCURACIES), expected)


def test_ranks_become_normal_quantiles():
    expected = norm.ppf((rankdata(ACCURACIES.numpy()) - 0.5) / len(ACCURACIES))
    np.testing.assert_allclose(RankGauss().fit(ACCURACIES).forward(ACCURACIES), expected, atol=1e-12)


@pytest.mark.parametrize("target", [Standardised(), RankGauss()], ids=lambda t: type(t).__name__)
def test_equal_accuracies_keep_their_unit(target):
    transform = target.fit(torch.full((3,), 90.0))
    assert transform.forward(torch.full((3,), 90.0)).tolist() == [0, 0, 0]
    assert transform.backward(torch.tensor([1.0, -2.0])).tolist() == [91, 88]
