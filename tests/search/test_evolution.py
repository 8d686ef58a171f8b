from collections import deque

import numpy as np
import pytest
import torch

from lightning_nas.errors import UsageError
from lightning_nas.search.evolution import RegularizedEvolution, pick_neighbor


def aging_evolution(seed, run, budget, neighbors, scores, population_size, sample_size):
    """Algorithm 1 of arXiv 1802.01548 for one run, with the search's draws; NaN scores never join the population."""
    tried, population = [], deque()
    for step in range(budget):
        first, *rest = np.random.default_rng((seed, run, step)).random(sample_size + 1)
        fresh = [i for i in range(len(scores)) if i not in tried]
        if step >= population_size and population:
            tournament = [population[int(u * len(population))] for u in rest]
            parent = max(tournament, key=lambda member: scores[member])
            fresh = [i for i in neighbors[parent] if i not in tried] or fresh
        child = fresh[int(first * len(fresh))]
        tried.append(child)
        if not np.isnan(scores[child]):
            population.append(child)
            if len(population) > population_size:
                population.popleft()
    return tried


@pytest.mark.parametrize("failing", [(), range(0, 81, 3), range(10, 81)])
@pytest.mark.parametrize(("population_size", "sample_size"), [(10, 3), (4, 2), (1, 1), (6, 12)])
def test_equals_aging_evolution(play, pool, scores, population_size, sample_size, failing):
    history = play(RegularizedEvolution(population_size, sample_size), runs=4, capacity=45, seed=2, failing=failing)
    worth = [float("nan") if i in failing else s for i, s in enumerate(scores.tolist())]
    for run in range(4):
        expected = aging_evolution(2, run, 45, pool.neighbors.tolist(), worth, population_size, sample_size)
        assert history.indices[run].tolist() == expected


def neighborhood(pool, members):
    return {n for member in members for n in pool.neighbors[member].tolist()}


# The global best (30) is too old, 31 failed and 32 runs: alive are 7, 8, 9, 5 of these nine.
TRIED = [30, 4, 7, 8, 31, 9, 32, 5]
SCORES = [99.0, 60.0, 70.0, 71.0, None, 75.0, ..., 72.0]


def propose(strategy, written, pool, runs=300):
    history = written([TRIED] * runs, [SCORES] * runs, capacity=12)
    return strategy.propose(history, pool).tolist()


def test_parents_are_the_youngest_scored_members(written, pool):
    children = set(propose(RegularizedEvolution(4, sample_size=1), written, pool, runs=800))
    assert children == neighborhood(pool, [7, 8, 9, 5]) - set(TRIED)


def test_the_best_of_the_tournament_wins_not_the_best_ever(written, pool):
    children = propose(RegularizedEvolution(4, sample_size=50), written, pool)
    assert set(children) == neighborhood(pool, [9]) - set(TRIED)


def test_no_child_of_what_has_no_score(written, pool):
    # The whole first batch still runs, or all of it failed: there is no parent, so the draw is from the whole pool.
    for state in (..., None):
        history = written([[3, 4, 5]] * 400, [[state] * 3] * 400, capacity=5)
        children = RegularizedEvolution(3, 2).propose(history, pool).tolist()
        assert len(set(children)) > 70


def test_runs_of_different_length(written, pool):
    # One run grows its population, the other has it: both as if they were alone.
    strategy = RegularizedEvolution(4, 2)
    both = written([TRIED, [30, 4]], [SCORES, [99.0, 60.0]], capacity=12)
    chosen = strategy.propose(both, pool)
    for row in range(2):
        alone = both.rows(slice(row, row + 1))
        assert strategy.propose(alone, pool).tolist() == [chosen[row]]


def test_every_untried_neighbour_is_equally_likely(written):
    grid, neighbors = 12, [2, 5, 7, 1, -1]
    tried = [[], [5], [2, 7], [7, 2, 5], [9, 8], [1, 2, 5, 7]]
    history = written(tried, [[1.0] * len(t) for t in tried], capacity=6)
    rows = torch.tensor([neighbors] * len(tried))
    times = [dict.fromkeys(range(-1, 10), 0) for _ in tried]
    for k in range(grid):
        draws = torch.full((len(tried),), (k + 0.5) / grid, dtype=torch.float64)
        for run, child in enumerate(pick_neighbor(history, rows, draws, torch.full((len(tried),), 9)).tolist()):
            times[run][child] += 1
    for run, done in enumerate(tried):
        free = [n for n in neighbors if n >= 0 and n not in done]
        expected = {n: grid // len(free) for n in free} if free else {9: grid}
        assert {n: t for n, t in times[run].items() if t} == expected


@pytest.mark.parametrize("draw", [0.0, np.nextafter(1.0, 0.0)])
def test_extreme_draws(written, draw):
    history = written([[5]], [[1.0]], capacity=3)
    child = pick_neighbor(history, torch.tensor([[5, 2, 7, -1]]), torch.tensor([draw]).double(), torch.tensor([9]))
    assert child.item() == (2 if draw == 0 else 7)


@pytest.mark.parametrize("sizes", [(0, 3), (10, 0)])
def test_sizes_are_checked(sizes):
    with pytest.raises(UsageError, match="both must be >= 1"):
        RegularizedEvolution(*sizes)
