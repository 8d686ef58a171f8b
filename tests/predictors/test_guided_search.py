import numpy as np
import pytest
import torch

from lightning_nas.errors import UsageError
from lightning_nas.predictors.guided_search import PredictorGuidedSearch
from lightning_nas.search.history import SearchHistory
from lightning_nas.search.pool import CandidatePool
from lightning_nas.search.random import RandomSearch
from tests.contract import TinySpace

SPACE = TinySpace()
SCORES = torch.from_numpy(np.random.default_rng(0).permutation(81).astype(float))


class Oracle:
    """Knows every score; notes what it was fitted to."""

    def __init__(self):
        self.fits = []

    def fit(self, space, members, accuracies, seed=0):
        self.fits.append((members.tolist(), accuracies.tolist(), seed))
        return self

    def predict(self, members):
        return SCORES[members]


def evaluated(strategy, runs=2, rounds=6, q=3, pool=None, capacity=60):
    pool = pool or CandidatePool(SPACE)
    history = SearchHistory.empty(runs, capacity, seed=5)
    for _ in range(rounds):
        chosen = strategy.ask(history, pool, q)
        scores = SCORES[pool.members[chosen]]
        history.complete(history.begin(chosen, 1), scores, scores, scores)
    return history


def test_it_begins_as_random_search_does():
    mine = evaluated(PredictorGuidedSearch(Oracle(), num_initial=9), rounds=3)
    other = evaluated(RandomSearch(), rounds=3)
    assert torch.equal(mine.indices, other.indices)


def test_it_evaluates_the_best_predicted_of_all_when_all_are_candidates():
    oracle = Oracle()
    history = evaluated(PredictorGuidedSearch(oracle, num_initial=6, num_random=81), rounds=4)
    for run in range(2):
        start = set(history.indices[run, :6].tolist())
        rest = sorted(set(range(81)) - start, key=lambda i: -SCORES[i])
        assert history.indices[run, 6:12].tolist() == rest[:6]
        members, accuracies, _ = oracle.fits[run]
        assert members == history.indices[run, :6].tolist()
        assert accuracies == SCORES[members].tolist()
    assert len(oracle.fits) == 4
    assert len({seed for *_, seed in oracle.fits}) == 4


def test_neighbours_of_the_best_are_candidates():
    pool = CandidatePool(SPACE)
    history = evaluated(PredictorGuidedSearch(Oracle(), num_initial=6, num_random=1, num_parents=1), rounds=2, q=6)
    for run in range(2):
        start = history.indices[run, :6].tolist()
        best = max(start, key=lambda i: SCORES[i])
        near = [i for i in pool.neighbors[best].tolist() if i not in start]
        chosen = history.indices[run, 6:12].tolist()
        assert len(set(chosen) - set(near)) <= 1


def test_nothing_is_evaluated_twice_and_small_pools_are_used_up():
    part = CandidatePool(SPACE, members=torch.arange(3, 30))
    history = evaluated(PredictorGuidedSearch(Oracle(), num_initial=4, num_random=2, num_parents=1), 3, 9, 3, part, 27)
    for run in range(3):
        assert sorted(history.indices[run].tolist()) == list(range(27))


def test_runs_do_not_depend_on_each_other():
    whole = evaluated(PredictorGuidedSearch(Oracle(), num_initial=6, num_random=4))
    alone = SearchHistory.empty([1], 60, seed=5)
    strategy, pool = PredictorGuidedSearch(Oracle(), num_initial=6, num_random=4), CandidatePool(SPACE)
    for _ in range(6):
        chosen = strategy.ask(alone, pool, 3)
        alone.complete(alone.begin(chosen, 1), *[SCORES[chosen]] * 3)
    assert torch.equal(alone.indices[0], whole.indices[1])


def test_what_cannot_be_is_said():
    with pytest.raises(UsageError, match="num_initial of 2"):
        PredictorGuidedSearch(Oracle(), num_initial=1)
