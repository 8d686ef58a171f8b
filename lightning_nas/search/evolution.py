"""Regularised (aging) evolution."""

from __future__ import annotations

from typing import Any

import torch
from torch import LongTensor, Tensor

from lightning_nas.errors import UsageError
from lightning_nas.search.history import SearchHistory
from lightning_nas.search.pool import CandidatePool, pick_unvisited
from lightning_nas.search.strategy import SearchStrategy


class RegularizedEvolution(SearchStrategy):
    """Tournament selection with one-edit mutation; the oldest member dies (Real et al., arXiv 1802.01548, Alg. 1).

    The population is the last ``population_size`` evaluations of a run, so the history alone is the state. A child
    that was already evaluated is not evaluated again: mutation draws among the parent's untried neighbours.

    Args:
        population_size: Members alive at a time; the first ones are drawn at random. NAS-Bench-201 uses 10.
        sample_size: Members drawn with replacement for each tournament. NAS-Bench-201 uses 3.
    """

    def __init__(self, population_size: int = 10, sample_size: int = 3) -> None:
        if population_size < 1 or sample_size < 1:
            raise UsageError(
                f"RegularizedEvolution(population_size={population_size}, sample_size={sample_size}): both must be >= 1"
            )
        self.population_size = population_size
        self.sample_size = sample_size

    def propose(self, history: SearchHistory, pool: CandidatePool[Any]) -> LongTensor:
        """The child of a tournament's winner, or a random candidate while the population grows, ``(R,)``."""
        draws = history.uniforms(self.sample_size + 1)
        newcomer = pick_unvisited(history, len(pool), draws[:, 0])
        if not bool((history.count >= self.population_size).any()):
            return newcomer
        scored = history.done.long()
        ages = scored.flip(1).cumsum(1).flip(1)  # 1 = the youngest scored member
        alive = (scored > 0) & (ages <= self.population_size)
        size = alive.sum(dim=1)
        # The k-th member alive, counted from the left, for sample_size uniform values of k.
        ranks = (draws[:, 1:] * size[:, None]).long() + 1
        slots = torch.searchsorted(alive.long().cumsum(1), ranks)
        slots = slots.clamp_max(history.capacity - 1)
        winner = slots.gather(1, history.valid.gather(1, slots).nan_to_num(nan=-torch.inf).argmax(1, keepdim=True))
        parent = history.indices.gather(1, winner)[:, 0].clamp_min(0)
        child = pick_neighbor(history, pool.neighbors[parent], draws[:, 0], newcomer)
        # Without a score there is no parent: all failed so far, or the first batch, larger than a population, runs.
        growing = (history.count < self.population_size) | (size == 0)
        return torch.where(growing, newcomer, child)  # type: ignore[return-value]


def pick_neighbor(history: SearchHistory, neighbors: Tensor, uniform: Tensor, otherwise: Tensor) -> LongTensor:
    """An untried neighbour drawn uniformly, or ``otherwise`` where none is left.

    Args:
        history: R runs.
        neighbors: Candidates to choose from, ``(R, K)``, padded with -1.
        uniform: One draw in [0, 1) for each run, ``(R,)``.
        otherwise: Pool indices for runs whose neighbours are all tried, ``(R,)``.
    """
    tried = (neighbors[:, :, None] == history.indices[:, None, : history.length]).any(dim=2)
    free = (neighbors >= 0) & ~tried  # (R, K)
    rank = (uniform * free.sum(dim=1)).long() + 1
    slot = torch.searchsorted(free.long().cumsum(1), rank[:, None]).clamp_max(neighbors.shape[1] - 1)
    return torch.where(free.any(dim=1), neighbors.gather(1, slot)[:, 0], otherwise)  # type: ignore[return-value]
