import math

import pytest
import torch

from lightning_nas.errors import SearchStateError
from lightning_nas.predictors.surrogate import RunModel
from lightning_nas.search.random import RandomSearch
from lightning_nas.search.reference_bayesian import ReferenceBayesianSearch, ReferenceEI
from lightning_nas.spaces.encodings import OneHotEncoding


class Model(RunModel):
    """Mean 60 plus 20 times the first feature, standard deviation 10 times the second."""

    def __init__(self, runs):
        super().__init__(torch.zeros(runs), torch.ones(runs))

    def marginal(self, points):
        mean, variance = 60 + 20 * points[:, 0], (10 * points[:, 1]).square()
        return mean.expand(len(self.location), -1), variance.expand(len(self.location), -1)


class Surrogate:
    def __init__(self):
        self.seen = []

    def fit(self, X, y, observed, seeds):
        self.seen.append((y.clone(), observed.clone()))
        return Model(len(X))


def test_the_variance_stands_for_the_deviation():
    points = torch.rand(50, 2) + 0.5
    values = ReferenceEI(95).scores(Model(2), torch.zeros(2), points, 1)
    for row, (a, b) in enumerate(points.double().tolist()):
        mean, sigma = (60 + 20 * a) / 100, (10 * b / 100) ** 2
        z = (mean - 0.95) / sigma
        expected = sigma * (z * math.erfc(-z / math.sqrt(2)) / 2 + math.exp(-(z**2) / 2) / math.sqrt(2 * math.pi))
        if expected > 1e-30:
            assert values[0, row].item() == pytest.approx(math.log(expected), abs=2e-2, rel=2e-3)
    assert torch.equal(values[0], values[1])
    assert values.isfinite().all()


def strategy(**arguments):
    return ReferenceBayesianSearch(Surrogate(), 95, OneHotEncoding(), num_initial=4, **arguments)


def test_a_batch_is_the_best_at_once_and_may_repeat(pool, written):
    searching, features = strategy(), pool.features(OneHotEncoding())
    values = ReferenceEI(95).scores(Model(1), torch.zeros(1), features, 1)[0]
    best = (values == values.max()).nonzero()[:, 0].tolist()  # all with the same choice at the first position
    assert len(best) == 27
    history = written([best], [[90.0, 20.0, ..., None, *[50.0] * 23]], capacity=40)
    chosen = searching.ask(history, pool, 5)[0].tolist()
    assert len(set(chosen)) == 5
    assert set(chosen) <= set(best)
    ((y, observed),) = searching.surrogate.seen  # once for the batch
    assert y[0, :2].tolist() == [90.0, 20.0]  # as they are
    assert observed[0, :5].tolist() == [True, True, False, False, True]
    assert not set(strategy(repeats=False).ask(history, pool, 5)[0].tolist()) & set(best)


def test_repeats_are_charged(play):
    history = play(strategy(), capacity=20, q=5)
    assert torch.equal(history.indices[:, :5], play(RandomSearch(), capacity=5, q=5).indices)
    assert (history.count == 20).all()
    assert all(len(set(row)) <= 10 for row in history.indices.tolist())


def test_random_until_there_is_a_score(pool, written):
    history = written([[3, 8, 5, 1], [2, 4, 6, 7]], [[None] * 4, [90.0] * 4], capacity=8)
    chosen = strategy().ask(history, pool, 2)
    assert torch.equal(chosen[:1], RandomSearch().ask(history, pool, 2)[:1])


def test_the_end_of_the_pool_without_repeats(written, pool):
    history = written([list(range(80))], [[90.0] * 80], capacity=82)
    with pytest.raises(SearchStateError, match="exhausted"):
        strategy(repeats=False).ask(history, pool, 2)
