"""Several networks of one architecture as a single network, so that a small one keeps a core busy."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from lightning_nas.nn.drop_path import DropPath

_TOLERANCE = 1e-3


class SideBySide(nn.Module):
    """S networks that differ in their weights alone, each fed with its own images.

    Convolutions become one convolution with S times the groups, batch normalisations one over S times the channels:
    on a CPU, three networks of 8 channels take about half the time they take one after the other. The sum of S losses
    gives every network its own gradient. Networks for which this is not the same function (they mix channels in
    another way, have other layers with weights, or drop paths) are called one after the other.

    Args:
        networks: S networks with equal layers; they are copied.
        image_shape: ``(C, H, W)`` of one image, to compare the two ways of computing.
        merge: Whether they may become one.

    Shapes:
        ``(S, B, C, H, W)`` -> ``(S, B, num_classes)``.

    Example:
        >>> networks = [nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 4)) for _ in range(2)]
        >>> twins = SideBySide(networks, (1, 4, 4))
        >>> twins.merged, twins(torch.rand(2, 5, 1, 4, 4)).shape
        (True, torch.Size([2, 5, 4]))
    """

    def __init__(self, networks: Sequence[nn.Module], image_shape: tuple[int, int, int], merge: bool = True) -> None:
        super().__init__()
        self.size = len(networks)
        merge = merge and self.size > 1 and self._can_merge(networks, image_shape)
        self.wide = _merge(networks) if merge else None
        self.networks = nn.ModuleList(() if self.merged else map(copy.deepcopy, networks))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a fifth faster on a CPU

    @property
    def merged(self) -> bool:
        """Whether the networks are one."""
        return self.wide is not None

    def forward(self, images: Tensor) -> Tensor:
        """Class scores of every network for its own images."""
        if self.wide is None:
            return torch.stack([network(x) for network, x in zip(self.networks, images, strict=True)])
        side_by_side = images.transpose(0, 1).flatten(1, 2)  # (B, S * C, H, W)
        return self._separate(self.wide(side_by_side.contiguous(memory_format=torch.channels_last)))

    def with_auxiliary(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Class scores of the networks and of their auxiliary heads; only for networks that are not merged."""
        assert self.wide is None, "auxiliary heads are not compared before merging"
        pairs = [network.with_auxiliary(x) for network, x in zip(self.networks, images, strict=True)]  # type: ignore[operator]
        scores, auxiliary = zip(*pairs, strict=True)
        return torch.stack(scores), torch.stack(auxiliary)

    def _separate(self, scores: Tensor) -> Tensor:
        return scores.reshape(len(scores), self.size, -1).transpose(0, 1)

    @torch.no_grad()
    def _can_merge(self, networks: Sequence[nn.Module], image_shape: tuple[int, int, int]) -> bool:
        """Whether a wide network computes what the single ones do, in training and afterwards.

        Copies with other weights are compared: a last layer of zeros makes any two functions equal.
        """
        alone = [_exemplar(network, seed) for seed, network in enumerate(networks)]
        wide = _merge(alone)
        if wide is None:
            return False
        generator = torch.Generator().manual_seed(0)  # the caller's random numbers are not ours to use up
        images = torch.randn(self.size, 4, *image_shape, generator=generator).to(next(wide.parameters()))
        with torch.random.fork_rng(devices=[]):
            for training in (True, False):
                try:
                    apart = torch.stack([net.train(training)(x) for net, x in zip(alone, images, strict=True)])
                    together = self._separate(wide.train(training)(images.transpose(0, 1).flatten(1, 2)))
                except (RuntimeError, ValueError, IndexError):  # shapes that no longer fit
                    return False
                if not torch.allclose(apart, together, rtol=_TOLERANCE, atol=_TOLERANCE * float(apart.abs().max())):
                    return False
        return True


class StackedLinear(nn.Module):
    """S linear layers on S equal shares of the features, ``(B, S * in)`` -> ``(B, S * out)``.

    Args:
        layers: The S layers.
    """

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))
        biased = layers[0].bias is not None
        self.bias = nn.Parameter(torch.stack([layer.bias.detach() for layer in layers])) if biased else None

    def forward(self, features: Tensor) -> Tensor:
        """Apply every layer to its share."""
        shares = features.reshape(len(features), len(self.weight), -1).transpose(0, 1)
        scores: Tensor = shares @ self.weight.transpose(1, 2)  # (S, B, out)
        if self.bias is not None:
            scores = scores + self.bias[:, None]
        return scores.transpose(0, 1).flatten(1)


@torch.no_grad()
def _exemplar(network: nn.Module, seed: int) -> nn.Module:
    """A copy with weights and statistics drawn from a seed, none of them zero, and without dropout."""
    exemplar, generator = copy.deepcopy(network), torch.Generator().manual_seed(seed)
    for tensor in (*exemplar.parameters(), *exemplar.buffers()):
        if tensor.is_floating_point():
            if tensor.dim() > 1:  # the layer's outputs are about as large as its inputs
                numbers = torch.randn(tensor.shape, generator=generator) * math.sqrt(2 / tensor[0].numel())
            else:  # scales, shifts and statistics of batch normalisation
                numbers = torch.rand(tensor.shape, generator=generator) + 0.5
            tensor.copy_(numbers)
    for layer in exemplar.modules():
        if isinstance(layer, _DropoutNd):  # draws for every network, side by side as well as alone
            layer.p = 0.0
    return exemplar


def _merge(networks: Sequence[nn.Module]) -> nn.Module | None:
    """The wide network, or None when a layer has no wide counterpart."""
    wide = copy.deepcopy(networks[0])
    for name, layer in networks[0].named_modules():
        peers = [network.get_submodule(name) for network in networks]
        replacement = _widen(layer, peers)
        if replacement is not None:
            if not name:
                return replacement
            wide.set_submodule(name, replacement)
        elif _has_own_state(layer) or (isinstance(layer, DropPath) and layer.probability > 0):
            return None  # as for dropped paths: one draw would be that of all networks
    return wide


def _has_own_state(layer: nn.Module) -> bool:
    return any(True for _ in layer.parameters(recurse=False)) or any(True for _ in layer.buffers(recurse=False))


def _widen(layer: nn.Module, peers: Sequence[nn.Module]) -> nn.Module | None:
    size = len(peers)
    if isinstance(layer, nn.Linear):
        return StackedLinear(peers)  # type: ignore[arg-type]
    if not isinstance(layer, nn.Conv2d | nn.BatchNorm2d):
        return None
    wide = copy.deepcopy(layer)
    if isinstance(wide, nn.Conv2d):
        wide.in_channels, wide.out_channels, wide.groups = (
            size * n for n in (wide.in_channels, wide.out_channels, wide.groups)
        )
    else:
        wide.num_features *= size
    for name, parameter in layer.named_parameters():
        joined = torch.cat([peer.get_parameter(name).detach() for peer in peers])
        setattr(wide, name, nn.Parameter(joined, parameter.requires_grad))
    for name, buffer in layer.named_buffers():
        if buffer.dim():  # not the count of batches
            setattr(wide, name, torch.cat([peer.get_buffer(name) for peer in peers]))
    return wide
