"""Many perceptrons that differ in the slope of their sigmoids, trained side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_nas.errors import UsageError

_CHUNK = 2000  # images evaluated at a time


@dataclass(frozen=True)
class SlopeRecipe:
    """How the perceptrons are trained; the paper says nothing of it, and these values give curves like its own.

    Args:
        epochs: Passes over the training images.
        batch_size: Images per step; a smaller rest at the end of an epoch is left out.
        learning_rate: Of Adam, at the beginning; it falls to 0 along a cosine.
        init_scale: Standard deviation of the initial weights and biases, as of the motif-networks.
        width: Neurons of each hidden layer.
        num_layers: Hidden layers.
    """

    epochs: int = 10
    batch_size: int = 100
    learning_rate: float = 0.01
    init_scale: float = 1.0
    width: int = 100
    num_layers: int = 2

    def __post_init__(self) -> None:
        if min(asdict(self).values()) <= 0:
            raise UsageError(f"{self}: expected positive numbers")

    def identity(self) -> dict[str, Any]:
        """Primitives that fix a training."""
        return asdict(self)


class SlopeNetworks:
    """N perceptrons of one size, each with its slope, weights and order of the images.

    Weights and order depend on a network's seed alone, so that all slopes see the same ones.

    Args:
        slopes: Of the sigmoids of each network.
        seeds: Of each network.
        num_inputs: Pixels of an image.
        num_classes: Classes.
        recipe: How they are trained.
        device: Where.
    """

    def __init__(
        self, slopes: Sequence[float], seeds: Sequence[int], num_inputs: int, num_classes: int, recipe: SlopeRecipe,
        device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        if len(slopes) != len(seeds):
            raise UsageError(f"SlopeNetworks: got {len(slopes)} slopes and {len(seeds)} seeds, expected as many")
        self.recipe, self.seeds, self.device = recipe, list(seeds), torch.device(device)
        self.slopes = torch.tensor(slopes, dtype=torch.float32, device=device)[:, None, None]
        widths = [num_inputs, *[recipe.width] * recipe.num_layers, num_classes]
        drawn = {seed: self._draw(seed, widths) for seed in sorted(set(seeds))}
        columns = zip(*(drawn[seed] for seed in seeds), strict=True)
        self.parameters = [torch.stack(parts).to(device).requires_grad_() for parts in columns]

    def _draw(self, seed: int, widths: Sequence[int]) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        shapes = [shape for begin, end in pairwise(widths) for shape in ((begin, end), (1, end))]
        return [self.recipe.init_scale * torch.randn(shape, generator=generator) for shape in shapes]

    def logits(self, images: Tensor) -> Tensor:
        """Class scores, ``(N, B, pixels)`` or ``(B, pixels)`` for all -> ``(N, B, classes)``."""
        value = images if images.dim() == 3 else images.expand(len(self.seeds), *images.shape)
        for place in range(0, len(self.parameters) - 2, 2):
            matrix, bias = self.parameters[place : place + 2]
            value = torch.sigmoid(self.slopes * torch.baddbmm(bias, value, matrix))
        return torch.baddbmm(self.parameters[-1], value, self.parameters[-2])

    @torch.no_grad()
    def accuracy(self, images: Tensor, labels: Tensor) -> Tensor:
        """In percent, ``(N,)``."""
        right = torch.zeros(len(self.seeds), device=self.device)
        for place in range(0, len(labels), _CHUNK):
            found = self.logits(images[place : place + _CHUNK]).argmax(dim=-1)
            right += (found == labels[place : place + _CHUNK]).sum(dim=1)
        return 100.0 * right / len(labels)

    def train(self, images: Tensor, labels: Tensor, valid: tuple[Tensor, Tensor]) -> Tensor:
        """Minimise the cross-entropy; validation accuracy in percent after every epoch, ``(N, epochs)``.

        Args:
            images: ``(B, pixels)`` in 0 … 1.
            labels: ``(B,)``.
            valid: Images and labels held out.
        """
        recipe, size = self.recipe, len(labels)
        steps = size // recipe.batch_size
        if steps < 1:
            raise UsageError(f"SlopeNetworks: got {size} images, expected at least one batch of {recipe.batch_size}")
        optimizer = torch.optim.Adam(self.parameters, recipe.learning_rate, fused=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps * recipe.epochs)
        distinct = sorted(set(self.seeds))
        own = torch.tensor([distinct.index(seed) for seed in self.seeds], device=self.device)
        generators = [torch.Generator().manual_seed(1_000_003 * seed + 1) for seed in distinct]
        curve = []
        for _ in range(recipe.epochs):
            order = torch.stack([torch.randperm(size, generator=each) for each in generators]).to(self.device)
            for number in range(steps):
                rows = order[:, number * recipe.batch_size : (number + 1) * recipe.batch_size]  # (seeds, B)
                targets = labels[rows][own].flatten()
                with torch.enable_grad():
                    logits = self.logits(images[rows][own])
                    # The sum over networks: each has its own gradient.
                    loss = F.cross_entropy(logits.flatten(0, 1), targets, reduction="sum") / recipe.batch_size
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
            curve.append(self.accuracy(*valid))
        return torch.stack(curve, dim=1)
