"""Covariance functions of Gaussian processes, batched and fast on a discrete pool."""

from __future__ import annotations

import torch
from torch import Tensor


def matern52(squared_distance: Tensor) -> Tensor:
    """Matern-5/2 covariance, ``(1 + s + s²/3) exp(-s)`` with ``s = sqrt(5) r / l`` (Rasmussen & Williams, Eq. 4.17).

    Args:
        squared_distance: ``r² / l²``; overwritten, since the pool's block is the largest tensor of a search.
    """
    s = squared_distance.clamp_min_(0.0).mul_(5.0).sqrt_()
    return torch.addcmul(s, s, s, value=1.0 / 3.0).add_(1.0).mul_(s.neg_().exp_())


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean distances, ``(…, n, d)`` and ``(…, m, d)`` -> ``(…, n, m)``, as a single matrix product."""
    left, right = distance_factors(a)[0], distance_factors(b)[1]
    return left @ right.mT


def distance_factors(points: Tensor) -> tuple[Tensor, Tensor]:
    """What stands left and right in the product that gives squared distances, ``(…, d)`` -> two of ``(…, d + 2)``."""
    square, one = points.square().sum(-1, keepdim=True), torch.ones_like(points[..., :1])
    return torch.cat([-2.0 * points, square, one], dim=-1), torch.cat([points, one, square], dim=-1)
