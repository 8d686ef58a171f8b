"""The contract of a search strategy: ask for candidates, be told their scores."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import LongTensor, Tensor

from lightning_nas.search.history import SearchHistory
from lightning_nas.search.pool import CandidatePool


class SearchStrategy(ABC):
    """Chooses which candidates to evaluate next, for R independent runs at once.

    Unless it learns on the way, a strategy is a pure function of the history: its draws come from
    :meth:`SearchHistory.uniforms`, so a search resumes exactly, and runs can be split over processes at will.
    """

    @property
    def needs_embeddings(self) -> bool:
        """Whether the candidates' features come from a trained module."""
        return False

    @property
    def in_order_of_asking(self) -> bool:
        """Whether the columns stay in the order of asking in an asynchronous search, instead of that of arrival."""
        return False

    @property
    def resumes(self) -> bool:
        """Whether a candidate that is asked for again goes on from where its training was paused, if it can."""
        return True

    def round_size(self, done: int) -> int | None:
        """Candidates to ask for at once after so many evaluations of a run; None for the search's own number."""
        return None

    @abstractmethod
    def propose(self, history: SearchHistory, pool: CandidatePool[Any]) -> LongTensor:
        """One candidate for every run, ``(R,)``, not tried before in that run.

        Args:
            history: R runs; running evaluations count as tried.
            pool: The candidates.
        """

    def ask(self, history: SearchHistory, pool: CandidatePool[Any], q: int = 1) -> LongTensor:
        """``q`` candidates for every run, ``(R, q)``, without repeats.

        Chosen one after the other, each knowing those before it as running.
        """
        draft = history.rows(slice(None))
        for _ in range(q):
            chosen: LongTensor = self.propose(draft, pool)[:, None]  # type: ignore[assignment]
            epochs = self.fidelity(draft, chosen)
            draft.begin(chosen, epochs=0 if epochs is None else epochs)
        start = history.count[:, None]
        return draft.indices.gather(1, start + torch.arange(q))  # type: ignore[return-value]

    def fidelity(self, history: SearchHistory, chosen: LongTensor) -> LongTensor | None:
        """For how many epochs to train what :meth:`ask` chose, ``(R, q)``; None for the benchmark's own number.

        Args:
            history: What :meth:`ask` was given.
            chosen: What it answered, ``(R, q)``.
        """
        return None

    def tell(self, history: SearchHistory) -> None:
        """Learn from new scores (default: nothing; most strategies read the history when asked).

        Args:
            history: All runs. In an asynchronous search one score of one run is new, the last one of its ``finished``.
        """

    def state_dict(self) -> dict[str, Tensor]:
        """What :meth:`tell` learned; every tensor has the run axis first."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The inverse of :meth:`state_dict`."""


def describe(value: Any) -> Any:
    """Class and arguments of an object as primitives, nested, to recognise it again."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # which JSON does not know as a number
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    if not hasattr(value, "__dict__"):
        return str(value)
    arguments = {name: describe(item) for name, item in sorted(vars(value).items()) if not name.startswith("_")}
    return {"class": f"{type(value).__module__}.{type(value).__qualname__}", **arguments}
