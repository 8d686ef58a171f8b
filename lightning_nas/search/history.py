"""What a search has tried: R independent runs side by side, each with up to T evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from torch import BoolTensor, LongTensor, Tensor

from lightning_nas.errors import SearchStateError, UsageError


class Status(IntEnum):
    """State of one evaluation."""

    EMPTY = 0
    RUNNING = 1
    DONE = 2
    FAILED = 3


@dataclass
class SearchHistory:
    """The whole state of R runs: this is the checkpoint, and with ``seed`` it fixes all that follows.

    Rows are filled from the left, in the order of asking; :meth:`by_arrival` gives the order in which the scores came,
    which differs where evaluations run side by side. A strategy may read everything but ``test``.

    Args:
        seed: Seed of the search; draws come from (seed, run, number of evaluations so far).
        runs: Global number of each run, so that a part of the runs draws what it would draw among all.
        indices: Pool member of each evaluation, -1 where empty.
        epochs: Fidelity: how many epochs it was trained; 0 where empty.
        valid: Validation accuracy, what the strategy sees; NaN unless done.
        test: Test accuracy, what the report shows; NaN unless done.
        cost: Seconds on the benchmark's own clock.
        status: :class:`Status` of each evaluation.
        arrival: How many scores its run had when the evaluation's own came; -1 until then.
        charged: Epochs that were trained for it: fewer than ``epochs`` where a paused training went on; 0 where empty.

    Shapes:
        runs ``(R,)``; the others ``(R, T)``; scores float64.
    """

    seed: int
    runs: LongTensor
    indices: LongTensor
    epochs: LongTensor
    valid: Tensor
    test: Tensor
    cost: Tensor
    status: LongTensor
    arrival: LongTensor
    charged: LongTensor

    @classmethod
    def empty(cls, runs: int | Sequence[int], capacity: int, seed: int = 0) -> SearchHistory:
        """History of nothing yet.

        Args:
            runs: Number of runs, or the global numbers of the runs held here.
            capacity: Most evaluations per run, T.
            seed: Seed of the search.
        """
        numbers = torch.as_tensor(range(runs) if isinstance(runs, int) else runs, dtype=torch.long)
        shape = (len(numbers), capacity)
        blank = torch.full(shape, torch.nan, dtype=torch.float64)
        zeros = torch.zeros(shape, dtype=torch.long)
        return cls(
            seed, numbers, zeros - 1, zeros, blank, blank.clone(), blank.clone(), zeros.clone(), zeros - 1,  # type: ignore[arg-type]
            zeros.clone(),  # type: ignore[arg-type]
        )  # fmt: skip

    @property
    def count(self) -> LongTensor:
        """Evaluations asked for so far, ``(R,)``."""
        return (self.status != Status.EMPTY).sum(dim=1)  # type: ignore[return-value]

    @property
    def done(self) -> BoolTensor:
        """Which evaluations have a score, ``(R, T)``."""
        return self.status == Status.DONE  # type: ignore[return-value]

    @property
    def finished(self) -> LongTensor:
        """Evaluations done or failed so far, ``(R,)``."""
        return (self.status >= Status.DONE).sum(dim=1)  # type: ignore[return-value]

    @property
    def length(self) -> int:
        """Evaluations of the longest run: columns beyond it are empty."""
        return int(self.count.max()) if len(self.runs) else 0

    @property
    def capacity(self) -> int:
        """Most evaluations per run, T."""
        return self.indices.shape[1]

    def begin(self, indices: LongTensor, epochs: int | LongTensor, resumed: bool = False) -> LongTensor:
        """Enter ``(R, q)`` evaluations of as many epochs as running; returns their columns, ``(R, q)``.

        Args:
            indices: Candidates.
            epochs: How long they are trained.
            resumed: Whether a longer training goes on from an earlier, shorter one of the same candidate in its run,
                and only the difference is paid.
        """
        columns = self.count[:, None] + torch.arange(indices.shape[1])
        lengths = torch.as_tensor(epochs).expand_as(indices)
        before = self.epochs_before(indices) if resumed else 0
        self.indices.scatter_(1, columns, indices)
        self.epochs.scatter_(1, columns, lengths)
        self.charged.scatter_(1, columns, (lengths - before).clamp_min(0))
        self.status.scatter_(1, columns, int(Status.RUNNING))
        return columns  # type: ignore[return-value]

    def epochs_before(self, indices: LongTensor) -> LongTensor:
        """The most epochs that candidates ``(R, q)`` were asked to be trained for so far, 0 for newcomers."""
        same = self.indices[:, None, : self.length] == indices[..., None]  # (R, q, T)
        epochs = torch.where(same, self.epochs[:, None, : self.length], 0)
        return torch.nn.functional.pad(epochs, (0, 1)).amax(dim=-1)  # type: ignore[return-value]

    def complete(self, columns: LongTensor, valid: Tensor, test: Tensor, cost: Tensor) -> None:
        """Enter the scores ``(R, q)`` of running evaluations in the order they came; NaN in ``valid`` means failed.

        The cost is that of the whole training; what an earlier part of it had cost its run is taken off.
        """
        self.arrival.scatter_(1, columns, self.finished[:, None] + torch.arange(columns.shape[1]))
        paid = self.charged.gather(1, columns) < self.epochs.gather(1, columns)
        if bool(paid.any()):
            cost = torch.where(paid, cost - self._cost_before(self.indices.gather(1, columns)), cost)  # type: ignore[arg-type]
        for mine, given in ((self.valid, valid), (self.test, test), (self.cost, cost)):
            mine.scatter_(1, columns, given)
        status = torch.where(valid.isnan(), int(Status.FAILED), int(Status.DONE))
        self.status.scatter_(1, columns, status)

    def _cost_before(self, indices: LongTensor) -> Tensor:
        """Seconds that candidates ``(R, q)`` have cost so far, 0 for newcomers."""
        same = (self.indices[:, None] == indices[..., None]) & self.done[:, None]  # (R, q, T)
        return torch.where(same, self.cost.nan_to_num(nan=0.0)[:, None], 0.0).sum(dim=-1)

    def incumbents(self) -> LongTensor:
        """Column of the best validation accuracy up to each evaluation, the first of equals, ``(R, T)``.

        Where evaluations differ in epochs, only those of the most epochs so far can be the best: what was trained for
        less cannot be compared. Up to each in the order of the columns: for curves of an asynchronous search take
        :meth:`by_arrival` first.
        """
        seen = torch.where(self.done, self.valid, -torch.inf)
        if len(levels := self.epochs[self.done].unique()) > 1:  # type: ignore[no-untyped-call]
            # By epochs, then by score: scores of a higher fidelity are lifted above all of a lower one.
            span = self.valid[self.done].max() - self.valid[self.done].min() + 1.0
            seen = seen + span * torch.searchsorted(levels, self.epochs.contiguous())
        best = seen.cummax(dim=1).values
        better = torch.cat([torch.ones_like(best[:, :1], dtype=torch.bool), best[:, 1:] > best[:, :-1]], dim=1)
        columns = torch.where(better, torch.arange(self.capacity), 0)
        return columns.cummax(dim=1).values  # type: ignore[return-value]

    def uniforms(self, size: int) -> Tensor:
        """Uniform draws in [0, 1) that depend on (seed, run, evaluations so far) alone, ``(R, size)`` float64."""
        counts = self.count.tolist()
        draws = [
            np.random.default_rng((self.seed, run, step)).random(size)
            for run, step in zip(self.runs.tolist(), counts, strict=True)
        ]
        return torch.from_numpy(np.stack(draws)) if draws else torch.empty(0, size, dtype=torch.float64)

    def by_arrival(self) -> SearchHistory:
        """The same evaluations with those first whose scores came first, and those still running last (copies)."""
        order = torch.where(self.arrival < 0, self.capacity, self.arrival).argsort(dim=1, stable=True)
        parts = {name: value.gather(1, order) for name, value in self._columns().items()}
        return SearchHistory(self.seed, self.runs, **parts)  # type: ignore[arg-type]

    def within(
        self, queries: int | None = None, epochs: float | None = None, seconds: float | None = None
    ) -> SearchHistory:
        """What every run had when its budget was spent: a copy in order of arrival, what came later emptied.

        A run ends before the first evaluation that would exceed one of the budgets. Under a budget, evaluations still
        running do not count, whatever they will cost.

        Args:
            queries: Evaluations of each run, failed ones included.
            epochs: Training epochs of each run, summed over its evaluations.
            seconds: Seconds of each run on the benchmark's own clock. Failed evaluations of unknown cost are free.

        Raises:
            UsageError: A budget is not positive, or one of seconds is given and the benchmark does not know its costs.
        """
        given = {"queries": queries, "epochs": epochs, "seconds": seconds}
        wrong = {name: value for name, value in given.items() if value is not None and not value > 0}
        if wrong:
            raise UsageError(f"budget: got {wrong}, expected positive numbers")
        kept = self.by_arrival().rows(slice(None))
        for name, budget in given.items():
            if budget is not None:
                kept._cut(kept.spent(name) > budget)
                kept._cut(kept.status == Status.RUNNING)
        return kept

    def spent(self, over: str) -> Tensor:
        """What a run has used up when each of its evaluations is done, in the order of the columns, ``(R, T)`` float64.

        Args:
            over: ``queries``, ``epochs`` or ``seconds``.

        Raises:
            UsageError: Seconds are asked for and those of an evaluation are not known.
        """
        finished = self.status >= Status.DONE
        if over == "queries":
            return finished.double().cumsum(dim=1)
        if over == "epochs":
            return torch.where(finished, self.charged, 0).double().cumsum(dim=1)
        if over != "seconds":
            raise UsageError(f"budget: got {over!r}, expected queries, epochs or seconds")
        if unknown := int((self.done & self.cost.isnan()).sum()):
            raise UsageError(
                f"budget in seconds: the benchmark does not say what {unknown:,} of {int(self.done.sum()):,} "
                "evaluations cost; count queries or epochs instead, or prepare its table from a source that has times"
            )
        return torch.where(finished, self.cost.nan_to_num(nan=0.0), 0.0).cumsum(dim=1)

    @property
    def timed(self) -> bool:
        """Whether there are scores, and the cost of each is known."""
        return bool(self.done.any()) and not bool((self.done & self.cost.isnan()).any())

    def _cut(self, cut: Tensor) -> None:
        """Empty evaluations in place."""
        blank = SearchHistory.empty(len(self.runs), self.capacity)
        for name, values in self._columns().items():
            values[cut] = getattr(blank, name)[cut]

    def run(self, row: int) -> SearchHistory:
        """One run (views): what is entered there is entered here."""
        parts = {name: value[row : row + 1] for name, value in self._columns().items()}
        return SearchHistory(self.seed, self.runs[row : row + 1], **parts)  # type: ignore[arg-type]

    def prefix(self, length: int) -> SearchHistory:
        """The first ``length`` evaluations of every run (views)."""
        parts = {name: value[:, :length] for name, value in self._columns().items()}
        return SearchHistory(self.seed, self.runs, **parts)  # type: ignore[arg-type]

    def rows(self, selected: LongTensor | slice) -> SearchHistory:
        """Some of the runs (copies)."""
        parts = {name: value[selected].clone() for name, value in self._columns().items()}
        return SearchHistory(self.seed, self.runs[selected].clone(), **parts)  # type: ignore[arg-type]

    def _columns(self) -> dict[str, Tensor]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("seed", "runs")}

    def state_dict(self) -> dict[str, Any]:
        """Primitives and tensors only, so that it loads with ``weights_only=True``."""
        return {"seed": self.seed, "runs": self.runs, **self._columns()}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> SearchHistory:
        """The inverse of :meth:`state_dict`; raises ``SearchStateError`` for anything else."""
        names = {f.name for f in fields(cls)}
        missing = names - set(state)
        if missing in ({"arrival"}, {"arrival", "charged"}):  # from before they were asynchronous: in order of asking
            columns = torch.arange(state["status"].shape[1]).expand_as(state["status"])
            state = {**state, "arrival": torch.where(state["status"] >= Status.DONE, columns, -1)}
        if set(state) == names - {"charged"}:  # from before paused trainings went on: each was paid in full
            state = {**state, "charged": state["epochs"].clone()}
        if set(state) != names:
            raise SearchStateError(f"search history: got the entries {sorted(state)}, expected {sorted(names)}")
        return cls(**state)
