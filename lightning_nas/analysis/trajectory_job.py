"""One network's training, watched through its Jacobians: what a worker process does for ``analyze trajectories``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_nas.datamodules.jacobian_store import initialised
from lightning_nas.nn.jacobian import Output, input_jacobian, principal_scores
from lightning_nas.nn.training import Training, TrainingData, TrainingRecipe
from lightning_nas.spaces.base import FiniteSpace
from lightning_nas.workers.base import Job


@dataclass(frozen=True)
class TrajectoryJob(Job):
    """Everything a worker needs to train any network of a space and to look at its Jacobian after every epoch.

    Args:
        space: Space that builds the networks.
        sizes: Further arguments of its ``build``.
        data: Images to train and validate on.
        recipe: How to train.
        shown: Images of the Jacobians, ready for the networks.
        num_components: Leading components that are kept.
        output: What is differentiated.
        seed: Weights are those of the first initialisation that a ``JacobianJob`` of this seed makes.

    Shapes:
        shown ``(N, C, H, W)`` float32.
    """

    space: FiniteSpace[Any]
    sizes: dict[str, Any]
    data: TrainingData
    recipe: TrainingRecipe
    shown: Tensor
    num_components: int
    output: Output = "sum"
    seed: int = 0

    def run(self, task: int) -> tuple[np.ndarray, np.ndarray]:
        """Principal scores before and after each of E epochs, ``(E + 1, N, K)`` float32, and the validation curve."""
        device = torch.device(self.device)
        data, shown = self.data.to(device), self.shown.to(device)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            network = initialised(self.space, task, 0, self.seed, self.sizes)
            training = Training([network], data, self.recipe, [self.seed])
            (watched,) = training.network.networks
            found = []
            for epoch in range(self.recipe.epochs + 1):
                training.run(epoch)
                jacobian = input_jacobian(watched, shown, self.output)
                found.append(principal_scores(jacobian, self.num_components).cpu().numpy())
        return np.stack(found), torch.stack(training.curve)[:, 0].numpy()
