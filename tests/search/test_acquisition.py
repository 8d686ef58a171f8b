import math
import warnings

import numpy as np
import pytest
import torch
from botorch.acquisition.analytic import ExpectedImprovement, LogExpectedImprovement, UpperConfidenceBound
from botorch.models.model import Model
from botorch.posteriors.gpytorch import GPyTorchPosterior
from gpytorch.distributions import MultivariateNormal

from lightning_nas.errors import UsageError
from lightning_nas.predictors.dngo import DNGO
from lightning_nas.predictors.gp import GaussianProcess
from lightning_nas.predictors.surrogate import RunModel
from lightning_nas.search.acquisition import EI, UCB, LogEI, Thompson

pytestmark = pytest.mark.filterwarnings("ignore:ExpectedImprovement has known", "ignore:A not p.d.")


class TableModel(RunModel):
    """Posterior read from tables: ``means`` (R, P) and ``covariances`` (R, P, P); a feature is a number."""

    def __init__(self, means, covariances):
        super().__init__(zeros(len(means)), zeros(len(means)) + 1)
        self.means, self.covariances = torch.as_tensor(means).double(), torch.as_tensor(covariances).double()

    def marginal(self, points):
        numbers = points[:, 0].long()
        return self.means[:, numbers], self.covariances.diagonal(dim1=1, dim2=2)[:, numbers]

    def joint(self, points):
        numbers = points[..., 0].long()
        runs = torch.arange(len(numbers))
        covariance = self.covariances[runs[:, None, None], numbers[:, :, None], numbers[:, None, :]]
        return self.means.gather(1, numbers), covariance


def table_model(means, deviations):
    return TableModel(means, torch.diag_embed(torch.as_tensor(deviations).square()))


def numbered(size):
    return torch.arange(size, dtype=torch.float64)[:, None]


def zeros(runs):
    return torch.zeros(runs, dtype=torch.float64)


@pytest.fixture
def random_model():
    rng = np.random.default_rng(0)
    return table_model(rng.normal(90, 1.5, (3, 40)), rng.uniform(1.0, 3, (3, 40)))


BEST = torch.tensor([91.0, 92.5, 85.0], dtype=torch.float64)


def literal_ei(mean, deviation, best):
    u = (mean - best) / deviation
    cdf = 0.5 * (1 + math.erf(u / math.sqrt(2)))
    return (mean - best) * cdf + deviation * math.exp(-(u**2) / 2) / math.sqrt(2 * math.pi)


FORMULAS = {
    "ei": (EI(), literal_ei),
    "ei fixed": (EI(incumbent=93.0), lambda m, s, _: literal_ei(m, s, 93.0)),
    "logei": (LogEI(), lambda m, s, b: math.log(literal_ei(m, s, b))),
    "ucb": (UCB(beta=3.0), lambda m, s, _: m + math.sqrt(3.0) * s),
    "ucb default": (UCB(), lambda m, s, _: m + math.sqrt(2.0) * s),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_values_and_choice_by_the_formula(random_model, name):
    acquisition, formula = FORMULAS[name]
    deviations = random_model.covariances.diagonal(dim1=1, dim2=2).sqrt()
    expected = np.array([
        [formula(random_model.means[r, p].item(), deviations[r, p].item(), BEST[r].item()) for p in range(40)]
        for r in range(3)
    ])  # fmt: skip
    function = acquisition.function(random_model, BEST[:, None])
    values = function(numbered(40)[:, None, None].expand(-1, 3, 1, -1))
    np.testing.assert_allclose(values.T, expected, rtol=1e-7 if "log" not in name else 1e-5, atol=1e-12)
    order = np.argsort(-expected, axis=1)
    for rank in (1, 3):  # the best ones are visited already
        visited = torch.from_numpy(order[:, :rank].copy())
        chosen = acquisition.choose(random_model, BEST, numbered(40), visited, zeros(3))
        assert chosen.tolist() == order[:, rank].tolist()


@pytest.mark.parametrize("acquisition", [LogEI, EI, UCB])
@pytest.mark.parametrize("block_size", [1, 7, 100, 10**6])
def test_chunks_do_not_matter(random_model, acquisition, block_size):
    visited = torch.tensor([[3, 4], [5, 6], [0, 39]])
    reference = acquisition().choose(random_model, BEST, numbered(40), visited, zeros(3))
    chosen = acquisition(block_size=block_size).choose(random_model, BEST, numbered(40), visited, zeros(3))
    assert torch.equal(chosen, reference)


def test_log_ei_ranks_where_ei_underflows():
    means = torch.tensor([[0.0, 1.0, 0.5, 0.2]], dtype=torch.float64)
    model = table_model(means, torch.full((1, 4), 0.01, dtype=torch.float64))
    best, visited = torch.tensor([100.0], dtype=torch.float64), torch.tensor([[0]])
    assert EI().choose(model, best, numbered(4), visited, zeros(1)).item() == 1  # all zero: the first not visited
    visited = torch.tensor([[1]])
    assert LogEI().choose(model, best, numbered(4), visited, zeros(1)).item() == 2


@pytest.mark.parametrize("acquisition", [LogEI(), EI(), UCB(), EI(block_size=1)])
def test_ties_go_to_the_first_not_visited(acquisition):
    model = table_model(torch.zeros(3, 6), torch.ones(3, 6))
    visited = torch.tensor([[3, 5], [0, 1], [0, 2]])
    assert acquisition.choose(model, torch.zeros(3), numbered(6), visited, zeros(3)).tolist() == [0, 2, 1]


@pytest.mark.parametrize("acquisition", [LogEI(), EI(), EI(100.0), UCB()])
def test_the_last_one_left(acquisition):
    model = table_model(torch.tensor([[9.0, 9.0, -1e6, 9.0]]), torch.full((1, 4), 1e-3))
    visited = torch.tensor([[3, 0, 1]])
    assert acquisition.choose(model, torch.tensor([9.0]), numbered(4), visited, zeros(1)).item() == 2


class OneByOne(Model):
    """One run of a model of many, asked for one candidate at a time through its joint posterior."""

    num_outputs, batch_shape = 1, torch.Size()

    def __init__(self, model, run):
        super().__init__()
        self.model, self.run = model, run

    def posterior(self, X, output_indices=None, observation_noise=False, posterior_transform=None):
        means, variances = [], []
        for point in X[:, 0]:
            one = self.model.posterior(point.expand(len(self.model.location), 1, -1))
            means.append(one.mean[self.run].double())
            variances.append(one.variance[self.run].double())
        return GPyTorchPosterior(MultivariateNormal(torch.stack(means)[..., 0], torch.stack(variances)))


@pytest.mark.parametrize("surrogate", [GaussianProcess(), DNGO(hidden_size=16, num_steps=30)], ids=["gp", "dngo"])
def test_equals_botorch_run_by_run(surrogate, pool, scores):
    rng = np.random.default_rng(5)
    visited = torch.from_numpy(np.stack([rng.permutation(81)[:20] for _ in range(3)]))
    features = pool.features(None).double()
    observed = torch.ones(3, 20, dtype=torch.bool)
    model = surrogate.fit(features[visited], scores[visited], observed, torch.tensor([0.1, 0.5, 0.9]))
    best = scores[visited].amax(dim=1)
    functions = {
        LogEI(block_size=900): lambda m, b: LogExpectedImprovement(m, best_f=b),
        EI(block_size=900): lambda m, b: ExpectedImprovement(m, best_f=b),
        EI(incumbent=97.0): lambda m, b: ExpectedImprovement(m, best_f=97.0),
        UCB(beta=0.3): lambda m, b: UpperConfidenceBound(m, beta=0.3),
    }
    with torch.no_grad():
        for acquisition, naive in functions.items():
            chosen = acquisition.choose(model, best, features, visited, zeros(3))
            for run in range(3):
                values = naive(OneByOne(model, run), best[run])(features[:, None])
                batched = acquisition.function(model, best[:, None])(features[:, None, None].expand(-1, 3, 1, -1))
                torch.testing.assert_close(batched[:, run], values, rtol=1e-4, atol=1e-7)
                values[visited[run]] = -torch.inf
                assert chosen[run] == values.argmax()


def draws(count, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).random(count))


def test_thompson_follows_the_joint_posterior():
    # Chances that each of three correlated candidates is the highest, against a plain Monte Carlo estimate.
    mean = np.array([0.0, 0.4, 0.2])
    covariance = np.array([[2.0, 1.2, 0.0], [1.2, 1.0, -0.3], [0.0, -0.3, 0.5]])
    samples = np.random.default_rng(1).multivariate_normal(mean, covariance, 200_000)
    expected = np.bincount(samples.argmax(1), minlength=3) / len(samples)
    runs = 3000
    model = TableModel(np.tile(np.append(mean, 99.0), (runs, 1)), np.tile(np.pad(covariance, (0, 1)), (runs, 1, 1)))
    visited = torch.full((runs, 2), 3)
    chosen = Thompson(num_candidates=3).choose(model, zeros(runs), numbered(4), visited, draws(runs))
    found = np.bincount(chosen, minlength=4) / runs
    assert found[3] == 0
    np.testing.assert_allclose(found[:3], expected, atol=0.035)


def test_thompson_draws_its_candidates_uniformly_from_the_unvisited():
    runs = 2400
    model = table_model(torch.arange(10.0).expand(runs, 10), torch.full((runs, 10), 1e-3))
    visited = torch.tensor([[2, 9, 2]]).expand(runs, -1)
    chosen = Thompson(num_candidates=1).choose(model, zeros(runs), numbered(10), visited, draws(runs))
    counts = np.bincount(chosen, minlength=10)
    assert counts[[2, 9]].sum() == 0
    assert ((counts[[0, 1, 3, 4, 5, 6, 7, 8]] - runs / 8) ** 2 / (runs / 8)).sum() < 24.3  # 7 degrees of freedom, 99.9%
    chosen = Thompson(num_candidates=8).choose(model, zeros(runs), numbered(10), visited, draws(runs))
    assert chosen.tolist() == [8] * runs


def test_thompson_with_fewer_left_than_candidates():
    model = table_model(torch.arange(6.0).expand(4, 6), torch.ones(4, 6))
    visited = torch.tensor([[0, 1, 2, 3], [0, 1, 2, 3], [5, 4, 3, 2], [1, 0, 2, 5]])
    chosen = Thompson(num_candidates=50).choose(model, zeros(4), numbered(6), visited, draws(4)).tolist()
    for number, left in zip(chosen, ({4, 5}, {4, 5}, {0, 1}, {3, 4}), strict=True):
        assert number in left


def test_thompson_is_reproducible_run_by_run(random_model):
    visited, seeds = torch.tensor([[1], [2], [3]]), draws(3)
    chosen = Thompson(20).choose(random_model, BEST, numbered(40), visited, seeds)
    torch.manual_seed(1)
    np.random.seed(1)
    assert torch.equal(Thompson(20).choose(random_model, BEST, numbered(40), visited, seeds), chosen)
    for run in range(3):
        alone = TableModel(random_model.means[run, None], random_model.covariances[run, None])
        part = slice(run, run + 1)
        assert Thompson(20).choose(alone, BEST[part], numbered(40), visited[part], seeds[part]) == chosen[run]
    many = [Thompson(20).choose(random_model, BEST, numbered(40), visited, draws(3, seed)) for seed in range(20)]
    assert len({tuple(c.tolist()) for c in many}) > 10


@pytest.mark.parametrize("make", [lambda: LogEI(0), lambda: EI(block_size=-1), lambda: UCB(block_size=0)])
def test_block_size_is_checked(make):
    with pytest.raises(UsageError, match=r"block_size=.*expected a positive number"):
        make()
    with pytest.raises(UsageError, match="num_candidates=0"):
        Thompson(0)
    with pytest.raises(UsageError, match="beta=-1"):
        UCB(beta=-1)


def test_choosing_keeps_no_graph(random_model):
    random_model.means.requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not LogEI().choose(random_model, BEST, numbered(40), torch.tensor([[0]] * 3), zeros(3)).requires_grad
