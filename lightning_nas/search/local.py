"""Local search with restarts."""

from __future__ import annotations

from typing import Any

import torch
from torch import LongTensor, Tensor

from lightning_nas.search.evolution import pick_neighbor
from lightning_nas.search.history import SearchHistory
from lightning_nas.search.pool import CandidatePool, pick_unvisited
from lightning_nas.search.strategy import SearchStrategy


class LocalSearch(SearchStrategy):
    """Hill climbing: evaluate neighbours, move on the first improvement, restart when none is left.

    The first-improvement variant of White et al. (arXiv 2005.02960); with a few hundred queries it wastes fewer of
    them than evaluating all 24 neighbours before each move.
    """

    def propose(self, history: SearchHistory, pool: CandidatePool[Any]) -> LongTensor:
        """An untried neighbour of the present hill top, or a random restart, ``(R,)``."""
        draws = history.uniforms(1)[:, 0]
        restart = pick_unvisited(history, len(pool), draws)
        if history.length == 0:
            return restart
        return pick_neighbor(history, pool.neighbors[self._top(history, pool)], draws, restart)

    def _top(self, history: SearchHistory, pool: CandidatePool[Any]) -> Tensor:
        """Replay the climb from the history: an evaluation that is no neighbour of the top was a restart."""
        top = history.indices[:, 0].clamp_min(0)
        height = torch.full((len(top),), -torch.inf, dtype=torch.float64)
        for step in range(history.length):
            index = history.indices[:, step].clamp_min(0)
            value = history.valid[:, step].nan_to_num(nan=-torch.inf)
            climbed = (pool.neighbors[top] == index[:, None]).any(dim=1)
            moved = history.done[:, step] & (~climbed | (value > height))
            top, height = torch.where(moved, index, top), torch.where(moved, value, height)
        return top
