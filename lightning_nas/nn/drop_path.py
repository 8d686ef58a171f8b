"""Drop path, that is stochastic depth on the edges of cells (Larsson et al., FractalNet, arXiv 1605.07648)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DropPath(nn.Module):
    """Zeroes a path for a random part of the images in training, and scales the others up; the identity otherwise.

    It has no weights, so that a network's checkpoints are the same with and without. A cell applies one instance to the
    message of each of its edges except skip connections, as DARTS does (arXiv 1806.09055, its CIFAR-10 training).

    Attributes:
        probability: Of zeroing an image's path; 0 until :func:`set_drop_path` is called.
        generator: Source of the draws, on the device of the images.

    Shapes:
        ``(B, …)`` -> the same.

    Example:
        >>> drop = DropPath()
        >>> drop.probability = 0.5
        >>> drop(torch.ones(1000, 1)).unique().tolist(), drop.eval()(torch.ones(2, 1)).tolist()
        ([0.0, 2.0], [[1.0], [1.0]])
    """

    def __init__(self) -> None:
        super().__init__()
        self.probability = 0.0
        self.generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Drop whole images of a path."""
        if not self.training or self.probability == 0.0:
            return x
        keep = 1.0 - self.probability
        mask = x.new_empty(len(x), *[1] * (x.dim() - 1)).bernoulli_(keep, generator=self.generator)  # (B, 1, …)
        return x * mask / keep


def has_drop_path(network: nn.Module) -> bool:
    """Whether any path of a network can be dropped."""
    return any(isinstance(module, DropPath) for module in network.modules())


def set_drop_path(network: nn.Module, probability: float, generator: torch.Generator | None = None) -> None:
    """Set the probability of every path of a network, and where their draws come from.

    Args:
        network: What holds :class:`DropPath` modules, at any depth.
        probability: Of zeroing an image's path, in [0, 1).
        generator: Source of the draws, on the network's device; None for torch's own.
    """
    for module in network.modules():
        if isinstance(module, DropPath):
            module.probability, module.generator = probability, generator
