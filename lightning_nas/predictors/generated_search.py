"""Algorithm 1 of the Synthetic Petri Dish: a generator proposes, a predictor chooses (arXiv 2005.13092)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import LongTensor, Tensor

from lightning_nas.errors import UsageError
from lightning_nas.predictors.generators import Generator, RandomGenerator, untried
from lightning_nas.predictors.guided_search import random_candidates
from lightning_nas.predictors.petri_dish import PetriDishPredictor
from lightning_nas.predictors.predictor import Predictor
from lightning_nas.search.history import SearchHistory
from lightning_nas.search.pool import CandidatePool, pick_unvisited
from lightning_nas.search.strategy import SearchStrategy


class GeneratedSearch(SearchStrategy):
    """After random evaluations, in every round: propose candidates, score them by a predictor, evaluate the best.

    With a :class:`~lightning_nas.predictors.petri_dish.PetriDishPredictor` this is Algorithm 1 of the paper: 40 random
    motifs, then rounds of 20 (the search's ``batch_size``); the dishes of all runs that know as many motifs are trained
    side by side. Without a predictor the generator's first candidates are evaluated: NAO alone.

    Args:
        generator: Where candidates come from; default ``RandomGenerator``.
        predictor: What chooses among them; None takes them in the generator's order.
        num_initial: Random evaluations before the first fit.
        num_candidates: Candidates of a round (the paper does not say how many).
        num_unguided: Evaluations of a round that are random instead, against greed (the released code of the other
            experiment has one).
    """

    def __init__(
        self,
        generator: Generator | None = None,
        predictor: Predictor | None = None,
        num_initial: int = 40,
        num_candidates: int = 300,
        num_unguided: int = 0,
    ) -> None:
        if num_initial < 2 or num_candidates < 1 or num_unguided < 0:
            raise UsageError(
                f"GeneratedSearch(num_initial={num_initial}, num_candidates={num_candidates}, num_unguided="
                f"{num_unguided}): expected num_initial of 2 or more, num_candidates of 1 or more, num_unguided not "
                "negative"
            )
        self.generator, self.predictor = generator or RandomGenerator(), predictor
        self.num_initial, self.num_candidates, self.num_unguided = num_initial, num_candidates, num_unguided

    def propose(self, history: SearchHistory, pool: CandidatePool[Any]) -> LongTensor:
        """One candidate for every run, ``(R,)``."""
        return self.ask(history, pool, 1)[:, 0]  # type: ignore[return-value]

    def ask(self, history: SearchHistory, pool: CandidatePool[Any], q: int = 1) -> LongTensor:
        """The best scored candidates of every run, ``(R, q)``; random ones before the first fit."""
        runs = [history.run(row) for row in range(len(history.runs))]
        draws = history.uniforms(1)[:, 0].tolist()
        chosen: dict[int, Tensor] = {}
        groups: dict[int, list[int]] = {}
        for row, run in enumerate(runs):
            known = int(run.done.sum())
            if int(run.count) < self.num_initial or known < 2:
                chosen[row] = random_candidates(run, pool, q)
            else:
                groups.setdefault(known, []).append(row)
        for rows in groups.values():
            found = self._ask_group([runs[row] for row in rows], pool, q, [draws[row] for row in rows])
            chosen.update(zip(rows, found, strict=True))
        return torch.stack([chosen[row] for row in range(len(runs))])  # type: ignore[return-value]

    def _ask_group(
        self, runs: list[SearchHistory], pool: CandidatePool[Any], q: int, draws: list[float]
    ) -> list[Tensor]:
        """Of runs that know as many scores."""
        rngs = [np.random.default_rng(int(draw * 2**53)) for draw in draws]
        seeds = [int(rng.integers(2**31)) for rng in rngs]
        offered = [
            self.generator.propose(run, pool, self.num_candidates, rng) for run, rng in zip(runs, rngs, strict=True)
        ]
        if self.predictor is not None:
            values = self._scores(runs, pool, offered, seeds)
            offered = [
                members[value.argsort(descending=True, stable=True)]
                for members, value in zip(offered, values, strict=True)
            ]
        guided = max(0, q - self.num_unguided)
        return [
            _filled(members[:guided], run, pool, q, rng) for members, run, rng in zip(offered, runs, rngs, strict=True)
        ]

    def _scores(
        self, runs: list[SearchHistory], pool: CandidatePool[Any], offered: list[Tensor], seeds: list[int]
    ) -> list[Tensor]:
        known = [(pool.members[run.indices[0][run.done[0]]], run.valid[0][run.done[0]]) for run in runs]
        asked = [pool.members[members] for members in offered]
        if isinstance(self.predictor, PetriDishPredictor):
            return self.predictor.predict_runs(pool.space, known, asked, seeds)
        assert self.predictor is not None
        return [
            self.predictor.fit(pool.space, members, scores, seed).predict(wanted)  # type: ignore[arg-type]
            for (members, scores), wanted, seed in zip(known, asked, seeds, strict=True)
        ]


def _filled(chosen: Tensor, run: SearchHistory, pool: CandidatePool[Any], q: int, rng: np.random.Generator) -> Tensor:
    """Candidates, and random ones where there are too few."""
    if len(chosen) == q:
        return chosen
    free = untried(run, pool).numpy()
    rest = rng.permutation(np.setdiff1d(free, chosen.numpy()))
    return torch.cat([chosen, torch.from_numpy(rest[: q - len(chosen)])])


class PartialEvaluationSearch(SearchStrategy):
    """Random search that trains many for a short while, and the best of them fully (appendix A.5 of the paper).

    Args:
        num_screened: Random candidates that are trained for ``epochs``.
        epochs: Of the short training.
        full_epochs: Of the whole training.
    """

    def __init__(self, num_screened: int = 100, epochs: int = 1, full_epochs: int = 2) -> None:
        if num_screened < 1 or not 1 <= epochs < full_epochs:
            raise UsageError(
                f"PartialEvaluationSearch(num_screened={num_screened}, epochs={epochs}, full_epochs={full_epochs}): "
                "expected num_screened of 1 or more, and fewer epochs than full_epochs"
            )
        self.num_screened, self.epochs, self.full_epochs = num_screened, epochs, full_epochs

    def propose(self, history: SearchHistory, pool: CandidatePool[Any]) -> LongTensor:
        """A random candidate, or the best screened one that was not trained fully, ``(R,)``."""
        random = pick_unvisited(history, len(pool), history.uniforms(1)[:, 0])
        chosen = []
        for row, count in enumerate(history.count.tolist()):
            if count < self.num_screened:
                chosen.append(int(random[row]))
                continue
            indices = history.indices[row, : self.num_screened]
            scores = history.valid[row, : self.num_screened].nan_to_num(nan=-torch.inf)
            taken = history.indices[row, self.num_screened : count]
            scores = torch.where(torch.isin(indices, taken), -torch.inf, scores)
            chosen.append(int(indices[int(scores.argmax())]))
        return torch.tensor(chosen)  # type: ignore[return-value]

    def fidelity(self, history: SearchHistory, chosen: LongTensor) -> LongTensor:
        """A few epochs for those that are screened, ``(R, q)``."""
        column = history.count[:, None] + torch.arange(chosen.shape[1])
        return torch.where(column < self.num_screened, self.epochs, self.full_epochs)  # type: ignore[return-value]
