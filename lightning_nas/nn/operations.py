"""Candidate operations of NAS-Bench-201 cells and the fixed blocks between them (Dong & Yang, arXiv 2001.00326)."""

from __future__ import annotations

from torch import Tensor, nn


class Zero(nn.Module):
    """The operation ``none``: passes no signal, ``0 * x``."""

    def forward(self, x: Tensor) -> Tensor:
        """Return zeros of the input's shape."""
        return x.mul(0.0)


class ReLUConvBN(nn.Sequential):
    """ReLU, convolution without bias, batch normalisation: the benchmark's ``nor_conv_kxk``.

    Args:
        channels_in: Input channels.
        channels_out: Output channels.
        kernel_size: Side of the square kernel; padding keeps the image size at stride 1.
        stride: Stride of the convolution.
        affine: Whether batch normalisation has trainable scale and shift.
        track_running_stats: Whether batch normalisation keeps running statistics for evaluation.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel_size: int,
        stride: int = 1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        super().__init__(
            nn.ReLU(),
            nn.Conv2d(channels_in, channels_out, kernel_size, stride, kernel_size // 2, bias=False),
            nn.BatchNorm2d(channels_out, affine=affine, track_running_stats=track_running_stats),
        )


class ResNetReduction(nn.Module):
    """Residual block that halves the image and changes the width; never searched.

    Two ReLU-Conv3x3-BN on the branch, average pooling and a 1x1 convolution without normalisation on the shortcut.

    Args:
        channels_in: Input channels.
        channels_out: Output channels.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            ReLUConvBN(channels_in, channels_out, 3, stride=2), ReLUConvBN(channels_out, channels_out, 3)
        )
        self.shortcut = nn.Sequential(nn.AvgPool2d(2, stride=2), nn.Conv2d(channels_in, channels_out, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Halve the image: ``(B, C_in, H, W)`` -> ``(B, C_out, H/2, W/2)``."""
        return self.shortcut(x) + self.branch(x)  # type: ignore[no-any-return]


def make_operation(name: str, channels: int, affine: bool = True, track_running_stats: bool = True) -> nn.Module:
    """Build a NAS-Bench-201 operation that keeps the shape ``(B, C, H, W)``.

    Args:
        name: ``none``, ``skip_connect``, ``nor_conv_1x1``, ``nor_conv_3x3`` or ``avg_pool_3x3``.
        channels: Width C.
        affine: Whether batch normalisation has trainable scale and shift (supernets switch it off).
        track_running_stats: Whether batch normalisation keeps running statistics.
    """
    builders = {
        "none": Zero,
        "skip_connect": nn.Identity,
        "nor_conv_1x1": lambda: ReLUConvBN(channels, channels, 1, 1, affine, track_running_stats),
        "nor_conv_3x3": lambda: ReLUConvBN(channels, channels, 3, 1, affine, track_running_stats),
        "avg_pool_3x3": lambda: nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False),
    }
    return builders[name]()  # type: ignore[no-any-return, operator]
