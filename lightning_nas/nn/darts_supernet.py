"""The supernet of the DARTS space, and of its parts S1 to S4 (arXiv 1806.09055; RobustDARTS, arXiv 1909.09656)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from lightning_nas.errors import UsageError
from lightning_nas.nn.darts import NUM_BLOCKS, OPERATIONS, FactorizedReduce, Stem, in_thirds, make_operation, make_stem
from lightning_nas.nn.operations import ReLUConvBN
from lightning_nas.nn.supernet import EdgeGroup, EdgeView, Mixture, Supernet, channels_seen, scaled_norm, shuffled

EDGES = tuple((tail, 2 + block) for block in range(NUM_BLOCKS) for tail in range(2 + block))
"""Edges (tail, head): 0 and 1 are the outputs of the cells before, 2 to 5 the blocks."""

Part = Literal["darts", "s1", "s2", "s3", "s4", "s5"]
"""``darts``: all eight operations; ``s5``: without ``none``; ``s1`` … ``s4``: those of RobustDARTS."""

_SHORT = {
    "sk": "skip_connect", "d3": "dil_conv_3x3", "d5": "dil_conv_5x5", "s3": "sep_conv_3x3", "mp": "max_pool_3x3",
    "ap": "avg_pool_3x3",
}  # fmt: skip
_S1 = (
    "sk-d3 sk-d5 sk-d5 sk-s3 sk-d3 mp-sk sk-s3 sk-s3 sk-d3 sk-s3 mp-sk sk-d3 d3-d5 d3-d5",
    "mp-ap mp-d3 mp-ap mp-ap sk-d5 mp-ap mp-s3 sk-d3 sk-d5 mp-ap mp-ap sk-d5 sk-d5 sk-d5",
)
_SAME = {
    "darts": OPERATIONS, "s2": ("skip_connect", "sep_conv_3x3"), "s3": ("none", "skip_connect", "sep_conv_3x3"),
    "s4": ("noise", "sep_conv_3x3"), "s5": OPERATIONS[1:],
}  # fmt: skip


class Noise(nn.Module):
    """Standard normal numbers instead of the signal (operation of S4).

    Args:
        stride: 1, or 2 for half the image.

    Attributes:
        noise_seed: What is drawn from, anew in every pass (see ``Supernet.set_noise``).
        number: Tells this one's noise from that of others.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride, self.noise_seed, self.number = stride, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        """Noise of the input's shape, or of half the image."""
        generator = torch.Generator(x.device).manual_seed(self.noise_seed * 1009 + self.number)
        small = x[:, :, :: self.stride, :: self.stride]
        return torch.randn(small.shape, generator=generator, device=x.device, dtype=x.dtype)


class MixedEdge(nn.Module):
    """All operations of an edge; their weighted sum.

    Args:
        names: The operations.
        channels: Width they see.
        stride: 1, or 2 for half the image.
    """

    def __init__(self, names: Sequence[str], channels: int, stride: int) -> None:
        super().__init__()
        self.names, self.stride = tuple(names), stride
        self.operations = nn.ModuleList(self._make(name, channels) for name in names)

    def _make(self, name: str, channels: int) -> nn.Module:
        if name == "noise":
            return Noise(self.stride)
        operation = make_operation(name, channels, self.stride, affine=False)
        if "pool" in name:  # whose scale would otherwise be that of the signal
            return nn.Sequential(operation, nn.BatchNorm2d(channels, affine=False))
        return operation

    def forward(self, x: Tensor, weights: Tensor, active: Sequence[bool]) -> Tensor | None:
        """Weighted sum of the active operations, None for a sum of nothing."""
        total: Tensor | None = None
        for name, operation, weight, runs in zip(self.names, self.operations, weights, active, strict=True):
            if name == "none" or not runs:
                continue
            message = _weighted(operation, x, weight)
            total = message if total is None else total + message
        return total


def _weighted(operation: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """An operation times its weight, which is the scale of its last normalisation."""
    if isinstance(operation, FactorizedReduce):
        norm = operation.normalisation
        return scaled_norm(norm, operation.halves(x), weight.expand(norm.num_features))
    if isinstance(operation, nn.Sequential):
        *front, last = operation
        for layer in front:
            x = layer(x)
        assert isinstance(last, nn.BatchNorm2d)
        return scaled_norm(last, x, weight.expand(last.num_features))
    return operation(x) * weight  # type: ignore[no-any-return]


class DARTSSupercell(nn.Module):
    """Two inputs, four blocks, mixed operations on the 14 edges between them; the blocks' concatenation.

    Args:
        operations: Names of the candidates on every edge.
        widths: Channels of the two inputs, the older one first.
        channels: Width C of each block.
        reduction: Whether the cell halves the image.
        older_is_larger: Whether the older input's image is twice the other's.
        partial: One over the share of the channels that operations see, k.
    """

    def __init__(
        self,
        operations: Sequence[Sequence[str]],
        widths: tuple[int, int],
        channels: int,
        reduction: bool,
        older_is_larger: bool,
        partial: int = 1,
    ) -> None:
        super().__init__()
        self.reduction, self.partial, self.seen = reduction, partial, channels_seen(channels, partial)
        older, newer = widths
        self.older = (
            FactorizedReduce(older, channels, affine=False)
            if older_is_larger
            else ReLUConvBN(older, channels, 1, affine=False)
        )
        self.newer = ReLUConvBN(newer, channels, 1, affine=False)
        self.edges = nn.ModuleList(
            MixedEdge(names, self.seen, 2 if reduction and tail < 2 else 1)
            for names, (tail, _) in zip(operations, EDGES, strict=True)
        )
        self.subsample = nn.MaxPool2d(2, 2)

    def forward(
        self, older: Tensor, newer: Tensor, weights: Tensor, edges: Tensor | None, active: Sequence[Sequence[bool]]
    ) -> Tensor:
        """Apply the cell to the outputs of the two before; weights ``(14, K)``, edges ``(14,)``."""
        return torch.cat(self.states(older, newer, weights, edges, active)[2:], dim=1)

    def states(
        self, older: Tensor, newer: Tensor, weights: Tensor, edges: Tensor | None, active: Sequence[Sequence[bool]]
    ) -> list[Tensor]:
        """The values of both inputs and all blocks; arguments are those of :meth:`forward`."""
        states = [self.older(older), self.newer(newer)]
        for head in range(2, 2 + NUM_BLOCKS):
            total: Tensor | None = None
            for edge, (tail, end) in enumerate(EDGES):
                if end == head and any(active[edge]):
                    factor = None if edges is None else edges[edge]
                    message = self._message(edge, states[tail], weights[edge], factor, active[edge])
                    if message is not None:
                        total = message if total is None else total + message
            states.append(self._nothing(states[1]) if total is None else total)
        return states

    def outputs(self, edge: int, tail: Tensor) -> dict[str, Tensor]:
        """What the operations of an edge make of the channels that they see, by their names."""
        mixed: MixedEdge = self.edges[edge]  # type: ignore[assignment]
        named = zip(mixed.names, mixed.operations, strict=True)
        return {name: operation(tail[:, : self.seen]) for name, operation in named if name != "none"}

    def _message(
        self, edge: int, x: Tensor, weights: Tensor, factor: Tensor | None, active: Sequence[bool]
    ) -> Tensor | None:
        mixed: MixedEdge = self.edges[edge]  # type: ignore[assignment]
        message = mixed(x[:, : self.seen], weights, active)
        if self.partial == 1:
            return message  # type: ignore[no-any-return]
        passing = x[:, self.seen :]
        passing = self.subsample(passing) if mixed.stride == 2 else passing
        if message is None:
            message = passing.new_zeros(len(x), self.seen, *passing.shape[2:])
        return shuffled(torch.cat([message, passing if factor is None else passing * factor], dim=1), self.partial)

    def _nothing(self, newer: Tensor) -> Tensor:
        return (newer[:, :, ::2, ::2] if self.reduction else newer).mul(0.0)


class DARTSSupernet(Supernet):
    """Stem, cells of mixed operations, the two at one and two thirds of which halve the image, linear head.

    Args:
        part: Which operations there are (see :data:`Part`).
        channels: Width C of the first cells' blocks.
        num_layers: Number of cells.
        num_classes: Outputs of the classifier.
        in_channels: Channels of the input image.
        partial: One over the share of the channels that operations see, k; 1 for all.
        stem: ``cifar`` keeps the image's size, ``imagenet`` takes an eighth of it.
    """

    kept = 2

    def __init__(
        self,
        part: Part = "darts",
        channels: int = 16,
        num_layers: int = 8,
        num_classes: int = 10,
        in_channels: int = 3,
        partial: int = 1,
        stem: Stem = "cifar",
    ) -> None:
        super().__init__()
        self.groups = groups_of(part)
        self.stem, self.second_stem, widths = make_stem(stem, in_channels, channels)
        halved = stem == "imagenet"
        self.cells = nn.ModuleList()
        for reduces in in_thirds(num_layers):
            channels = 2 * channels if reduces else channels
            names = self.groups[int(reduces)].operations
            self.cells.append(DARTSSupercell(names, widths, channels, reduces, halved, partial))
            widths, halved = (widths[1], NUM_BLOCKS * channels), reduces
        self.classifier = nn.Linear(widths[1], num_classes)
        for number, module in enumerate(module for module in self.modules() if isinstance(module, Noise)):
            module.number = number

    def blocks(self, name: str) -> int:
        """A reduction of the image normalises the outputs of two convolutions side by side."""
        return 2 if ".operations." in name and ".normalisation." in name else 1

    def forward(self, images: Tensor, mixture: Mixture) -> Tensor:
        """Class scores, ``(B, C, H, W)`` -> ``(B, num_classes)``."""
        active = mixture.active.tolist()
        older = self.stem(images)
        newer = self.second_stem(older)
        for cell in self.cells:
            kind = int(cell.reduction)  # type: ignore[arg-type]
            edges = None if mixture.edges is None else mixture.edges[kind]
            older, newer = newer, cell(older, newer, mixture.weights[kind], edges, active[kind])
        return self.classifier(newer.sum(dim=(2, 3)) / (newer.shape[2] * newer.shape[3]))  # type: ignore[no-any-return]

    def views(self, images: Tensor, mixture: Mixture) -> Iterator[EdgeView]:
        """What passes along the edges of one cell after another."""
        active = mixture.active.tolist()
        older = self.stem(images)
        newer = self.second_stem(older)
        for cell in self.cells:
            kind = int(cell.reduction)  # type: ignore[arg-type]
            edges = None if mixture.edges is None else mixture.edges[kind]
            states = cell.states(older, newer, mixture.weights[kind], edges, active[kind])  # type: ignore[operator]
            for edge, (tail, _) in enumerate(EDGES):
                yield EdgeView(kind, edge, states[tail], cell.outputs(edge, states[tail]), states[-1])  # type: ignore[operator]
            older, newer = newer, torch.cat(states[2:], dim=1)

    def swap(self, kind: int, first: int, second: int) -> None:
        """Let two edges of a kind of cell change places; those of different stride cannot."""
        names = self.groups[kind].operations
        strides = [kind == 1 and EDGES[edge][0] < 2 for edge in (first, second)]
        if names[first] != names[second] or strides[0] != strides[1]:
            raise UsageError(
                f"edges {EDGES[first]} and {EDGES[second]} of the {self.groups[kind].name} cell cannot change places: "
                "expected the same operations and the same stride"
            )
        for cell in self.cells:
            if cell.reduction == bool(kind):
                edges: nn.ModuleList = cell.edges  # type: ignore[assignment]
                edges[first], edges[second] = edges[second], edges[first]

    def derived_state(self, choice: Tensor) -> dict[str, Tensor]:
        """Weights of the stand-alone network of a choice ``(2, 14)`` with two edges into every block.

        Scales and shifts of its normalisations are ones and zeros. Pooling is not normalised there as it is here, so
        that with it the two do not compute the same.
        """
        state = {
            name: value
            for name, value in self.state_dict().items()
            if not (name.startswith("cells.") and ".edges." in name)
        }
        for number, cell in enumerate(self.cells):
            kind = int(cell.reduction)  # type: ignore[arg-type]
            kept = [edge for edge, code in enumerate(choice[kind].tolist()) if code >= 0]
            for place, edge in enumerate(kept):
                mixed: MixedEdge = cell.edges[edge]  # type: ignore[index,assignment]
                code = int(choice[kind, edge])
                if "pool" in mixed.names[code]:
                    continue
                for name, value in mixed.operations[code].state_dict().items():
                    state[f"cells.{number}.edges.{place}.{name}"] = value
        norms = {name.removesuffix("running_var"): value for name, value in state.items() if "running_var" in name}
        for name, value in norms.items():
            state.setdefault(name + "weight", torch.ones_like(value))
            state.setdefault(name + "bias", torch.zeros_like(value))
        return state


def groups_of(part: Part) -> tuple[EdgeGroup, ...]:
    """Normal and reduction cells of a part of the space, with their candidates."""
    if part not in get_args(Part):
        raise UsageError(f"got part={part!r}, expected one of {', '.join(get_args(Part))}")
    if part == "s1":
        rows = [tuple(tuple(_SHORT[short] for short in pair.split("-")) for pair in row.split()) for row in _S1]
    else:
        rows = [(_SAME[part],) * len(EDGES)] * 2
    return tuple(EdgeGroup(name, EDGES, names) for name, names in zip(("normal", "reduction"), rows, strict=True))
