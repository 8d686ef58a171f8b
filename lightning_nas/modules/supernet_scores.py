"""How well a trained supernet does without some of its operations."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from lightning_nas.modules.darts import DARTS, Images
from lightning_nas.nn.supernet import frozen_statistics


def missed_most(
    module: DARTS,
    batches: Callable[[], Sequence[Images]],
    kind: int,
    edge: int,
    candidates: Sequence[int],
    quiet: bool = True,
) -> int:
    """The operation of an edge without which the supernet's accuracy is lowest; of equals the first.

    Args:
        module: The supernet.
        batches: Gives the images to score on, for each operation anew.
        kind: Kind of cell.
        edge: Edge of that cell.
        candidates: Operations to choose among.
        quiet: Leave running statistics as they are.
    """
    names = module.network.groups[kind].operations[edge]
    accuracies = {}
    for code in candidates:
        active = module.mixture().active.clone()
        if names[code] != "none":  # from which nothing comes
            active[kind, edge, code] = False
        accuracies[code] = accuracy_without(module, batches(), active, quiet)
    return min(candidates, key=lambda code: accuracies[code])


@torch.no_grad()
def accuracy_without(module: DARTS, batches: Sequence[Images], active: Tensor, quiet: bool = True) -> float:
    """Share of right answers with some operations only, whose weights stay what they are among all.

    Args:
        module: The supernet.
        batches: Images and labels.
        active: The operations that are computed, ``(G, E, K)``.
        quiet: Leave running statistics as they are.
    """
    mixture = module.mixture()._replace(active=active)  # type: ignore[arg-type]
    module.train()
    module.network.set_noise(0)
    with frozen_statistics(module.network) if quiet else nullcontext():
        right = sum(int((module.network(x, mixture).argmax(dim=1) == y).sum()) for x, y in batches)
    return right / sum(len(labels) for _, labels in batches)


def copied(module: DARTS) -> DARTS:
    """A copy that can be trained on while the module stays as it is."""
    shared = module._trainer, module.optimizer, module.alpha_optimizer
    other = copy.deepcopy(module, {id(one): one for one in shared})
    other.accumulate = 1  # steps outside of a trainer's loop are whole ones
    return other
