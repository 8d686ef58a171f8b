import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import nn

from lightning_nas.errors import UsageError
from lightning_nas.predictors import dngo
from lightning_nas.predictors.dngo import DNGO
from lightning_nas.predictors.surrogate import select_by_evidence, standardise

R, N, D, M = 3, 10, 4, 7
SEEDS = torch.tensor([0.11, 0.52, 0.93], dtype=torch.float64)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    X = torch.from_numpy(rng.normal(size=(R, N, D)))
    y = 90 + 3 * torch.sin(X[..., 0]) + X[..., 1] + torch.from_numpy(rng.normal(0, 0.2, (R, N)))
    return X, y, torch.from_numpy(rng.normal(size=(M, D)))


def everything(X):
    return torch.ones(X.shape[:2], dtype=torch.bool)


def network(surrogate, X, run):
    """The run's network as torch modules, with the surrogate's first weights."""
    weight, bias, readout, offset = surrogate._initial(X, SEEDS)
    first, second = nn.Linear(D, surrogate.hidden_size), nn.Linear(surrogate.hidden_size, 1)
    with torch.no_grad():
        first.weight.data, first.bias.data = weight[run].T.clone(), bias[run, 0].clone()
        second.weight.data, second.bias.data = readout[run].T.clone(), offset[run, 0].clone()
    return nn.Sequential(first, nn.Tanh(), second)


def masked(X, y, hide=()):
    observed = everything(X)
    for run, column in hide:
        observed[run, column] = False
    return observed, standardise(y, observed)[0]


HIDE = [(0, 3), (0, 9), (2, 0)]


@pytest.mark.parametrize("hide", [[], HIDE])
def test_gradients_equal_autograd(data, monkeypatch, hide):
    X, y, _ = data
    observed, target = masked(X, y, hide)
    found = []
    gradients_of = dngo._gradients
    monkeypatch.setattr(dngo, "_gradients", lambda *given: found.append(gradients_of(*given)) or found[-1])
    surrogate = DNGO(hidden_size=6, num_steps=1)
    surrogate._train_features(X, target, observed.double(), SEEDS)
    ((first, readout, offset),) = found
    for run in range(R):
        model = network(surrogate, X, run)
        rows = observed[run]
        nn.functional.mse_loss(model(X[run, rows])[:, 0], target[run, rows]).backward()
        expected = torch.cat([model[0].weight.grad.T, model[0].bias.grad[None]])
        np.testing.assert_allclose(first[run], expected, atol=1e-12)
        np.testing.assert_allclose(readout[run], model[2].weight.grad.T, atol=1e-12)
        np.testing.assert_allclose(offset[run, 0], model[2].bias.grad, atol=1e-12)


@pytest.mark.parametrize("hide", [[], HIDE])
def test_training_equals_adam(data, hide):
    X, y, _ = data
    observed, target = masked(X, y, hide)
    surrogate = DNGO(hidden_size=6, num_steps=25, learning_rate=0.03)
    weight, bias = surrogate._train_features(X, target, observed.double(), SEEDS)
    for run in range(R):
        model = network(surrogate, X, run)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
        for _ in range(25):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(X[run, observed[run]])[:, 0], target[run, observed[run]]).backward()
            optimizer.step()
        np.testing.assert_allclose(weight[run], model[0].weight.detach().T, atol=1e-9)
        np.testing.assert_allclose(bias[run, 0], model[0].bias.detach(), atol=1e-9)


def test_first_weights(data):
    X, _, _ = data
    weight, bias, readout, offset = DNGO(hidden_size=5000)._initial(X, SEEDS)
    assert (bias == 0).all()
    assert (offset == 0).all()
    np.testing.assert_allclose(weight.std(dim=(1, 2)), D**-0.5, rtol=0.03)
    np.testing.assert_allclose(readout.std(dim=(1, 2)), 5000**-0.5, rtol=0.05)
    swapped = DNGO(hidden_size=5000)._initial(X, SEEDS.flip(0))
    assert torch.equal(swapped[0], weight.flip(0))
    assert not torch.equal(weight[0], weight[1])


def fitted(surrogate, X, y, observed, points, run):
    """Features of one run's observed evaluations and of the candidates, its standardised scores, and the model."""
    model = surrogate.fit(X, y, observed, SEEDS)
    target, location, scale = (value[run].numpy() for value in standardise(y, observed))
    phi = np.tanh(X[run].numpy() @ model.weight[run].numpy() + model.bias[run].numpy())[observed[run].numpy()]
    phi_star = np.tanh(points.numpy() @ model.weight[run].numpy() + model.bias[run].numpy())
    return model, phi, phi_star, target[observed[run].numpy()], location, scale


def evidences(surrogate, phi, target):
    return {
        (signal / surrogate.hidden_size, noise): multivariate_normal.logpdf(
            target, cov=signal / surrogate.hidden_size * phi @ phi.T + noise * np.eye(len(target)), allow_singular=True
        )
        for signal in surrogate.signals
        for noise in surrogate.noises
    }


# More features than scores, and fewer.
@pytest.mark.parametrize("hidden_size", [32, 4])
@pytest.mark.parametrize("hide", [[], HIDE])
def test_posterior_equals_dense_bayesian_regression(data, hidden_size, hide):
    X, y, points = data
    observed, _ = masked(X, y, hide)
    y = torch.where(observed, y, torch.nan)
    surrogate = DNGO(hidden_size=hidden_size, num_steps=20)
    for run in range(R):
        model, phi, phi_star, target, location, scale = fitted(surrogate, X, y, observed, points, run)
        table = evidences(surrogate, phi, target)
        prior, noise = max(table, key=table.get)
        assert sorted(table.values())[-2] < table[prior, noise] - 1e-6
        S = np.linalg.inv(phi.T @ phi / noise + np.eye(hidden_size) / prior)
        mean = location + scale * (phi_star @ S @ phi.T @ target / noise)
        covariance = scale**2 * (phi_star @ S @ phi_star.T)
        jointly = model.posterior(points.expand(R, -1, -1))
        np.testing.assert_allclose(jointly.mean[run, :, 0], mean, rtol=1e-8)
        np.testing.assert_allclose(jointly.distribution.covariance_matrix[run], covariance, atol=1e-7)
        singly = model.posterior(points[:, None, None].expand(-1, R, 1, -1))
        np.testing.assert_allclose(singly.mean[:, run, 0, 0], mean, rtol=1e-8)
        floor = 1e-6 * scale**2
        np.testing.assert_allclose(singly.variance[:, run, 0, 0], np.maximum(covariance.diagonal(), floor), rtol=1e-5)


@pytest.mark.parametrize("hidden_size", [32, 4])
@pytest.mark.parametrize("hide", [[], HIDE])
def test_prior_and_noise_maximise_the_evidence(hidden_size, hide):
    rng = np.random.default_rng(1)
    X = torch.zeros(R, N, D)
    observed, _ = masked(X, torch.zeros(R, N), hide)
    surrogate = DNGO(hidden_size=hidden_size)
    chosen = set()
    for noise in (0.0, 0.1, 0.5, 2.0):  # noises that call for different answers
        features = np.tanh(rng.normal(size=(R, N, hidden_size))) * observed.numpy()[..., None]
        y = features @ rng.normal(size=(hidden_size, 1)) + noise * rng.normal(size=(R, N, 1))
        target, _, _ = standardise(torch.from_numpy(y[..., 0]), observed)
        priors = tuple(signal / hidden_size for signal in surrogate.signals)
        prior, share = select_by_evidence(torch.from_numpy(features), target, observed, priors, surrogate.noises)
        for run in range(R):
            rows = observed[run].numpy()
            table = evidences(surrogate, features[run, rows], target[run].numpy()[rows])
            best = max(table, key=table.get)
            np.testing.assert_allclose((prior[run], share[run]), best, rtol=1e-9)
            chosen.add(best)
    assert len(chosen) > (1 if hidden_size > N else 3)


def test_what_is_not_observed_leaves_no_trace(data):
    X, y, points = data
    observed, _ = masked(X, y, [(r, c) for r in range(R) for c in (2, 5, 9)])
    rows = observed[0]
    rubbish = torch.where(observed, y, torch.nan), torch.where(observed[..., None], X, 50.0)
    surrogate = DNGO(hidden_size=16, num_steps=30)
    whole = surrogate.fit(rubbish[1], rubbish[0], observed, SEEDS)
    left_out = surrogate.fit(X[:, rows], y[:, rows], everything(X)[:, rows], SEEDS)
    for one, other in zip(whole.marginal(points), left_out.marginal(points), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-8)


def test_marginal_is_the_diagonal_of_joint(data, monkeypatch):
    monkeypatch.setattr(dngo, "_WINDOW", 3)
    X, y, points = data
    model = DNGO(hidden_size=16, num_steps=10).fit(X, y, everything(X), SEEDS)
    mean, variance = model.marginal(points)
    joint_mean, covariance = model.joint(points.expand(R, -1, -1))
    np.testing.assert_allclose(mean, joint_mean, atol=1e-10)
    np.testing.assert_allclose(variance, covariance.diagonal(dim1=1, dim2=2), rtol=1e-6, atol=1e-9)
    own = torch.stack([points.roll(run, dims=0) for run in range(R)])  # other candidates for every run
    for shared, each in zip((mean, variance), model.marginal(own), strict=True):
        for run in range(R):
            np.testing.assert_allclose(each[run], shared[run].roll(run), atol=1e-10)


def test_fits_what_it_saw(data):
    X, y, _ = data
    posterior = DNGO(num_steps=300).fit(X, y, everything(X), SEEDS).posterior(X)
    residual = (posterior.mean[..., 0] - y).abs().mean() / y.std()
    assert residual < 0.1


@pytest.mark.parametrize("y", [[90.1] * N, [89.0] + [91.0] * (N - 1)])
def test_scores_without_structure_stay_finite(data, y):
    X, _, points = data
    y = torch.tensor([y] * R, dtype=torch.float64)
    posterior = (
        DNGO().fit(X.float(), y, everything(X), SEEDS).posterior(points.float()[:, None, None].expand(-1, R, 1, -1))
    )
    assert torch.isfinite(posterior.mean).all()
    assert (posterior.variance > 0).all()
    assert posterior.mean.dtype == torch.float32
    if y.std() == 0:
        np.testing.assert_allclose(posterior.mean, 90.1, rtol=1e-6)


def test_nothing_observed(data):
    X, y, points = data
    model = DNGO(num_steps=3).fit(X, y * torch.nan, ~everything(X), SEEDS)
    mean, variance = model.marginal(points)
    np.testing.assert_allclose(mean, 0, atol=1e-12)
    assert torch.isfinite(variance).all()


@pytest.mark.parametrize("cached", [1, 2 * N * 16, 10**6])
def test_runs_do_not_mix_and_seeds_matter(data, monkeypatch, cached):
    X, y, points = data
    surrogate = DNGO(hidden_size=16, num_steps=10)
    monkeypatch.setattr(dngo, "_CACHED", cached)
    together = surrogate.fit(X, y, everything(X), SEEDS).marginal(points)
    for run in range(R):
        part = slice(run, run + 1)
        alone = surrogate.fit(X[part], y[part], everything(X)[part], SEEDS[part]).marginal(points)
        for one, other in zip(together, alone, strict=True):
            assert torch.equal(one[run], other[0])
    other = surrogate.fit(X, y, everything(X), SEEDS / 2).marginal(points)
    assert not (other[0] == together[0]).any()


@pytest.mark.parametrize(
    "wrong",
    [{"hidden_size": 0}, {"num_steps": 0}, {"learning_rate": 0.0}, {"noises": (0.1, 0.0)}, {"signals": (-1.0,)}],
)
def test_arguments_are_checked(wrong):
    with pytest.raises(UsageError, match="all must be positive"):
        DNGO(**wrong)
