"""Jacobians of untrained networks with respect to images, and their principal components (arXiv 2102.04208)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

_SMALLEST = 1e-9  # singular value below which there is no direction
_FLOOR = 1e-4  # added to singular values, so that those of networks without gradient have a logarithm

Output = Literal["sum", "norm"]
"""What is differentiated: the sum of all class scores (released code) or of their absolute values (the paper)."""


def input_jacobian(network: nn.Module, images: Tensor, output: Output = "sum") -> Tensor:
    """Gradient of the network's output with respect to every image (arXiv 2102.04208, Eq. 1).

    The network is in training mode: batch normalisation uses the statistics of these images, so that the gradient of
    one image has a part that goes through all others, and the images cannot be split into smaller batches. Gradients of
    the weights are not computed. The network is left as it was.

    Args:
        network: Any network of images.
        images: What it gets.
        output: ``sum`` of all class scores of all images, or ``norm`` for the sum of their absolute values.

    Shapes:
        ``(B, C, H, W)`` -> ``(B, C * H * W)``; zeros where no path leads from the images to the class scores.
    """
    # On a CPU, convolutions and normalisation of images laid out like this are faster.
    images = images.detach().clone(memory_format=torch.channels_last).requires_grad_()
    with _for_differentiation(network), torch.enable_grad():
        scores = network(images)
        scalar = (scores.abs() if output == "norm" else scores).sum()
        if not scalar.requires_grad:
            return torch.zeros_like(images).flatten(1)
        (gradient,) = torch.autograd.grad(scalar, images, allow_unused=True)
    return torch.zeros_like(images).flatten(1) if gradient is None else gradient.flatten(1)


def principal_scores(jacobian: Tensor, num_components: int) -> Tensor:
    """Coordinates of every row along the leading right-singular vectors, J V = U S (arXiv 2102.04208, Eq. 2).

    They come from the eigenvectors of the small matrix J Jᵀ, in double precision, since it squares singular values.
    A singular vector's sign is arbitrary; here the sum of the cubes of every column is positive, so that the longer
    tail of its distribution over images is, which does not depend on the images' order.

    Args:
        jacobian: Rows of one or more matrices.
        num_components: Leading components to keep, K <= B.

    Shapes:
        ``(..., B, P)`` -> ``(..., B, K)``; the norm of column i is the singular value i.
    """
    gram = jacobian.double() @ jacobian.double().mT
    values, vectors = torch.linalg.eigh(gram)  # ascending
    leading = vectors.flip(-1)[..., :num_components]
    scores = leading * values.flip(-1)[..., None, :num_components].clamp_min(0).sqrt()
    signs = torch.where(scores.pow(3).sum(dim=-2, keepdim=True) < 0, -1.0, 1.0)
    oriented: Tensor = (scores * signs).to(jacobian.dtype)
    return oriented


def normalised(scores: Tensor) -> Tensor:
    """Scores divided by the largest singular value of their matrix; what is zero stays zero, ``(..., B, K)``."""
    largest = scores[..., :1].norm(dim=-2, keepdim=True)
    return scores / torch.where(largest > 0, largest, 1.0)


def spectral_rows(scores: Tensor) -> Tensor:
    """Principal scores split into directions and sizes, which a network on rows then sees alike.

    Singular values span decades, within a matrix and between networks, and a network that is given scores as they are
    hardly sees the small ones. Here every row has its coordinates in units of their root mean square over images, and
    beside them, in quarters of a decade, the logarithm of the largest singular value above 0.1 and those of all others
    below it. Search spaces differ in the largest one more than in the others' distance from it, which therefore means
    the same in a space that an embedding was not fitted on.

    Shapes:
        ``(..., B, K)`` -> ``(..., B, 2K + 1)``.
    """
    singular = scores.norm(dim=-2, keepdim=True)  # (..., 1, K)
    directions = scores * (scores.shape[-2] ** 0.5 / singular.clamp_min(_SMALLEST))
    sizes = 4.0 * torch.log10(singular + _FLOOR)
    largest = sizes[..., :1]
    sizes = torch.cat([largest + 4.0, sizes - largest], dim=-1)
    return torch.cat([directions, sizes.expand(*scores.shape[:-1], -1)], dim=-1)


@contextmanager
def _for_differentiation(network: nn.Module) -> Iterator[None]:
    """Training mode without gradients of weights; afterwards mode, weights and running statistics are as before."""
    modes = [(module, module.training) for module in network.modules()]
    learning = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    try:
        network.train()
        network.requires_grad_(False)
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, required in learning:
            parameter.requires_grad_(required)
        for buffer, before in buffers:
            buffer.copy_(before)
