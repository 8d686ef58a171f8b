import numpy as np
import pytest
import torch

from lightning_nas.search.history import SearchHistory
from lightning_nas.search.local import LocalSearch


def hill_climb(seed, run, budget, neighbors, scores):
    """First-improvement hill climbing with restarts for one run, with the search's draws."""
    tried, top, height = [], None, -np.inf
    for step in range(budget):
        draw = np.random.default_rng((seed, run, step)).random()
        near = [i for i in neighbors[top] if i not in tried] if top is not None else []
        options = near or [i for i in range(len(scores)) if i not in tried]
        index = options[int(draw * len(options))]
        tried.append(index)
        value = scores[index]
        # A climb that starts with a failure goes on from there, below everything.
        if top is None or (not np.isnan(value) and (not near or value > height)):
            top, height = index, -np.inf if np.isnan(value) else value
    return tried


@pytest.mark.parametrize("failing", [(), range(0, 81, 3), range(20, 81)])
@pytest.mark.parametrize("seed", [1])
def test_equals_a_plain_hill_climber(play, pool, scores, failing, seed):
    history = play(LocalSearch(), runs=4, capacity=70, seed=seed, failing=failing)
    worth = [float("nan") if i in failing else s for i, s in enumerate(scores.tolist())]
    for run in range(4):
        assert history.indices[run].tolist() == hill_climb(seed, run, 70, pool.neighbors.tolist(), worth)


def near(pool, member):
    return pool.neighbors[member].tolist()


def test_the_first_choice_is_random(pool):
    draws = SearchHistory.empty(500, 3)
    assert len(set(LocalSearch().propose(draws, pool).tolist())) > 75


def test_next_is_a_neighbour_of_the_top(pool, written):
    top = 40
    better, worse = near(pool, top)[0], near(pool, top)[5]
    history = written([[top, worse]] * 200, [[50.0, 49.0]] * 200, capacity=4)
    assert set(LocalSearch().propose(history, pool).tolist()) == set(near(pool, top)) - {worse}
    history = written([[top, worse, better]] * 200, [[50.0, 49.0, 51.0]] * 200, capacity=4)
    assert set(LocalSearch().propose(history, pool).tolist()) == set(near(pool, better)) - {top, worse}


def test_restart_when_all_neighbours_are_worse(pool, written):
    top = 40
    tried = [top, *near(pool, top)]
    history = written([tried] * 800, [[50.0] + [40.0] * 8] * 800, capacity=12)
    assert set(LocalSearch().propose(history, pool).tolist()) == set(range(81)) - set(tried)
    # … and the climb goes on from the restart, although it is lower than the summit before.
    start = next(i for i in range(81) if i not in tried and not set(near(pool, i)) & set(tried))
    history = written([[*tried, start]] * 200, [[50.0] + [40.0] * 8 + [10.0]] * 200, capacity=12)
    assert set(LocalSearch().propose(history, pool).tolist()) == set(near(pool, start))


def test_neighbours_asked_for_before_the_climb_are_no_restarts(pool, written):
    # A batch holds three neighbours of the top; the first is better, the others are worse and not near the first.
    top = 40
    better = near(pool, top)[0]
    stale = [i for i in near(pool, top) if i not in near(pool, better)][:2]
    history = written([[top, better, *stale]] * 200, [[50.0, 60.0, 45.0, 55.0]] * 200, capacity=6)
    assert set(LocalSearch().propose(history, pool).tolist()) == set(near(pool, better)) - {top}
    history = written([[top, better, *stale]] * 200, [[50.0, 60.0, 45.0, 65.0]] * 200, capacity=6)
    assert set(LocalSearch().propose(history, pool).tolist()) == set(near(pool, stale[1])) - {top, stale[0]}


def test_running_neighbours_are_not_asked_for_again(pool, written):
    top = 40
    running = near(pool, top)[:7]
    history = written([[top, *running]] * 20, [[50.0] + [...] * 7] * 20, capacity=12)
    assert set(LocalSearch().propose(history, pool).tolist()) == {near(pool, top)[7]}


def test_does_not_write_to_the_history(pool, written):
    history = written([[1, 2]], [[5.0, None]], capacity=4)
    before = {k: v.clone() for k, v in history.state_dict().items() if torch.is_tensor(v)}
    LocalSearch().ask(history, pool, 2)
    for name, value in before.items():
        torch.testing.assert_close(getattr(history, name), value, rtol=0, atol=0, equal_nan=True)
