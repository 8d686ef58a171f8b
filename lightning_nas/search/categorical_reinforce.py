"""Policy search over discrete choices, without an embedding."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import LongTensor, Tensor

from lightning_nas.errors import UsageError
from lightning_nas.search.history import SearchHistory, Status
from lightning_nas.search.pool import CandidatePool, pick_unvisited
from lightning_nas.search.strategy import SearchStrategy
from lightning_nas.spaces.base import FiniteSpace
from lightning_nas.spaces.categorical import CategoricalSpace


class _Policy(NamedTuple):
    """Logits of E positions with at most K choices, their moments and count of updates, and the moving average."""

    logits: Tensor  # (R, E, K)
    first: Tensor
    second: Tensor
    updates: Tensor  # (R, 1, 1)
    total: Tensor  # (R,)
    weight: Tensor


class _Memory(NamedTuple):
    """The policy after the finished evaluations that a history begins with; only saves replaying them."""

    policy: _Policy
    indices: Tensor
    valid: Tensor


class CategoricalReinforce(SearchStrategy):
    """REINFORCE with an independent categorical distribution at every position (arXiv 1902.09635, Section 4).

    The baseline of arXiv 2006.06936: after each score the policy takes one step of Adam along the score function times
    (accuracy - moving average). A candidate is drawn from the policy given that it is an untried one of the pool, which
    is exact: by the probabilities of all of them. Positions are those of a categorical space; elsewhere arcs and vertex
    labels.

    Args:
        learning_rate: Of Adam; the published baselines have 0.1 on NAS-Bench-101 and 0.001 on NAS-Bench-201.
        decay: Of the moving average, which is free of the bias of its start.
        block_size: Probabilities computed at a time (runs times candidates); bounds memory.
    """

    def __init__(self, learning_rate: float = 0.1, decay: float = 0.9, block_size: int = 4_000_000) -> None:
        if learning_rate <= 0 or not 0 <= decay < 1 or block_size < 1:
            raise UsageError(
                f"CategoricalReinforce(learning_rate={learning_rate}, decay={decay}, block_size={block_size}): "
                "expected positive numbers, the decay from 0 to below 1"
            )
        self.learning_rate = learning_rate
        self.decay = decay
        self.block_size = block_size
        self._memories: dict[tuple[int, ...], _Memory] = {}
        self._codes: tuple[CandidatePool[Any], LongTensor, Tensor, Tensor] | None = None

    def propose(self, history: SearchHistory, pool: CandidatePool[Any]) -> LongTensor:
        """A candidate drawn from the policy among those not tried, ``(R,)``."""
        draws = history.uniforms(1)  # (R, 1)
        pick_unvisited(history, len(pool), draws[:, 0])  # says so where none is left
        codes, choices, table = self._positions(pool)
        chances = self._policy(history, codes, choices).logits.log_softmax(dim=2)[:, choices]  # (R, C)
        tried = history.indices[:, : history.length]
        chosen = []
        for rows in torch.split(torch.arange(len(draws)), max(1, self.block_size // len(pool))):
            scores = chances[rows] @ table.T  # (r, P)
            row, column = (tried[rows] >= 0).nonzero(as_tuple=True)
            scores[row, tried[rows][row, column]] = -torch.inf
            weights = (scores - scores.amax(dim=1, keepdim=True)).exp_().double().cumsum(dim=1)
            total = weights[:, -1:]
            aim = torch.minimum(draws[rows] * total, total.nextafter(torch.zeros_like(total)))
            chosen.append(torch.searchsorted(weights, aim, right=True)[:, 0])
        return torch.cat(chosen)  # type: ignore[return-value]

    def _positions(self, pool: CandidatePool[Any]) -> tuple[LongTensor, Tensor, Tensor]:
        """Choice of every candidate at every position, which choices there are, and one-hot choices."""
        if self._codes is None or self._codes[0] is not pool:
            codes: LongTensor = positions(pool.space)[pool.members]  # type: ignore[assignment]
            sizes = codes.amax(dim=0) + 1
            choices = torch.arange(int(sizes.max())) < sizes[:, None]  # (E, K)
            columns = [F.one_hot(codes[:, e], int(size)).float() for e, size in enumerate(sizes)]
            self._codes = pool, codes, choices, torch.cat(columns, dim=1)  # (P, C)
        return self._codes[1:]

    def _policy(self, history: SearchHistory, codes: LongTensor, choices: Tensor) -> _Policy:
        """What the scores of a history taught."""
        key = (history.seed, *history.runs.tolist())
        memory = self._memories.get(key)
        if memory is None or not _follows(history, memory) or memory.policy.logits.shape[1:] != choices.shape:
            blank = torch.zeros(len(history.runs), *choices.shape)
            logits = blank.masked_fill(~choices, -torch.inf)
            zeros = torch.zeros(len(blank), dtype=torch.float64)
            policy = _Policy(logits, blank, blank, blank[:, :1, :1], zeros, zeros)
            memory = _Memory(policy, history.indices[:, :0], history.valid[:, :0])
        policy, seen = memory.policy, memory.indices.shape[1]
        finished = int((history.status >= Status.DONE).all(dim=0).long().cumprod(dim=0).sum())
        for column in range(seen, history.length):
            if column == finished:
                self._remember(key, policy, history, finished)
            policy = self._improved(policy, history, column, codes)
        if finished == history.length:
            self._remember(key, policy, history, finished)
        return policy

    def _remember(self, key: tuple[int, ...], policy: _Policy, history: SearchHistory, length: int) -> None:
        self._memories[key] = _Memory(policy, history.indices[:, :length].clone(), history.valid[:, :length].clone())

    def _improved(self, policy: _Policy, history: SearchHistory, column: int, codes: LongTensor) -> _Policy:
        """The policy after one more score; the same where there is none."""
        done = history.done[:, column]
        reward = history.valid[:, column].nan_to_num() / 100.0
        total = self.decay * policy.total + (1.0 - self.decay) * reward
        weight = self.decay * policy.weight + (1.0 - self.decay)
        advantage = (reward - total / weight).float()[:, None, None]
        taken = F.one_hot(codes[history.indices[:, column].clamp_min(0)], policy.logits.shape[2])  # (R, E, K)
        slope = -advantage * (taken - policy.logits.softmax(dim=2))
        updates = policy.updates + 1.0
        first = policy.first.lerp(slope, 0.1)
        second = policy.second.lerp(slope.square(), 0.001)
        size = (second / (1.0 - 0.999**updates)).sqrt() + 1e-8
        logits = policy.logits - self.learning_rate * first / (1.0 - 0.9**updates) / size
        new = _Policy(logits, first, second, updates, total, weight)
        parts = [
            torch.where(done.view(-1, *[1] * (after.dim() - 1)), after, before)
            for after, before in zip(new, policy, strict=True)
        ]
        return _Policy(*parts)


def _follows(history: SearchHistory, memory: _Memory) -> bool:
    """Whether a history begins with what a policy has learned from."""
    length = memory.indices.shape[1]
    return (
        length <= history.length
        and torch.equal(memory.indices, history.indices[:, :length])
        and torch.equal(memory.valid.nan_to_num(nan=-1.0), history.valid[:, :length].nan_to_num(nan=-1.0))
    )


def positions(space: FiniteSpace[Any]) -> LongTensor:
    """Independent choices that tell the members of a space apart, ``(N, E)`` from 0 on.

    Those of a categorical space are its own; elsewhere they are whether there is an arc, for every pair of vertices,
    and the label of every vertex, padding being one of them. What is the same for all members is left out.
    """
    if isinstance(space, CategoricalSpace):
        return space.codes
    ops, adjacency = space.all_graphs()
    above = torch.ones(adjacency.shape[1:], dtype=torch.bool).triu(1)
    codes = torch.cat([adjacency[:, above].long(), ops + 1], dim=1)
    varies = (codes != codes[:1]).any(dim=0)
    columns = [column.unique(return_inverse=True)[1] for column in codes[:, varies].unbind(dim=1)]  # type: ignore[no-untyped-call]
    return torch.stack(columns, dim=1)  # type: ignore[return-value]
