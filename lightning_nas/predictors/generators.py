"""Where the candidates of a search come from: at random, or uphill in NAO's embedding."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_nas.errors import UsageError
from lightning_nas.predictors.nao import NAO
from lightning_nas.search.history import SearchHistory, Status
from lightning_nas.search.pool import CandidatePool
from lightning_nas.spaces.recurrent_cell import RecurrentSequence


class Generator(ABC):
    """Proposes candidates of a pool that a run has not tried, the most promising first where it knows."""

    @abstractmethod
    def propose(self, run: SearchHistory, pool: CandidatePool[Any], count: int, rng: np.random.Generator) -> Tensor:
        """Up to so many different untried candidates, ``(m,)``.

        Args:
            run: A single run, with scores.
            pool: The candidates.
            count: The most that are wanted.
            rng: Draws whatever is random.
        """


def untried(run: SearchHistory, pool: CandidatePool[Any]) -> Tensor:
    """Candidates that a run has not tried, ``(m,)``."""
    free = torch.ones(len(pool), dtype=torch.bool)
    free[run.indices[0][run.status[0] != Status.EMPTY]] = False
    return free.nonzero()[:, 0]


class RandomGenerator(Generator):
    """Uniform draws without replacement."""

    def propose(self, run: SearchHistory, pool: CandidatePool[Any], count: int, rng: np.random.Generator) -> Tensor:
        """A random part of what was not tried."""
        return torch.from_numpy(rng.permutation(untried(run, pool).numpy())[:count])


class NAOGenerator(Generator):
    """Moves the best recurrent cells uphill in the embedding of NAO's autoencoder, and reads off where they get.

    What is decoded may be no member of the pool: then the untried one that differs in the fewest of the 22 numbers
    stands in, the first of equals in a random order.

    Args:
        predictor: The autoencoder with its regression, reading ``RecurrentSequence``.
        num_parents: Best cells so far that are moved (NAO: 100).
        steps: How far, in gradients of the predicted score (NAO: 10, 20, 30).
    """

    def __init__(self, predictor: NAO, num_parents: int = 100, steps: tuple[float, ...] = (10.0, 20.0, 30.0)) -> None:
        if not isinstance(predictor.encoding, RecurrentSequence):
            raise UsageError(
                f"NAOGenerator: got a predictor that reads {type(predictor.encoding).__name__}, expected "
                "RecurrentSequence"
            )
        if num_parents < 1 or not steps or min(steps) <= 0:
            raise UsageError(f"NAOGenerator(num_parents={num_parents}, steps={steps}): expected positive numbers")
        self.predictor, self.num_parents, self.steps = predictor, num_parents, tuple(steps)

    def propose(self, run: SearchHistory, pool: CandidatePool[Any], count: int, rng: np.random.Generator) -> Tensor:
        """Decoded cells, those of small steps first, or their untried neighbours."""
        done = run.done[0]
        indices, valid = run.indices[0][done], run.valid[0][done]
        seed = int(rng.integers(2**31))
        fitted: Any = self.predictor.fit(pool.space, pool.members[indices], valid, seed)  # type: ignore[arg-type]
        best = indices[valid.argsort(descending=True, stable=True)[: self.num_parents]]
        written = self._climb(fitted.regression, self._tokens(pool, best), (pool.space.num_vertices - 2))
        free = torch.from_numpy(rng.permutation(untried(run, pool).numpy()))
        return free[_nearest(written, self._tokens(pool, free), count)]

    def _tokens(self, pool: CandidatePool[Any], indices: Tensor) -> Tensor:
        return self.predictor.encoding.tokens(pool.space, pool.members[indices])  # type: ignore[arg-type]

    def _climb(self, regression: Any, tokens: Tensor, num_nodes: int) -> Tensor:
        """Sequences that the decoder writes at the ends of all steps, ``(S * n, 22)``."""
        networks = regression.networks
        networks.requires_grad_(False)
        with torch.no_grad():
            steps, _ = networks.encoder(tokens)
        with torch.enable_grad():
            steps.requires_grad_()
            (gradient,) = torch.autograd.grad(regression.value(networks.encoder.pool(steps)).sum(), steps)
        allowed, written = RecurrentSequence.allowed(num_nodes), []
        for size in self.steps:
            moved = F.normalize(steps.detach() + size * gradient, dim=-1)
            written.append(networks.decoder.write(moved, networks.encoder.pool(moved), allowed))
        return torch.cat(written)


def _nearest(wanted: Tensor, there: Tensor, count: int) -> Tensor:
    """Rows that differ least from wanted ones, each once, in the order of wishes, ``(n, L), (m, L)`` -> ``(k,)``."""
    distances = (wanted[:, None] != there).sum(dim=2)  # (n, m)
    found: list[int] = []
    for row in distances:
        if len(found) == min(count, len(there)):
            break
        row[found] = there.shape[1] + 1
        found.append(int(row.argmin()))
    return torch.tensor(found, dtype=torch.long)
