"""Spaces that are a product of finite choices, held in one integer tensor."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from math import prod
from operator import index as as_int

import numpy as np
import torch
from torch import LongTensor

from lightning_nas.errors import SpaceError
from lightning_nas.spaces.base import FiniteSpace

Codes = tuple[int, ...]
"""An architecture of a :class:`CategoricalSpace`: one choice index per position."""


class CategoricalSpace(FiniteSpace[Codes]):
    """All combinations of ``choices[0] x choices[1] x …``; an architecture is a tuple of choice indices.

    A subclass sets ``name`` and ``choices``; it then has sampling, mutation, neighbours (change one position),
    numbering (lexicographic, or any other by :attr:`order`) and the notation ``a|b|c``. Members of the space are
    never Python objects until asked for: :attr:`codes` holds all of them.

    Attributes:
        choices: Names that can stand at each position.
        separator: What stands between them in the notation.
    """

    choices: tuple[tuple[str, ...], ...]
    separator: str = "|"

    @cached_property
    def order(self) -> np.ndarray:
        """Lexicographic number of the member at each index, ``(N,)`` int64 (identity unless overridden)."""
        return np.arange(prod(map(len, self.choices)))

    @cached_property
    def _rank(self) -> np.ndarray:
        rank = np.empty_like(self.order)
        rank[self.order] = np.arange(len(self.order))
        return rank

    @cached_property
    def _place_values(self) -> np.ndarray:
        sizes = [len(c) for c in self.choices]
        return np.append(np.cumprod(sizes[:0:-1])[::-1], 1).astype(np.int64)

    @cached_property
    def codes(self) -> LongTensor:
        """Choice index of every member at every position, ``(N, E)``, in index order."""
        sizes = np.array([len(c) for c in self.choices])
        return torch.from_numpy(self.order[:, None] // self._place_values % sizes)  # type: ignore[return-value]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> Codes:  # type: ignore[override]
        return tuple(self.codes[as_int(index)].tolist())

    def index(self, arch: Codes) -> int:  # type: ignore[override]
        """Position of an architecture in the official order; raises ``SpaceError`` for a stranger."""
        self._check(arch)
        return int(self._rank[sum(int(p) * c for p, c in zip(self._place_values, arch, strict=True))])

    def indices(self, codes: LongTensor) -> LongTensor:
        """Positions of many architectures at once, ``(…, E)`` -> ``(…)``; codes are not checked."""
        lexicographic = codes.numpy() @ self._place_values
        return torch.from_numpy(self._rank[lexicographic])  # type: ignore[return-value]

    def neighbors(self, arch: Codes) -> Iterator[Codes]:
        """Every architecture that differs at exactly one position."""
        self._check(arch)
        for position, choices in enumerate(self.choices):
            for choice in range(len(choices)):
                if choice != arch[position]:
                    yield (*arch[:position], choice, *arch[position + 1 :])

    def neighbor_table(self) -> LongTensor:
        """Indices of every member's neighbours, ``(N, K)`` with K = sum of (choices - 1)."""
        lexicographic = self.order[:, None]
        columns = []
        for position, choices in enumerate(self.choices):
            shift = np.arange(1, len(choices))
            current = self.codes[:, position, None].numpy()
            changed = (current + shift) % len(choices)
            columns.append(self._rank[lexicographic + (changed - current) * self._place_values[position]])
        return torch.from_numpy(np.concatenate(columns, axis=1))  # type: ignore[return-value]

    def parse(self, text: str) -> Codes:
        """Read ``a|b|c``; raises ``SpaceError`` naming the position and the choices there."""
        names = text.strip().split(self.separator)
        if len(names) != len(self.choices):
            raise SpaceError(
                f"{self.name}: got {len(names)} choices in {text!r}, expected {len(self.choices)} separated by "
                f"{self.separator!r}, for example {self.format(self[0])!r}"
            )
        return tuple(self._choice(position, name) for position, name in enumerate(names))

    def format(self, arch: Codes) -> str:
        """Write ``a|b|c``."""
        self._check(arch)
        return self.separator.join(choices[code] for choices, code in zip(self.choices, arch, strict=True))

    def _choice(self, position: int, name: str) -> int:
        try:
            return self.choices[position].index(name)
        except ValueError:
            raise SpaceError(
                f"{self.name}: got {name!r} at position {position}, expected one of {', '.join(self.choices[position])}"
            ) from None

    def _check(self, arch: Codes) -> None:
        sizes = [len(c) for c in self.choices]
        if len(arch) != len(sizes) or any(not 0 <= c < s for c, s in zip(arch, sizes, strict=True)):
            raise SpaceError(
                f"{self.name}: got {arch!r}, expected {len(sizes)} integers below {sizes}; "
                "use parse() to read an architecture from text"
            )
