import numpy as np
import pytest
import torch

from lightning_nas.errors import UsageError
from lightning_nas.search.policy import LSTMPolicy
from lightning_nas.search.pool import CandidatePool
from lightning_nas.search.random import RandomSearch
from lightning_nas.search.reinforce import Reinforce, nearest
from lightning_nas.spaces.encodings import OneHotEncoding


def published(seed, run, budget, embeddings, scores, length, baseline, skip, rate=0.01, hidden=8):
    """The walk of one run step by step, as the released code goes, with the search's draws."""
    table, size = embeddings, embeddings.shape[1]
    policy = LSTMPolicy([(seed, run, 0, 1)], size, hidden, rate)
    place = int(np.random.default_rng((seed, run, 0, 2)).integers(len(table)))
    visited, queries = {place}, []
    while len(queries) < budget:
        state, inputs, push = policy.blank(), [], []
        for _ in range(length):
            noise = np.random.default_rng((seed, run, len(queries))).standard_normal(size + 1, dtype=np.float32)[1:]
            inputs.append(table[place][None])
            mean, state = policy.step(inputs[-1], state)
            action = mean + torch.from_numpy(noise)
            order = (table - action).square().sum(1).argsort().tolist()
            place = next(i for i in order[skip:] if i not in visited)
            visited.add(place)
            queries.append(place)
            push.append(-torch.from_numpy(noise) * (scores[place].float() / 100 - baseline) / length)
        policy.improve(torch.stack(inputs, 1), torch.stack(push)[None])
    return queries[:budget]


@pytest.mark.parametrize("skip", [False, True])
def test_reference_equals_the_released_code(play, pool, scores, skip):
    strategy = Reinforce(
        0.4, 40, episode_length=4, learning_rate=0.1, hidden_size=8, mode="reference", skip_nearest=skip
    )
    history = play(strategy, runs=3, capacity=22, seed=5)
    for run in range(3):
        expected = published(5, run, 22, pool.embeddings, scores, 4, 0.4, int(skip), rate=0.1)
        assert history.indices[run].tolist() == expected


def test_the_first_is_random(play):
    assert torch.equal(play(Reinforce(), capacity=1).indices, play(RandomSearch(), capacity=1).indices)


def test_returns_less_their_mean(written):
    strategy = Reinforce(discount=0.5, episode_length=2)
    history = written([[0, 1, 2, 3, 4]], [[99.0, 80.0, 90.0, None, 60.0]])
    # Episodes begin after the first: (80 + 90 / 2, 90) and (failed, 60).
    assert strategy._episodes(history).tolist() == [2]
    torch.testing.assert_close(strategy._advantages(history, 1)[0], torch.tensor([0.175, -0.175]).double())
    mean = (1.25 + 0.9 + 0.6) / 3
    torch.testing.assert_close(strategy._advantages(history, 3)[0], torch.tensor([0.0, 0.6 - mean]).double())
    fixed = Reinforce(baseline=40, episode_length=2)
    torch.testing.assert_close(fixed._advantages(history, 3)[0], torch.tensor([0.0, 0.2]).double())


def test_an_episode_is_over_when_all_scores_came(written):
    strategy = Reinforce(episode_length=2)
    valid = [[1.0, 2.0, 3.0, 4.0, ...], [1.0, ..., 3.0, 4.0, 5.0], [..., 2.0, 3.0, 4.0, 5.0], [None] * 5]
    history = written([[0, 1, 2, 3, 4]] * 4, valid)
    assert strategy._episodes(history).tolist() == [1, 0, 0, 2]


def test_learns_to_go_where_scores_are_high():
    from lightning_nas.search.history import SearchHistory

    rng = torch.Generator().manual_seed(0)
    features = torch.randn(2000, 3, generator=rng)

    class Pool(CandidatePool):
        def __init__(self):
            pass

        def __len__(self):
            return 2000

        def features(self, encoding):
            return features

    history, pool = SearchHistory.empty(20, 97), Pool()
    strategy = Reinforce(episode_length=8)
    while history.length < 97:
        chosen = strategy.ask(history, pool)
        score = 80 + 5 * features[chosen][..., 0].double()
        history.complete(history.begin(chosen, 1), score, score, score)
    early, late = history.valid[:, 1:33].mean(), history.valid[:, -32:].mean()
    assert late > early + 2


def test_runs_that_are_not_in_step(pool, written, scores):
    strategy = Reinforce(episode_length=2, hidden_size=8, learning_rate=0.3)
    tried = [[3, 8, 1, 5], [4, 2], [7], [6, 0, 9, 10]]
    valid = [scores[row].tolist() for row in tried]
    valid[3][1] = ...
    together = written(tried, valid, capacity=8)
    chosen = strategy.propose(together, pool)
    for row in range(4):
        assert strategy.propose(together.rows(slice(row, row + 1)), pool) == chosen[row]


def test_what_is_remembered_must_belong_to_the_history(pool, written, scores):
    strategy = Reinforce(episode_length=2, hidden_size=8, learning_rate=0.3)
    asked, told = [[3, 8, 1, 5, 9]], [scores[[3, 8, 1, 5, 9]].tolist()]
    first = strategy.propose(written(asked, told, capacity=8), pool)
    other = written(asked, [[10.0, 95.0, 20.0, 30.0, 90.0]], capacity=8)
    assert strategy.propose(other, pool) == Reinforce(episode_length=2, hidden_size=8, learning_rate=0.3).propose(
        other, pool
    )
    shorter = written([asked[0][:2]], [told[0][:2]], capacity=8)
    fresh = Reinforce(episode_length=2, hidden_size=8, learning_rate=0.3)
    assert strategy.propose(shorter, pool) == fresh.propose(shorter, pool)
    assert strategy.propose(written(asked, told, capacity=8), pool) == first


@pytest.mark.parametrize("block_size", [1, 12, 10_000])
def test_nearest_by_hand(block_size):
    points, features = torch.randn(4, 2), torch.randn(30, 2)
    tried = torch.tensor([[0, 5], [5, 6], [29, 1], [2, 3]])
    shunned = torch.tensor([[7], [8], [9], [10]])
    answer = nearest(points, features, tried, shunned, block_size)
    for row in range(4):
        distance = (features - points[row]).square().sum(1)
        distance[[*tried[row].tolist(), *shunned[row].tolist()]] = torch.inf
        assert answer[row] == distance.argmin()
    # Shunned ones are better than nothing.
    rest = torch.arange(1, 30)[None].expand(4, -1)
    assert nearest(points, features, rest, torch.zeros(4, 1, dtype=torch.long), block_size).tolist() == [0] * 4


def test_features(pool):
    assert Reinforce().needs_embeddings
    assert not Reinforce(encoding=OneHotEncoding()).needs_embeddings
    assert Reinforce(baseline=40, mode="reference")._features(pool) is pool.embeddings
    torch.testing.assert_close(Reinforce(spread=0.5)._features(pool), pool.features(None) * 0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"discount": 1.5}, "a discount from 0 to 1"),
        ({"spread": 0}, "positive numbers"),
        ({"episode_length": 0}, "episode_length=0"),
        ({"mode": "reference"}, "95 on NAS-Bench-101"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(UsageError, match=message):
        Reinforce(**arguments)
