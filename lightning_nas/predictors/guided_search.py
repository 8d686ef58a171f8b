"""Search that evaluates what a performance predictor likes best (for example BANANAS, arXiv 1910.11858)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import LongTensor, Tensor

from lightning_nas.errors import UsageError
from lightning_nas.predictors.predictor import Predictor
from lightning_nas.search.history import SearchHistory, Status
from lightning_nas.search.pool import CandidatePool, pick_unvisited
from lightning_nas.search.strategy import SearchStrategy


class PredictorGuidedSearch(SearchStrategy):
    """In every round, fits a predictor to what a run has seen and evaluates the candidates that it likes best.

    Candidates are random ones and the neighbours of the best architectures so far, those tried already left out. Runs
    are fitted one after the other: a round costs as many fits as there are runs. Ask for several candidates at a time
    (``batch_size`` of the search) where a fit takes long.

    Args:
        predictor: For example ``lightning_nas.predictors.nao.NAO``.
        num_initial: Random evaluations before the first fit.
        num_random: Random candidates of a round.
        num_parents: Best architectures so far whose neighbours are candidates, too.
    """

    def __init__(
        self, predictor: Predictor, num_initial: int = 16, num_random: int = 200, num_parents: int = 10
    ) -> None:
        if num_initial < 2 or num_random < 1 or num_parents < 0:
            raise UsageError(
                f"PredictorGuidedSearch(num_initial={num_initial}, num_random={num_random}, "
                f"num_parents={num_parents}): expected num_initial of 2 or more, num_random of 1 or more"
            )
        self.predictor = predictor
        self.num_initial, self.num_random, self.num_parents = num_initial, num_random, num_parents

    def propose(self, history: SearchHistory, pool: CandidatePool[Any]) -> LongTensor:
        """One candidate for every run, ``(R,)``."""
        return self.ask(history, pool, 1)[:, 0]  # type: ignore[return-value]

    def ask(self, history: SearchHistory, pool: CandidatePool[Any], q: int = 1) -> LongTensor:
        """The best predicted candidates of every run, ``(R, q)``; random ones before the first fit."""
        draws = history.uniforms(1)[:, 0]
        rows: list[Tensor] = [
            self._ask_run(history.run(row), pool, q, float(draw)) for row, draw in enumerate(draws.tolist())
        ]
        return torch.stack(rows)  # type: ignore[return-value]

    def _ask_run(self, run: SearchHistory, pool: CandidatePool[Any], q: int, draw: float) -> LongTensor:
        done, tried = run.done[0], run.indices[0][run.status[0] != Status.EMPTY]
        if len(tried) < self.num_initial or int(done.sum()) < 2:
            return random_candidates(run, pool, q)
        rng = np.random.default_rng(int(draw * 2**53))
        free = torch.ones(len(pool), dtype=torch.bool)
        free[tried] = False
        unguided = torch.from_numpy(rng.permutation(free.nonzero().flatten().numpy()))
        best = run.indices[0][done][run.valid[0][done].argsort(descending=True, stable=True)[: self.num_parents]]
        neighbors = pool.neighbors[best].flatten()
        near = torch.unique(neighbors[neighbors >= 0])
        candidates = torch.unique(torch.cat([unguided[: self.num_random], near[free[near]]]))
        seed = int(rng.integers(2**31))
        fitted = self.predictor.fit(
            pool.space, pool.members[run.indices[0][done]], run.valid[0][done], seed  # type: ignore[arg-type]
        )  # fmt: skip
        order = fitted.predict(pool.members[candidates]).argsort(descending=True, stable=True)  # type: ignore[arg-type]
        chosen = candidates[order[:q]]
        rest = unguided[~torch.isin(unguided, chosen)]
        return torch.cat([chosen, rest[: q - len(chosen)]])  # type: ignore[return-value]


def random_candidates(run: SearchHistory, pool: CandidatePool[Any], q: int) -> LongTensor:
    """Random candidates of one run, those that other strategies begin with, too, ``(q,)``."""
    draft = run.rows(slice(None))
    for _ in range(q):
        chosen = pick_unvisited(draft, len(pool), draft.uniforms(1)[:, 0])
        draft.begin(chosen[:, None], epochs=0)  # type: ignore[arg-type]
    start = int(run.count)
    return draft.indices[0, start : start + q]  # type: ignore[return-value]
