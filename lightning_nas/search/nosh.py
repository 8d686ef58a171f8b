"""NOSH: non-uniform successive halving, led by a ranking of all candidates (RANK-NOSH, arXiv 2108.08019)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import LongTensor, Tensor

from lightning_nas.errors import SearchStateError, UsageError
from lightning_nas.nn.pairs import Standings, balanced, compare, uniform
from lightning_nas.search.history import SearchHistory, Status
from lightning_nas.search.pool import CandidatePool, pick_unvisited
from lightning_nas.search.strategy import SearchStrategy
from lightning_nas.spaces.encodings import Encoding


class Ranker(Protocol):
    """Learns from architectures that came to different levels which others are likely to come far."""

    def rank(self, X: Tensor, standings: Standings, weights: Tensor, seeds: Tensor) -> Callable[[Tensor], Tensor]:
        """Learn, for R runs independently.

        Args:
            X: Features, ``(R, n, d)``.
            standings: How far each has come.
            weights: What the pair counts in which a is better than b, ``(R, n, n)``; they sum to 1.
            seeds: Draws in [0, 1) that fix the randomness of each run, ``(R,)``.

        Returns:
            Scores of c candidates, higher is better, ``(c, d)`` -> ``(R, c)``.
        """
        ...


class Phase(NamedTuple):
    """Evaluations of one level that are asked for together.

    Attributes:
        level: From 1; those of level 1 are newcomers, the others are promoted.
        start: Evaluations before.
        size: Evaluations.
        cycle: Evaluations before the newcomers that the promotions of this round come after.
    """

    level: int
    start: int
    size: int
    cycle: int


class NOSH(SearchStrategy):
    """Trains a pyramid of architectures: many for a short while, the best of them for longer, and so on.

    Nobody is discarded. A round trains the best ranked newcomers for the first number of epochs, then moves the best of
    *everything* that waits at a level to the next, whenever it came, going on from where its training was paused. The
    ranking is learnt anew in every round from all pairs of architectures (see :mod:`lightning_nas.nn.pairs`), for
    accuracies after different numbers of epochs cannot be compared. With K newcomers a round promotes r K to the second
    level, r² K to the third (rounded down, at least one); the first round, of random newcomers, is larger. The result
    is the best of those trained longest.

    Level 0 costs no training: of more random architectures than there is room for, a proxy chooses the first newcomers;
    the rest stays, as having lost.

    Isomorphic architectures count as one. All is a function of the history, so a search that was killed goes on
    exactly; the number of evaluations is the same for all runs. A failed training is never chosen to go on while there
    are others.

    Args:
        epochs: Training epochs of the levels, rising, for example ``[1, 4, 12]``; the benchmark must know them.
        ranker: What learns to rank, for example ``lightning_nas.predictors.ranking.RankingMLP``; None for random
            newcomers.
        encoding: What the ranker sees of the candidates; None for the embeddings of the trained module.
        num_initial: Newcomers of the first round.
        num_proposals: Newcomers of every later round, K.
        ratio: Share that moves to the next level, r.
        proxy: Encoding whose features, ranked and averaged, are the proxy of level 0, higher is better: for example
            ``lightning_nas.spaces.encodings.TableColumns``; None for no level 0.
        oversampling: Architectures drawn for level 0, for each of ``num_initial``.
        noise: Accuracies of one level that differ by less make no pair; percentage points.
        competed_only: Let a pair of different levels count only where both waited for the same promotion.
        balance: Let pairs of one level, of different levels, and those of level 0 count alike, however many there are.
        resume: Let trainings go on where they were paused; False trains whoever is promoted from the start again, and
            charges that.
        revive: Promote whatever waits at a level; False only what came there in the same round, as successive halving
            does.
    """

    def __init__(
        self,
        epochs: tuple[int, ...],
        ranker: Ranker | None = None,
        encoding: Encoding | None = None,
        num_initial: int = 20,
        num_proposals: int = 8,
        ratio: float = 0.5,
        proxy: Encoding | None = None,
        oversampling: float = 5.0,
        noise: float = 0.1,
        competed_only: bool = True,
        balance: bool = True,
        resume: bool = True,
        revive: bool = True,
    ) -> None:
        self.epochs = tuple(epochs)
        rising = all(later > earlier for earlier, later in zip((0, *epochs), epochs, strict=False))
        if not epochs or not rising or min(num_initial, num_proposals) < 1 or not 0.0 < ratio < 1.0:
            raise UsageError(
                f"NOSH(epochs={list(epochs)}, num_initial={num_initial}, num_proposals={num_proposals}, "
                f"ratio={ratio}): expected rising positive epochs, positive numbers, and a ratio between 0 and 1"
            )
        if oversampling < 1.0 or noise < 0.0:
            raise UsageError(f"NOSH(oversampling={oversampling}, noise={noise}): expected at least 1 and 0")
        self.ranker, self.encoding = ranker, encoding
        self.num_initial, self.num_proposals, self.ratio = num_initial, num_proposals, ratio
        self.proxy, self.oversampling = proxy, oversampling
        self.noise, self.competed_only, self.balance = noise, competed_only, balance
        self.resume, self.revive = resume, revive
        self._drawn: tuple[tuple[Any, ...], LongTensor] | None = None
        self._kinds: tuple[CandidatePool[Any], Tensor, Tensor] | None = None

    @property
    def needs_embeddings(self) -> bool:
        """Whether the ranker sees the embeddings of a trained module."""
        return self.ranker is not None and self.encoding is None

    @property
    def resumes(self) -> bool:
        """Whether trainings go on where they were paused."""
        return self.resume

    def phases(self) -> Iterator[Phase]:
        """What is asked for, in order, without end."""
        start, newcomers = 0, self.num_initial
        while True:
            cycle = start
            for level in range(1, len(self.epochs) + 1):
                count = max(1, int(newcomers * self.ratio ** (level - 1) + 1e-9))
                yield Phase(level, start, count, cycle)
                start += count
            newcomers = self.num_proposals

    def phase(self, done: int) -> Phase:
        """The phase in which the next evaluation is asked for."""
        return next(phase for phase in self.phases() if phase.start + phase.size > done)

    def levels(self, length: int) -> LongTensor:
        """Level of every evaluation, from 1, ``(length,)``."""
        found: list[int] = []
        for phase in self.phases():
            if len(found) >= length:
                break
            found += [phase.level] * phase.size
        return torch.tensor(found[:length], dtype=torch.long)  # type: ignore[return-value]

    def budget(self, num_queries: int) -> int:
        """Training epochs of so many evaluations: the sum over levels of n_i (e_i - e_(i-1)), or of n_i e_i."""
        before = (0, *self.epochs[:-1]) if self.resume else (0,) * len(self.epochs)
        levels = self.levels(num_queries)
        steps = torch.tensor([here - earlier for here, earlier in zip(self.epochs, before, strict=True)])
        return int(steps[levels - 1].sum())

    def round_size(self, done: int) -> int:
        """What is left of the phase."""
        phase = self.phase(done)
        return phase.start + phase.size - done

    def propose(self, history: SearchHistory, pool: CandidatePool[Any]) -> LongTensor:
        """One candidate for every run, ``(R,)``."""
        return self.ask(history, pool, 1)[:, 0]  # type: ignore[return-value]

    def fidelity(self, history: SearchHistory, chosen: LongTensor) -> LongTensor:
        """Epochs of the level that the evaluations are of, ``(R, q)``."""
        done, width = history.length, chosen.shape[1]
        levels = self.levels(done + width)[done:]
        return torch.tensor(self.epochs)[levels - 1].expand_as(chosen)  # type: ignore[return-value]

    def ask(self, history: SearchHistory, pool: CandidatePool[Any], q: int = 1) -> LongTensor:
        """The next evaluations of the phase, ``(R, q)``; they rest on what was there when it began."""
        done = history.length
        chosen: list[Tensor] = []
        while (missing := q - sum(part.shape[1] for part in chosen)) > 0:
            here = done + q - missing
            phase = self.phase(here)
            seen = history.prefix(phase.start)
            if phase.start > done or bool((history.count != done).any()) or bool((seen.status < Status.DONE).any()):
                raise SearchStateError(
                    "NOSH: asked for candidates while evaluations are running that decide who goes on; it searches in "
                    "rounds, so leave 'asynchronous' out"
                )
            found = self._newcomers(seen, pool, phase) if phase.level == 1 else self._promoted(seen, pool, phase)
            chosen.append(found[:, here - phase.start :][:, :missing])
        return torch.cat(chosen, dim=1)  # type: ignore[return-value]

    def _newcomers(self, seen: SearchHistory, pool: CandidatePool[Any], phase: Phase) -> Tensor:
        """Untried candidates of which no two are isomorphic, ``(R, size)``."""
        if phase.start == 0:
            return self._drawn_by(seen, pool)[:, : phase.size]
        kind, first = self._kinds_of(pool)
        tried = torch.zeros(len(seen.runs), len(first), dtype=torch.bool)
        tried.scatter_(1, kind[seen.indices], True)
        if int((~tried).sum(dim=1).min()) < phase.size:
            raise SearchStateError(f"the pool of {len(first)} different candidates is exhausted; ask for fewer queries")
        draws = seen.uniforms(2)
        if self.ranker is None:
            scores = _noise(draws[:, 0], len(first))
        else:
            standings, members = self.standings(seen, pool)
            pairs = compare(standings, self.noise, self.competed_only)
            weights = (balanced if self.balance else uniform)(pairs)
            features = pool.features(self.encoding)
            scorer = self.ranker.rank(features[members], standings, weights, draws[:, 1])
            scores = scorer(features[first]).double()
        order = scores.masked_fill(tried, -torch.inf).topk(phase.size, dim=1).indices
        return first[order]

    def _promoted(self, seen: SearchHistory, pool: CandidatePool[Any], phase: Phase) -> Tensor:
        """The best that wait at the level below, ``(R, size)``."""
        standings, members = self.standings(seen, pool)
        below = phase.level - 1
        waiting = standings.level == below
        if not self.revive:
            waiting &= standings.time[..., below] >= phase.cycle
        if int(waiting.sum(dim=1).min()) < phase.size:
            raise SearchStateError(
                f"NOSH: {int(waiting.sum(dim=1).min())} architectures wait at level {below}, expected {phase.size}; "
                "the history is that of other settings"
            )
        score = standings.score[..., below].nan_to_num(nan=-1e30).masked_fill(~waiting, -torch.inf)
        return members.gather(1, score.argsort(dim=1, descending=True, stable=True)[:, : phase.size])

    def standings(self, seen: SearchHistory, pool: CandidatePool[Any]) -> tuple[Standings, LongTensor]:
        """How far everything has come, those that lost at level 0 included, and which candidates they are, ``(R, n)``.

        Args:
            seen: Evaluations that are all done.
            pool: The candidates.
        """
        drawn, length = self._drawn_by(seen, pool), seen.length
        levels = self.levels(length)
        fresh = (levels == 1) & (torch.arange(length) >= self.num_initial)
        members = torch.cat([drawn, seen.indices[:, :length][:, fresh]], dim=1)  # (R, n)
        # What lost at level 0 may come back as a newcomer, perhaps in another drawing: then it keeps its place.
        kind, _ = self._kinds_of(pool)
        tried = kind[seen.indices[:, :length]]
        slot = (tried[:, :, None] == kind[members][:, None]).to(torch.uint8).argmax(dim=2)  # (R, T)
        shape = (*members.shape, len(self.epochs) + 1)
        score = torch.full(shape, torch.nan, dtype=torch.float64)
        time = score.clone()
        runs = torch.arange(len(members))[:, None]
        members[runs, slot] = seen.indices[:, :length]
        score[runs, slot, levels] = seen.valid[:, :length]
        time[runs, slot, levels] = torch.arange(length, dtype=torch.float64).expand(len(members), -1)
        if self.proxy is not None:
            score[:, : drawn.shape[1], 0] = self._proxies(pool)[drawn]
            time[:, : drawn.shape[1], 0] = -1.0
        reached = torch.where(time.isnan(), -1, torch.arange(shape[-1]))
        return Standings(reached.amax(dim=-1), score, time), members  # type: ignore[arg-type, return-value]

    def revivals(self, history: SearchHistory, pool: CandidatePool[Any]) -> LongTensor:
        """How many promotions of each run were of architectures that had been passed over before, ``(R,)``."""
        standings, _ = self.standings(history, pool)
        total = torch.zeros(len(history.runs), dtype=torch.long)
        for phase in self.phases():
            if phase.start >= history.length:
                break
            at = standings.time[..., phase.level]
            here = (at >= phase.start) & (at < phase.start + phase.size)
            if phase.level > 1:
                total += (here & (standings.time[..., phase.level - 1] < phase.cycle)).sum(dim=1)
        return total  # type: ignore[return-value]

    def _drawn_by(self, seen: SearchHistory, pool: CandidatePool[Any]) -> LongTensor:
        """Random candidates, no two isomorphic, the best by the proxy first, ``(R, n)``."""
        key = (id(pool), seen.seed, *seen.runs.tolist())
        if self._drawn is None or self._drawn[0] != key:
            kind, first = self._kinds_of(pool)
            count = self.num_initial if self.proxy is None else round(self.num_initial * self.oversampling)
            if len(first) < self.num_initial:
                raise SearchStateError(f"NOSH(num_initial={self.num_initial}): the pool has only {len(first)}")
            rows = [_distinct(seen.seed, run, pool, kind, min(count, len(first))) for run in seen.runs.tolist()]
            drawn = torch.tensor(rows, dtype=torch.long).view(len(rows), min(count, len(first)))
            if self.proxy is not None:
                drawn = drawn.gather(1, self._proxies(pool)[drawn].argsort(dim=1, descending=True, stable=True))
            self._drawn = key, drawn  # type: ignore[assignment]
        return self._drawn[1]  # type: ignore[index]

    def _proxies(self, pool: CandidatePool[Any]) -> Tensor:
        """Mean rank of every candidate by the proxies, in 0 … 1, ``(n,)``; what has none is the worst."""
        assert self.proxy is not None
        raw = self.proxy.encode_members(pool.space, pool.members).double().nan_to_num(nan=-torch.inf)
        return torch.stack([_ranks(column) for column in raw.mT.contiguous()]).mean(dim=0)

    def _kinds_of(self, pool: CandidatePool[Any]) -> tuple[Tensor, Tensor]:
        """Isomorphism class of every candidate ``(n,)``, and the first candidate of every class."""
        if self._kinds is None or self._kinds[0] is not pool:
            representatives = pool.space.representatives[pool.members]
            kind = torch.unique(representatives, return_inverse=True)[1]
            first = torch.full((int(kind.max()) + 1,), len(pool)).scatter_reduce(
                0, kind, torch.arange(len(pool)), "amin"
            )
            self._kinds = pool, kind, first
        return self._kinds[1:]


def _distinct(seed: int, run: int, pool: CandidatePool[Any], kind: Tensor, count: int) -> Sequence[int]:
    """The first random candidates of a run, those that other strategies begin with, too; of isomorphic ones the first.

    Args:
        seed: Of the search.
        run: Its number.
        pool: The candidates.
        kind: Their isomorphism classes, ``(n,)``.
        count: How many.
    """
    draft = SearchHistory.empty([run], len(pool), seed)
    found: dict[int, int] = {}
    while len(found) < count:
        (member,) = pick_unvisited(draft.prefix(draft.length + 1), len(pool), draft.uniforms(1)[:, 0]).tolist()
        draft.begin(torch.tensor([[member]]), epochs=0)  # type: ignore[arg-type]
        found.setdefault(int(kind[member]), member)
    return list(found.values())


def _ranks(values: Tensor) -> Tensor:
    """Share of the others that are lower, equal ones half, ``(n,)`` -> ``(n,)`` in 0 … 1."""
    ordered = values.sort().values
    below, upto = torch.searchsorted(ordered, values), torch.searchsorted(ordered, values, right=True)
    return (below + upto - 1).double() / max(1, 2 * (len(values) - 1))


def _noise(draws: Tensor, size: int) -> Tensor:
    """Uniform numbers that depend on a run's draw alone, ``(R,)`` -> ``(R, size)`` float64."""
    generators = (torch.Generator().manual_seed(int(draw * 2**53)) for draw in draws.tolist())
    rows = [torch.rand(size, generator=generator, dtype=torch.float64) for generator in generators]
    return torch.stack(rows) if rows else torch.empty(0, size, dtype=torch.float64)
