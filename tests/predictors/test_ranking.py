import itertools

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau

from lightning_nas.errors import UsageError
from lightning_nas.nn.pairs import Standings, balanced, compare, uniform
from lightning_nas.predictors.predictor import SurrogatePredictor
from lightning_nas.predictors.ranking import RankingMLP, RankingSurrogate, RegressionMLP
from lightning_nas.search.bayesian import BayesianSearch
from lightning_nas.spaces.encodings import OneHotEncoding


def observations(runs=3, size=30, seed=0):
    """Features and accuracies that depend on them, by a line and a bend."""
    X = torch.randn(runs, size, 5, generator=torch.Generator().manual_seed(seed))
    return X, (80 + 3 * X[..., 0] - 2 * X[..., 1] + X[..., 2].abs()).double()


def rank(ranker, X, y, seeds=None, weights=None):
    standings = Standings.at_one_level(y)
    pairs = uniform(compare(standings)) if weights is None else weights
    return ranker.rank(X, standings, pairs, torch.arange(len(X)) / 10 + 0.01 if seeds is None else seeds)


@pytest.mark.parametrize("ranker", [RankingMLP(), RankingMLP(loss="hinge"), RankingMLP(num_members=3), RegressionMLP()])
def test_others_are_ranked(ranker):
    X, y = observations(size=60)
    scorer = rank(ranker, X, y)
    new, truth = observations(size=200, seed=1)
    scores = scorer(new)
    for run in range(3):
        assert kendalltau(scores[run], truth[run]).statistic > 0.8
    shared = scorer(new[0])
    torch.testing.assert_close(shared[0], scores[0])


def test_a_step_goes_down_the_gradient_of_the_loss():
    """The first step of Adam, by hand: every parameter moves by the learning rate against its gradient's sign."""
    X, y = observations(runs=2, size=8)
    weights = uniform(compare(Standings.at_one_level(y)))
    zero = rank(RankingMLP(num_steps=1, learning_rate=1e-12, weight_decay=0.0), X, y)
    one = rank(RankingMLP(num_steps=1, learning_rate=1e-2, weight_decay=0.0), X, y)
    start = [p.clone().requires_grad_() for p in zero.members[0]]
    first, shift, weight, bias = start
    scores = (torch.relu(X @ first + shift) @ weight + bias)[..., 0]
    loss = 0.0
    for run, a, b in itertools.product(range(2), range(8), range(8)):
        loss = loss + weights[run, a, b] * torch.log1p(torch.exp(scores[run, b] - scores[run, a]))
    for before, after, gradient in zip(start, one.members[0], torch.autograd.grad(loss, start), strict=True):
        sure = gradient.abs() > 1e-5
        torch.testing.assert_close((after - before)[sure], -1e-2 * gradient.sign()[sure], rtol=1e-2, atol=1e-5)


def test_a_run_does_not_depend_on_the_others():
    X, y = observations()
    seeds = torch.tensor([0.1, 0.2, 0.3])
    together, alone = rank(RankingMLP(), X, y, seeds)(X[0]), rank(RankingMLP(), X[1:2], y[1:2], seeds[1:2])(X[0])
    assert torch.equal(together[1:2], alone)
    assert not torch.equal(together[0], together[1])


def test_pairs_without_weight_teach_nothing():
    X, y = observations(runs=1)
    weights = balanced(compare(Standings.at_one_level(y)))
    half = weights.clone()
    half[:, 15:], half[:, :, 15:] = 0, 0
    ours = rank(RankingMLP(), X, y, weights=half)(X[0])
    y[:, 15:] = torch.randn(15).double()
    assert torch.equal(ours, rank(RankingMLP(), X, y, weights=half)(X[0]))


def test_regression_learns_the_last_accuracies_and_leaves_proxies_out():
    X, y = observations(runs=1, size=40)
    standings = Standings.at_one_level(y)
    level = standings.level.clone()
    level[0, :10] = 0
    score = standings.score.clone()
    score[0, :10, 0] = 1e6  # a proxy in another unit
    scorer = RegressionMLP().rank(X, Standings(level, score, standings.time), torch.zeros(1, 40, 40), torch.zeros(1))
    assert kendalltau(scorer(X[0])[0], y[0]).statistic > 0.8


def test_as_a_surrogate_it_has_a_posterior_in_percent():
    X, y = observations(runs=2, size=40)
    observed = torch.ones(2, 40, dtype=torch.bool)
    observed[1, 30:] = False
    y = torch.where(observed, y, torch.nan)
    model = RankingSurrogate(RankingMLP(num_members=4)).fit(X, y, observed, torch.tensor([0.3, 0.6]))
    posterior = model.posterior(X[0][:, None, None].expand(-1, 2, 1, -1))
    assert posterior.mean.shape == (40, 2, 1, 1)
    assert (posterior.mean[:, 0, 0, 0] - y[0]).abs().mean() < 1.0
    assert (posterior.variance > 0).all()
    assert posterior.variance.std() > 0
    joint = model.posterior(X[:, :3])
    torch.testing.assert_close(joint.mean[0, :, 0], posterior.mean[:3, 0, 0, 0], rtol=1e-4, atol=1e-3)


def test_it_leads_a_bayesian_search(cells, monkeypatch):
    from lightning_nas.search.history import SearchHistory
    from lightning_nas.search.loop import search_rounds
    from lightning_nas.search.pool import CandidatePool
    from tests.search.test_nosh import Curves

    strategy = BayesianSearch(RankingSurrogate(RankingMLP(num_steps=30)), encoding=OneHotEncoding(), num_initial=8)
    history, benchmark = SearchHistory.empty(2, 14, 0), Curves(cells)
    list(search_rounds(strategy, history, CandidatePool(cells), benchmark))
    assert history.valid[:, 8:].mean() > history.valid[:, :8].mean() + 1


def test_as_a_predictor_it_compares(cells):
    from tests.search.test_nosh import Curves

    truth = torch.from_numpy(Curves(cells).final)
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(cells)))
    predictor = SurrogatePredictor(RankingSurrogate(RankingMLP()), OneHotEncoding())
    guess = predictor.fit(cells, order[:80], truth[order[:80]]).predict(order[80:400])
    assert kendalltau(guess, truth[order[80:400]]).statistic > 0.8


@pytest.mark.parametrize("arguments", [{"num_steps": 0}, {"loss": "squared"}, {"margin": 0.0}], ids=str)
def test_what_cannot_be_is_said(arguments):
    with pytest.raises(UsageError, match="expected"):
        RankingMLP(**arguments)
    with pytest.raises(UsageError, match="expected"):
        RankingSurrogate(RankingMLP(), noise=-1.0)
