"""Seconds per query of Bayesian search on one-hot NAS-Bench-201, batched over runs and as a plain loop over runs.

``python bench_search.py``; the scores are made up, so no table is needed. The loop does what research code does: one
run after the other, a network trained with autograd and ``torch.optim``, one Cholesky factor per point of the grid.
"""

import math
import statistics
import sys
import time
import warnings

import numpy as np
import torch
from botorch.exceptions.warnings import NumericsWarning
from torch import nn

from lightning_nas.predictors.dngo import DNGO
from lightning_nas.predictors.gp import GaussianProcess
from lightning_nas.search.bayesian import BayesianSearch
from lightning_nas.search.history import SearchHistory
from lightning_nas.search.pool import CandidatePool
from lightning_nas.search.random import RandomSearch
from lightning_nas.spaces.encodings import OneHotEncoding
from lightning_nas.spaces.nasbench201 import NASBench201

RUNS, LOOP_RUNS, REPEATS = 10, 2, 3
LENGTHS = (16, 58, 99)  # evaluations before the query; Simpson's rule over them gives a whole search
WHOLE_RUNS, INITIAL, QUERIES = 500, 16, 100


def history_of(pool: CandidatePool, length: int) -> SearchHistory:
    """Runs with random evaluations, scored by a smooth made-up function."""
    history = SearchHistory.empty(RUNS, length + 1)
    columns = history.begin(RandomSearch().ask(history, pool, length), epochs=1)
    worth = torch.randn(30, generator=torch.Generator().manual_seed(0))
    scores = 90 + pool.features(ENCODING)[history.indices[:, :length]] @ worth
    scores = scores.double() + 0.1 * torch.sin(scores.double() * 7)
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


def loop(one_run, settings, history: SearchHistory, features: torch.Tensor) -> None:
    """The plain loop over the first runs."""
    for run in range(LOOP_RUNS):
        y = history.valid[run, : history.length]
        one_run(features, history.indices[run, : history.length], (y - y.mean()) / y.std(), settings)


def seconds(work) -> float:
    """Median wall time of a few calls after one to warm up."""
    work()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def whole(per_query: list[float]) -> float:
    """Seconds of all runs and queries from seconds per run and query at the three lengths."""
    mean = np.dot((1, 4, 1), per_query) / 6
    return WHOLE_RUNS * (QUERIES - INITIAL) * float(mean)


ENCODING = OneHotEncoding()


def main() -> None:
    """Print one line per surrogate."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", NumericsWarning)
    pool = CandidatePool(NASBench201())
    features = pool.features(ENCODING)
    histories = [history_of(pool, length) for length in LENGTHS]
    for surrogate, one_run in ((GaussianProcess(), gp_of_one_run), (DNGO(), dngo_of_one_run)):
        strategy = BayesianSearch(surrogate, encoding=ENCODING, num_initial=INITIAL)
        ours = [seconds(lambda h=h, s=strategy: s.ask(h, pool)) for h in histories]
        plain = [seconds(lambda h=h, s=surrogate, f=one_run: loop(f, s, h, features)) for h in histories]
        batched, looped = whole([s / RUNS for s in ours]), whole([s / LOOP_RUNS for s in plain])
        asks = ", ".join(f"{s:.3f} s after {n}" for s, n in zip(ours, LENGTHS, strict=True))
        sys.stdout.write(
            f"{type(surrogate).__name__}: ask for {RUNS} runs {asks} evaluations; "
            f"{WHOLE_RUNS} runs x {QUERIES} queries {batched:.0f} s, plain loop {looped:.0f} s, "
            f"ratio {looped / batched:.1f}\n"
        )


if __name__ == "__main__":
    main()
