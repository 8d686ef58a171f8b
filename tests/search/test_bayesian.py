import numpy as np
import pytest
import torch

from lightning_nas.errors import SearchStateError, UsageError
from lightning_nas.predictors.dngo import DNGO
from lightning_nas.predictors.gp import GaussianProcess
from lightning_nas.predictors.surrogate import RunModel
from lightning_nas.search.acquisition import Acquisition, LogEI
from lightning_nas.search.bayesian import BayesianSearch
from lightning_nas.search.pool import CandidatePool
from lightning_nas.search.random import RandomSearch
from lightning_nas.spaces.encodings import OneHotEncoding


class SumModel(RunModel):
    """Predicts 200 plus 10 times the sum of a candidate's features: more than any score."""

    def joint(self, points):
        return 200 + 10 * points.sum(-1), torch.eye(points.shape[1]).expand(len(points), -1, -1)


class Spy(Acquisition):
    """Surrogate and acquisition that write down what they are given; the choice is the last candidate not visited."""

    def __init__(self):
        self.fits, self.choices = [], []

    def fit(self, X, y, observed, seeds):
        self.fits.append((X, y.clone(), observed.clone(), seeds))
        return SumModel(torch.zeros(len(X)), torch.ones(len(X)))

    def choose(self, model, best, features, visited, seeds, among=None):
        self.choices.append((best, visited.clone(), seeds))
        left = [max(set(range(len(features))) - set(row)) for row in visited.tolist()]
        return torch.tensor(left)


def ask(written, pool, indices, valid, **kwargs):
    spy = Spy()
    strategy = BayesianSearch(spy, spy, OneHotEncoding(), num_initial=3)
    history = written(indices, valid, capacity=8, **kwargs)
    return spy, strategy.propose(history, pool).tolist(), history


def test_the_first_ones_are_random(play):
    strategy = BayesianSearch(GaussianProcess(), encoding=OneHotEncoding(), num_initial=6)
    assert torch.equal(play(strategy, capacity=7).indices[:, :6], play(RandomSearch(), capacity=6).indices)
    # From the seventh on they part.
    assert not torch.equal(play(strategy, capacity=9).indices, play(RandomSearch(), capacity=9).indices)


def test_the_surrogate_sees_validation_scores(pool, written):
    spy, chosen, history = ask(written, pool, [[4, 9, 80], [1, 2, 0]], [[91.0, 95.0, 93.0], [70.0, None, 60.0]])
    ((X, y, observed, seeds),) = spy.fits
    features = pool.features(OneHotEncoding())
    assert torch.equal(X, features[history.indices[:, :3]])
    assert y[0].tolist() == [91.0, 95.0, 93.0]
    assert observed.tolist() == [[True] * 3, [True, False, True]]
    assert y[1, 0] == 70.0
    assert torch.equal(seeds, history.uniforms(2)[:, 1])
    ((best, visited, draws),) = spy.choices
    assert best.tolist() == [95.0, 70.0]
    assert best.dtype == features.dtype
    assert visited.tolist() == [[4, 9, 80], [1, 2, 0]]
    assert torch.equal(draws, history.uniforms(2)[:, 0])
    assert chosen == [79, 80]


def test_running_evaluations_stand_in_with_the_surrogates_mean(pool, written):
    spy, _, history = ask(written, pool, [[4, 9, 80], [1, 2, 0]], [[91.0, ..., 93.0], [70.0, None, ...]])
    (_, _, first, _), (X, y, second, seeds) = spy.fits
    assert first.tolist() == [[True, False, True], [True, False, False]]
    assert second.tolist() == [[True, True, True], [True, False, True]]
    believed = 200 + 10 * X.sum(-1)
    np.testing.assert_allclose(y[0], [91.0, believed[0, 1], 93.0], rtol=1e-6)
    np.testing.assert_allclose(y[1, [0, 2]], [70.0, believed[1, 2]], rtol=1e-6)
    assert y[1, 1].isnan()
    assert spy.choices[0][0].tolist() == [93.0, 70.0]  # what is believed is no incumbent
    assert history.valid[0, 1].isnan()
    assert torch.equal(seeds, spy.fits[0][3])


def test_empty_places_repeat_a_visited_one(pool, written):
    spy, _, _ = ask(written, pool, [[4, 9, 80, 3], [1, 2, 0]], [[91.0] * 4, [70.0] * 3])
    assert spy.choices[0][1].tolist() == [[4, 9, 80, 3], [1, 2, 0, 1]]
    assert spy.fits[0][2].tolist() == [[True] * 4, [True] * 3 + [False]]


def test_random_where_nothing_has_a_score(pool, written):
    spy, chosen, history = ask(written, pool, [[4, 9, 80], [1, 2, 0]], [[None, ..., None], [70.0, None, 60.0]])
    assert torch.isfinite(spy.choices[0][0]).all()
    assert chosen[0] == RandomSearch().propose(history, pool)[0]
    assert chosen[1] == 80


def test_a_batch_believes_in_its_first_members(pool, written, scores):
    visited = [*range(10), 30, 31]
    history = written([visited], [scores[visited].tolist()], capacity=20)
    features, encoding = pool.features(OneHotEncoding()), OneHotEncoding()
    surrogate = GaussianProcess((1.0,), (1e-2,))  # the believed scores must not change length scale and noise

    def fit(members, values):
        y = torch.tensor([values], dtype=torch.float64)
        return surrogate.fit(features[members][None], y, torch.ones_like(y, dtype=torch.bool), torch.zeros(1))

    chosen = BayesianSearch(surrogate, LogEI(), encoding, num_initial=4).ask(history, pool, 4)[0].tolist()
    for number, choice in enumerate(chosen):
        earlier = chosen[:number]
        believed = fit(visited, scores[visited].tolist()).posterior(features[None, earlier]).mean[0, :, 0].tolist()
        model = fit(visited + earlier, scores[visited].tolist() + believed)
        values = LogEI().function(model, scores[visited].max()[None, None].float())(features[:, None, None])[:, 0]
        values[visited + earlier] = -torch.inf
        assert choice == values.argmax()


@pytest.mark.parametrize("surrogate", [GaussianProcess(), DNGO(hidden_size=32, num_steps=60)], ids=["gp", "dngo"])
def test_finds_the_best_sooner_than_chance(play, scores, surrogate):
    history = play(BayesianSearch(surrogate, encoding=OneHotEncoding(), num_initial=8), runs=8, capacity=24)
    found = (history.indices == scores.argmax()).any(dim=1).sum().item()
    # By chance a run of 24 finds it with probability 24 / 81.
    assert found >= 7


def test_whose_features(tiny):
    assert not BayesianSearch(GaussianProcess(), encoding=OneHotEncoding()).needs_embeddings
    assert BayesianSearch(GaussianProcess()).needs_embeddings
    assert isinstance(BayesianSearch(GaussianProcess()).acquisition, LogEI)
    assert BayesianSearch(GaussianProcess()).num_initial == 16


def test_an_untrained_module_is_named(tiny, written):
    history = written([[0, 1]], [[90.0, 91.0]], capacity=3)
    with pytest.raises(SearchStateError, match="needs the embeddings of a trained module"):
        BayesianSearch(GaussianProcess(), num_initial=2).propose(history, CandidatePool(tiny))


def test_two_evaluations_are_needed():
    with pytest.raises(UsageError, match="num_initial=1"):
        BayesianSearch(GaussianProcess(), num_initial=1)
    with pytest.raises(UsageError, match="refit_every=5, shortlist=5"):
        BayesianSearch(GaussianProcess(), refit_every=5, shortlist=5)


@pytest.mark.parametrize("surrogate", [GaussianProcess(), DNGO(hidden_size=16, num_steps=20)], ids=["gp", "dngo"])
@pytest.mark.parametrize("running", [0, 1])
def test_between_fits_the_last_one_chooses_from_its_shortlist(pool, written, scores, surrogate, running):
    encoding = OneHotEncoding()
    features = pool.features(encoding)
    rows = torch.tensor([[*range(10), 30, 31, 40], [*range(20, 30), 50, 51, 60]])
    values = [[*row[:-1], ... if running else row[-1]] for row in scores[rows].tolist()]
    history = written(rows.tolist(), values, capacity=20)
    strategy = BayesianSearch(surrogate, LogEI(), encoding, 4, winsorise=False, refit_every=5, shortlist=8)
    chosen = strategy.propose(history, pool)

    base = surrogate.fit(
        features[rows[:, :10]], scores[rows[:, :10]], torch.ones(2, 10, dtype=torch.bool),
        history.prefix(10).uniforms(2)[:, 1],
    )  # fmt: skip
    known = 13 - running
    X, y, observed = features[rows], scores[rows].clone(), torch.ones(2, 13, dtype=torch.bool)
    if running:
        before = observed.clone()
        before[:, -1] = False
        y[:, -1] = base.condition(X, y, before).posterior(X).mean[:, -1, 0].double()
    model = base.condition(X, y, observed)
    for run in range(2):

        def ranking(model, best, run=run):
            points = features[:, None, None].expand(-1, 2, 1, -1)
            return LogEI().function(model, best[:, None].float())(points)[:, run]

        first = ranking(base, scores[rows[:, :10]].amax(1))
        first[rows[run, :10]] = -torch.inf
        shortlist = first.topk(8).indices
        then = ranking(model, scores[rows[:, :known]].amax(1))[shortlist]
        then[torch.isin(shortlist, rows[run])] = -torch.inf
        assert chosen[run] == shortlist[then.argmax()]


def test_a_batch_larger_than_the_shortlist_repeats_nothing(play):
    strategy = BayesianSearch(GaussianProcess(), encoding=OneHotEncoding(), num_initial=4, refit_every=2, shortlist=4)
    history = play(strategy, runs=2, capacity=28, q=12)
    assert all(len(set(row)) == 28 for row in history.indices.tolist())


def test_a_fit_is_kept_until_the_next_is_due_and_never_for_another_history(pool, written, scores):
    class Counting(GaussianProcess):
        fits = 0

        def fit(self, *args):
            Counting.fits += 1
            return super().fit(*args)

    strategy = BayesianSearch(Counting(), encoding=OneHotEncoding(), num_initial=4, refit_every=5, shortlist=20)
    for length, expected in ((10, 1), (11, 1), (14, 1), (15, 2), (16, 2)):
        members = list(range(length))
        strategy.propose(written([members], [scores[members].tolist()], capacity=20), pool)
        assert Counting.fits == expected
    members = [80, *range(1, 17)]
    strategy.propose(written([members], [scores[members].tolist()], capacity=20), pool)
    assert Counting.fits == 3


def test_directions_reach_the_surrogate(tiny, written):
    seen = []

    class Watching(GaussianProcess):
        def fit(self, X, y, observed, seeds):
            seen.append(X)
            return super().fit(X, y, observed, seeds)

    embeddings = torch.randn(81, 6, generator=torch.Generator().manual_seed(0))
    pool = CandidatePool(tiny, embeddings=embeddings)
    history = written([[3, 9, 40]], [[90.0, 91.0, 88.0]], capacity=5)
    BayesianSearch(Watching(), num_initial=2, directions=2).propose(history, pool)
    assert torch.equal(seen[0][0], pool.features(None, 2)[[3, 9, 40]])
    for wrong in ({"directions": 0}, {"directions": 2, "encoding": OneHotEncoding()}):
        with pytest.raises(UsageError, match="directions are those of embeddings"):
            BayesianSearch(GaussianProcess(), **wrong)
