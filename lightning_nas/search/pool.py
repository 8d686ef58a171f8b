"""The candidates a search chooses from, addressed by index."""

from __future__ import annotations

from functools import cached_property
from typing import Generic

import torch
from torch import LongTensor, Tensor

from lightning_nas.errors import SearchStateError
from lightning_nas.search.history import SearchHistory
from lightning_nas.spaces.base import A, FiniteSpace
from lightning_nas.spaces.encodings import Encoding


class CandidatePool(Generic[A]):
    """Architectures of a finite space, all or some, with their embeddings and neighbours.

    Args:
        space: The search space.
        members: Index in the space of each candidate, ``(n,)``, each once; None for the whole space in its order. The
            pool's own indices, which histories hold, are positions in here.
        embeddings: Learned embedding of every candidate, ``(n, D)``, or of I views of each, ``(n, I, D)``; None when
            there is no trained module.
    """

    def __init__(
        self, space: FiniteSpace[A], members: LongTensor | None = None, embeddings: Tensor | None = None
    ) -> None:
        self.space = space
        self._part = members is not None
        self.members: LongTensor = torch.arange(len(space)) if members is None else members  # type: ignore[assignment]
        self.embeddings = embeddings
        self._features: dict[tuple[int, int | None], tuple[Encoding | None, Tensor]] = {}
        distinct = len(torch.unique(self.members)) if self._part else len(self)
        if distinct < len(self) or not _all_below(self.members, len(space)):
            raise SearchStateError(
                f"pool: got {len(self)} members, of which {distinct} are distinct, from {int(self.members.min())} to "
                f"{int(self.members.max())}; expected distinct indices from 0 to {len(space) - 1}"
            )
        if embeddings is not None and len(embeddings) != len(self.members):
            raise SearchStateError(f"pool: got {len(embeddings)} embeddings for {len(self.members)} candidates")
        if embeddings is not None and not bool(embeddings.isfinite().all()):
            lost = int((~embeddings.isfinite()).flatten(1).any(dim=1).sum())
            raise SearchStateError(
                f"pool: got embeddings of which {lost} of {len(embeddings)} are not finite; the module's training must "
                "have diverged: train it again with a lower learning rate"
            )

    def __len__(self) -> int:
        return len(self.members)

    def architectures(self, indices: LongTensor) -> list[A]:
        """Candidates at the given indices, flattened in row-major order."""
        return [self.space[i] for i in self.members[indices].flatten().tolist()]

    @cached_property
    def neighbors(self) -> LongTensor:
        """Candidates one edit away from each candidate, ``(n, K)``, padded with -1 at the end."""
        table = self.space.neighbor_table()
        if not self._part:
            return table
        to_pool = torch.full((len(self.space) + 1,), -1)  # the extra entry maps padding to padding
        to_pool[self.members] = torch.arange(len(self))
        inside = to_pool[table[self.members]]  # (n, K)
        # Most neighbours are strangers: move them to the end and cut what no row needs, for strategies compare all K.
        order = (inside < 0).to(torch.uint8).argsort(dim=1, stable=True)
        width = max(1, int((inside >= 0).sum(dim=1).max()))
        return inside.gather(1, order)[:, :width].contiguous()  # type: ignore[return-value]

    def features(self, encoding: Encoding | None, directions: int | None = None) -> Tensor:
        """Inputs of a surrogate, centred and scaled to unit mean variance, ``(n, D)`` float32.

        One scale serves all dimensions, so that distances keep their proportions. An encoding whose ``scaled`` is False
        is handed over as it is.

        Args:
            encoding: How to encode the candidates; None for the embeddings of the trained module, means over views.
            directions: With embeddings, their lengths left aside: so many leading principal components of the unit
                vectors, each with variance one.
        """
        # By identity: two encodings of one class may differ in their arguments. Keeping the object keeps its id.
        key = id(encoding), directions
        if key not in self._features:
            if encoding is None and directions is not None:
                raw = whitened_directions(self.views, directions).mean(dim=1)
            else:
                raw = self._raw_features(encoding)
            self._features[key] = encoding, _scaled(raw) if getattr(encoding, "scaled", True) else raw.float()
        return self._features[key][1]

    @property
    def views(self) -> Tensor:
        """Embedding of every view of every candidate as the module gave it, ``(n, I, D)``; I = 1 for a single one.

        Raises:
            SearchStateError: There is no trained module.
        """
        if self.embeddings is None:
            raise SearchStateError(
                "this strategy needs the embeddings of a trained module, and there is none; "
                "pass --ckpt_path, or give the strategy an 'encoding'"
            )
        return self.embeddings if self.embeddings.dim() == 3 else self.embeddings[:, None]

    def _raw_features(self, encoding: Encoding | None) -> Tensor:
        if encoding is None:
            return self.views.mean(dim=1)
        return encoding.encode_members(self.space, self.members if self._part else None)


def _all_below(indices: Tensor, size: int) -> bool:
    return bool(((indices >= 0) & (indices < size)).all())


def whitened_directions(embeddings: Tensor, count: int) -> Tensor:
    """Leading principal components of unit vectors, centred and with variance one, ``(…, D)`` -> ``(…, count)``.

    Raises:
        SearchStateError: There are fewer dimensions.
    """
    if not 1 <= count <= embeddings.shape[-1]:
        raise SearchStateError(
            f"pool: got directions={count} of embeddings of {embeddings.shape[-1]} dimensions, expected 1 to as many"
        )
    points = torch.nn.functional.normalize(embeddings.double(), dim=-1).flatten(0, -2)
    centred = points - points.mean(dim=0)
    values, vectors = torch.linalg.eigh(centred.mT @ centred / len(centred))  # ascending
    scale = values[-count:].clamp_min(1e-12 * values[-1]).sqrt()
    components: Tensor = (centred @ vectors[:, -count:] / scale).flip(-1)
    whitened: Tensor = components.view(*embeddings.shape[:-1], count)
    return whitened


def _scaled(features: Tensor) -> Tensor:
    centred = features.float() - features.float().mean(dim=0)
    return centred / centred.var(dim=0, correction=0).mean().sqrt().clamp_min(1e-12)


def pick_unvisited(history: SearchHistory, size: int, uniform: Tensor) -> LongTensor:
    """A uniformly drawn candidate that a run has not tried yet.

    Args:
        history: R runs; every index in it counts as visited.
        size: Number of candidates n in the pool.
        uniform: One draw in [0, 1) for each run, ``(R,)``.

    Returns:
        Pool indices, ``(R,)``.
    """
    # Sorted visited indices v_0 < v_1 < …: v_i - i unvisited ones lie below v_i, which turns the draw of the j-th
    # unvisited index into one binary search. Empty slots go to the far end.
    visited, _ = torch.where(history.indices < 0, 4 * size + history.capacity, history.indices).sort(dim=1)
    left = size - history.count
    if bool((left <= 0).any()):
        raise SearchStateError(f"the pool of {size} candidates is exhausted; ask for fewer queries")
    j = (uniform * left).long()
    below = visited - torch.arange(history.capacity)
    return j + torch.searchsorted(below.contiguous(), j[:, None], right=True)[:, 0]  # type: ignore[return-value]
