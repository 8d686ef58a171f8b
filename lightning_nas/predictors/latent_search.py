"""Search by gradient ascent in the embedding of a sequence autoencoder (NAO, arXiv 1808.07233)."""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import BoolTensor, LongTensor, Tensor

from lightning_nas.errors import SpaceError, UsageError
from lightning_nas.predictors.emprox import EmProx
from lightning_nas.predictors.guided_search import random_candidates
from lightning_nas.predictors.nao import NAO
from lightning_nas.predictors.sequence_training import Autoencoder
from lightning_nas.search.history import SearchHistory, Status
from lightning_nas.search.pool import CandidatePool
from lightning_nas.search.strategy import SearchStrategy
from lightning_nas.spaces.base import CellGraph, FiniteSpace
from lightning_nas.spaces.sequences import GraphSequence, graphs_of, misplaced, tokens_of, vocabulary_size

_CHUNK = 65536  # graphs at a time


class LatentSearch(SearchStrategy):
    """In every round, moves the best architectures so far uphill in a predictor's embedding and decodes where they get.

    The gradient is that of the predicted accuracy with respect to the encoder's steps; steps of growing size are taken
    until there are candidates enough that are members of the pool and were not tried, random ones where the largest
    finds too few. The decoder may write at every place what some member of the space has there; it has to be
    trained long enough to write what the encoder read, a few hundred steps. Runs are fitted one
    after the other: ask for several candidates at a time (``batch_size`` of the search).

    Args:
        predictor: ``NAO``, ``SemiNAS``, or ``EmProx``, whose nearest neighbours are replaced by all known ones, which
            gives a gradient.
        num_initial: Random evaluations before the first fit.
        num_seeds: Best architectures so far that are moved.
        max_step: Largest step; steps are 1, 2, … times the gradient.
    """

    def __init__(
        self, predictor: NAO | EmProx, num_initial: int = 16, num_seeds: int = 100, max_step: int = 100
    ) -> None:
        if num_initial < 2 or min(num_seeds, max_step) < 1:
            raise UsageError(
                f"LatentSearch(num_initial={num_initial}, num_seeds={num_seeds}, max_step={max_step}): expected "
                "num_initial of 2 or more and positive numbers"
            )
        if not isinstance(predictor.encoding, GraphSequence):
            raise UsageError(
                f"LatentSearch: got a predictor that reads {type(predictor.encoding).__name__}, expected "
                "GraphSequence, whose sequences can be turned into architectures"
            )
        self.predictor = predictor
        self.num_initial, self.num_seeds, self.max_step = num_initial, num_seeds, max_step

    def propose(self, history: SearchHistory, pool: CandidatePool[Any]) -> LongTensor:
        """One candidate for every run, ``(R,)``."""
        return self.ask(history, pool, 1)[:, 0]  # type: ignore[return-value]

    def ask(self, history: SearchHistory, pool: CandidatePool[Any], q: int = 1) -> LongTensor:
        """Decoded candidates of every run, ``(R, q)``; random ones before the first fit."""
        draws = history.uniforms(2)[:, 1].tolist()
        return torch.stack([self._ask_run(history.run(row), pool, q, draw) for row, draw in enumerate(draws)])  # type: ignore[return-value]

    def _ask_run(self, run: SearchHistory, pool: CandidatePool[Any], q: int, draw: float) -> LongTensor:
        done, tried = run.done[0], run.indices[0][run.status[0] != Status.EMPTY]
        if len(tried) < self.num_initial or int(done.sum()) < 2:
            return random_candidates(run, pool, q)
        indices, valid = run.indices[0][done], run.valid[0][done]
        rng = np.random.default_rng(int(draw * 2**53))
        seed = int(rng.integers(2**31))
        fitted: Any = self.predictor.fit(pool.space, pool.members[indices], valid, seed)  # type: ignore[arg-type]
        best = indices[valid.argsort(descending=True, stable=True)[: self.num_seeds]]
        found = self._climb(fitted.regression, pool, best, tried, q)  # type: ignore[arg-type]
        if len(found) < q:
            taken = {*found, *tried.tolist()}
            found += [index for index in rng.permutation(len(pool)).tolist() if index not in taken][: q - len(found)]
        return torch.tensor(found)  # type: ignore[return-value]

    def _climb(self, regression: Any, pool: CandidatePool[Any], best: LongTensor, tried: Tensor, q: int) -> list[int]:
        networks: Autoencoder = regression.networks
        networks.requires_grad_(False)
        with torch.no_grad():
            steps, _ = networks.encoder(self.predictor.encoding.tokens(pool.space, pool.members[best]))  # type: ignore[arg-type]
        with torch.enable_grad():
            steps.requires_grad_()
            (gradient,) = torch.autograd.grad(regression.value(networks.encoder.pool(steps)).sum(), steps)
        steps = steps.detach()
        to_pool = torch.full((len(pool.space),), -1)
        to_pool[pool.members] = torch.arange(len(pool))
        taken, found = {-1, *tried.tolist()}, list[int]()
        for size in range(1, self.max_step + 1):
            moved = F.normalize(steps + size * gradient, dim=-1)
            written = networks.decoder.write(moved, networks.encoder.pool(moved), allowed_tokens(pool.space))
            for index in to_pool[members_of(pool.space, written)].tolist():
                if index not in taken:
                    taken.add(index)
                    found.append(index)
            if len(found) >= q:
                break
        return found[:q]


def members_of(space: FiniteSpace[Any], sequences: Tensor) -> LongTensor:
    """Indices of the different members that sequences stand for, in their order, ``(B, L)`` -> ``(m,)``."""
    good = sequences[~misplaced(sequences, space.num_vertices).any(dim=1)]
    found: dict[int, None] = {}
    for graph in zip(*graphs_of(good, space.num_vertices), strict=True):
        with suppress(SpaceError):
            found[space.index(space.from_graph(CellGraph(*graph)))] = None
    return torch.tensor(list(found), dtype=torch.long)  # type: ignore[return-value]


@lru_cache(maxsize=4)
def allowed_tokens(space: FiniteSpace[Any]) -> BoolTensor:
    """Which tokens stand at each place in some member of a space, ``(L, N)``."""
    graphs = space.all_graphs()
    allowed: Tensor | None = None
    for ops, adjacency in zip(*(torch.split(part, _CHUNK) for part in graphs), strict=True):
        one_hot = F.one_hot(tokens_of(CellGraph(ops.long(), adjacency)), vocabulary_size(len(space.vertex_labels)))
        here = one_hot.any(dim=0)
        allowed = here if allowed is None else allowed | here
    assert allowed is not None, "a space has members"
    return allowed  # type: ignore[return-value]
