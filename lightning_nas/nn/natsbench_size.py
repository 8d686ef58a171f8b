"""Networks of NATS-Bench's size space: one fixed cell, five free widths (Dong et al., arXiv 2009.00437)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from lightning_nas.nn.operations import ReLUConvBN, ResNetReduction


class SizedCell(nn.Module):
    """Four nodes; 3x3 convolutions on all edges but 0→3, which passes the input on.

    Where the width changes, 0→3 is a 1x1 convolution with batch normalisation, without a ReLU.

    Args:
        channels_in: Width of the input.
        channels_out: Width of all other nodes.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.first = ReLUConvBN(channels_in, channels_out, 3)  # 0→1
        self.second = ReLUConvBN(channels_in, channels_out, 3)  # 0→2
        self.first_to_second = ReLUConvBN(channels_out, channels_out, 3)  # 1→2
        self.shortcut: nn.Module = nn.Identity()  # 0→3
        if channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, bias=False), nn.BatchNorm2d(channels_out)
            )
        self.first_to_output = ReLUConvBN(channels_out, channels_out, 3)  # 1→3
        self.second_to_output = ReLUConvBN(channels_out, channels_out, 3)  # 2→3

    def forward(self, x: Tensor) -> Tensor:
        """Apply the cell, ``(B, C_in, H, W)`` -> ``(B, C_out, H, W)``."""
        first = self.first(x)
        second = self.second(x) + self.first_to_second(first)
        return self.shortcut(x) + self.first_to_output(first) + self.second_to_output(second)  # type: ignore[no-any-return]


class SizedNetwork(nn.Module):
    """Stem, cell, reduction, cell, reduction, cell, global average pooling, linear head.

    Args:
        widths: Channels of the five blocks; the stem has those of the first.
        num_classes: Outputs of the classifier.
        in_channels: Channels of the input image.
    """

    def __init__(self, widths: Sequence[int], num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        widths = [widths[0], *widths]
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0])
        )
        kinds = (SizedCell, ResNetReduction, SizedCell, ResNetReduction, SizedCell)
        self.blocks = nn.Sequential(*(kind(*ends) for kind, ends in zip(kinds, pairwise(widths), strict=True)))
        self.last_activation = nn.Sequential(nn.BatchNorm2d(widths[-1]), nn.ReLU())
        self.classifier = nn.Linear(widths[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores, ``(B, in_channels, H, W)`` -> ``(B, num_classes)``."""
        features = self.last_activation(self.blocks(self.stem(images)))
        # The gradient of a mean would be laid out as (B, C, H, W) whatever the features are, which slows a CPU down.
        pooled = features.sum(dim=(2, 3)) / (features.shape[2] * features.shape[3])
        return self.classifier(pooled)  # type: ignore[no-any-return]
