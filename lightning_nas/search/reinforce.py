"""Policy search in an embedding: an LSTM says where to look, and the nearest untried candidate is evaluated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import LongTensor, Tensor

from lightning_nas.errors import UsageError
from lightning_nas.search.history import SearchHistory, Status
from lightning_nas.search.policy import LSTMPolicy, State
from lightning_nas.search.pool import CandidatePool, pick_unvisited
from lightning_nas.search.strategy import SearchStrategy
from lightning_nas.spaces.encodings import Encoding


@dataclass
class _Memory:
    """What the policy of some runs has learned and seen; only saves replaying the history."""

    features: Tensor
    indices: Tensor  # what the walk has seen …
    valid: Tensor  # … and the scores the policy has learned from
    policy: LSTMPolicy
    state: State  # before the action of column `at`
    at: int  # column of the next step; -1 for before the first of an episode


class Reinforce(SearchStrategy):
    """REINFORCE in an embedding space: arch2vec's search (arXiv 2006.06936, Section 3.3).

    An LSTM maps the embedding of the cell evaluated last to the mean of a Gaussian action with identity covariance;
    the untried candidate nearest to the action is evaluated next. After every episode the policy takes one step of
    Adam along the score function times (return - baseline). The gradient needs the action's noise alone, which is
    fixed by (seed, run, query): so the policy follows from the history, nothing of it has to be saved, and
    evaluations that run side by side merely delay what it learns.

    Args:
        discount: Weight of the next reward in a return; the paper has 0.8 on NAS-Bench-101 and 0.4 on NAS-Bench-201.
        baseline: Subtracted from returns, in percent; None for the mean of a run's own returns so far.
        spread: Standard deviation that the features are scaled to, where the action's is one. Small ones let actions
            point from the middle of the candidates to their rim.
        episode_length: Queries between two updates of the policy; the released code has 16, and so few updates.
        learning_rate: Of Adam.
        hidden_size: Units of the LSTM cell.
        encoding: Features of the candidates; None for the embeddings of the trained module.
        mode: reference does what the released code does: returns are the rewards alone, whatever the discount; the
            walk begins at a random cell that counts as tried but is no query; features enter unscaled.
        skip_nearest: Never evaluate the candidate nearest to the action, but the next one, as the released code does on
            NAS-Bench-201 by an index that begins at one.
        block_size: Distances computed at a time (runs times candidates); bounds memory.
    """

    def __init__(
        self,
        discount: float = 0.0,
        baseline: float | None = None,
        spread: float = 0.01,
        episode_length: int = 4,
        learning_rate: float = 0.01,
        hidden_size: int = 128,
        encoding: Encoding | None = None,
        mode: Literal["paper", "reference"] = "paper",
        skip_nearest: bool = False,
        block_size: int = 2_000_000,
    ) -> None:
        if (
            min(episode_length, hidden_size, block_size) < 1
            or min(learning_rate, spread) <= 0
            or not 0 <= discount <= 1
        ):
            raise UsageError(
                f"Reinforce(discount={discount}, spread={spread}, episode_length={episode_length}, "
                f"learning_rate={learning_rate}, hidden_size={hidden_size}, block_size={block_size}): expected a "
                "discount from 0 to 1 and positive numbers else"
            )
        if mode == "reference" and baseline is None:
            raise UsageError(
                "Reinforce(mode='reference'): expected the baseline that the released code fixes, 95 on NAS-Bench-101 "
                "and in the DARTS space, 40 on NAS-Bench-201"
            )
        self.discount = discount
        self.baseline = baseline
        self.spread = spread
        self.episode_length = episode_length
        self.learning_rate = learning_rate
        self.hidden_size = hidden_size
        self.encoding = encoding
        self.mode = mode
        self.skip_nearest = skip_nearest
        self.block_size = block_size
        self._memories: dict[tuple[int, ...], _Memory] = {}
        self._shrunk: tuple[Tensor, Tensor] | None = None

    @property
    def needs_embeddings(self) -> bool:
        """Whether the candidates' features come from a trained module."""
        return self.encoding is None

    @property
    def in_order_of_asking(self) -> bool:
        """The walk goes in the order of asking."""
        return True

    @property
    def _first(self) -> int:
        """The first query that is the policy's own; before it a walk begins at random."""
        return 0 if self.mode == "reference" else 1

    def propose(self, history: SearchHistory, pool: CandidatePool[Any]) -> LongTensor:
        """The untried candidate nearest to the policy's action, ``(R,)``."""
        chosen = pick_unvisited(history, len(pool), history.uniforms(1)[:, 0])  # says so where none is left
        # Runs that are not in step, as in an asynchronous search, have policies of another age.
        ages = torch.stack([history.count, self._episodes(history)])
        for age in ages.unique(dim=1).T:  # type: ignore[no-untyped-call]
            rows: LongTensor = (ages == age[:, None]).all(dim=0).nonzero()[:, 0]
            if int(age[0]) >= self._first:
                chosen[rows] = self._walk(history.rows(rows), pool, int(age[0]), int(age[1]))
        return chosen

    def _episodes(self, history: SearchHistory) -> Tensor:
        """Episodes that are over: all their evaluations and those before are finished, ``(R,)``."""
        leading = (history.status >= Status.DONE).long().cumprod(dim=1).sum(dim=1)
        return (leading - self._first).clamp_min(0) // self.episode_length

    def _walk(self, history: SearchHistory, pool: CandidatePool[Any], count: int, episodes: int) -> LongTensor:
        """The next step of runs that have the same numbers of evaluations and of episodes behind them, ``(R,)``."""
        features = self._features(pool)
        memory = self._recall(history, features, count, episodes)
        while memory.policy.updates < episodes:
            self._learn(memory, history)
        begin = count - (count - self._first) % self.episode_length
        if not begin <= memory.at <= count:
            memory.at, memory.state = begin, memory.policy.blank()
        while True:
            inputs = features[self._place(history, memory.at, len(features))]
            mean, state = memory.policy.step(inputs, memory.state)
            if memory.at == count:
                break
            memory.at, memory.state = memory.at + 1, state
        memory.indices = history.indices[:, :count].clone()
        action = mean + self._noise(history, count, features.shape[1])
        return self._nearest(action, features, history, count)

    def _recall(self, history: SearchHistory, features: Tensor, count: int, episodes: int) -> _Memory:
        """What is remembered of these runs, if it follows from their history; else a policy that learned nothing."""
        memory = self._memories.get(key := (history.seed, *history.runs.tolist()))
        if memory is not None and memory.features is features and memory.policy.updates <= episodes:
            asked, told = memory.indices.shape[1], memory.valid.shape[1]
            same = asked <= count and torch.equal(memory.indices, history.indices[:, :asked])
            if same and torch.equal(memory.valid, history.valid[:, :told].nan_to_num(nan=-1.0)):
                return memory
        seeds = [(history.seed, run, 0, 1) for run in history.runs.tolist()]
        policy = LSTMPolicy(seeds, features.shape[1], self.hidden_size, self.learning_rate)
        nothing = history.prefix(0)
        self._memories[key] = _Memory(features, nothing.indices, nothing.valid, policy, policy.blank(), -1)
        return self._memories[key]

    def _learn(self, memory: _Memory, history: SearchHistory) -> None:
        """Improve the policy by the first episode it has not learned from."""
        begin = self._first + memory.policy.updates * self.episode_length
        columns = range(begin, begin + self.episode_length)
        inputs = [memory.features[self._place(history, column, len(memory.features))] for column in columns]
        noise = [self._noise(history, column, memory.features.shape[1]) for column in columns]
        weight = self._advantages(history, begin)  # (R, L)
        # The loss is -mean(log N(action; mean, 1) * advantage).
        push = torch.stack(noise, dim=1) * weight.float()[..., None] / -self.episode_length
        memory.policy.improve(torch.stack(inputs, dim=1), push)
        memory.valid = history.valid[:, : columns.stop].nan_to_num(nan=-1.0)
        memory.at = -1

    def _advantages(self, history: SearchHistory, begin: int) -> Tensor:
        """Returns of the episode from column ``begin`` on, less the baseline; 0 where it failed, ``(R, L)``."""
        scores = history.valid[:, self._first : begin + self.episode_length] / 100.0
        scores = torch.unflatten(scores, 1, (-1, self.episode_length))  # (R, number of episodes, L)
        returns = scores.nan_to_num()
        if self.mode == "paper":
            for step in reversed(range(self.episode_length - 1)):
                returns[..., step] += self.discount * returns[..., step + 1]
        known = torch.where(scores.isnan(), torch.nan, returns)
        if self.baseline is None:
            baseline = known.flatten(1).nanmean(dim=1, keepdim=True)
        else:
            baseline = torch.full_like(known[:, 0, :1], self.baseline / 100.0)
        return (known[:, -1] - baseline).nan_to_num()

    def _features(self, pool: CandidatePool[Any]) -> Tensor:
        if self.mode == "reference" and self.encoding is None and pool.embeddings is not None:
            return pool.embeddings
        features = pool.features(self.encoding)
        return features if self.mode == "reference" else self._scaled(features)

    def _scaled(self, features: Tensor) -> Tensor:
        if self._shrunk is None or self._shrunk[0] is not features:
            self._shrunk = features, features * self.spread  # kept: memories know features by identity
        return self._shrunk[1]

    def _place(self, history: SearchHistory, column: int, size: int) -> Tensor:
        """The candidate from which a run takes the step of the given column, ``(R,)``."""
        return history.indices[:, column - 1] if column else self._start(history, size)

    @staticmethod
    def _start(history: SearchHistory, size: int) -> Tensor:
        """Where the walk of the released code begins, ``(R,)``."""
        draws = [np.random.default_rng((history.seed, run, 0, 2)).integers(size) for run in history.runs.tolist()]
        return torch.tensor(draws)

    @staticmethod
    def _noise(history: SearchHistory, column: int, size: int) -> Tensor:
        """Standard normal draws of the action of the given column, ``(R, D)``."""
        draws = [
            np.random.default_rng((history.seed, run, column)).standard_normal(size + 1, dtype=np.float32)[1:]
            for run in history.runs.tolist()
        ]
        return torch.from_numpy(np.stack(draws))

    def _nearest(self, action: Tensor, features: Tensor, history: SearchHistory, count: int) -> LongTensor:
        """The nearest untried candidate, ``(R,)``."""
        tried = history.indices[:, :count]
        reluctant: list[Tensor] = []  # taken only where nothing else is left
        if self.mode == "reference":
            reluctant.append(self._start(history, len(features)))
        if self.skip_nearest:
            nothing = tried[:, :0]
            reluctant.append(nearest(action, features, nothing, nothing, self.block_size))
        shunned = torch.stack(reluctant, dim=1) if reluctant else tried[:, :0]
        return nearest(action, features, tried, shunned, self.block_size)


def nearest(points: Tensor, features: Tensor, tried: Tensor, shunned: Tensor, block_size: int) -> LongTensor:
    """The candidate nearest to each point in Euclidean distance, ``(R,)``.

    Args:
        points: ``(R, D)``.
        features: Of all candidates, ``(P, D)``.
        tried: Candidates that are out of the question for each point, ``(R, n)``.
        shunned: Candidates to be taken only where no other is left, ``(R, m)``.
        block_size: Distances computed at a time.
    """
    blocks = []
    for begin, block in _blocks(features, max(1, block_size // len(points))):
        # Less the squared length of the point, which is the same for all candidates.
        distance = torch.addmm(block.square().sum(dim=1), points, block.T, alpha=-2.0)  # (R, c)
        for indices, value in ((shunned, torch.finfo(distance.dtype).max), (tried, torch.inf)):
            rows, columns = ((indices >= begin) & (indices < begin + len(block))).nonzero(as_tuple=True)
            distance[rows, indices[rows, columns] - begin] = value
        least = distance.min(dim=1)
        blocks.append((least.values, least.indices + begin))
    values, places = (torch.stack(column, dim=1) for column in zip(*blocks, strict=True))  # (R, number of blocks)
    return places.gather(1, values.argmin(dim=1, keepdim=True))[:, 0]  # type: ignore[return-value]


def _blocks(features: Tensor, size: int) -> Iterator[tuple[int, Tensor]]:
    for begin in range(0, len(features), size):
        yield begin, features[begin : begin + size]
