"""Seconds per query of searches on one-hot NAS-Bench-201, batched over runs and as a plain loop over runs.

``python -m tests.bench.bench_search``; the scores are made up, so no table is needed. The loop does what research
code does: one run after the other, a network trained with autograd and ``torch.optim``, one Cholesky factor per point
of the grid. Two more loops go about it as the code that came with arXiv 2006.06936 does: DNGO in batches of ten with
Nelder-Mead and windows of 200 candidates, and REINFORCE with the whole table sorted at every step. CPU seconds of one
thread, which other work on the machine disturbs less than the clock on the wall.
"""

import math
import statistics
import time
import warnings

import numpy as np
import torch
from botorch.exceptions.warnings import NumericsWarning
from scipy.optimize import fmin
from torch import nn

from lightning_nas.predictors.dngo import DNGO
from lightning_nas.predictors.gp import GaussianProcess
from lightning_nas.search.bayesian import BayesianSearch
from lightning_nas.search.history import SearchHistory
from lightning_nas.search.pool import CandidatePool
from lightning_nas.search.random import RandomSearch
from lightning_nas.search.reinforce import Reinforce
from lightning_nas.spaces.encodings import OneHotEncoding
from lightning_nas.spaces.nasbench201 import NASBench201
from tests.bench.keeping import Times

RUNS, LOOP_RUNS, REPEATS = 10, 2, 3
LENGTHS = (16, 58, 99)  # evaluations before the query; Simpson's rule over them gives a whole search
WHOLE_RUNS, INITIAL, QUERIES = 500, 16, 100
SIDE_BY_SIDE = 100  # runs of the comparison with the published way


def scores_of(features: torch.Tensor) -> torch.Tensor:
    """A smooth made-up function."""
    worth = torch.randn(30, generator=torch.Generator().manual_seed(0))
    scores = (90 + features @ worth).double()
    return scores + 0.1 * torch.sin(scores * 7)


def history_of(pool: CandidatePool, length: int, runs: int) -> SearchHistory:
    """Runs with random evaluations."""
    history = SearchHistory.empty(runs, length + 1)
    columns = history.begin(RandomSearch().ask(history, pool, length), epochs=1)
    scores = scores_of(pool.features(ENCODING)[history.indices[:, :length]])
    history.complete(columns, scores, scores, scores)
    return history


def log_ei(mean: torch.Tensor, variance: torch.Tensor, best: torch.Tensor) -> torch.Tensor:
    """Logarithm of expected improvement, by the textbook formula."""
    deviation = variance.clamp_min(1e-9).sqrt()
    u = (mean - best) / deviation
    normal = torch.distributions.Normal(0.0, 1.0)
    return (deviation * (u * normal.cdf(u) + normal.log_prob(u).exp())).clamp_min(1e-38).log()


def matern(a: torch.Tensor, b: torch.Tensor, lengthscale: float) -> torch.Tensor:
    """Matern-5/2."""
    s = math.sqrt(5.0) * torch.cdist(a, b) / lengthscale
    return (1 + s + s**2 / 3) * torch.exp(-s)


def gp_of_one_run(features: torch.Tensor, tried: torch.Tensor, y: torch.Tensor, grids: GaussianProcess) -> int:
    """Fit one run's Gaussian process on the grid and choose from the pool."""
    X, eye, best = features[tried].double(), torch.eye(len(tried)).double(), None
    for scale in grids.lengthscales:
        for noise in grids.noises:
            lengthscale = scale * math.sqrt(X.shape[1])
            factor = torch.linalg.cholesky(matern(X, X, lengthscale) + noise * eye)
            alpha = torch.cholesky_solve(y[:, None], factor)
            output = (y @ alpha[:, 0] / len(y)).item()
            likelihood = -0.5 * len(y) * math.log(output) - factor.diagonal().log().sum().item()
            if best is None or likelihood > best[0]:
                best = likelihood, lengthscale, factor, alpha, output
    _, lengthscale, factor, alpha, output = best
    cross = matern(X.float(), features, lengthscale)
    whitened = torch.linalg.solve_triangular(factor.float(), cross, upper=False)
    value = log_ei((alpha.float().T @ cross)[0], output * (1 - whitened.square().sum(0)), y.max().float())
    value[tried] = -torch.inf
    return int(value.argmax())


def dngo_of_one_run(features: torch.Tensor, tried: torch.Tensor, y: torch.Tensor, settings: DNGO) -> int:
    """Train one run's network, do the linear regression on its features and choose from the pool."""
    X, hidden = features[tried], settings.hidden_size
    body = nn.Sequential(nn.Linear(X.shape[1], hidden), nn.Tanh())
    network = nn.Sequential(body, nn.Linear(hidden, 1))
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
    for _ in range(settings.num_steps):
        optimizer.zero_grad()
        nn.functional.mse_loss(network(X)[:, 0], y.float()).backward()
        optimizer.step()
    with torch.no_grad():
        phi, best = body(X).double(), None
        for signal in settings.signals:
            for noise in settings.noises:
                gram = signal / hidden * phi @ phi.T + noise * torch.eye(len(y)).double()
                factor = torch.linalg.cholesky(gram)
                residual = torch.linalg.solve_triangular(factor, y[:, None], upper=False)
                evidence = (-0.5 * residual.square().sum() - factor.diagonal().log().sum()).item()
                if best is None or evidence > best[0]:
                    best = evidence, signal / hidden, noise
        _, prior, noise = best
        precision = phi.T @ phi / noise + torch.eye(hidden).double() / prior
        covariance = torch.linalg.inv(precision)
        weights = covariance @ phi.T @ y / noise
        pool = body(features)
        value = log_ei(pool @ weights.float(), ((pool @ covariance.float()) * pool).sum(1), y.max().float())
    value[tried] = -torch.inf
    return int(value.argmax())


def published_dngo(features: torch.Tensor, tried: torch.Tensor, y: torch.Tensor, _: DNGO) -> int:
    """One query of one run with many small steps and a search by Nelder-Mead, in the published sizes."""
    X, hidden = features[tried], 128
    body = nn.Sequential(nn.Linear(X.shape[1], hidden), nn.Tanh())
    network = nn.Sequential(body, nn.Linear(hidden, 1))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(100):
        for batch in torch.randperm(len(X))[: len(X) // 10 * 10].split(10):
            optimizer.zero_grad()
            nn.functional.mse_loss(network(X[batch])[:, 0], y[batch].float()).backward()
            optimizer.step()
    with torch.no_grad():
        phi, target = body(X).double().numpy(), y.numpy()

    def precision(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        alpha, beta = np.exp(np.clip(theta, -10, 10))
        matrix = beta * phi.T @ phi + alpha * np.eye(hidden)
        weights = beta * np.linalg.solve(matrix, phi.T @ target)
        evidence = hidden * np.log(alpha) + len(phi) * np.log(beta) - np.linalg.slogdet(matrix)[1]
        residual = beta * np.sum((target - phi @ weights) ** 2) + alpha * weights @ weights
        return matrix, weights, float(evidence - residual)

    found = fmin(lambda theta: -precision(theta)[2], np.zeros(2), disp=False)
    matrix, weights, _ = precision(found)
    covariance, values = np.linalg.inv(matrix), []
    for window in features.split(200):
        with torch.no_grad():
            points = body(window).double().numpy()
        mean = torch.from_numpy(points @ weights)
        variance = torch.from_numpy(np.diag(points @ covariance @ points.T).copy())
        values.append(log_ei(mean, variance, y.max()))
    return int(torch.cat(values).argmax())


def published_reinforce(features: torch.Tensor) -> None:
    """A whole search of one run, with autograd and a sorted table at every step."""
    size, scores = features.shape[1], scores_of(features)
    cell, readout = nn.LSTMCell(size, 128), nn.Linear(128, size)
    optimizer = torch.optim.Adam([*cell.parameters(), *readout.parameters()], lr=0.01)
    place, visited, queries = 0, {0}, 0
    while queries < QUERIES:
        state, losses = None, []
        for _ in range(16):
            state = cell(features[place][None], state)
            normal = torch.distributions.MultivariateNormal(readout(state[0]), torch.eye(size))
            action = normal.sample()
            order = torch.argsort((features - action).norm(dim=1)).tolist()
            place = next(i for i in order if i not in visited)
            visited.add(place)
            queries += 1
            losses.append(-normal.log_prob(action) * (scores[place].float() / 100 - 0.4))
        optimizer.zero_grad()
        torch.cat(losses).mean().backward()
        optimizer.step()


def whole_reinforce(pool: CandidatePool) -> None:
    """A whole search of many runs."""
    strategy, history = Reinforce(encoding=ENCODING, episode_length=16), SearchHistory.empty(SIDE_BY_SIDE, QUERIES)
    while history.length < QUERIES:
        chosen = strategy.ask(history, pool)
        scores = scores_of(pool.features(ENCODING)[chosen])
        history.complete(history.begin(chosen, 1), scores, scores, scores)


def loop(one_run, settings, history: SearchHistory, features: torch.Tensor) -> None:
    """The plain loop over the first runs."""
    for run in range(LOOP_RUNS):
        y = history.valid[run, : history.length]
        one_run(features, history.indices[run, : history.length], (y - y.mean()) / y.std(), settings)


def seconds(work, repeats: int = REPEATS) -> float:
    """Median CPU time of a few calls after one to warm up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return statistics.median(times)


def whole(per_query: list[float], runs: int = WHOLE_RUNS) -> float:
    """Seconds of all queries from seconds per run and query at the three lengths."""
    mean = np.dot((1, 4, 1), per_query) / 6
    return runs * (QUERIES - INITIAL) * float(mean)


ENCODING = OneHotEncoding()


def compare_with_the_published_way(pool: CandidatePool, times: Times) -> None:
    """Add seconds of one run to the last query for DNGO and REINFORCE, and the ratios."""
    features = pool.features(ENCODING)
    strategy = BayesianSearch(DNGO(), encoding=ENCODING, num_initial=INITIAL)
    histories = [history_of(pool, length, SIDE_BY_SIDE) for length in LENGTHS]
    ours = [seconds(lambda h=h: strategy.ask(h, pool), 1) / SIDE_BY_SIDE for h in histories]
    plain = [seconds(lambda h=h: loop(published_dngo, DNGO(), h, features), 1) / LOOP_RUNS for h in histories]
    walks = seconds(lambda: whole_reinforce(pool)) / SIDE_BY_SIDE, seconds(lambda: published_reinforce(features))
    for name, batched, published in (("DNGO", whole(ours, 1), whole(plain, 1)), ("REINFORCE", *walks)):
        label = f"one run of {name} to {QUERIES} queries, {SIDE_BY_SIDE} side by side, against the published way"
        times.add(label, batched, published)


def main() -> None:
    """Print one line per surrogate and one for each published way."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", NumericsWarning)
    pool = CandidatePool(NASBench201())
    features = pool.features(ENCODING)
    times = Times("search", "Searches on one-hot NAS-Bench-201, processor seconds", "plain loop over runs")
    compare_with_the_published_way(pool, times)
    histories = [history_of(pool, length, RUNS) for length in LENGTHS]
    for surrogate, one_run in ((GaussianProcess(), gp_of_one_run), (DNGO(), dngo_of_one_run)):
        strategy = BayesianSearch(surrogate, encoding=ENCODING, num_initial=INITIAL)
        ours = [seconds(lambda h=h, s=strategy: s.ask(h, pool)) for h in histories]
        plain = [seconds(lambda h=h, s=surrogate, f=one_run: loop(f, s, h, features)) for h in histories]
        batched, looped = whole([s / RUNS for s in ours]), whole([s / LOOP_RUNS for s in plain])
        times.add(f"{type(surrogate).__name__}, {WHOLE_RUNS} runs to {QUERIES} queries", batched, looped)
    times.keep(f"{len(pool):,} candidates; whole searches by Simpson's rule over queries {LENGTHS}")


if __name__ == "__main__":
    main()
