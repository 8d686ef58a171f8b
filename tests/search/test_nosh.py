import itertools

import numpy as np
import pytest
import torch

from lightning_nas.benchmarks.base import Benchmark, Evaluations
from lightning_nas.errors import SearchStateError, UsageError
from lightning_nas.predictors.ranking import RankingMLP
from lightning_nas.search.history import SearchHistory, Status
from lightning_nas.search.loop import search_rounds
from lightning_nas.search.nosh import NOSH, _ranks
from lightning_nas.search.pool import CandidatePool
from lightning_nas.search.random import RandomSearch
from lightning_nas.spaces.encodings import Encoding, OneHotEncoding
from lightning_nas.spaces.nasbench201 import NASBench201

EPOCHS = (1, 4, 12)


class Curves(Benchmark):
    """Known learning curves: rank correlation with the end grows with the epochs, as it does in reality."""

    epochs, resumes = 12, True

    def __init__(self, space, failing=(), noise=6.0):
        self.space, self.failing, self.calls = space, frozenset(failing), []
        rng = np.random.default_rng(7)
        codes = space.codes.numpy()
        worth = rng.normal(size=(codes.shape[1], codes.max() + 1)) * 2
        self.final = 80 + worth[np.arange(codes.shape[1]), codes].sum(axis=1)
        self.wrong = noise * rng.normal(size=(13, len(space)))

    def score(self, numbers, epochs):
        return self.final[numbers] - 20 / epochs + self.wrong[epochs][numbers] * (12 - epochs) / 12 / epochs**0.5

    def evaluate(self, archs, epochs=None):
        at = epochs or self.epochs
        numbers = np.array([self.space.index(arch) for arch in archs])
        self.calls.append((len(archs), at))
        valid = torch.from_numpy(self.score(numbers, at))
        valid[[n in self.failing for n in numbers.tolist()]] = torch.nan
        return Evaluations(valid, torch.from_numpy(self.final[numbers]), torch.full_like(valid, 2.0 * at))

    def identity(self):
        return {"benchmark": "curves"}


class Worth(Encoding):
    """A proxy: what an architecture is worth in the end, with some noise."""

    def encode(self, space):
        final = Curves(space).final
        return torch.from_numpy(final + np.random.default_rng(1).normal(size=len(final)))[:, None]


def nosh(**arguments):
    ranker = RankingMLP(hidden_dim=16, num_steps=40)
    settings = {"ranker": ranker, "encoding": OneHotEncoding(), "num_initial": 16, "num_proposals": 6, "ratio": 0.5}
    return NOSH(EPOCHS, **settings | arguments)


def search(strategy, pool, benchmark, runs=2, capacity=60, budget=None, seed=0):
    history = SearchHistory.empty(runs, capacity, seed)
    for _ in search_rounds(strategy, history, pool, benchmark, budget=budget):
        pass
    return history


@pytest.fixture(scope="module")
def big():
    space = NASBench201()
    return CandidatePool(space)


def test_pyramid_sizes_after_each_update(tiny):
    strategy, pool = nosh(), CandidatePool(tiny)
    history = SearchHistory.empty(2, 16 + 8 + 4 + 3 * (6 + 3 + 1), 0)
    sizes = []
    for current in search_rounds(strategy, history, pool, Curves(tiny)):
        standings, _ = strategy.standings(current.prefix(current.length), pool)
        sizes.append([(standings.level[0] >= level).sum().item() for level in (1, 2, 3)])
    assert sizes[:3] == [[16, 0, 0], [16, 8, 0], [16, 8, 4]]
    assert sizes[3:] == [
        [22, 8, 4], [22, 11, 4], [22, 11, 5], [28, 11, 5], [28, 14, 5], [28, 14, 6], [34, 14, 6], [34, 17, 6],
        [34, 17, 7],
    ]  # fmt: skip


def test_one_call_for_each_level_of_a_round(tiny):
    benchmark = Curves(tiny)
    search(nosh(), CandidatePool(tiny), benchmark, runs=3, capacity=38)
    assert benchmark.calls == [(48, 1), (24, 4), (12, 12), (18, 1), (9, 4), (3, 12)]


@pytest.mark.parametrize("resume", [True, False])
def test_the_budget_is_the_formula(tiny, resume):
    strategy = nosh(resume=resume)
    history = search(strategy, CandidatePool(tiny), Curves(tiny))
    sizes = [(history.epochs[0] == epochs).sum().item() for epochs in EPOCHS]
    steps = (1, 3, 8) if resume else EPOCHS
    expected = sum(n * step for n, step in zip(sizes, steps, strict=True))
    assert strategy.budget(60) == expected
    assert history.charged.sum(dim=1).tolist() == [expected] * 2
    assert history.spent("epochs")[:, -1].tolist() == [expected] * 2
    # So are the seconds: what an earlier part of a training had cost is not paid again.
    assert history.cost.sum(dim=1).tolist() == [2.0 * expected] * 2


@pytest.mark.parametrize("budget", [1, 15, 16, 17, 100, 150])
def test_a_budget_is_never_exceeded_and_spent_as_far_as_it_goes(tiny, budget):
    strategy, benchmark = nosh(), Curves(tiny)
    history = search(strategy, CandidatePool(tiny), benchmark, capacity=90, budget=budget)
    length = history.length
    assert strategy.budget(length) <= budget < strategy.budget(length + 1)
    assert history.charged.sum(dim=1).tolist() == [strategy.budget(length)] * 2
    whole = search(nosh(), CandidatePool(tiny), Curves(tiny), capacity=90)
    assert torch.equal(history.indices[:, :length], whole.indices[:, :length])
    assert torch.equal(whole.within(epochs=budget).count, history.count)


def test_who_lost_before_is_promoted_later(tiny):
    """With newcomers that are all worse than the first losers, these go on when a place is free."""
    strategy = NOSH((1, 4), num_initial=8, num_proposals=4, ratio=0.5)
    pool = CandidatePool(tiny)
    history = SearchHistory.empty(1, 18, 0)

    class Falling(Curves):
        """The earlier one is trained, the better."""

        def evaluate(self, archs, epochs=None):
            seen = sum(call[0] for call in self.calls)
            self.calls.append((len(archs), epochs))
            values = torch.arange(100 - seen, 100 - seen - len(archs), -1).double()
            return Evaluations(values, values, values * 0 + 1)

    list(search_rounds(strategy, history, pool, Falling(tiny)))
    first, promoted, newcomers, later = (history.indices[0, s].tolist() for s in np.split(np.arange(18), [8, 12, 16]))
    assert promoted == first[:4]
    assert later == first[4:6]
    assert not set(newcomers) & set(first)
    assert strategy.revivals(history, pool).tolist() == [2]
    without = NOSH((1, 4), num_initial=8, num_proposals=4, ratio=0.5, revive=False)
    history = SearchHistory.empty(1, 18, 0)
    list(search_rounds(without, history, pool, Falling(tiny)))
    assert history.indices[0, 16:].tolist() == history.indices[0, 12:14].tolist()
    assert without.revivals(history, pool).tolist() == [0]


def test_promotions_go_by_the_accuracy_at_the_level_below(tiny):
    strategy, pool, benchmark = nosh(), CandidatePool(tiny), Curves(tiny)
    history = search(strategy, pool, benchmark, runs=1, capacity=28)
    first, second, third = history.indices[0, :16], history.indices[0, 16:24], history.indices[0, 24:28]
    by_first = torch.from_numpy(benchmark.score(first.numpy(), 1)).argsort(descending=True)
    assert torch.equal(second, first[by_first[:8]])
    by_second = torch.from_numpy(benchmark.score(second.numpy(), 4)).argsort(descending=True)
    assert torch.equal(third, second[by_second[:4]])


def test_failed_trainings_never_go_on(tiny):
    strategy, pool = nosh(), CandidatePool(tiny)
    history = search(strategy, pool, Curves(tiny, failing=range(0, 81, 3)))
    failed = history.status == Status.FAILED
    assert failed.any()
    assert (history.epochs[failed] == 1).all()


def test_random_newcomers_are_those_of_other_strategies(tiny, pool):
    history = search(NOSH((12,), num_initial=10), CandidatePool(tiny), Curves(tiny), capacity=10)
    other = SearchHistory.empty(2, 10, 0)
    list(search_rounds(RandomSearch(), other, pool, Curves(tiny)))
    assert torch.equal(history.indices, other.indices)


def test_level_zero_passes_the_best_part_on_and_keeps_the_rest(tiny):
    strategy, pool = nosh(proxy=Worth(), oversampling=3.0), CandidatePool(tiny)
    history = search(strategy, pool, Curves(tiny), capacity=28)
    standings, members = strategy.standings(history, pool)
    assert members.shape == (2, 48)
    proxies = Worth().encode(tiny)[:, 0][members]
    for run in range(2):
        lost = standings.level[run] == 0
        assert int(lost.sum()) == 32
        assert proxies[run][~lost].min() >= proxies[run][lost].max()
    torch.testing.assert_close(_ranks(torch.tensor([3.0, 1.0, 3.0, 2.0])).float(), torch.tensor([5, 0, 5, 2]) / 6)


def test_no_two_isomorphic_cells(big):
    space, strategy = big.space, nosh(num_initial=100, num_proposals=50)
    history = search(strategy, big, Curves(space), runs=1, capacity=250)
    fresh = history.indices[0][history.epochs[0] == 1]
    assert len(space.representatives[fresh].unique()) == len(fresh) > 100


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5, 7])
def test_a_search_that_was_killed_goes_on_exactly(tiny, same, stop):
    pool = CandidatePool(tiny)
    whole = search(nosh(proxy=Worth()), pool, Curves(tiny))
    half = SearchHistory.empty(2, 60, 0)
    for _ in itertools.islice(search_rounds(nosh(proxy=Worth()), half, pool, Curves(tiny)), stop):
        pass
    again = SearchHistory.from_state_dict(half.rows(slice(None)).state_dict())
    list(search_rounds(nosh(proxy=Worth()), again, pool, Curves(tiny)))
    same(again, whole)


def test_a_longer_search_goes_on_within_a_phase(tiny, same):
    pool = CandidatePool(tiny)
    whole = search(nosh(), pool, Curves(tiny), capacity=50)
    short = search(nosh(), pool, Curves(tiny), capacity=31)  # three of six newcomers
    longer = SearchHistory.empty(2, 50, 0)
    for name, value in short.state_dict().items():
        if name not in ("seed", "runs"):
            longer.state_dict()[name][:, :31] = value
    list(search_rounds(nosh(), longer, pool, Curves(tiny)))
    same(longer, whole)


def test_runs_do_not_depend_on_each_other(tiny, same):
    pool = CandidatePool(tiny)
    whole = search(nosh(), pool, Curves(tiny), runs=3)
    same(search(nosh(), pool, Curves(tiny), runs=[1]), whole.rows(slice(1, 2)))


def test_it_beats_full_training_at_equal_epochs(big):
    """On known curves, 20 runs: random search with 12 epochs for each architecture, and NOSH for the same in total."""
    benchmark, budget = Curves(big.space), 300
    ours = search(nosh(), big, benchmark, runs=20, capacity=200, budget=budget)
    full = search(RandomSearch(), big, benchmark, runs=20, capacity=25, budget=budget)
    ended = [h.test.gather(1, h.incumbents()[:, h.length - 1, None]).mean() for h in (ours, full)]
    assert ended[0] > ended[1] + 0.5


def test_running_evaluations_are_waited_for(tiny):
    strategy, pool = nosh(), CandidatePool(tiny)
    history = SearchHistory.empty(1, 60, 0)
    history.begin(strategy.ask(history, pool, 16), 1)
    with pytest.raises(SearchStateError, match="leave 'asynchronous' out"):
        strategy.ask(history, pool, 1)


def test_a_pool_can_be_too_small(tiny):
    pool = CandidatePool(tiny)
    with pytest.raises(SearchStateError, match="the pool has only 81"):
        search(nosh(num_initial=100), pool, Curves(tiny), capacity=100)
    with pytest.raises(SearchStateError, match="exhausted"):
        search(NOSH((1,), num_initial=80, num_proposals=4), pool, Curves(tiny), capacity=90)


@pytest.mark.parametrize(
    "arguments",
    [
        {"epochs": ()}, {"epochs": (4, 1)}, {"epochs": (0, 1)}, {"num_initial": 0}, {"num_proposals": 0},
        {"ratio": 1.0}, {"oversampling": 0.5}, {"noise": -1.0},
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_is_said(arguments):
    with pytest.raises(UsageError, match="expected"):
        NOSH(**{"epochs": EPOCHS} | arguments)
