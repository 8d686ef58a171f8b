"""Metrics of generated cells (correlations and errors come from torchmetrics)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_nas.nn.isomorphism import isomorphism_hashes
from lightning_nas.spaces.base import CellGraph


def validity_and_uniqueness(space: Any, graphs: CellGraph) -> dict[str, float]:
    """Shares of valid graphs, and of distinct ones among them, strict and, where the space defines it, as published.

    Args:
        space: The search space.
        graphs: Decoded graphs.
    """
    hashes = isomorphism_hashes(graphs)
    numbers: Tensor = hashes
    if hasattr(space, "indices_of"):  # members are the same whatever the labels of padding and unused vertices
        members = space.indices_of(graphs)
        numbers = torch.where(members >= 0, members, hashes)
    values = _shares(numbers, space.is_valid(graphs), "")
    if hasattr(space, "is_valid_published"):
        values |= _shares(hashes, space.is_valid_published(graphs), "_published")
    return values


def _shares(numbers: Tensor, valid: Tensor, suffix: str) -> dict[str, float]:
    kept = numbers[valid]
    return {
        f"validity{suffix}": len(kept) / len(numbers),
        f"uniqueness{suffix}": len(torch.unique(kept)) / max(len(kept), 1),
    }
