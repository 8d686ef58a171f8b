import numpy as np

from lightning_nas.search.random import RandomSearch


def test_equals_drawing_from_a_list(play):
    history = play(RandomSearch(), runs=4, capacity=30, seed=7)
    for run in range(4):
        left = list(range(81))
        for step in range(30):
            draw = np.random.default_rng((7, run, step)).random()
            assert history.indices[run, step] == left.pop(int(draw * len(left)))


def test_first_and_later_choices_are_uniform(play):
    history = play(RandomSearch(), runs=2430, capacity=3)
    for step in range(3):
        counts = np.bincount(history.indices[:, step], minlength=81)
        assert ((counts - 30) ** 2 / 30).sum() < 124.8  # chi-squared with 80 degrees of freedom, 99.9%


def test_runs_and_seeds_differ(play):
    history = play(RandomSearch(), runs=20, capacity=10)
    assert len({tuple(row) for row in history.indices.tolist()}) == 20
    assert not (play(RandomSearch(), runs=20, capacity=10, seed=1).indices == history.indices).all(dim=1).any()
