import sys

import numpy as np
import pytest
import torch
from optuna.samplers import TPESampler

from lightning_nas.errors import SearchStateError, UsageError
from lightning_nas.search.bohb import BOHB, _nearest
from lightning_nas.search.history import SearchHistory, Status
from lightning_nas.search.loop import search_rounds
from lightning_nas.search.random import RandomSearch
from tests.search.conftest import TinyBenchmark


class Fidelities(TinyBenchmark):
    """Shorter training scores lower, with an error."""

    def evaluate(self, archs, epochs=None):
        valid, test, cost = super().evaluate(archs, epochs)
        short = {1: 30, 3: 10, 9: 0}[epochs]
        return valid - short + 0.1 * short * torch.sin(cost), test, cost


@pytest.fixture
def search(tiny, pool):
    def run(runs=3, capacity=40, q=1, epochs=(1, 3, 9), seed=0, **arguments):
        history = SearchHistory.empty(runs, capacity, seed)
        strategy = BOHB(epochs, num_startup=5, num_candidates=8, **arguments)
        for _ in search_rounds(strategy, history, pool, Fidelities(tiny), q):
            pass
        return history

    return run


def entries(history, run):
    return list(zip(*(getattr(history, name)[run].tolist() for name in ("indices", "epochs", "valid")), strict=True))


def test_nobody_is_trained_twice_as_long_and_all_go_up_one_level_at_a_time(search):
    history = search(q=3)
    for run in range(3):
        seen = {}
        for member, epochs, _ in entries(history, run):
            if member in seen:
                assert epochs == {1: 3, 3: 9}[seen[member]]
            seen[member] = epochs
    assert (history.status == Status.DONE).all()


def test_the_best_third_goes_on(search):
    history = search(runs=4, capacity=60)
    for run in range(4):
        rungs, bracket, promoted = {}, {}, []
        for member, epochs, score in entries(history, run):
            if member in bracket:
                assert (member, epochs) == promoted.pop(0)  # before any newcomer
            else:
                assert not promoted
            start = bracket.setdefault(member, epochs)
            rung = rungs.setdefault((start, epochs), [])
            rung.append(score)
            if epochs < 9 and score >= sorted(rung, reverse=True)[max(1, len(rung) // 3) - 1]:
                promoted.append((member, epochs * 3))


def test_brackets_begin_as_often_as_in_hyperband():
    strategy = BOHB((12, 200))
    begins = np.bincount([strategy._bracket(u) for u in np.linspace(0, 1, 1001)[:-1]], minlength=2)
    assert begins.tolist() == [600, 400]  # three newcomers for two
    assert {strategy._bracket(0.0), BOHB((5,))._bracket(0.999)} == {0}


def test_one_fidelity_begins_at_random_and_finds_more(play, scores):
    strategy = BOHB(num_startup=8)
    history, chance = play(strategy, runs=6, capacity=30), play(RandomSearch(), runs=6, capacity=30)
    assert torch.equal(history.indices[:, :8], chance.indices[:, :8])
    assert (history.epochs == TinyBenchmark.epochs).all()
    assert history.valid[:, 8:].mean() > chance.valid[:, 8:].mean() + 0.3


def test_every_draw_knows_all_scores(play, monkeypatch):
    ask, seen = TPESampler.sample_relative, []

    def spy(self, study, trial, space):
        answer = ask(self, study, trial, space)
        trials = study._get_trials(deepcopy=False, use_cache=True)  # what the sampler itself had
        seen.append([trial.value for trial in trials])
        return answer

    monkeypatch.setattr(TPESampler, "sample_relative", spy)
    history = play(BOHB(num_startup=4), runs=1, capacity=12)
    assert seen == [history.valid[0, :count].tolist() for count in range(12)]


@pytest.mark.parametrize("q", [1, 4])
def test_goes_on_from_the_history_alone(search, tiny, pool, same, q):
    whole = search(runs=2, capacity=24, q=q)
    part = search(runs=2, capacity=12, q=q)
    history = SearchHistory.empty(2, 24)
    for name in part.state_dict().keys() - {"seed", "runs"}:
        getattr(history, name)[:, :12] = getattr(part, name)
    for _ in search_rounds(BOHB((1, 3, 9), num_startup=5, num_candidates=8), history, pool, Fidelities(tiny), q):
        pass
    same(history, whole)
    for run in range(2):
        same(search(runs=[run], capacity=24, q=q), whole.rows(slice(run, run + 1)))


def test_what_failed_is_not_promoted(written, pool):
    history = written([[3, 4]], [[None, None]], capacity=6)
    history.epochs[:, :2] = 1
    assert BOHB((1, 9)).propose(history, pool).item() not in (3, 4)


def test_nearest_free_candidate():
    codes = np.array([[0, 0], [0, 1], [1, 1], [2, 2]], dtype=np.uint8)
    free, wish = np.array([False, True, True, True]), np.array([0, 0], dtype=np.uint8)
    assert _nearest(codes, free, wish, 0.9) == 1
    assert [_nearest(codes, free, None, draw) for draw in (0.0, 0.4, 0.99)] == [1, 2, 3]
    free[1] = False
    assert [_nearest(codes, free, wish, draw) for draw in (0.0, 0.99)] == [2, 3]


def test_foreign_epochs_are_named(written, pool):
    with pytest.raises(SearchStateError, match=r"epochs=\[1, 9\].*3 epochs"):
        BOHB((9, 1)).propose(written([[3]], [[90.0]], capacity=2), pool)


@pytest.mark.parametrize(
    "arguments", [{"epochs": (3, 3)}, {"epochs": (0,)}, {"eta": 1}, {"num_startup": 0}, {"random_fraction": 2.0}]
)
def test_arguments_are_checked(arguments):
    with pytest.raises(UsageError, match="expected"):
        BOHB(**arguments)


def test_without_optuna(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UsageError, match=r"pip install 'lightning-nas\[baselines\]'"):
        BOHB()
