"""Random search without replacement."""

from __future__ import annotations

from typing import Any

from torch import LongTensor

from lightning_nas.search.history import SearchHistory
from lightning_nas.search.pool import CandidatePool, pick_unvisited
from lightning_nas.search.strategy import SearchStrategy


class RandomSearch(SearchStrategy):
    """Uniform draws from the candidates not tried yet: the baseline every method must beat."""

    def propose(self, history: SearchHistory, pool: CandidatePool[Any]) -> LongTensor:
        """A uniform draw for every run, ``(R,)``."""
        return pick_unvisited(history, len(pool), history.uniforms(1)[:, 0])
