import numpy as np
import pytest
import torch
from torch import nn

from lightning_nas.errors import UsageError
from lightning_nas.nn.gin import GINEncoder
from lightning_nas.nn.shared_gin import GINShape
from lightning_nas.search.history import SearchHistory
from lightning_nas.search.policy import LSTMPolicy
from lightning_nas.search.pool import CandidatePool
from lightning_nas.search.strategy import describe
from lightning_nas.search.supervised_reinforce import SupervisedReinforce, _input_gradient

SMALL = {
    "latent_dim": 4, "hidden_dim": 16, "num_layers": 2, "encoder_learning_rate": 0.01, "episode_length": 4,
    "learning_rate": 0.1, "hidden_size": 8, "spread": 0.1,
}  # fmt: skip
REFERENCE = {**SMALL, "mode": "reference", "baseline": 40.0}


@pytest.fixture(scope="module")
def graphs(cells):
    """60 cells of NAS-Bench-201."""
    return CandidatePool(cells, torch.arange(7, 15607, 260))


def score(pool, indices):
    return 40 + pool.members[indices].double() % 53


def play(strategy, pool, runs=3, capacity=14, q=1, seed=5):
    history = SearchHistory.empty(runs, capacity, seed)
    while history.length < capacity:
        chosen = strategy.ask(history, pool, min(q, capacity - history.length))
        columns = history.begin(chosen, 1)
        values = score(pool, chosen)
        history.complete(columns, values, values, values)
    return history


def test_gradient_of_the_policys_inputs():
    policy = LSTMPolicy([(0, 1), (0, 2)], 3, 5, 0.1)
    rng = torch.Generator().manual_seed(0)
    inputs, push = torch.randn(2, 4, 3, generator=rng), torch.randn(2, 4, 3, generator=rng)
    found = _input_gradient(policy, inputs, push)

    def loss(values):
        state, total = policy.blank(), 0.0
        for step in range(4):
            mean, state = policy.step(values[:, step], state)
            total += (mean * push[:, step]).sum().item()
        return total

    for place in ((0, 0, 0), (1, 1, 2), (0, 3, 1), (1, 2, 0)):
        moved = [inputs.clone(), inputs.clone()]
        moved[0][place] += 1e-2
        moved[1][place] -= 1e-2
        np.testing.assert_allclose(found[place], (loss(moved[0]) - loss(moved[1])) / 2e-2, atol=2e-3)


def published(seed, run, pool, budget):
    """One run step by step: every step from the initial cell, encoder and policy learn after each episode."""
    space = pool.space
    ops, adjacency = (part[pool.members] for part in space.all_graphs())
    one_hot = nn.functional.one_hot(ops, len(space.vertex_labels)).float()
    encoder, head = GINEncoder(one_hot.shape[-1], 16, 2), nn.Linear(16, 4)
    draw = np.random.default_rng((seed, run, 0, 3)).random()
    *layers, weight, bias = (p[0] for p in GINShape(one_hot.shape[-1], 16, 2, 4).initial(torch.tensor([draw]).double()))
    with torch.no_grad():
        for number, layer in enumerate(encoder.convolutions):
            layer.nn[0].weight.copy_(layers[7 * number + 1].T)
            layer.nn[3].weight.copy_(layers[7 * number + 4].T)
        head.weight.copy_(weight.T), head.bias.copy_(bias[0])
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=0.01)
    policy = LSTMPolicy([(seed, run, 0, 1)], 4, 8, 0.1)
    start = int(np.random.default_rng((seed, run, 0, 2)).integers(len(pool)))
    visited, queries = {start}, []
    while len(queries) < budget:
        table = head(encoder(one_hot, adjacency.float())).mean(dim=1)
        state, push, means = policy.blank(), [], []
        for _ in range(4):
            noise = np.random.default_rng((seed, run, len(queries))).standard_normal(5, dtype=np.float32)[1:]
            mean, state = policy.step(table[start][None], state)
            means.append(mean[0])
            order = (table - mean - torch.from_numpy(noise)).square().sum(dim=1).argsort().tolist()
            place = next(i for i in order if i not in visited)
            visited.add(place)
            queries.append(place)
            advantage = score(pool, torch.tensor(place)).item() / 100 - 0.4
            push.append(-torch.from_numpy(noise) * advantage / 4)
        optimizer.zero_grad()
        sum((m * p).sum() for m, p in zip(means, push, strict=True)).backward()
        policy.improve(table[start].detach().expand(1, 4, -1).contiguous(), torch.stack(push)[None])
        optimizer.step()
    return queries[:budget]


def test_reference_equals_the_released_code(graphs):
    history = play(SupervisedReinforce(**REFERENCE), graphs)
    for run in range(3):
        assert history.indices[run].tolist() == published(5, run, graphs, 14)


@pytest.mark.parametrize("settings", [SMALL, REFERENCE], ids=["paper", "reference"])
def test_the_history_is_all_it_needs(graphs, settings):
    whole = play(SupervisedReinforce(**settings), graphs)
    assert all(len(set(row)) == 14 for row in whole.indices.tolist())
    for length in (0, 3, 9, 13):
        history = SearchHistory.empty(3, 14, 5)
        for name, value in whole.prefix(length).state_dict().items():
            if name not in ("seed", "runs"):
                history.state_dict()[name][:, :length] = value
        assert torch.equal(SupervisedReinforce(**settings).ask(history, graphs)[:, 0], whole.indices[:, length])
    for rank in range(2):
        part = play(SupervisedReinforce(**settings), graphs, runs=range(rank, 3, 2))
        assert torch.equal(part.indices, whole.indices[rank::2])


def test_encoders_learn_and_are_embedded_anew(graphs):
    strategy = SupervisedReinforce(**SMALL)
    play(strategy, graphs, capacity=3)
    (learned,) = strategy._learned.values()
    before, table = learned.encoder.values.clone(), learned.table.clone()
    np.testing.assert_allclose(table.mean(dim=1), 0, atol=1e-5)
    np.testing.assert_allclose(table.square().mean(dim=(1, 2)).sqrt(), 0.1, rtol=1e-4)
    play(strategy, graphs, capacity=6)  # the first is random, then an episode of four
    (learned,) = strategy._learned.values()
    assert learned.encoder.steps.tolist() == [1.0] * 3
    assert (learned.encoder.values != before).any(dim=1).all()
    assert (learned.table != table).flatten(1).any(dim=1).all()


def test_descriptions_do_not_change_in_use(graphs):
    strategy = SupervisedReinforce(**SMALL)
    before = describe(strategy)
    assert not strategy.needs_embeddings
    play(strategy, graphs, capacity=6, q=3)
    assert describe(strategy) == before


@pytest.mark.parametrize("wrong", [{"latent_dim": 0}, {"encoder_learning_rate": 0.0}])
def test_arguments_are_checked(wrong):
    with pytest.raises(UsageError, match="must be positive"):
        SupervisedReinforce(**wrong)
