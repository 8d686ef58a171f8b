import math

import pytest
import torch

from lightning_nas.search.history import SearchHistory, Status
from lightning_nas.search.loop import best_so_far, search_rounds
from lightning_nas.search.random import RandomSearch


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
