"""Pairs of architectures that were trained for different lengths: which of two is the better, and what that counts."""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
from torch import BoolTensor, LongTensor, Tensor


class Standings(NamedTuple):
    """How far the architectures of R runs have come in a pyramid of levels; level 0 is a proxy, without training.

    Attributes:
        level: The highest level that each has finished; -1 where there is no architecture.
        score: At each level what was measured there, higher is better; NaN where nothing was.
        time: When it was: any number that grows; NaN where nothing was.

    Shapes:
        level ``(R, n)`` int64; score and time ``(R, n, L + 1)``, level 0 first.
    """

    level: LongTensor
    score: Tensor
    time: Tensor

    @classmethod
    def at_one_level(cls, scores: Tensor) -> Self:
        """Architectures that were all trained alike, ``(R, n)``; NaN where there is none."""
        there = ~scores.isnan()
        nothing = torch.full_like(scores, torch.nan)
        score = torch.stack([nothing, scores], dim=-1)
        return cls(torch.where(there, 1, -1), score, score * 0.0)  # type: ignore[arg-type]

    @property
    def current(self) -> Tensor:
        """What was measured at the level that each has come to, ``(R, n)``; NaN where nothing was."""
        return self.score.gather(-1, self.level.clamp_min(0)[..., None])[..., 0]


class Pairs(NamedTuple):
    """All ordered pairs of n architectures, ``[a, b]``.

    Attributes:
        wins: Whether a is the better one; both are false where nobody can say.
        cross: Whether they have come to different levels.
        proxy: Whether a proxy decides: one of them was never trained.

    Shapes:
        All ``(R, n, n)`` bool.
    """

    wins: BoolTensor
    cross: BoolTensor
    proxy: BoolTensor


def compare(standings: Standings, noise: float = 0.1, competed_only: bool = True) -> Pairs:
    """Who is better: whoever has come further, and at the same level whoever scores higher there.

    Scores of one level are those measured at that level, never a later one of an architecture that went on. A score
    that is missing at a level that was reached (a failed training) is the worst.

    Args:
        standings: How far each has come.
        noise: Scores of trained architectures that differ by less say nothing; in their unit.
        competed_only: Count that a has come further than b only if b was at that level already when a was chosen to go
            on; whoever arrived later never competed with a.
    """
    level, _, time = standings
    there = level >= 0
    both = there[..., :, None] & there[..., None, :]
    mine, theirs = level[..., :, None], level[..., None, :]
    here = standings.current.masked_fill(standings.current.isnan(), -torch.inf)
    least = torch.where(mine > 0, noise, 0.0)
    higher = here[..., :, None] > here[..., None, :]
    clear = higher & ((here[..., :, None] - here[..., None, :] >= least) | (here[..., None, :] == -torch.inf))
    further = mine > theirs
    if competed_only:
        # b's level as a saw it: when a was there, when it went on from there, and when b came there.
        n = level.shape[-1]
        at = theirs.clamp_min(0).expand(*level.shape, n)  # (R, a, b)
        passed = ~time.gather(-1, at).isnan()  # a was judged at that level, too
        onward = torch.nn.functional.pad(time, (0, 1), value=torch.nan).gather(-1, at + 1)
        arrived = time.gather(-1, level.clamp_min(0)[..., None])[..., 0][..., None, :]
        further = further & passed & (arrived < onward)
    wins = both & torch.where(mine == theirs, clear, further)
    proxy = both & (torch.minimum(mine, theirs) == 0)
    return Pairs(wins, both & (mine != theirs), proxy)  # type: ignore[arg-type]


def balanced(pairs: Pairs) -> Tensor:
    """Weights of the pairs, those that a wins, which sum to 1 in every run (0 where it has none), ``(R, n, n)``.

    Pairs across levels are many and teach little but how far an architecture has come, so three kinds count alike,
    however many there are: trained ones of one level, trained ones of different levels, those that a proxy decides.
    """
    kinds = (~pairs.cross & ~pairs.proxy, pairs.cross & ~pairs.proxy, pairs.proxy)
    parts = [uniform(Pairs(pairs.wins & kind, pairs.cross, pairs.proxy)) for kind in kinds]  # type: ignore[arg-type]
    total = torch.stack(parts).sum(dim=0)
    return total / total.sum(dim=(-2, -1), keepdim=True).clamp_min(1.0)


def uniform(pairs: Pairs) -> Tensor:
    """Equal weights of all pairs that a wins, which sum to 1 in every run (0 where it has none), ``(R, n, n)``."""
    wins = pairs.wins.float()
    return wins / wins.sum(dim=(-2, -1), keepdim=True).clamp_min(1.0)
