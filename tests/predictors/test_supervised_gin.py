import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal, spearmanr
from torch import nn

from lightning_nas.errors import UsageError
from lightning_nas.nn.gin import GINEncoder
from lightning_nas.predictors import supervised_gin
from lightning_nas.predictors.supervised_gin import SupervisedGIN
from lightning_nas.predictors.surrogate import standardise
from lightning_nas.search.acquisition import LogEI
from lightning_nas.search.bayesian import BayesianSearch
from lightning_nas.search.history import SearchHistory
from lightning_nas.search.pool import CandidatePool
from lightning_nas.spaces.encodings import GraphEncoding

R, N, V, K, M = 3, 12, 8, 7, 40
SEEDS = torch.tensor([0.11, 0.52, 0.93], dtype=torch.float64)
SMALL = {"num_vertices": V, "latent_dim": 4, "hidden_dim": 16, "num_layers": 3, "num_epochs": 5}
HIDE = [(0, 3), (0, 9), (2, 0)]


@pytest.fixture(scope="module")
def features(cells):
    return GraphEncoding().encode(cells)


@pytest.fixture(scope="module")
def data(features):
    rng = np.random.default_rng(0)
    X = features[torch.from_numpy(rng.integers(15625, size=(R, N)))]
    y = 90 + X @ torch.from_numpy(rng.normal(size=X.shape[-1])).float()
    return X, y.double(), features[torch.from_numpy(rng.choice(15625, M, replace=False))]


def everything(X):
    return torch.ones(X.shape[:2], dtype=torch.bool)


def without(X, hide):
    observed = everything(X)
    for run, column in hide:
        observed[run, column] = False
    return observed


class Plain(nn.Module):
    """The network of one run in torch modules, with the surrogate's first weights."""

    def __init__(self, surrogate, X, run):
        super().__init__()
        shape = surrogate._shape(X)
        self.encoder = GINEncoder(K, shape.hidden_dim, shape.num_layers)
        self.head, self.readout = nn.Linear(shape.hidden_dim, shape.out_dim), nn.Linear(shape.out_dim, 1)
        *layers, weight, bias, readout, offset = (p[run].clone() for p in surrogate._initial(shape, SEEDS))
        with torch.no_grad():
            for number, layer in enumerate(self.encoder.convolutions):
                eps, first, _, _, second, _, _ = layers[7 * number : 7 * number + 7]
                assert layer.eps.item() == eps.item() == 0
                layer.nn[0].weight.copy_(first.T)
                layer.nn[3].weight.copy_(second.T)
            self.head.weight.copy_(weight.T), self.head.bias.copy_(bias[0])
            self.readout.weight.copy_(readout.T), self.readout.bias.copy_(offset[0])

    def encode(self, x):
        adjacency = x[:, V * K :].view(-1, V, V)
        return torch.tanh(self.head(self.encoder(x[:, : V * K].view(-1, V, K), adjacency)).mean(dim=1))

    def forward(self, x):
        return self.readout(self.encode(x))[:, 0]


def order_of(surrogate, run, observed, epoch):
    """Batches of one epoch of a run."""
    if not surrogate.batch_size:
        return [observed[run].nonzero()[:, 0].tolist()]
    rng = np.random.default_rng((int(SEEDS[run] * 2**53), 1))
    draws = rng.random((surrogate.num_epochs, N))[epoch]
    ranked = sorted(observed[run].nonzero()[:, 0].tolist(), key=lambda i: draws[i])
    size = surrogate.batch_size
    return [ranked[b * size : (b + 1) * size] for b in range(max(1, len(ranked) // size))]


@pytest.mark.parametrize("batch_size", [0, 5, 20])
def test_training_equals_plain_torch(data, monkeypatch, batch_size):
    X, y, points = data
    observed = without(X, HIDE)
    target = standardise(y, observed)[0].float()
    losses = {}
    original = supervised_gin._gradients

    def spy(leaves, graphs, target, weight):
        *encoder, readout, offset = leaves
        output = torch.tanh(supervised_gin.gin(encoder, graphs)) @ readout + offset
        values = ((output[..., 0] - target).square() * weight).sum(dim=1)
        losses.setdefault("all", []).append(values.detach())
        return original(leaves, graphs, target, weight)

    monkeypatch.setattr(supervised_gin, "_gradients", spy)
    surrogate = SupervisedGIN(**SMALL, batch_size=batch_size, learning_rate=0.003)
    for run in range(R):
        losses.clear()
        one = slice(run, run + 1)
        model = surrogate.fit(X[one], y[one], observed[one], SEEDS[one])
        plain = Plain(surrogate, X, run)
        optimizer = torch.optim.Adam(plain.parameters(), lr=0.003)
        expected = []
        for epoch in range(5):
            for rows in order_of(surrogate, run, observed, epoch):
                optimizer.zero_grad()
                loss = (plain(X[run, rows]) - target[run, rows]).square().mean()
                loss.backward()
                optimizer.step()
                expected.append(loss.item())
        np.testing.assert_allclose(torch.cat(losses["all"]), expected, rtol=2e-3, atol=1e-5)
        # Predictions with the statistics of the evaluations, whatever else is predicted.
        norms = [module for module in plain.modules() if isinstance(module, nn.BatchNorm1d)]
        for norm in norms:
            norm.momentum = None
            norm.reset_running_stats()
        seen = int(observed[run].sum())
        with torch.no_grad():
            plain.encode(X[run, observed[run]])
            for norm in norms:
                norm.running_var *= (seen * V - 1) / (seen * V)
            plain.eval()
            np.testing.assert_allclose(model.features(points[None])[0], plain.encode(points), atol=3e-3)
            np.testing.assert_allclose(model.features(points[None, :3])[0], plain.encode(points[:3]), atol=3e-3)


@pytest.mark.parametrize("hide", [[], HIDE])
def test_posterior_equals_dense_bayesian_regression(data, hide):
    X, y, points = data
    observed = without(X, hide)
    surrogate = SupervisedGIN(**SMALL)
    model = surrogate.fit(X, torch.where(observed, y, torch.nan), observed, SEEDS)
    target, location, scale = standardise(y, observed)
    phis, stars = model.features(X).double().numpy(), model.features(points.expand(R, -1, -1)).double().numpy()
    singly = model.posterior(points[:, None, None].expand(-1, R, 1, -1))
    jointly = model.posterior(points.expand(R, -1, -1))
    for run in range(R):
        rows = observed[run].numpy()
        phi, star, t = phis[run, rows], stars[run], target[run].numpy()[rows]
        table = {
            (signal / 4, noise): multivariate_normal.logpdf(
                t, cov=signal / 4 * phi @ phi.T + noise * np.eye(len(t)), allow_singular=True
            )
            for signal in surrogate.signals
            for noise in surrogate.noises
        }
        prior, noise = max(table, key=table.get)
        S = np.linalg.inv(phi.T @ phi / noise + np.eye(4) / prior)
        mean = location[run] + scale[run] * torch.from_numpy(star @ S @ phi.T @ t / noise)
        variance = scale[run] ** 2 * torch.from_numpy((star @ S @ star.T).diagonal().copy())
        for posterior in (singly.mean[:, run, 0, 0], jointly.mean[run, :, 0]):
            np.testing.assert_allclose(posterior, mean, rtol=1e-4)
        np.testing.assert_allclose(singly.variance[:, run, 0, 0], variance, rtol=2e-2, atol=1e-3)


@pytest.mark.parametrize("batch_size", [0, 5])
def test_runs_do_not_mix_and_seeds_matter(data, batch_size):
    X, y, points = data
    observed = without(X, HIDE)
    surrogate = SupervisedGIN(**SMALL, batch_size=batch_size)
    together = surrogate.fit(X, y, observed, SEEDS).marginal(points)
    assert all(
        torch.equal(a, b) for a, b in zip(surrogate.fit(X, y, observed, SEEDS).marginal(points), together, strict=True)
    )
    for run in range(R):
        part = slice(run, run + 1)
        alone = surrogate.fit(X[part], y[part], observed[part], SEEDS[part]).marginal(points)
        for one, other in zip(together, alone, strict=True):
            assert torch.equal(one[run], other[0])
    assert not (surrogate.fit(X, y, observed, SEEDS / 2).marginal(points)[0] == together[0]).any()


def test_what_is_not_observed_leaves_no_trace(data):
    X, y, points = data
    observed = without(X, [(r, c) for r in range(R) for c in (2, 5, 9)])
    rows = observed[0]
    surrogate = SupervisedGIN(**SMALL, batch_size=0)
    whole = surrogate.fit(
        torch.where(observed[..., None], X, 50.0), torch.where(observed, y, torch.nan), observed, SEEDS
    )
    left_out = surrogate.fit(X[:, rows], y[:, rows], everything(X)[:, rows], SEEDS)
    for one, other in zip(whole.marginal(points), left_out.marginal(points), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-2, atol=2e-2)


def test_conditioning_keeps_networks_prior_and_noise(data):
    X, y, points = data
    observed = without(X, HIDE)
    model = SupervisedGIN(**SMALL).fit(X, y, observed, SEEDS)
    singly, own = points[:, None, None].expand(-1, R, 1, -1), points[torch.randperm(M)[: 3 * 5]].view(5, R, 1, -1)
    same = model.condition(X, y, observed).posterior(singly)
    torch.testing.assert_close(same.mean, model.posterior(singly).mean)
    torch.testing.assert_close(same.variance, model.posterior(singly).variance)
    # Each run's own candidates, one by one, are what they are among candidates of all.
    jointly = model.posterior(own[:, :, 0].transpose(0, 1))
    torch.testing.assert_close(model.posterior(own).mean[:, :, 0, 0].T, jointly.mean[..., 0])
    later = model.condition(X, y + torch.linspace(0, 9, N), everything(X))
    assert not torch.allclose(later.posterior(singly).mean, same.mean)
    torch.testing.assert_close(model.posterior(singly).mean, same.mean)  # the first one is as it was
    assert torch.equal(later.features(X), model.features(X))


def test_scores_without_structure_stay_finite(data):
    X, y, points = data
    for values, observed in ((torch.full_like(y, 90.1), everything(X)), (y * torch.nan, ~everything(X))):
        posterior = (
            SupervisedGIN(**SMALL).fit(X, values, observed, SEEDS).posterior(points[:, None, None].expand(-1, R, 1, -1))
        )
        assert torch.isfinite(posterior.mean).all()
        assert torch.isfinite(posterior.variance).all()
        assert posterior.mean.dtype == torch.float32
        if observed.any():
            np.testing.assert_allclose(posterior.mean, 90.1, rtol=1e-5)


def test_symmetric_hears_both_sides(data):
    X, y, points = data
    directed, both = (SupervisedGIN(**SMALL, symmetric=s).fit(X, y, everything(X), SEEDS) for s in (False, True))
    assert not torch.equal(directed.marginal(points)[0], both.marginal(points)[0])
    mirrored = X.clone()
    arcs = mirrored[..., V * K :].view(R, N, V, V)
    arcs.copy_(torch.maximum(arcs, arcs.mT.clone()))
    same = SupervisedGIN(**SMALL).fit(mirrored, y, everything(X), SEEDS)
    assert torch.equal(same.features(mirrored), both.features(X))


def test_candidates_are_remembered_but_not_mistaken(data):
    X, y, points = data
    surrogate = SupervisedGIN(**SMALL)
    model = surrogate.fit(X, y, everything(X), SEEDS)
    changing = points.clone()
    first = model.marginal(changing)[0]
    changing.copy_(points.flip(0))
    assert torch.equal(model.marginal(changing)[0], first.flip(1))


def test_memory_of_candidates_is_bounded(data, monkeypatch):
    points = data[2]
    surrogate = SupervisedGIN(**SMALL)
    size = surrogate.merge(points[None, :10]).nbytes
    monkeypatch.setattr(supervised_gin, "_REMEMBERED", 3 * size)
    chunks = [points[start : start + 10] for start in range(0, 31, 5)]
    for _ in range(2):
        for chunk in chunks:
            surrogate.merge_pool(chunk)
            assert 0 < sum(graphs.nbytes for graphs in surrogate._merged.values()) <= 3 * size
    assert surrogate.merge_pool(chunks[-1]) is surrogate.merge_pool(chunks[-1].clone())
    monkeypatch.setattr(supervised_gin, "_REMEMBERED", 0)
    assert surrogate.merge_pool(chunks[0]) is not None
    assert len(surrogate._merged) == 1  # the last one always


def test_search(cells, features):
    pool = CandidatePool(cells, torch.arange(0, 15625, 250))
    history = SearchHistory.empty(2, 8)
    strategy = BayesianSearch(SupervisedGIN(**SMALL), LogEI(), GraphEncoding(), num_initial=4)
    for _ in range(8):
        chosen = strategy.ask(history, pool)
        columns = history.begin(chosen, 1)
        scores = features[pool.members[chosen]].sum(dim=-1).double() + chosen
        history.complete(columns, scores, scores, scores)
    assert all(len(set(row)) == 8 for row in history.indices.tolist())


@pytest.mark.data
def test_predicts_real_scores(real_table, features):
    y = torch.from_numpy(real_table.mean_over_seeds("cifar10/valid@12"))
    chosen = torch.randperm(15625, generator=torch.Generator().manual_seed(0))
    train, test = chosen[:100], chosen[100:1100]
    surrogate = SupervisedGIN(V, hidden_dim=64, num_epochs=40)
    model = surrogate.fit(
        features[train][None], y[train][None], torch.ones(1, 100, dtype=torch.bool), torch.tensor([0.3])
    )
    predicted = model.posterior(features[test][:, None, None]).mean.flatten()
    assert spearmanr(predicted, y[test]).statistic > 0.45


def test_other_features_are_refused(data):
    X, y, _ = data
    with pytest.raises(UsageError, match="not the graphs themselves"):
        SupervisedGIN(**SMALL).fit(X * 0.5, y, everything(X), SEEDS)
    with pytest.raises(UsageError, match="got 30 features"):
        SupervisedGIN(**SMALL).fit(X[..., :30], y, everything(X), SEEDS)
    with pytest.raises(UsageError, match="got 120 features"):
        SupervisedGIN(**{**SMALL, "num_vertices": 7}).fit(X, y, everything(X), SEEDS)


@pytest.mark.parametrize(
    "wrong", [{"latent_dim": 0}, {"num_epochs": 0}, {"batch_size": -1}, {"learning_rate": 0.0}, {"noises": (0.0,)}]
)
def test_arguments_are_checked(wrong):
    with pytest.raises(UsageError, match="must be positive"):
        SupervisedGIN(8, **wrong)
