import math
from concurrent.futures import Future

import numpy as np
import pytest
import torch

from lightning_nas.predictors.gp import GaussianProcess
from lightning_nas.search.bayesian import BayesianSearch
from lightning_nas.search.bohb import BOHB
from lightning_nas.search.categorical_reinforce import CategoricalReinforce
from lightning_nas.search.evolution import RegularizedEvolution
from lightning_nas.search.history import SearchHistory, Status
from lightning_nas.search.local import LocalSearch
from lightning_nas.search.loop import best_so_far, search_asynchronously, search_rounds
from lightning_nas.search.random import RandomSearch
from lightning_nas.search.reinforce import Reinforce
from lightning_nas.search.strategy import SearchStrategy
from lightning_nas.spaces.encodings import OneHotEncoding
from tests.scripted import Scripted, in_order_of
from tests.search.conftest import TinyBenchmark


def rounds(history, pool, benchmark, *args, **kwargs):
    return [current.length for current in search_rounds(RandomSearch(), history, pool, benchmark, *args, **kwargs)]


@pytest.mark.parametrize(("capacity", "q"), [(6, 1), (6, 2), (6, 6), (7, 3), (1, 1), (5, 9), (0, 2)])
def test_fills_the_history_exactly(pool, make_benchmark, capacity, q):
    benchmark, history = make_benchmark(), SearchHistory.empty(3, capacity)
    lengths = rounds(history, pool, benchmark, q)
    assert lengths == [min(capacity, (k + 1) * q) for k in range(math.ceil(capacity / q))]
    assert (history.status == Status.DONE).all()
    assert [len(call) for call in benchmark.calls] == [
        3 * (b - a) for a, b in zip([0, *lengths], lengths, strict=False)
    ]  # one call for all runs of a round


def test_scores_land_where_they_belong(pool, tiny, make_benchmark):
    history = SearchHistory.empty(3, 7)
    benchmark = make_benchmark(failing=range(0, 81, 4))
    rounds(history, pool, benchmark, 3)
    for run in range(3):
        for step in range(7):
            index = history.indices[run, step].item()
            assert history.cost[run, step] == index
            assert history.epochs[run, step] == 3
            if index % 4:
                assert history.valid[run, step] == pytest.approx(benchmark.score(tiny[index]))
                assert history.test[run, step] == pytest.approx(100 - benchmark.score(tiny[index]))
            else:
                assert history.status[run, step] == Status.FAILED
                assert history.valid[run, step].isnan()


def test_strategies_never_see_the_test_scores_of_what_runs(pool, make_benchmark):
    class Watcher(RandomSearch):
        def __init__(self):
            self.asked, self.told = [], []

        def ask(self, history, pool, q=1):
            self.asked.append((q, history.length))
            return super().ask(history, pool, q)

        def tell(self, history):
            self.told.append((history.length, bool(history.done[:, : history.length].all())))

    strategy = Watcher()
    list(search_rounds(strategy, SearchHistory.empty(2, 5), pool, make_benchmark(), 2))
    assert strategy.asked == [(2, 0), (2, 2), (1, 4)]
    assert strategy.told == [(2, True), (4, True), (5, True)]


def test_processes_without_runs_stay_in_step(pool, make_benchmark):
    benchmark = make_benchmark()
    busy, idle = SearchHistory.empty([0], 7), SearchHistory.empty([], 7)
    assert len(rounds(busy, pool, benchmark, 2)) == len(rounds(idle, pool, benchmark, 2)) == 4
    assert all(len(call) for call in benchmark.calls)
    # A resumed search: the idle process cannot see from its history how far it is.
    assert len(rounds(idle, pool, benchmark, 2, start=4)) == 2
    assert rounds(SearchHistory.empty([], 7), pool, benchmark, 2, start=7) == []


def test_continues_and_extends(pool, make_benchmark, same):
    whole, part = SearchHistory.empty(2, 9), SearchHistory.empty(2, 9)
    rounds(whole, pool, make_benchmark())
    iterator = search_rounds(RandomSearch(), part, pool, make_benchmark())
    for _ in range(4):
        next(iterator)
    assert part.length == 4
    benchmark = make_benchmark()
    assert rounds(part, pool, benchmark) == [5, 6, 7, 8, 9]
    assert len(benchmark.calls) == 5
    same(whole, part)
    assert rounds(part, pool, benchmark) == []


def test_best_so_far_by_hand(written):
    history = written([[1, 2, 3], [4, 5, 6], [7, 8, 9]], [[70.0, 90.0, 80.0], [None, 60.0, ...], [None, None, None]])
    history.test[:2, 1] = torch.tensor([55.0, 65.0])
    # Incumbents: 90 and 60; the third run has none.
    assert best_so_far(history) == (75.0, 60.0)
    assert best_so_far(history.prefix(1)) == (70.0, 30.0)
    # The test score is that of the best validation, not the best test score.
    history.test[0, 0] = 99.0
    assert best_so_far(history)[1] == 60.0


@pytest.mark.parametrize("runs", [0, 2])
def test_best_of_nothing(runs, written):
    assert all(map(math.isnan, best_so_far(SearchHistory.empty(runs, 4))))
    assert all(map(math.isnan, best_so_far(written([[1, 2]], [[None, ...]]))))


class ScriptedBenchmark(Scripted, TinyBenchmark):
    pass


class Learner(SearchStrategy):
    """Goes to where the scores that it was told point, each weighed by its turn: state that depends on the order."""

    def __init__(self):
        self.state = torch.zeros(0, 2, dtype=torch.float64)

    def propose(self, history, pool):
        start = (self.state[:, 0] * 1000).long() if len(self.state) else torch.zeros(len(history.runs)).long()
        start += 40 * history.runs
        tried = [set(row) for row in history.indices.tolist()]
        steps = zip(start.tolist(), tried, strict=True)
        return torch.tensor([next(i % 81 for i in range(s, s + 81) if i % 81 not in seen) for s, seen in steps])

    def tell(self, history):
        total, told = (self.state if len(self.state) else torch.zeros(len(history.runs), 2)).double().unbind(1)
        new = history.finished - told.long()
        assert new.sum() == 1
        latest = history.valid.nan_to_num().gather(1, (history.finished - 1).clamp_min(0)[:, None])[:, 0]
        self.state = torch.stack([total + new * history.finished * latest, told + new], dim=1)

    def state_dict(self):
        return {"state": self.state}

    def load_state_dict(self, state):
        self.state = state["state"]


STRATEGIES = {
    "random": RandomSearch,
    "evolution": lambda: RegularizedEvolution(4, 2),
    "local": LocalSearch,
    "gp": lambda: BayesianSearch(GaussianProcess((0.5, 2.0), (1e-2,)), encoding=OneHotEncoding(), num_initial=4),
    "shortlist": lambda: BayesianSearch(
        GaussianProcess((0.5, 2.0), (1e-2,)), encoding=OneHotEncoding(), num_initial=4, refit_every=3, shortlist=10
    ),
    "reinforce": lambda: Reinforce(episode_length=3, hidden_size=8, learning_rate=0.1),
    "categorical": CategoricalReinforce,
    "bohb": lambda: BOHB(num_startup=4, num_candidates=8),
    "learner": Learner,
}
FAILING = range(2, 81, 5)


@pytest.fixture(params=STRATEGIES)
def make(request):
    return STRATEGIES[request.param]


def at_random(seed):
    rng = np.random.default_rng(seed)
    return lambda pending: int(rng.integers(len(pending)))


def noting_doubts(choose, doubtful):
    return lambda pending: doubtful.append(len(set(pending)) < len(pending)) or choose(pending)


def scripted(tiny, history, at_once, choose, failing=FAILING):
    missing = int((history.status < Status.DONE).sum())
    return ScriptedBenchmark(tiny, failing).script(missing, at_once, choose)


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "learner"])
def test_one_at_a_time_is_the_search_in_rounds_of_one(name, play, pool, make_benchmark, same):
    history = SearchHistory.empty(3, 11)
    yielded = list(search_asynchronously(STRATEGIES[name](), history, pool, make_benchmark(FAILING)))
    assert len(yielded) == 33
    same(history, play(STRATEGIES[name](), runs=3, capacity=11, failing=FAILING))


@pytest.mark.parametrize("runs", [1, 2])
def test_a_search_that_goes_on_is_the_one_that_was_not_stopped(make, runs, tiny, pool, same, tmp_path):
    # Where both runs wait for the same architecture, the order of architectures leaves open whose ends first: take a
    # seed with which that never happens.
    doubtful, seed = [True], -1
    while any(doubtful):
        seed, doubtful = seed + 1, []
        whole = SearchHistory.empty(runs, 12, seed)
        undisturbed = scripted(tiny, whole, 3, noting_doubts(at_random(0), doubtful))
        list(search_asynchronously(make(), whole, pool, undisturbed))
    assert (whole.arrival != torch.arange(12)).any()
    for stop in (1, 4, 12 * runs - 2):
        history, strategy, ended = SearchHistory.empty(runs, 12, seed), make(), []
        for length in (stop, 12 * runs - stop):
            benchmark = scripted(tiny, history, 3, in_order_of(undisturbed.ended[len(ended) :]))
            running = pool.architectures(history.indices[history.status == Status.RUNNING])
            search = search_asynchronously(strategy, history, pool, benchmark)
            for _ in range(length):
                torch.save({"history": next(search).state_dict(), "learned": strategy.state_dict()}, tmp_path / "s.pt")
            assert benchmark.submitted[: len(running)] == running
            saved = torch.load(tmp_path / "s.pt", weights_only=True)
            history, strategy = SearchHistory.from_state_dict(saved["history"]), make()
            strategy.load_state_dict(saved["learned"])
            ended = undisturbed.ended[:stop]
        same(history, whole)


def test_workers_are_never_idle_and_fairly_divided(tiny, pool):
    history = SearchHistory.empty(3, 7)
    benchmark = scripted(tiny, history, 4, at_random(3))
    for arrived, current in enumerate(search_asynchronously(RandomSearch(), history, pool, benchmark), start=1):
        running = (current.status == Status.RUNNING).sum(dim=1)
        assert current.finished.sum() == arrived
        assert running.sum() == min(4, 21 - arrived)
        if (current.count < 7).all():
            assert running.max() - running.min() <= 1
    assert all(len(set(row)) == 7 for row in history.indices.tolist())
    for row in range(3):
        assert sorted(history.arrival[row].tolist()) == list(range(7))


def test_scores_land_where_they_belong_in_whatever_order_they_come(tiny, pool):
    history = SearchHistory.empty(2, 9)
    benchmark = scripted(tiny, history, 4, lambda pending: len(pending) - 1)  # the last comes first
    list(search_asynchronously(RandomSearch(), history, pool, benchmark))
    assert torch.equal(history.cost, history.indices.double())
    failed = torch.isin(history.indices, torch.tensor(FAILING))
    assert torch.equal(history.status == Status.FAILED, failed)
    assert (history.valid[~failed] == 100 - history.test[~failed]).all()
    assert history.arrival[:, 0].tolist() == [8, 8]  # the first pair waits to the end


def test_strategies_see_the_order_of_arrival(tiny, pool):
    seen = []

    class Watcher(RandomSearch):
        def propose(self, history, pool):
            assert len(history.runs) == 1
            done = int(history.finished)
            assert history.arrival[0].tolist()[:done] == list(range(done))
            assert (history.status[0, done : int(history.count)] == Status.RUNNING).all()
            seen.append(done)
            return super().propose(history, pool)

    history = SearchHistory.empty(1, 8)
    list(search_asynchronously(Watcher(), history, pool, scripted(tiny, history, 3, at_random(5))))
    assert seen == [0, 0, 0, 1, 2, 3, 4, 5]


def test_processes_with_other_runs_take_as_many_steps(tiny, pool):
    busy, idle = SearchHistory.empty([0, 2], 4), SearchHistory.empty([], 4)
    benchmark = scripted(tiny, busy, 2, at_random(1))
    assert len(list(search_asynchronously(RandomSearch(), busy, pool, benchmark, steps=12))) == 12
    assert len(list(search_asynchronously(RandomSearch(), idle, pool, benchmark, steps=12))) == 12
    assert (busy.status >= Status.DONE).all()


def test_an_evaluation_that_cannot_be_made_ends_the_search(tiny, pool):
    class Broken(TinyBenchmark):
        def submit(self, arch, epochs=None):
            future = Future()
            future.set_exception(KeyError("no workers"))
            return future

    history = SearchHistory.empty(1, 3)
    with pytest.raises(KeyError, match="no workers"):
        list(search_asynchronously(RandomSearch(), history, pool, Broken(tiny)))
    assert not history.done.any()


class Longer(RandomSearch):
    """Even members are trained for 9 epochs, odd ones for 1."""

    def fidelity(self, history, chosen):
        return torch.where(chosen % 2 == 0, 9, 1)


class Fidelities(TinyBenchmark):
    """Scores say how long was trained."""

    def evaluate(self, archs, epochs=None):
        self.asked = [*getattr(self, "asked", []), (epochs, len(archs))]
        valid, test, cost = super().evaluate(archs, epochs)
        return valid.fill_(epochs), test, cost


def test_a_strategy_may_say_how_long_to_train(tiny, pool):
    benchmark, history = Fidelities(tiny), SearchHistory.empty(4, 9)
    for _ in search_rounds(Longer(), history, pool, benchmark, 3):
        pass
    assert torch.equal(history.epochs, torch.where(history.indices % 2 == 0, 9, 1))
    assert torch.equal(history.valid, history.epochs.double())
    assert torch.equal(history.cost, history.indices.double())  # scores are where they belong
    assert len(benchmark.asked) <= 6  # one call for each number of epochs and round
    alone = SearchHistory.empty(4, 9)
    list(search_asynchronously(Longer(), alone, pool, Fidelities(tiny)))
    assert torch.equal(alone.valid, history.valid)
    assert torch.equal(alone.epochs, history.epochs)


def test_batches_know_how_long_their_own_members_are_trained(pool):
    class Watcher(Longer):
        def propose(self, history, pool):
            seen.append(history.epochs.tolist())
            return super().propose(history, pool)

    seen, history = [], SearchHistory.empty(1, 4)
    first, second = Watcher().ask(history, pool, 2)[0].tolist()
    assert seen == [[[0] * 4], [[9 if first % 2 == 0 else 1, 0, 0, 0]]]
    assert first != second
