import numpy as np
import pytest
import torch

from lightning_nas.benchmarks.base import Benchmark, Evaluations
from lightning_nas.errors import UsageError
from lightning_nas.nn.inner_loop import InnerLoop, InnerSGD
from lightning_nas.nn.motif_cell import RecurrentNetwork
from lightning_nas.predictors.generated_search import GeneratedSearch, PartialEvaluationSearch
from lightning_nas.predictors.generators import RandomGenerator
from lightning_nas.predictors.petri_dish import PetriDishPredictor
from lightning_nas.predictors.predictor import FittedPredictor, Predictor, Regression
from lightning_nas.predictors.targets import Raw
from lightning_nas.search.history import SearchHistory
from lightning_nas.search.loop import search_rounds
from lightning_nas.search.pool import CandidatePool
from lightning_nas.spaces.recurrent_cell import RecurrentCell
from lightning_nas.spaces.subset import RandomSubset

SPACE = RandomSubset(RecurrentCell(), 60)


class IdentityCount(Benchmark):
    """The more identities, the better; epochs make it less noisy."""

    space, epochs = SPACE, 2

    def evaluate(self, archs, epochs=None):
        noise = 0.0 if epochs in (None, 2) else 0.4
        values = torch.tensor([
            arch[1::2].count(2) + noise * np.sin(sum(arch) * 7.3) + 1e-3 * SPACE.index(arch) for arch in archs
        ]).double()  # fmt: skip
        return Evaluations(values, values - 1, torch.ones_like(values))

    def identity(self):
        return {"benchmark": "identities"}


class Knowing(Predictor):
    """Knows the truth."""

    def fit(self, space, members, accuracies, seed=0):
        class Truth(Regression):
            def __call__(self, asked):
                return IdentityCount().evaluate([space[i] for i in asked.tolist()]).valid

        return FittedPredictor(Truth(), Raw().fit(accuracies))


def search(strategy, runs=3, capacity=16, batch=4, seed=0):
    history = SearchHistory.empty(runs, capacity, seed)
    for _ in search_rounds(strategy, history, CandidatePool(SPACE), IdentityCount(), batch):
        pass
    return history


def dish():
    network = RecurrentNetwork(2, 3, 2, num_samples=3, length=2)
    return PetriDishPredictor(network, InnerLoop(InnerSGD(0.5), 3), num_dishes=1, stages=[(3, 0.05)])


def test_what_a_knowing_predictor_likes_is_evaluated():
    history = search(GeneratedSearch(predictor=Knowing(), num_initial=8))
    best = IdentityCount().evaluate(list(SPACE)).valid.argsort(descending=True)
    for run in range(3):
        left = [i for i in best.tolist() if i not in history.indices[run, :8].tolist()]
        assert history.indices[run, 8:].tolist() == left[:8]
        assert len(set(history.indices[run].tolist())) == 16


def test_random_starts_are_those_of_random_search_and_unguided_ones_are_not_the_best():
    history = search(GeneratedSearch(predictor=Knowing(), num_initial=8, num_unguided=2))
    guided = search(GeneratedSearch(predictor=Knowing(), num_initial=8))
    assert torch.equal(history.indices[:, :8], guided.indices[:, :8])
    assert torch.equal(history.indices[:, 8:10], guided.indices[:, 8:10])
    assert not torch.equal(history.indices[:, 10:12], guided.indices[:, 10:12])


def test_dishes_of_all_runs_side_by_side_are_those_of_each_run():
    strategy = GeneratedSearch(predictor=dish(), num_initial=8, num_candidates=20)
    together = search(strategy)
    alone = search(strategy, runs=[1])
    assert torch.equal(together.indices[1:2], alone.indices)
    assert torch.equal(search(strategy).indices, together.indices)


def test_runs_that_know_less_are_a_group_of_their_own():
    strategy = GeneratedSearch(predictor=dish(), num_initial=4)
    history = search(GeneratedSearch(RandomGenerator(), num_initial=8), capacity=8)
    history.status[1, 6:] = 3  # failed
    history.valid[1, 6:] = torch.nan
    longer = SearchHistory.empty(3, 12, 0)
    for name, values in longer._columns().items():
        values[:, :8] = getattr(history, name)
    chosen = strategy.ask(longer, CandidatePool(SPACE), 3)
    assert chosen.shape == (3, 3)
    for run in range(3):
        assert not set(chosen[run].tolist()) & set(history.indices[run].tolist())


def test_partial_evaluation_trains_the_best_screened_ones_fully():
    history = search(PartialEvaluationSearch(num_screened=12), capacity=16, batch=4)
    assert (history.epochs[:, :12] == 1).all()
    assert (history.epochs[:, 12:] == 2).all()
    for run in range(3):
        order = history.valid[run, :12].argsort(descending=True)
        assert history.indices[run, 12:].tolist() == history.indices[run, order[:4]].tolist()


def test_what_cannot_be_is_said():
    with pytest.raises(UsageError, match="num_initial of 2 or more"):
        GeneratedSearch(num_initial=1)
    with pytest.raises(UsageError, match="fewer epochs"):
        PartialEvaluationSearch(epochs=2)
