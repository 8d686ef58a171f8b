import numpy as np
import pytest
import torch

from lightning_nas.errors import UsageError
from lightning_nas.search.categorical_reinforce import CategoricalReinforce, positions
from lightning_nas.search.random import RandomSearch
from lightning_nas.spaces.base import CellGraph


def by_hand(codes, tried, scores, rate, decay):
    """Probabilities of all candidates after the given scores, one run, with autograd and torch's Adam."""
    logits = torch.zeros(codes.shape[1], 3, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=rate)
    total = weight = 0.0
    for member, score in zip(tried, scores, strict=True):
        total, weight = decay * total + (1 - decay) * score / 100, decay * weight + 1 - decay
        chance = logits.log_softmax(1).gather(1, codes[member][:, None]).sum()
        optimizer.zero_grad()
        (-chance * (score / 100 - total / weight)).backward()
        optimizer.step()
    chances = logits.detach().log_softmax(1).gather(1, codes.T).sum(0).double().exp()
    chances[tried] = 0
    return chances / chances.sum()


def test_draws_from_the_policy_given_the_untried(tiny, pool, written, scores):
    tried = [4, 9, 80, 33, 12]
    history = written([tried] * 3000, [scores[tried].tolist()] * 3000, capacity=8)
    chosen = CategoricalReinforce(learning_rate=0.3).propose(history, pool)
    expected = by_hand(tiny.codes, tried, scores[tried].tolist(), 0.3, 0.9).numpy()
    counts = np.bincount(chosen, minlength=81)
    assert counts[tried].sum() == 0
    seen = expected > 0
    assert ((counts - 3000 * expected)[seen] ** 2 / (3000 * expected[seen])).sum() < 119  # chi-squared, 75 freedoms
    draws = history.uniforms(1)[:, 0].numpy()
    exact = np.searchsorted(np.cumsum(expected), draws, side="right")
    assert (exact == chosen.numpy()).mean() > 0.99


def test_failures_teach_nothing(pool, written, scores):
    tried = [4, 9, 80]
    history = written([[*tried, 5]] * 2, [[*scores[tried].tolist(), None]] * 2, capacity=8)
    strategy = CategoricalReinforce(learning_rate=0.3)
    codes, choices, _ = strategy._positions(pool)
    with_failure = strategy._policy(history, codes, choices)
    without = CategoricalReinforce(learning_rate=0.3)._policy(history.prefix(3), codes, choices)
    assert torch.equal(with_failure.logits, without.logits)


def test_the_first_are_random(play):
    assert torch.equal(play(CategoricalReinforce(), capacity=1).indices, play(RandomSearch(), capacity=1).indices)


def test_learns(play, scores):
    history = play(CategoricalReinforce(learning_rate=0.3), runs=12, capacity=30)
    assert history.valid[:, 15:].mean() > play(RandomSearch(), runs=12, capacity=30).valid.mean() + 0.3


def test_other_histories_are_learned_anew(pool, written, scores):
    strategy, tried = CategoricalReinforce(learning_rate=0.5), [4, 9, 80, 7]
    strategy.propose(written([tried] * 50, [scores[tried].tolist()] * 50, capacity=8), pool)
    for length in (4, 3):
        other = written([tried[:length]] * 50, [[10.0, 99.0, 20.0, 70.0][:length]] * 50, capacity=8)
        assert torch.equal(strategy.propose(other, pool), CategoricalReinforce(0.5).propose(other, pool))


def test_positions_of_any_space(tiny):
    class Graphs:
        def all_graphs(self):
            ops = torch.tensor([[0, 1, 2], [0, 2, -1], [0, 1, -1]])
            adjacency = torch.zeros(3, 3, 3, dtype=torch.bool)
            adjacency[:, 0, 1] = True
            adjacency[0, 1, 2] = True
            return CellGraph(ops, adjacency)

    # The arc 1-2 and the labels of the second and third vertex; the rest is the same for all.
    assert positions(Graphs()).tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]
    assert positions(tiny) is tiny.codes


@pytest.mark.parametrize("arguments", [{"learning_rate": 0}, {"decay": 1.0}, {"block_size": 0}])
def test_arguments_are_checked(arguments):
    with pytest.raises(UsageError, match="expected positive numbers"):
        CategoricalReinforce(**arguments)
