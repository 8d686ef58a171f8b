"""BOHB: a tree-structured Parzen estimator proposes, successive halving decides who is trained for longer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import LongTensor, Tensor

from lightning_nas.errors import SearchStateError, UsageError
from lightning_nas.search.categorical_reinforce import positions
from lightning_nas.search.history import SearchHistory, Status
from lightning_nas.search.pool import CandidatePool
from lightning_nas.search.strategy import SearchStrategy


@dataclass
class _Run:
    """One run's study and the state of its halving, after the finished evaluations that its history begins with."""

    storage: Any
    study: Any
    indices: Tensor
    valid: Tensor
    start: dict[int, int] = field(default_factory=dict)  # bracket of every candidate: the level it began at
    rungs: dict[tuple[int, int], list[float]] = field(default_factory=dict)  # scores by bracket and level
    promoted: dict[int, int] = field(default_factory=dict)  # candidates to be evaluated at a higher level


class BOHB(SearchStrategy):
    """Optuna's TPE with the brackets of Hyperband (arXiv 1807.01774), one study for every run; needs Optuna.

    A newcomer is drawn by a multivariate TPE over independent choices (those of a categorical space; elsewhere arcs and
    vertex labels) and trained for as long as its bracket begins with. In each bracket the best 1 / eta of those that
    were trained as long so far go on to the next number of epochs at once (asynchronous halving, as in Optuna). What
    TPE draws may be no member of the pool or tried before: then the untried candidate that differs in the fewest
    positions stands in, one of them at random. With a single number of epochs this is TPE alone.

    Everything follows from the history, from which the studies are made anew when a search goes on.

    Args:
        epochs: Numbers of epochs that the benchmark can score, for example ``[12, 200]``; empty for its own.
        eta: One of how many goes on.
        num_startup: Random evaluations before the first model.
        num_candidates: Draws from the density of the good ones, of which the best is taken.
        random_fraction: Share of newcomers drawn at random throughout.
    """

    def __init__(
        self,
        epochs: tuple[int, ...] = (),
        eta: int = 3,
        num_startup: int = 10,
        num_candidates: int = 64,
        random_fraction: float = 0.0,
    ) -> None:
        if len(set(epochs)) < len(epochs) or min((*epochs, eta - 1, num_startup, num_candidates)) < 1:
            raise UsageError(
                f"BOHB(epochs={list(epochs)}, eta={eta}, num_startup={num_startup}, num_candidates={num_candidates}): "
                "expected distinct positive epochs, eta from 2 on, and positive numbers"
            )
        if not 0 <= random_fraction <= 1:
            raise UsageError(f"BOHB(random_fraction={random_fraction}): expected a number from 0 to 1")
        self.epochs = tuple(sorted(epochs))
        self.eta = eta
        self.num_startup = num_startup
        self.num_candidates = num_candidates
        self.random_fraction = random_fraction
        _optuna()  # says at once what is missing
        self._runs: dict[tuple[int, int], _Run] = {}
        self._codes: tuple[CandidatePool[Any], np.ndarray, dict[str, Any]] | None = None

    def propose(self, history: SearchHistory, pool: CandidatePool[Any]) -> LongTensor:
        """A candidate that has earned more epochs, or else a newcomer, ``(R,)``."""
        codes, choices = self._positions(pool)
        draws = history.uniforms(4).tolist()
        chosen = []
        for row, (pick, _, seed, chance) in enumerate(draws):
            run = self._up_to_date(history.run(row), codes, choices)
            asked = self._levels(history.run(row))
            waiting = (m for m, level in run.promoted.items() if asked[m] < level)
            member = next(waiting, None)
            if member is None:
                free = np.ones(len(codes), dtype=bool)
                free[list(asked)] = False
                if not free.any():
                    raise SearchStateError(f"the pool of {len(pool)} candidates is exhausted; ask for fewer queries")
                wish = None if chance < self.random_fraction else self._wish(run, choices, seed)
                member = _nearest(codes, free, wish, pick)
            chosen.append(member)
        return torch.tensor(chosen, dtype=torch.long)  # type: ignore[return-value]

    def fidelity(self, history: SearchHistory, chosen: LongTensor) -> LongTensor | None:
        """One level above the candidate's last, or where its bracket begins, ``(R, q)``."""
        if not self.epochs:
            return None
        levels = torch.zeros_like(chosen)
        for row, (seed_run, count) in enumerate(zip(history.runs.tolist(), history.count.tolist(), strict=True)):
            asked = self._levels(history.run(row))
            for column, member in enumerate(chosen[row].tolist()):
                draw = np.random.default_rng((history.seed, seed_run, count + column)).random(2)[1]
                levels[row, column] = asked[member] + 1 if member in asked else self._bracket(draw)
        return torch.tensor(self.epochs)[levels]  # type: ignore[return-value]

    def _bracket(self, draw: float) -> int:
        """The level that a newcomer begins at: a bracket is drawn by the number of its newcomers in Hyperband."""
        top = len(self.epochs)
        sizes = [-(-top * self.eta**halvings // (halvings + 1)) for halvings in reversed(range(top))]
        return int(np.searchsorted(np.cumsum(sizes) / sum(sizes), draw, side="right"))

    def _levels(self, history: SearchHistory) -> dict[int, int]:
        """The highest level that each candidate of one run was asked for."""
        asked: dict[int, int] = {}
        length = int(history.count)
        for member, epochs in zip(
            history.indices[0, :length].tolist(), history.epochs[0, :length].tolist(), strict=True
        ):
            asked[member] = max(asked.get(member, 0), self._level(epochs))
        return asked

    def _level(self, epochs: int) -> int:
        if not self.epochs:
            return 0
        if epochs not in self.epochs:
            raise SearchStateError(f"BOHB(epochs={list(self.epochs)}): the history has evaluations of {epochs} epochs")
        return self.epochs.index(epochs)

    def _positions(self, pool: CandidatePool[Any]) -> tuple[np.ndarray, dict[str, Any]]:
        """Choice of every candidate at every position, and Optuna's description of the positions."""
        if self._codes is None or self._codes[0] is not pool:
            codes = positions(pool.space)[pool.members].to(torch.uint8).numpy()
            codes = np.asfortranarray(codes[:, (codes != codes[:1]).any(axis=0)])  # a part of a space may agree on some
            categorical = _optuna().distributions.CategoricalDistribution
            choices = {
                f"{place:03d}": categorical(range(int(most) + 1)) for place, most in enumerate(codes.max(axis=0))
            }
            self._codes = pool, codes, choices
        return self._codes[1:]

    def _up_to_date(self, history: SearchHistory, codes: np.ndarray, choices: dict[str, Any]) -> _Run:
        """One run's study with all scores that came; made anew if it does not belong to the history."""
        key = (history.seed, int(history.runs))
        run = self._runs.get(key)
        if run is not None:
            length = run.indices.shape[1]
            here = history.prefix(length)
            same = length <= int(history.finished) and torch.equal(run.indices, here.indices)
            run = run if same and torch.equal(run.valid, here.valid.nan_to_num(nan=-1.0)) else None
        if run is None:
            storage = _optuna().storages.InMemoryStorage()
            study = _optuna().create_study(direction="maximize", storage=storage)
            run = self._runs[key] = _Run(storage, study, history.indices[:, :0], history.valid[:, :0])
        finished = int((history.status[0] >= Status.DONE).long().cumprod(dim=0).sum())
        for column in range(run.indices.shape[1], finished):
            self._enter(run, history, column, codes, choices)
        run.indices = history.indices[:, :finished].clone()
        run.valid = history.valid[:, :finished].nan_to_num(nan=-1.0)
        return run

    def _enter(
        self, run: _Run, history: SearchHistory, column: int, codes: np.ndarray, choices: dict[str, Any]
    ) -> None:
        """Take one finished evaluation into the study, or promote its candidate."""
        member, level = int(history.indices[0, column]), self._level(int(history.epochs[0, column]))
        score = float(history.valid[0, column])
        bracket = run.start.setdefault(member, level)
        if np.isnan(score):
            return
        rung = run.rungs.setdefault((bracket, level), [])
        rung.append(score)
        last = level >= len(self.epochs) - 1
        if not last and sorted(rung)[-max(1, len(rung) // self.eta)] <= score:
            run.promoted[member] = level + 1
            return
        state = _optuna().trial.TrialState
        trial = _optuna().trial.create_trial(
            params=dict(zip(choices, codes[member].tolist(), strict=True)), distributions=choices,
            state=state.COMPLETE if last else state.PRUNED, value=score, intermediate_values={level + 1: score},
        )  # fmt: skip
        run.study.add_trial(trial)

    def _wish(self, run: _Run, choices: dict[str, Any], seed: float) -> np.ndarray | None:
        """What TPE would have next, one choice for each position; None for as long as it has no model."""
        trials = _optuna().trial
        sampler = _optuna().samplers.TPESampler(
            multivariate=True, constant_liar=False, n_startup_trials=self.num_startup,
            n_ei_candidates=self.num_candidates, seed=int(seed * 2**32),
        )  # fmt: skip
        newcomer = trials.create_trial(state=trials.TrialState.WAITING)
        # A study remembers the trials it had when first asked for them, so each draw looks through a new one.
        study = _optuna().load_study(study_name=run.study.study_name, storage=run.storage, sampler=sampler)
        wish = sampler.sample_relative(study, newcomer, choices)
        return np.array([wish[name] for name in choices], dtype=np.uint8) if wish else None


def _nearest(codes: np.ndarray, free: np.ndarray, wish: np.ndarray | None, draw: float) -> int:
    """The free candidate that differs from a wish in the fewest positions, drawn among equals; any without a wish."""
    if wish is not None:
        # Position by position: sums over the long axis of a narrow table are slow.
        distance = np.where(free, np.uint8(0), np.uint8(255))
        for place, choice in enumerate(wish):
            distance += (codes[:, place] != choice) & free
        free = distance == distance.min()
    candidates = free.nonzero()[0]
    return int(candidates[int(draw * len(candidates))])


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise UsageError("BOHB needs the package 'optuna': pip install 'lightning-nas[baselines]'") from error
    if optuna.logging.get_verbosity() != optuna.logging.WARNING:  # setting it is slow
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # otherwise every study announces itself
    return optuna
