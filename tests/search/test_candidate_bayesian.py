import math

import numpy as np
import pytest
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern

from lightning_nas.errors import SearchStateError, UsageError
from lightning_nas.search.candidate_bayesian import CandidateBayesianSearch, _GrowingProcess, expected_improvement
from lightning_nas.search.history import SearchHistory
from lightning_nas.search.loop import search_rounds
from lightning_nas.search.pool import CandidatePool


@pytest.fixture(scope="module")
def views(tiny):
    """Two noisy views of every member, three dimensions."""
    rng = np.random.default_rng(5)
    table = rng.standard_normal((81, 1, 3)) + 0.3 * rng.standard_normal((81, 2, 3))
    return CandidatePool(tiny, embeddings=torch.from_numpy(table).float())


def by_hand(pool, indices, scores, candidates, lengthscale, noise):
    """scikit-learn's regression on all views, prior mean zero, averaged over a candidate's views."""
    points = pool.views.double().numpy()
    process = GaussianProcessRegressor(Matern(lengthscale, nu=2.5), alpha=noise, optimizer=None)
    process.fit(points[indices].reshape(-1, 3), np.repeat(scores, 2))
    mean, deviation = process.predict(points[candidates].reshape(-1, 3), return_std=True)
    variance = deviation**2 + noise
    return mean.reshape(-1, 2).mean(axis=1), variance.reshape(-1, 2).mean(axis=1)


def test_the_posterior_is_scikit_learns(views, written):
    indices, scores = [[3, 9, 40, 3], [7, 8, 1, 2]], [[90.0, 91.0, 88.0, 90.0], [93.0, None, 94.0, ...]]
    history = written(indices, scores, capacity=6)
    candidates = torch.tensor([[0, 3, 50], [8, 80, 7]])
    mean, variance = _GrowingProcess(history, views, 0.7, 0.2).predict(history.prefix(4), candidates)
    for run, known in enumerate(([0, 1, 2, 3], [0, 2])):
        told = [indices[run][i] for i in known], [scores[run][i] for i in known]
        expected = by_hand(views, *told, candidates[run].numpy(), 0.7, 0.2)
        np.testing.assert_allclose(mean[run], expected[0], rtol=1e-4)
        np.testing.assert_allclose(variance[run], expected[1], rtol=1e-4)


def test_it_grows_to_what_it_would_be_from_the_start(views, written):
    indices, scores = [[3, 9, 40, 12]], [[90.0, ..., 88.0, 91.0]]
    early, late = (written(indices, [values], capacity=5) for values in (scores[0], [90.0, 95.0, 88.0, 91.0]))
    candidates = torch.tensor([[0, 9]])
    grown = _GrowingProcess(early, views, 1.0, 0.1)
    grown.predict(early.prefix(2), candidates)
    grown.predict(early.prefix(4), candidates)
    fresh = _GrowingProcess(late, views, 1.0, 0.1)
    for ours, theirs in zip(grown.predict(late, candidates), fresh.predict(late, candidates), strict=True):
        assert torch.equal(ours, theirs)  # the second score came late: all from there on is made anew


def test_improvement_is_the_integral():
    for mean, variance, target in ((90.0, 4.0, 91.0), (92.0, 0.5, 91.0), (0.0, 1.0, 94.0)):
        x = np.linspace(-40, 140, 400_001)
        density = np.exp(-((x - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)
        expected = float(np.sum(np.maximum(x - target, 0.0) * density) * (x[1] - x[0]))
        got = expected_improvement(*(torch.tensor([v], dtype=torch.float64) for v in (mean, variance, target)))
        assert got.item() == pytest.approx(expected, rel=1e-4, abs=1e-12)


def test_of_a_few_the_one_of_the_highest_improvement(views, written):
    history = written([[3, 9, 40, 7, 11]], [[90.0, 91.0, 88.0, 95.0, 89.0]], capacity=6)
    strategy = CandidateBayesianSearch(lengthscale=0.8, noise=0.2, num_candidates=6, num_initial=5, offset=0.3)
    candidates = (history.uniforms(6) * 81).long()
    mean, variance = by_hand(
        views, history.indices[0, :5].numpy(), history.valid[0, :5].numpy(), candidates[0], 0.8, 0.2
    )
    values = expected_improvement(torch.from_numpy(mean), torch.from_numpy(variance), torch.tensor(95.3))
    assert strategy.propose(history, views).tolist() == [int(candidates[0, values.argmax()])]
    assert len(set(values.tolist())) > 1


def test_where_all_underflow_the_first_is_taken(tiny, written):
    far = CandidatePool(tiny, embeddings=1e3 * torch.arange(81.0)[:, None])  # nobody knows anything of another
    history = written([[3, 9]], [[90.0, 91.0]], capacity=4)
    strategy = CandidateBayesianSearch(num_initial=2, num_candidates=5)
    candidates = (history.uniforms(5) * 81).long()[0].tolist()
    assert not {3, 9} & set(candidates)
    assert strategy.propose(history, far).tolist() == candidates[:1]


def test_repeats_only_when_they_are_wanted(play, views):
    often = play(CandidateBayesianSearch(num_candidates=40), runs=3, capacity=30, over=views)
    never = play(CandidateBayesianSearch(num_candidates=40, repeats=False), runs=3, capacity=30, over=views)
    assert any(len(set(run)) < 30 for run in often.indices.tolist())
    assert all(len(set(run)) == 30 for run in never.indices.tolist())
    everything = play(CandidateBayesianSearch(repeats=False), runs=1, capacity=81, over=views)
    assert sorted(everything.indices[0].tolist()) == list(range(81))


def test_resumed_and_divided_it_is_the_same(make_benchmark, play, views, same):
    whole = play(CandidateBayesianSearch(), runs=4, capacity=18, over=views)
    strategy, stopped = CandidateBayesianSearch(), SearchHistory.empty(4, 18)
    for number, _ in enumerate(search_rounds(strategy, stopped, views, make_benchmark())):
        if number == 9:
            break
    saved = SearchHistory.from_state_dict(stopped.state_dict())
    for _ in search_rounds(CandidateBayesianSearch(), saved, views, make_benchmark()):
        pass
    same(saved, whole)
    part = SearchHistory.empty([1, 3], 18)
    for _ in search_rounds(strategy, part, views, make_benchmark()):  # one that has served other runs
        pass
    same(part, whole.rows([1, 3]))


def test_bad_arguments(tiny, written):
    for wrong in ({"lengthscale": 0.0}, {"noise": -1.0}, {"num_candidates": 0}, {"num_initial": 0}):
        with pytest.raises(UsageError, match="expected positive numbers"):
            CandidateBayesianSearch(**wrong)
    with pytest.raises(SearchStateError, match="needs the embeddings of a trained module"):
        CandidateBayesianSearch(num_initial=1).propose(written([[3]], [[90.0]], capacity=4), CandidatePool(tiny))
