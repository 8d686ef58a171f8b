"""Encodings of a whole space as one matrix, injected into strategies and predictors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_nas.errors import EncodingError
from lightning_nas.spaces.base import SearchSpace
from lightning_nas.spaces.categorical import CategoricalSpace
from lightning_nas.spaces.nasbench201 import NASBench201


class Encoding(ABC):
    """Turns every member of a space into a feature vector."""

    @abstractmethod
    def encode(self, space: SearchSpace[Any]) -> Tensor:
        """Features of all members in index order, ``(N, D)`` float."""


class OneHotEncoding(Encoding):
    """One-hot choice at every position; squared distances are twice the number of differing positions.

    Example:
        >>> OneHotEncoding().encode(NASBench201()).shape
        torch.Size([15625, 30])
    """

    def encode(self, space: SearchSpace[Any]) -> Tensor:
        """Features of all members, ``(N, sum of choices)``."""
        if not isinstance(space, CategoricalSpace):
            raise EncodingError(f"OneHotEncoding: got the space {space.name!r}, expected one of categorical choices")
        columns = [F.one_hot(space.codes[:, position], len(choices)) for position, choices in enumerate(space.choices)]
        return torch.cat(columns, dim=1).float()


class PathEncoding(Encoding):
    """Which operation sequences lead from the cell's input to its output (BANANAS, arXiv 1910.11858).

    Example:
        >>> PathEncoding().encode(NASBench201()).sum(dim=1).max()
        tensor(4.)
    """

    def encode(self, space: SearchSpace[Any]) -> Tensor:
        """Features of all members, ``(N, 155)`` for NAS-Bench-201."""
        if not isinstance(space, NASBench201):
            raise EncodingError(f"PathEncoding: got the space {space.name!r}, expected nasbench201")
        return space.path_encoding(space.codes)
