"""Size and cost of a network: parameters and multiply-adds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def count_parameters(network: nn.Module) -> int:
    """Number of trainable scalars."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def count_flops(network: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Multiply-adds of convolutions and linear layers (bias included) for one image.

    This is the count that NAS-Bench-201 publishes as FLOPs: normalisation, activations and pooling are free.

    Args:
        network: Network to count; runs once in evaluation mode, weights and mode stay as they are.
        image_shape: ``(channels, height, width)`` of one input image.

    Example:
        >>> count_flops(nn.Conv2d(3, 8, 3, padding=1, bias=False), (3, 4, 4)) == 3 * 8 * 9 * 16
        True
    """
    total = 0

    def add(layer: nn.Module, _: Any, output: Tensor) -> None:
        nonlocal total
        inputs_per_output = layer.weight[0].numel() + (layer.bias is not None)  # type: ignore[index]
        total += inputs_per_output * output[0].numel()

    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(add) for layer in layers]
    modes = [(module, module.training) for module in network.modules()]
    try:
        with torch.no_grad():
            network.eval()(next(network.parameters()).new_zeros(1, *image_shape))
    finally:
        for module, training in modes:
            module.training = training
        for hook in hooks:
            hook.remove()
    return total
