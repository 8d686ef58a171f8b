"""Training a small image classifier from memory with plain torch: what a live benchmark does to every candidate."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_nas.errors import EvaluationError, UsageError
from lightning_nas.nn.images import LabelledImages as LabelledImages  # imported from here, too

TRAINING_VERSION = 1
"""Part of every result's key: raise it whenever a change below changes what a network scores."""

_EVALUATION_BATCH = 1024  # large enough to be fast, small enough for the cache of one core


@dataclass(frozen=True)
class TrainingRecipe:
    """How a candidate network is trained: SGD with Nesterov momentum under a one-cycle learning rate.

    Args:
        epochs: Passes over the training images.
        batch_size: Images per step; the images that fill no whole batch are left out of the epoch.
        learning_rate: Peak of the one-cycle schedule (see :func:`one_cycle`).
        momentum: Nesterov momentum.
        weight_decay: L2 penalty on all weights.
        shift: Pixels by which training images are moved at random in both directions. Accuracies are then means over
            all ``(2 * shift + 1)**2`` moved copies of an image, which tells good networks apart; 0 for neither.
    """

    # Chosen on the digits, 40 random connected NAS-Bench-201 cells of 8 channels, 2 seeds: 84 to 95 %, rank correlation
    # between seeds 0.62. As long a training in larger batches (8 epochs of 128 images at rate 0.2) reached only 0.39.
    epochs: int = 6
    batch_size: int = 64
    learning_rate: float = 0.15
    momentum: float = 0.9
    weight_decay: float = 5e-4
    shift: int = 1

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 2 or self.shift < 0:
            raise UsageError(f"got {self}, expected epochs >= 1, batch_size >= 2 and shift >= 0")


class TrainingResult(NamedTuple):
    """What a training leaves behind besides the weights.

    Attributes:
        curve: Validation accuracy in percent after every epoch, on the images as they are (not moved: it is cheap).
        valid: Validation accuracy in percent at the end, mean over moved copies.
        test: Test accuracy in percent at the end, mean over moved copies.
        seconds: The calling thread's processor time; unlike wall time it does not grow with other work on the machine.
    """

    curve: tuple[float, ...]
    valid: float
    test: float
    seconds: float


def train_classifier(
    network: nn.Module,
    train: LabelledImages,
    valid: LabelledImages,
    test: LabelledImages,
    recipe: TrainingRecipe,
    generator: torch.Generator,
) -> TrainingResult:
    """Train a network and score it; on one thread the result depends on nothing but the arguments.

    Args:
        network: Fresh network on the images' device; is changed.
        train: Images to learn from.
        valid: Images to select by.
        test: Images to report on.
        recipe: How to train.
        generator: Source of the order and the shifts, on the CPU.

    Raises:
        EvaluationError: The loss stopped being finite.
    """
    start = time.thread_time()
    windows = shifted_windows(train.images, recipe.shift)
    size = min(recipe.batch_size, len(train.labels))
    steps = len(train.labels) // size
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a fifth faster on a CPU
    optimizer = NesterovSGD(network.parameters(), recipe.momentum, recipe.weight_decay)
    curve = []
    for epoch in range(recipe.epochs):
        network.train()
        order = torch.randperm(len(train.labels), generator=generator)[: steps * size].view(steps, size)
        moves = torch.randint(2 * recipe.shift + 1, (2, steps, size), generator=generator)
        total = torch.zeros((), device=train.images.device)
        for step, (index, down, right) in enumerate(zip(order, *moves, strict=True), start=epoch * steps):
            loss = F.cross_entropy(network(windows[index, :, down, right]), train.labels[index])
            torch.autograd.backward(loss)
            optimizer.step(recipe.learning_rate * one_cycle(step / (recipe.epochs * steps)))
            total += loss.detach()
        if not torch.isfinite(total):  # once an epoch: reading a number back at every step would slow a GPU down
            raise EvaluationError(
                f"the training loss became {total.item()} in epoch {epoch + 1} of {recipe.epochs}; "
                f"expected a finite number, try a lower learning_rate than {recipe.learning_rate}"
            )
        curve.append(accuracy(network, valid))
    at_end = accuracy(network, valid, recipe.shift), accuracy(network, test, recipe.shift)
    return TrainingResult(tuple(curve), *at_end, time.thread_time() - start)


class NesterovSGD:
    """The update of ``torch.optim.SGD(nesterov=True)``, for all parameters at once.

    ``torch.optim`` imports torch's compiler when its first optimiser is made; here this would take every worker longer
    than a training.

    Args:
        parameters: What to update.
        momentum: Nesterov momentum.
        weight_decay: L2 penalty.
    """

    def __init__(self, parameters: Iterable[Tensor], momentum: float, weight_decay: float) -> None:
        self.parameters = list(parameters)
        self.velocities = [torch.zeros_like(p) for p in self.parameters]
        self.momentum, self.weight_decay = momentum, weight_decay

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Update, and forget the gradients; parameters without one (dead branches of a cell) stay as they are."""
        used = [(p, v, p.grad) for p, v in zip(self.parameters, self.velocities, strict=True) if p.grad is not None]
        if not used:
            return
        parameters, velocities, gradients = map(list, zip(*used, strict=True))
        torch._foreach_add_(gradients, parameters, alpha=self.weight_decay)
        torch._foreach_mul_(velocities, self.momentum)
        torch._foreach_add_(velocities, gradients)
        torch._foreach_add_(gradients, velocities, alpha=self.momentum)
        torch._foreach_add_(parameters, gradients, alpha=-learning_rate)
        for parameter in self.parameters:
            parameter.grad = None


def one_cycle(progress: float) -> float:
    """Share of the peak learning rate: rises linearly over 30 % of the training, then falls along a cosine to 0.

    Example:
        >>> [round(one_cycle(x), 2) for x in (0, 0.15, 0.3, 0.65, 1)]
        [0.04, 0.52, 1.0, 0.5, 0.0]
    """
    if progress < 0.3:
        return 0.04 + 0.96 * progress / 0.3
    return 0.5 + 0.5 * math.cos(math.pi * (progress - 0.3) / 0.7)


def shifted_windows(images: Tensor, shift: int) -> Tensor:
    """View of all zero-padded moves of every image: ``windows[n, :, i, j]`` is image n seen from offset (i, j).

    Shapes:
        ``(N, C, H, W)`` -> ``(N, C, 2 * shift + 1, 2 * shift + 1, H, W)``; offset ``[shift, shift]`` does not move.
    """
    height, width = images.shape[-2:]
    return F.pad(images, [shift] * 4).unfold(2, height, 1).unfold(3, width, 1)


@torch.inference_mode()
def accuracy(network: nn.Module, split: LabelledImages, shift: int = 0) -> float:
    """Share of right answers in percent, mean over all moved copies; leaves the network in evaluation mode."""
    network.eval()
    windows = shifted_windows(split.images, shift)
    right = 0
    for rows, labels in zip(*(torch.split(x, _EVALUATION_BATCH) for x in (windows, split.labels)), strict=True):
        for down in range(windows.shape[2]):
            for across in range(windows.shape[3]):
                right += int((network(rows[:, :, down, across]).argmax(dim=1) == labels).sum())
    return 100.0 * right / (len(split.labels) * windows.shape[2] * windows.shape[3])
