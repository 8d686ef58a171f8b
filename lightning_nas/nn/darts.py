"""The evaluation network of DARTS and its operations (Liu et al., ICLR 2019, arXiv 1806.09055)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from lightning_nas.errors import UsageError
from lightning_nas.nn.auxiliary import AuxiliaryHead
from lightning_nas.nn.drop_path import DropPath
from lightning_nas.nn.operations import ReLUConvBN, Zero

OPERATIONS = (
    "none", "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3",
    "dil_conv_5x5",
)  # fmt: skip
"""The candidates in the order of the published code."""

NUM_BLOCKS = 4
"""Intermediate nodes of a cell; its output is their concatenation."""

Edge = tuple[str, int]
"""An operation and where it reads: 0 and 1 are the outputs of the cells before, 2 and up the cell's own blocks."""

Stem = Literal["cifar", "imagenet"]


class SeparableConv(nn.Sequential):
    """Twice ReLU, depthwise convolution, 1x1 convolution, batch normalisation; only the first one has the stride.

    Args:
        channels: Width C.
        kernel_size: Side of the square kernel.
        stride: 1, or 2 to halve the image.
        affine: Whether batch normalisation has trainable scale and shift.
    """

    def __init__(self, channels: int, kernel_size: int, stride: int = 1, affine: bool = True) -> None:
        first, second = (_depthwise(channels, kernel_size, s, 1, affine) for s in (stride, 1))
        super().__init__(*first, *second)


class DilatedConv(nn.Sequential):
    """ReLU, depthwise convolution of dilation 2, 1x1 convolution, batch normalisation.

    Args:
        channels: Width C.
        kernel_size: Side of the square kernel, before dilation.
        stride: 1, or 2 to halve the image.
        affine: Whether batch normalisation has trainable scale and shift.
    """

    def __init__(self, channels: int, kernel_size: int, stride: int = 1, affine: bool = True) -> None:
        super().__init__(*_depthwise(channels, kernel_size, stride, 2, affine))


def _depthwise(channels: int, kernel_size: int, stride: int, dilation: int, affine: bool) -> list[nn.Module]:
    padding = dilation * (kernel_size // 2)
    return [
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel_size, stride, padding, dilation, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels, affine=affine),
    ]


class FactorizedReduce(nn.Module):
    """Halves the image: two 1x1 convolutions of stride 2, one of them a pixel further down and right, side by side.

    Images of odd size are taken, too (the published code refuses them): a row and a column of zeros follow the last.

    Args:
        channels_in: Input channels.
        channels_out: Output channels, an even number.
        affine: Whether batch normalisation has trainable scale and shift.
    """

    def __init__(self, channels_in: int, channels_out: int, affine: bool = True) -> None:
        super().__init__()
        half = channels_out // 2
        self.activation = nn.ReLU()
        self.straight = nn.Conv2d(channels_in, half, 1, stride=2, bias=False)
        self.shift = nn.ZeroPad2d((-1, 1, -1, 1))
        self.shifted = nn.Conv2d(channels_in, channels_out - half, 1, stride=2, bias=False)
        self.normalisation = nn.BatchNorm2d(channels_out, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """Halve the image: ``(B, C_in, H, W)`` -> ``(B, C_out, ceil(H/2), ceil(W/2))``."""
        return self.normalisation(self.halves(x))  # type: ignore[no-any-return]

    def halves(self, x: Tensor) -> Tensor:
        """What is normalised: the outputs of the two convolutions side by side."""
        x = self.activation(x)
        return torch.cat([self.straight(x), self.shifted(self.shift(x))], dim=1)


def make_operation(name: str, channels: int, stride: int = 1, affine: bool = True) -> nn.Module:
    """Build an operation of :data:`OPERATIONS`, ``(B, C, H, W)`` -> the same, or half the image at stride 2.

    Args:
        name: Its name; ``none`` is a placeholder, which a cell leaves out of its sums.
        channels: Width C.
        stride: 1 or 2.
        affine: Whether batch normalisation has trainable scale and shift (supernets switch it off).
    """
    builders: dict[str, Callable[[], nn.Module]] = {
        "none": Zero,
        "max_pool_3x3": lambda: nn.MaxPool2d(3, stride, padding=1),
        "avg_pool_3x3": lambda: nn.AvgPool2d(3, stride, padding=1, count_include_pad=False),
        "skip_connect": lambda: nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, affine),
        "sep_conv_3x3": lambda: SeparableConv(channels, 3, stride, affine),
        "sep_conv_5x5": lambda: SeparableConv(channels, 5, stride, affine),
        "dil_conv_3x3": lambda: DilatedConv(channels, 3, stride, affine),
        "dil_conv_5x5": lambda: DilatedConv(channels, 5, stride, affine),
    }
    return builders[name]()


class GenotypeCell(nn.Module):
    """Four blocks, each the sum of two operations on earlier outputs; the cell's output has 4C channels.

    In training, every edge but skip connections of stride 1 can be dropped (see
    :class:`~lightning_nas.nn.drop_path.DropPath`).

    Args:
        edges: The operations of the four blocks, two of each.
        widths: Channels of the two inputs, the older one first.
        channels: Width C of each block.
        reduction: Whether the cell halves the image: operations on the two inputs have stride 2.
        older_is_larger: Whether the older input's image is twice the other's.
    """

    def __init__(
        self, edges: Sequence[Edge], widths: tuple[int, int], channels: int, reduction: bool, older_is_larger: bool
    ) -> None:
        super().__init__()
        self.reduction = reduction
        self.sources = [source for _, source in edges]
        older, newer = widths
        self.older = FactorizedReduce(older, channels) if older_is_larger else ReLUConvBN(older, channels, 1)
        self.newer = ReLUConvBN(newer, channels, 1)
        self.edges = nn.ModuleList(
            make_operation(name, channels, 2 if reduction and source < 2 else 1) for name, source in edges
        )
        self.drop_path = DropPath()

    def forward(self, older: Tensor, newer: Tensor) -> Tensor:
        """Apply the cell to the outputs of the two before, ``(B, 4C, H, W)``, or half the image after a reduction."""
        states = [self.older(older), self.newer(newer)]
        for block in range(NUM_BLOCKS):
            total: Tensor | None = None  # a sum of nothing
            for edge in (2 * block, 2 * block + 1):
                operation, source = self.edges[edge], states[self.sources[edge]]
                if isinstance(operation, Zero):
                    continue
                message = operation(source)
                if not isinstance(operation, nn.Identity):
                    message = self.drop_path(message)
                total = message if total is None else total + message
            states.append(self._nothing(states[1]) if total is None else total)
        return torch.cat(states[2:], dim=1)

    def _nothing(self, newer: Tensor) -> Tensor:
        return (newer[:, :, ::2, ::2] if self.reduction else newer).mul(0.0)


class GenotypeNetwork(nn.Module):
    """Stem, cells that read the outputs of the two before, global average pooling, linear head.

    Args:
        normal: Edges of the cells that keep the image's size.
        reduction: Edges of the cells that halve it and double the width.
        reductions: For every cell in order, whether it is a reduction (see :func:`in_stages`, :func:`in_thirds`).
        channels: Width C of the first cells' blocks.
        num_classes: Outputs of the classifier.
        in_channels: Channels of the input image.
        auxiliary: Whether there is a second classifier behind two thirds of the cells, for :meth:`with_auxiliary`.
        stem: ``cifar`` keeps the image's size; ``imagenet`` has three convolutions of stride 2.
    """

    def __init__(
        self,
        normal: Sequence[Edge],
        reduction: Sequence[Edge],
        reductions: Sequence[bool],
        channels: int = 36,
        num_classes: int = 10,
        in_channels: int = 3,
        auxiliary: bool = False,
        stem: Stem = "cifar",
    ) -> None:
        super().__init__()
        self.stem, self.second_stem, widths = make_stem(stem, in_channels, channels)
        halved = stem == "imagenet"
        self.branch_off = 2 * len(reductions) // 3
        self.cells = nn.ModuleList()
        width_there = widths[1]
        for number, reduces in enumerate(reductions):
            channels = 2 * channels if reduces else channels
            self.cells.append(GenotypeCell(reduction if reduces else normal, widths, channels, reduces, halved))
            widths, halved = (widths[1], NUM_BLOCKS * channels), reduces
            if number == self.branch_off:
                width_there = widths[1]
        self.classifier = nn.Linear(widths[1], num_classes)
        # Last, so that the other weights do not depend on whether it is there.
        self.auxiliary = AuxiliaryHead(width_there, num_classes) if auxiliary else None

    def forward(self, images: Tensor) -> Tensor:
        """Class scores, ``(B, in_channels, H, W)`` -> ``(B, num_classes)``."""
        return self._classify(self._features(images)[-1])

    def _features(self, images: Tensor) -> list[Tensor]:
        """Outputs of all cells in order."""
        older = self.stem(images)
        newer = self.second_stem(older)
        outputs = []
        for cell in self.cells:
            older, newer = newer, cell(older, newer)
            outputs.append(newer)
        return outputs

    def _classify(self, features: Tensor) -> Tensor:
        # A sum, for the gradient of a mean would have another layout (see StagedNetwork).
        pooled = features.sum(dim=(2, 3)) / (features.shape[2] * features.shape[3])
        return self.classifier(pooled)  # type: ignore[no-any-return]

    def with_auxiliary(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Class scores of the network and of its auxiliary head, two of ``(B, num_classes)``."""
        assert self.auxiliary is not None, "made without an auxiliary head"
        features = self._features(images)
        return self._classify(features[-1]), self.auxiliary(features[self.branch_off])


def make_stem(stem: Stem, in_channels: int, channels: int) -> tuple[nn.Module, nn.Module, tuple[int, int]]:
    """What makes the first cell's older and newer input, one after the other, and their widths."""
    if stem not in get_args(Stem):
        raise UsageError(f"got stem={stem!r}, expected one of {', '.join(get_args(Stem))}")
    if stem == "cifar":
        first = nn.Sequential(_conv3x3(in_channels, 3 * channels), nn.BatchNorm2d(3 * channels))
        return first, nn.Identity(), (3 * channels, 3 * channels)
    first = nn.Sequential(
        _conv3x3(in_channels, channels // 2, 2), nn.BatchNorm2d(channels // 2), nn.ReLU(),
        _conv3x3(channels // 2, channels, 2), nn.BatchNorm2d(channels),
    )  # fmt: skip
    return first, ReLUConvBN(channels, channels, 3, stride=2), (channels, channels)


def _conv3x3(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)


def in_thirds(num_layers: int) -> list[bool]:
    """Which of a network's cells are reductions, as DARTS has them: at one third and at two thirds.

    Example:
        >>> [place for place, reduces in enumerate(in_thirds(20)) if reduces]
        [6, 13]
    """
    return [place in (num_layers // 3, 2 * num_layers // 3) for place in range(num_layers)]


def in_stages(cells_per_stage: int, num_stages: int) -> list[bool]:
    """Which of a network's cells are reductions: one between any two stages of normal cells.

    Example:
        >>> in_stages(6, 3) == in_thirds(20), in_stages(4, 3) == in_thirds(14), in_stages(2, 3) == in_thirds(8)
        (True, True, True)
    """
    stage = [False] * cells_per_stage
    return sum(([True, *stage] for _ in range(num_stages - 1)), stage)


def flops_by_operation(
    reductions: Sequence[bool],
    channels: int = 48,
    num_classes: int = 1000,
    image_shape: tuple[int, int, int] = (3, 224, 224),
    stem: Stem = "imagenet",
    per_normalised: int = 0,
) -> tuple[int, Tensor]:
    """Multiply-adds of a :class:`GenotypeNetwork` for one image, as a sum over its cells' operations.

    Convolutions and linear layers count (bias included); activations and pooling are free, as is normalisation unless
    ``per_normalised`` says otherwise: :func:`~lightning_nas.nn.complexity.count_flops` of the network gives the same
    number. The defaults are the network for which multiply-adds are stated on ImageNet. The 533 and 580 million of
    arch2vec's two cells (arXiv 2006.06936, Table 5) come out with 2 for every normalised number.

    Args:
        reductions: As for the network.
        channels: Likewise.
        num_classes: Likewise.
        image_shape: ``(channels, height, width)`` of one image.
        stem: As for the network.
        per_normalised: What batch normalisation costs for every number it puts out.

    Returns:
        What all genotypes have in common, and the cost of one operation in all cells of a kind: ``[kind, operation,
        reads an input of the cell]``, kinds normal and reduction, ``(2, 8, 2)`` int64.
    """
    in_channels, *size = image_shape
    shared = 0
    if stem == "cifar":
        widths = 3 * channels, 3 * channels
        shared += (9 * in_channels + per_normalised) * 3 * channels * _area(size)
    else:
        widths = channels, channels
        for width_in, width_out in ((in_channels, channels // 2), (channels // 2, channels), (channels, channels)):
            size = _half(size)
            shared += (9 * width_in + per_normalised) * width_out * _area(size)
    costs = torch.zeros(2, len(OPERATIONS), 2, dtype=torch.int64)
    for reduces in reductions:
        channels = 2 * channels if reduces else channels
        # A factorized reduction costs what the 1x1 convolution does.
        shared += (sum(widths) + 2 * per_normalised) * channels * _area(size)
        size = _half(size) if reduces else size
        costs[int(reduces)] += _area(size) * _flops_per_pixel(channels, reduces, per_normalised)
        widths = widths[1], NUM_BLOCKS * channels
    return shared + (widths[1] + 1) * num_classes, costs


def _flops_per_pixel(channels: int, reduces: bool, per_normalised: int) -> Tensor:
    """Of the output, for every operation on a block and on an input of the cell, ``(8, 2)``."""
    costs = torch.zeros(len(OPERATIONS), 2, dtype=torch.int64)
    for name, kernel, repeats in (
        ("sep_conv_3x3", 9, 2), ("sep_conv_5x5", 25, 2), ("dil_conv_3x3", 9, 1), ("dil_conv_5x5", 25, 1),
    ):  # fmt: skip
        costs[OPERATIONS.index(name)] = repeats * (kernel + channels + per_normalised) * channels
    if reduces:
        costs[OPERATIONS.index("skip_connect"), 1] = (channels + per_normalised) * channels
    return costs


def _half(size: Sequence[int]) -> list[int]:
    return [(side + 1) // 2 for side in size]


def _area(size: Sequence[int]) -> int:
    return size[0] * size[1]
