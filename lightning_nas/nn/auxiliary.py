"""A second classifier half-way through a network, which helps its front to learn and is thrown away afterwards."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class HasAuxiliary(Protocol):
    """A network whose ``forward`` gives class scores, and which may have an auxiliary head besides.

    Attributes:
        auxiliary: The head, or None.
    """

    auxiliary: nn.Module | None

    def with_auxiliary(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Class scores of the network and of its auxiliary head, two of ``(B, num_classes)``, for training."""
        ...


class AuxiliaryHead(nn.Sequential):
    """The auxiliary classifier of DARTS (arXiv 1806.09055) for features of any size.

    DARTS pools 5 x 5 pixels at stride 3, which turns the 8 x 8 features of CIFAR into 2 x 2; here they are pooled to
    2 x 2 whatever their size.

    Args:
        channels: Width of the features.
        num_classes: Outputs.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__(
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Conv2d(channels, 128, 1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            nn.BatchNorm2d(768),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(768, num_classes),
        )
