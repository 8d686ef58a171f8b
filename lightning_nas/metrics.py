"""Metrics of generated cells (correlations and errors come from torchmetrics)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_nas.nn.isomorphism import isomorphism_hashes
from lightning_nas.spaces.base import CellGraph, SearchSpace


def validity(space: SearchSpace[Any], graphs: CellGraph) -> Tensor:
    """Share of decoded graphs that are architectures of the space, a scalar."""
    return space.is_valid(graphs).float().mean()


def uniqueness(graphs: CellGraph, valid: Tensor) -> Tensor:
    """Share of distinct graphs (up to isomorphism) among the valid ones; 0 when none is valid.

    Args:
        graphs: B decoded graphs.
        valid: Which of them count, ``(B,)`` bool.
    """
    hashes = isomorphism_hashes(graphs)[valid]
    return torch.tensor(len(set(hashes.tolist())) / max(len(hashes), 1))
