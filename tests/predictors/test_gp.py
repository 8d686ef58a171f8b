import warnings

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern

from lightning_nas.errors import UsageError
from lightning_nas.predictors.gp import GaussianProcess, GaussianProcessModel

R, N, D, M = 3, 12, 5, 9
SEEDS = torch.zeros(R)


@pytest.fixture
def data():
    """Features and scores of three runs, with candidates; every run has its own length scale and noise."""
    rng = np.random.default_rng(0)
    X = torch.from_numpy(rng.normal(size=(R, N, D)))
    y = 90 + 3 * torch.sin(X[..., 0]) + X[..., 1] ** 2 + torch.from_numpy(rng.normal(0, 0.3, (R, N)))
    points = torch.from_numpy(rng.normal(size=(M, D)))
    return X, y, points, torch.tensor([0.9, 2.0, 4.0]).double(), torch.tensor([1e-3, 0.05, 0.3]).double()


def everything(X):
    return torch.ones(X.shape[:2], dtype=torch.bool)


def oracle(X, y, points, lengthscale, noise):
    """Mean and covariance of one run by scikit-learn, in the scores' units."""
    X, y, lengthscale, noise = X.numpy(), y.numpy(), float(lengthscale), float(noise)
    location, scale = y.mean(), y.std() or 1.0
    target = (y - location) / scale
    base = Matern(lengthscale, "fixed", nu=2.5)
    # The output scale of highest likelihood, by hand: y' (K + noise I)^-1 y / n.
    output = max(target @ np.linalg.solve(base(X) + noise * np.eye(len(X)), target) / len(X), 1e-12)
    kernel = ConstantKernel(output, "fixed") * base
    regressor = GaussianProcessRegressor(kernel, alpha=output * noise, optimizer=None).fit(X, target)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        mean, covariance = regressor.predict(points.numpy(), return_cov=True)
    return location + scale * mean, scale**2 * covariance


def candidates(points, runs=R):
    return points[:, None, None].expand(-1, runs, 1, -1)


def test_posterior_equals_scikit_learn(data):
    X, y, points, lengthscale, noise = data
    model = GaussianProcessModel(X, y, everything(X), lengthscale, noise)
    jointly, singly = model.posterior(points.expand(R, -1, -1)), model.posterior(candidates(points))
    for run in range(R):
        mean, covariance = oracle(X[run], y[run], points, lengthscale[run], noise[run])
        np.testing.assert_allclose(jointly.mean[run, :, 0], mean, rtol=1e-8)
        np.testing.assert_allclose(jointly.distribution.covariance_matrix[run], covariance, atol=1e-8)
        np.testing.assert_allclose(singly.mean[:, run, 0, 0], mean, rtol=1e-8)
        np.testing.assert_allclose(singly.variance[:, run, 0, 0], covariance.diagonal(), rtol=1e-6)


def test_float32_features_are_good_enough(data):
    X, y, points, lengthscale, noise = data
    exact = GaussianProcessModel(X, y, everything(X), lengthscale, noise)
    single = GaussianProcessModel(X.float(), y, everything(X), lengthscale, noise)
    for one, other in zip(exact.marginal(points), single.marginal(points.float()), strict=True):
        assert other.dtype == torch.float32
        np.testing.assert_allclose(one, other, atol=2e-4)


MASK = torch.tensor([[0, 5, 11], [1, 2, 3], [9, 10, 11]])


@pytest.mark.parametrize("rubbish", [float("nan"), 1e6])
def test_what_is_not_observed_leaves_no_trace(data, rubbish):
    X, y, points, lengthscale, noise = data
    observed = everything(X).scatter(1, MASK, False)
    y = torch.where(observed, y, rubbish)
    surrogate = GaussianProcess()
    model = GaussianProcessModel(X, y, observed, lengthscale, noise)
    fitted = surrogate.fit(X, y, observed, SEEDS)
    chosen = surrogate.select(X, y, observed)
    for run in range(R):
        rows = observed[run]
        Xr, yr = X[run, rows], y[run, rows]
        mean, covariance = oracle(Xr, yr, points, lengthscale[run], noise[run])
        posterior = model.posterior(points.expand(R, -1, -1))
        np.testing.assert_allclose(posterior.mean[run, :, 0], mean, rtol=1e-8)
        np.testing.assert_allclose(posterior.distribution.covariance_matrix[run], covariance, atol=1e-8)
        alone = surrogate.select(Xr[None], yr[None], everything(Xr[None]))
        assert [c[run].item() for c in chosen] == [c.item() for c in alone]
        left_out = surrogate.fit(Xr[None], yr[None], everything(Xr[None]), SEEDS[:1])
        for part, whole in zip(left_out.marginal(points), fitted.marginal(points), strict=True):
            np.testing.assert_allclose(whole[run], part[0], atol=1e-9)


def test_marginal_is_the_diagonal_of_joint(data):
    X, y, points, _, _ = data
    model = GaussianProcess().fit(X, y, everything(X), SEEDS)
    mean, variance = model.marginal(points)
    joint_mean, covariance = model.joint(points.expand(R, -1, -1))
    np.testing.assert_allclose(mean, joint_mean, atol=1e-10)
    np.testing.assert_allclose(variance, covariance.diagonal(dim1=1, dim2=2), rtol=1e-6)
    np.testing.assert_allclose(covariance, covariance.mT, atol=1e-10)


def test_grid_choice_equals_brute_force(data):
    X, y, _, _, _ = data
    surrogate = GaussianProcess()
    lengthscales, noises = surrogate.select(X, y, everything(X))
    for run in range(R):
        target = ((y[run] - y[run].mean()) / y[run].std(correction=0)).numpy()
        table = {}
        for scale in surrogate.lengthscales:
            for noise in surrogate.noises:
                K = Matern(scale * np.sqrt(D), nu=2.5)(X[run].numpy()) + noise * np.eye(N)
                c = target @ np.linalg.solve(K, target) / N
                below, best, above = (multivariate_normal.logpdf(target, cov=f * c * K) for f in (0.9, 1, 1.1))
                assert best > max(below, above)  # the output scale is the best one
                table[scale * np.sqrt(D), noise] = best
        first, second = sorted(table, key=table.get, reverse=True)[:2]
        assert table[first] > table[second] + 1e-6
        np.testing.assert_allclose((lengthscales[run], noises[run]), first, rtol=1e-9)


def test_grids_decide_alone_when_they_have_one_member(data):
    X, y, _, _, _ = data
    lengthscales, noises = GaussianProcess((1.5,), (0.02,)).select(X, y, everything(X))
    np.testing.assert_allclose(lengthscales, [1.5 * np.sqrt(D)] * R)
    np.testing.assert_allclose(noises, [0.02] * R)


@pytest.mark.parametrize("n", [1, 2])
def test_very_few_scores(data, n):
    X, y, points, _, _ = data
    model = GaussianProcess().fit(X[:, :n], y[:, :n], everything(X)[:, :n], SEEDS)
    posterior = model.posterior(candidates(points))
    assert torch.isfinite(posterior.mean).all()
    assert (posterior.variance > 0).all()
    lengthscale, noise = GaussianProcess().select(X[:, :n], y[:, :n], everything(X)[:, :n])
    for run in range(R):
        mean, covariance = oracle(X[run, :n], y[run, :n], points, lengthscale[run], noise[run])
        np.testing.assert_allclose(posterior.mean[:, run, 0, 0], mean, rtol=1e-8)
        np.testing.assert_allclose(posterior.variance[:, run, 0, 0], covariance.diagonal(), rtol=1e-6, atol=1e-10)


def test_all_scores_equal(data):
    X, _, points, _, _ = data
    y = torch.full((R, N), 90.1, dtype=torch.float64)
    posterior = GaussianProcess().fit(X, y, everything(X), SEEDS).posterior(candidates(points))
    np.testing.assert_allclose(posterior.mean, 90.1, rtol=1e-9)
    assert (posterior.variance > 0).all()
    assert (posterior.variance < 1e-6).all()


def test_runs_do_not_mix(data):
    X, y, points, _, _ = data
    together = GaussianProcess().fit(X, y, everything(X), SEEDS).marginal(points)
    for run in range(R):
        part = slice(run, run + 1)
        alone = GaussianProcess().fit(X[part], y[part], everything(X)[part], SEEDS[part]).marginal(points)
        for one, other in zip(together, alone, strict=True):
            assert torch.equal(one[run], other[0])


@pytest.mark.parametrize("grids", [((), (0.1,)), ((1.0,), ()), ((-1.0,), (0.1,)), ((1.0,), (0.0,))])
def test_arguments_are_checked(grids):
    with pytest.raises(UsageError, match="expected non-empty grids of positive numbers"):
        GaussianProcess(*grids)
