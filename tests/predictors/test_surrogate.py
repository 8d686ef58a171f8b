import numpy as np
import pytest
import torch
from botorch.posteriors.transformed import TransformedPosterior

from lightning_nas.predictors.surrogate import RunModel, standardise


class Lines(RunModel):
    """Mean a*x of the only feature; correlated with neighbours."""

    def __init__(self, slope, location, scale):
        super().__init__(location, scale)
        self.slope = slope

    def marginal(self, points):
        return self.slope[:, None] * points[:, 0], torch.ones(len(self.slope), 1) * (1 + points[:, 0] ** 2)

    def joint(self, points):
        x = points[..., 0]
        return self.slope[:, None] * x, torch.eye(x.shape[1]) + x[:, :, None] * x[:, None, :]


@pytest.fixture
def lines():
    return Lines(torch.tensor([1.0, -2.0]), torch.tensor([90.0, 50.0]), torch.tensor([3.0, 0.5]))


def test_posterior_in_the_scores_units_one_by_one(lines):
    x = torch.tensor([0.0, 1.0, 2.0])
    posterior = lines.posterior(x[:, None, None, None].expand(-1, 2, 1, -1))
    assert posterior.mean.shape == posterior.variance.shape == (3, 2, 1, 1)
    np.testing.assert_allclose(posterior.mean[..., 0, 0], [[90, 50], [93, 49], [96, 48]])
    np.testing.assert_allclose(posterior.variance[..., 0, 0], [[9, 0.25], [18, 0.5], [45, 1.25]])


def test_posterior_in_the_scores_units_jointly(lines):
    points = torch.tensor([[[0.0], [2.0]], [[1.0], [-1.0]]])
    posterior = lines.posterior(points)
    np.testing.assert_allclose(posterior.mean[..., 0], [[90, 96], [49, 51]])
    covariance = posterior.distribution.covariance_matrix
    np.testing.assert_allclose(covariance, [[[9, 0], [0, 45]], [[0.5, -0.25], [-0.25, 0.5]]])


def test_what_botorch_asks_a_model(lines):
    assert lines.num_outputs == 1
    assert lines.batch_shape == (2,)
    transformed = lines.posterior(
        torch.zeros(2, 1, 1), posterior_transform=lambda p: TransformedPosterior(p, torch.exp)
    )
    assert isinstance(transformed, TransformedPosterior)
    with pytest.raises(NotImplementedError):
        RunModel(torch.zeros(1), torch.ones(1)).posterior(torch.zeros(1, 1, 1))
    with pytest.raises(NotImplementedError):
        RunModel(torch.zeros(1), torch.ones(1)).posterior(torch.zeros(1, 1, 1, 1))


def test_standardise_equals_numpy_on_the_observed():
    rng = np.random.default_rng(0)
    y, observed = torch.from_numpy(rng.normal(70, 9, (4, 11))), torch.from_numpy(rng.random((4, 11)) < 0.6)
    y[~observed] = torch.nan
    target, location, scale = standardise(y, observed)
    assert target.dtype == torch.float64
    for run in range(4):
        seen = y[run, observed[run]].numpy()
        np.testing.assert_allclose(location[run], seen.mean(), rtol=1e-12)
        np.testing.assert_allclose(scale[run], seen.std(), rtol=1e-12)
        np.testing.assert_allclose(target[run, observed[run]], (seen - seen.mean()) / seen.std(), rtol=1e-9)
    assert (target[~observed] == 0).all()


def test_standardise_equal_scores_and_none():
    y = torch.tensor([[90.1, 90.1, 90.1], [1.0, torch.nan, 5.0], [torch.nan] * 3], dtype=torch.float64)
    observed = torch.tensor([[True] * 3, [True, False, False], [False] * 3])
    target, location, scale = standardise(y, observed)
    np.testing.assert_allclose(target, 0, atol=1e-12)
    np.testing.assert_allclose(location, [90.1, 1.0, 0.0])
    assert scale.tolist() == [1.0, 1.0, 1.0]
