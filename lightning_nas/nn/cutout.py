"""Cutout: zeroing a square of every training image (DeVries & Taylor, arXiv 1708.04552)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cutout(images: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Zero one square of every image, at a place drawn uniformly, and cut off at the border.

    Kornia erases squares that lie inside an image; so it is given a margin, which is taken away again.

    Args:
        images: Normalised images, whose zero is the mean; on any device.
        side: Side of the square in pixels.
        generator: Source of the places, on the CPU, where Kornia draws.

    Shapes:
        ``(B, C, H, W)`` -> the same.
    """
    from kornia.augmentation import RandomErasing

    margin = side // 2
    height, width = (size + 2 * margin for size in images.shape[-2:])
    share = side**2 / (height * width)
    erase = RandomErasing(scale=(share, share), ratio=(1.0, 1.0), value=0.0, p=1.0)
    with torch.random.fork_rng(devices=[]):  # Kornia draws from torch's global generator, that of the CPU
        torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        padded: Tensor = erase(F.pad(images, [margin] * 4))
    return padded[..., margin : height - margin, margin : width - margin]
