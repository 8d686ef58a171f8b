"""The embedding that the supervised counterpart learns, for comparison."""

from __future__ import annotations

from typing import Any

import torch
from torch import LongTensor, Tensor

from lightning_nas.analysis.runs import Accuracies
from lightning_nas.errors import UsageError
from lightning_nas.predictors.supervised_gin import SupervisedGIN
from lightning_nas.spaces.base import FiniteSpace
from lightning_nas.spaces.encodings import GraphEncoding

LABEL = "supervised"
"""Name under which it is shown."""

_CHUNK = 8192


def fitted_cells(size: int, count: int, num: int, seed: int) -> LongTensor:
    """Random cells of each of S fits, different ones within a fit, ``(S, m)`` positions below ``size``."""
    generators = (torch.Generator().manual_seed(1_000_003 * seed + fit) for fit in range(num))
    return torch.stack([torch.randperm(size, generator=g)[:count] for g in generators])  # type: ignore[return-value]


@torch.no_grad()
def supervised_tables(
    space: FiniteSpace[Any], truth: Accuracies, num_samples: int, num: int, seed: int
) -> list[Tensor]:
    """Tanh features of all cells of the space from encoders trained on the test accuracies of a few.

    Args:
        space: The space.
        truth: Accuracies.
        num_samples: Cells that each encoder is trained on.
        num: Encoders, each on other cells.
        seed: Of cells and weights.

    Returns:
        One table ``(N, D)`` for each encoder.
    """
    if not 2 <= num_samples <= len(truth.values):
        raise UsageError(
            f"analyze: got num_samples={num_samples}, expected 2 to {len(truth.values)}, the cells of the table"
        )
    chosen = fitted_cells(len(truth.values), num_samples, num, seed)
    graphs = GraphEncoding().encode(space)
    known = torch.ones_like(chosen, dtype=torch.bool)
    seeds = torch.rand(num, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    model: Any = SupervisedGIN(space.num_vertices).fit(
        graphs[truth.members[chosen]], truth.values[chosen], known, seeds
    )
    features = torch.cat([model.pool_features(part) for part in torch.split(graphs, _CHUNK)], dim=2)  # (R, D, N)
    return list(features.mT.unbind(0))
