"""Weight-sharing networks that hold every operation on every edge of their cells, and what they have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import BoolTensor, LongTensor, Tensor, nn

from lightning_nas.errors import UsageError

Edge = tuple[int, int]


def channels_seen(channels: int, partial: int) -> int:
    """Channels that operations see with partial channels.

    Raises:
        UsageError: The channels cannot be divided so.
    """
    if partial < 1 or channels % partial:
        raise UsageError(f"got partial={partial} and {channels} channels, expected a divisor of the channels")
    return channels // partial


class EdgeGroup(NamedTuple):
    """The edges of one kind of cell.

    Attributes:
        name: ``cell``, or ``normal`` and ``reduction``.
        edges: ``(tail, head)`` of every edge; nodes are numbered from the cell's inputs.
        operations: Names of the candidates on every edge.
    """

    name: str
    edges: tuple[Edge, ...]
    operations: tuple[tuple[str, ...], ...]


class Mixture(NamedTuple):
    """How much of every operation goes into a forward pass.

    Attributes:
        weights: Of every operation on every edge of every kind of cell, times that of the edge, ``(G, E, K)``.
        edges: Of every edge as a whole, ``(G, E)``, for what partial channels let by; None for ones.
        active: Which operations are computed at all, ``(G, E, K)`` on the CPU; the weights of others are not looked at.
    """

    weights: Tensor
    edges: Tensor | None
    active: BoolTensor


class EdgeView(NamedTuple):
    """What passes along an edge of one cell, before anything is weighted.

    Attributes:
        kind: Number of the kind of cell.
        edge: Number of the edge.
        tail: The node it leaves, ``(B, C, H, W)``.
        outputs: What its operations make of that, by their names.
        last: The cell's last node.
    """

    kind: int
    edge: int
    tail: Tensor
    outputs: dict[str, Tensor]
    last: Tensor


class Supernet(nn.Module, ABC):
    """A network of mixed operations (DARTS, arXiv 1806.09055, Eq. 2).

    Batch normalisation within cells has no scale or shift of its own: the weight of an operation is its scale, so that
    mixing costs nothing where an operation ends with a normalisation.

    Attributes:
        groups: The kinds of cells; all have as many edges, and all edges as many candidates.
        kept: Edges into a node that an architecture has; None where it has all of them, ``none`` included.
    """

    groups: tuple[EdgeGroup, ...]
    kept: int | None = None

    @abstractmethod
    def forward(self, images: Tensor, mixture: Mixture) -> Tensor:
        """Class scores, ``(B, C, H, W)`` -> ``(B, num_classes)``."""

    @abstractmethod
    def views(self, images: Tensor, mixture: Mixture) -> Iterator[EdgeView]:
        """What passes along the edges of one cell after another in a forward pass, for analyses."""

    @abstractmethod
    def derived_state(self, choice: Tensor) -> dict[str, Tensor]:
        """Weights of the stand-alone network of a choice, by the names they have there.

        Args:
            choice: Operation on every edge, −1 for no edge, ``(G, E)``.
        """

    @abstractmethod
    def swap(self, kind: int, first: int, second: int) -> None:
        """Let two edges of a kind of cell change places, operations and all, in every cell of that kind.

        Raises:
            UsageError: They do not have the same operations and stride.
        """

    def choose(self, weights: Tensor) -> LongTensor:
        """The architecture with the largest weights, as DARTS reads it off.

        Every edge has its largest operation; where nodes keep some edges only, ``none`` is no operation, and those
        edges are kept whose largest weight is largest.

        Shapes:
            ``(G, E, K)`` -> ``(G, E)``, −1 for no edge.
        """
        if self.kept is None:
            return weights.argmax(dim=-1).cpu()  # type: ignore[return-value]
        weights = weights.detach().cpu().clone()
        choice = torch.full(weights.shape[:2], -1)
        for kind, group in enumerate(self.groups):
            for edge, names in enumerate(group.operations):
                weights[kind, edge, [place for place, name in enumerate(names) if name == "none"]] = -1.0
            strength, best = weights[kind].max(dim=-1)
            for arriving in self.arriving(kind):
                order = sorted(arriving, key=lambda edge: (-float(strength[edge]), edge))
                kept = order[: self.kept]
                choice[kind, kept] = best[kept]
        return choice  # type: ignore[return-value]

    def blocks(self, name: str) -> int:
        """How many edges lie side by side on the first axis of one of its tensors."""
        return 1

    def arriving(self, kind: int) -> list[list[int]]:
        """Edges into every node that has some."""
        heads = [head for _, head in self.groups[kind].edges]
        return [[edge for edge, head in enumerate(heads) if head == node] for node in dict.fromkeys(heads)]

    def set_noise(self, seed: int) -> None:
        """Say what operations that make noise draw from: the same in every pass until the next call."""
        for module in self.modules():
            if hasattr(module, "noise_seed"):
                setattr(module, "noise_seed", seed)  # noqa: B010  # its type is not known here

    @property
    def shape(self) -> tuple[int, int, int]:
        """Kinds of cells G, edges E, candidates K."""
        group = self.groups[0]
        return len(self.groups), len(group.edges), len(group.operations[0])


def scaled_norm(norm: nn.BatchNorm2d, x: Tensor, scale: Tensor, channels: slice = slice(None)) -> Tensor:
    """Batch normalisation times a number for every channel, at the cost of the normalisation alone.

    Args:
        norm: The normalisation, without scale and shift.
        x: What it normalises, ``(B, C, H, W)``.
        scale: ``(C,)``.
        channels: Which part of the normalisation's channels these are.
    """
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None
    assert var is not None
    momentum = norm.momentum or 0.0
    # The backward pass of torch (2.13, CPU, channels last) reads past the end of a scale that is one number, expanded.
    scale = scale.contiguous()
    return F.batch_norm(x, mean[channels], var[channels], scale, None, norm.training, momentum, norm.eps)


@contextmanager
def frozen_statistics(network: nn.Module) -> Iterator[None]:
    """Normalise by the statistics of each batch, and leave the running ones as they are."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [(norm.momentum, norm.training, norm.num_batches_tracked) for norm in norms]
    try:
        for norm in norms:
            norm.momentum, norm.num_batches_tracked = 0.0, None
            norm.train()
        yield
    finally:
        for norm, (momentum, training, seen) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, seen
            norm.train(training)


def shuffled(x: Tensor, groups: int) -> Tensor:
    """Channel shuffle (ShuffleNet, arXiv 1707.01083): channel j of group g becomes channel g of group j."""
    if groups == 1:
        return x
    size, channels, *image = x.shape
    return x.reshape(size, groups, channels // groups, *image).transpose(1, 2).flatten(1, 2)


def runs_of(chosen: Sequence[bool]) -> list[slice]:
    """Maximal runs of true values, as slices.

    Example:
        >>> runs_of([True, True, False, True])
        [slice(0, 2, None), slice(3, 4, None)]
    """
    bounds = [place for place, (a, b) in enumerate(zip([False, *chosen], [*chosen, False], strict=True)) if a != b]
    return [slice(start, end) for start, end in zip(bounds[::2], bounds[1::2], strict=True)]


class _Pooled(torch.autograd.Function):
    """Weighted sum of tensors plus the 3x3 average pooling of another weighted sum of them.

    Pooling is linear: all edges into a node share one pooling, and each tensor is read once for its two weights.

    Shapes:
        plain ``(n,)``, pooled ``(n,)``, n tensors ``(B, C, H, W)`` -> the same.
    """

    @staticmethod
    def forward(ctx: Any, plain: Tensor, pooled: Tensor, *sources: Tensor) -> Tensor:
        ctx.save_for_backward(plain, pooled, *sources)
        total = F.avg_pool2d(_weighted(pooled, sources), 3, 1, 1, count_include_pad=False)
        for weight, source in zip(plain, sources, strict=True):
            total.addcmul_(source, weight)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        plain, pooled, *sources = ctx.saved_tensors
        spread = 9.0 * F.avg_pool2d(gradient * _inverse_counts(gradient), 3, 1, 1)
        of_plain = torch.stack([(source * gradient).sum() for source in sources])
        of_pooled = torch.stack([(source * spread).sum() for source in sources])
        of_sources = [gradient * a + spread * b for a, b in zip(plain, pooled, strict=True)]
        return of_plain, of_pooled, *of_sources


def _weighted(weights: Tensor, sources: Sequence[Tensor]) -> Tensor:
    total = sources[0] * weights[0]
    for weight, source in zip(weights[1:], sources[1:], strict=True):
        total = total.addcmul(source, weight)
    return total


def _inverse_counts(x: Tensor) -> Tensor:
    """One over the number of pixels under a 3x3 window that are within the image, ``(H, W)``."""
    sides = []
    for size in x.shape[-2:]:
        count = x.new_full((size,), 3.0)
        count[0] -= 1.0
        count[-1] -= 1.0
        sides.append(1.0 / count)
    return sides[0][:, None] * sides[1]


def pooled_sum(plain: Tensor, pooled: Tensor, sources: Sequence[Tensor]) -> Tensor:
    """``sum_i plain_i x_i + avg_pool_3x3(sum_i pooled_i x_i)``, padding not counted.

    Shapes:
        ``(n,)``, ``(n,)``, n times ``(B, C, H, W)`` -> ``(B, C, H, W)``.
    """
    return _Pooled.apply(plain, pooled, *sources)  # type: ignore[no-any-return, no-untyped-call]
