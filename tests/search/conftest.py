"""A space of 81 members with a closed-form benchmark, so that whole searches take milliseconds."""

from functools import cached_property

import numpy as np
import pytest
import torch

from lightning_nas.benchmarks.base import Benchmark, Evaluations
from lightning_nas.search.history import SearchHistory
from lightning_nas.search.loop import search_rounds
from lightning_nas.search.pool import CandidatePool
from lightning_nas.spaces.categorical import CategoricalSpace


class TinySpace(CategoricalSpace):
    """4 positions with 3 choices each, numbered in a shuffled order."""

    name, choices = "tiny", (("a", "b", "c"),) * 4
    vertex_labels, num_vertices = (), 0

    @cached_property
    def order(self):
        return np.random.default_rng(0).permutation(81)

    def graph(self, arch):
        raise NotImplementedError

    from_graph = build = graph


WORTH = ((0.0, 1.31, 0.47), (0.83, 0.0, 2.09), (0.29, 1.73, 0.0), (1.01, 0.0, 0.59))


class TinyBenchmark(Benchmark):
    """A sum over positions and an interaction of the ends; some members may fail, and the test score is reversed."""

    epochs = 3

    def __init__(self, space, failing=()):
        self.space, self.failing, self.calls = space, frozenset(failing), []

    def score(self, arch):
        return 90 + sum(w[c] for w, c in zip(WORTH, arch, strict=True)) + 1.37 * (arch[0] == arch[3])

    def evaluate(self, archs, epochs=None):
        self.calls.append(list(archs))
        numbers = [self.space.index(arch) for arch in archs]
        valid = torch.tensor([self.score(a) for a in archs], dtype=torch.float64)
        valid[[n in self.failing for n in numbers]] = torch.nan
        return Evaluations(valid, 100 - valid, torch.tensor(numbers, dtype=torch.float64))

    def identity(self):
        return {"benchmark": "tiny"}


@pytest.fixture(scope="session")
def tiny():
    return TinySpace()


@pytest.fixture
def make_benchmark(tiny):
    return lambda failing=(): TinyBenchmark(tiny, failing)


@pytest.fixture(scope="session")
def pool(tiny):
    embeddings = torch.from_numpy(np.random.default_rng(1).standard_normal((81, 3))).float()
    return CandidatePool(tiny, embeddings=embeddings)


@pytest.fixture(scope="session")
def scores(tiny):
    """Validation score of every member, ``(81,)``."""
    return TinyBenchmark(tiny).evaluate(list(tiny)).valid


@pytest.fixture
def play(make_benchmark, pool):
    """Search to the end: ``play(strategy, runs, capacity, …) -> history``."""

    def run(strategy, runs=3, capacity=20, q=1, seed=0, failing=(), over=pool):
        history = SearchHistory.empty(runs, capacity, seed)
        for _ in search_rounds(strategy, history, over, make_benchmark(failing), q):
            pass
        return history

    return run


@pytest.fixture(scope="session")
def same():
    """Asserts that two histories agree to the last bit."""

    def check(one, other):
        for name, value in one.state_dict().items():
            torch.testing.assert_close(value, other.state_dict()[name], rtol=0, atol=0, equal_nan=True, msg=name)

    return check


@pytest.fixture(scope="session")
def written():
    """A history with given evaluations: lists of indices and of scores (None: failed, ...: running)."""

    def write(indices, valid, capacity=None, seed=0, runs=None):
        width = max(map(len, indices))
        history = SearchHistory.empty(len(indices) if runs is None else runs, capacity or width, seed)
        for run, (members, values) in enumerate(zip(indices, valid, strict=True)):
            for column, (member, value) in enumerate(zip(members, values, strict=True)):
                history.indices[run, column], history.epochs[run, column], history.charged[run, column] = member, 3, 3
                history.status[run, column] = 1 if value is ... else 3 if value is None else 2
                if value is not None and value is not ...:
                    history.valid[run, column], history.test[run, column] = value, 100 - value
        return history

    return write
