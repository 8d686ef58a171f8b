"""Graph isomorphism networks of many runs at once, where equal vertices of all graphs are computed once."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.adam import adam

_EPSILON = 1e-5  # of batch normalisation
_DENSE = 256 * 256  # entries of a matrix up to which sums over sources are products with it


class SharedGraphs(NamedTuple):
    """Graphs of G groups whose equal vertices are merged, layer by layer.

    After l layers a vertex knows its label and its neighbourhood up to l arcs away, nothing else. Vertices that agree
    in these have one "colour" (colour refinement, Weisfeiler & Leman 1968) and one representation. A vertex of a
    directed cell that hears only its successors has few colours: the 125,000 vertices of NAS-Bench-201 have at most
    16,281 in all.

    Attributes:
        sources: For every layer and colour the colours of the layer below which it sums: its own, then its neighbours';
            those of the first layer are the labels; ``(G, U, S)``.
        weights: 1 where there is a source, 0 where the row is filled up, ``(G, U, S)`` for every layer.
        shares: Weight of a colour in the statistics of batch normalisation, summing to 1, ``(G, U)`` for every layer.
        vertices: Colour of every vertex after the last layer, ``(G, n, V)``.
        sizes: Number of colours of each group and layer, ``(G, layers)``; further ones are fillers without a share.
    """

    sources: list[Tensor]
    weights: list[Tensor]
    shares: list[Tensor]
    vertices: Tensor
    sizes: Tensor

    @property
    def nbytes(self) -> int:
        """Memory of all tensors."""
        return sum(tensor.nbytes for tensor in (*self.sources, *self.weights, *self.shares, self.vertices, self.sizes))

    def part(self, groups: Tensor | slice, sizes: list[int] | None = None) -> SharedGraphs:
        """Some of the groups, with other numbers of colours (fillers included) if given."""

        def fit(values: list[Tensor]) -> list[Tensor]:
            chosen = [value[groups] for value in values]
            if sizes is None:
                return chosen
            missing = [size - value.shape[1] for value, size in zip(chosen, sizes, strict=True)]
            pads = [(0, 0) * (value.dim() - 2) + (0, gap) for value, gap in zip(chosen, missing, strict=True)]
            return [F.pad(value, pad) for value, pad in zip(chosen, pads, strict=True)]

        return SharedGraphs(
            fit(self.sources), fit(self.weights), fit(self.shares), self.vertices[groups], self.sizes[groups]
        )


def share_vertices(
    labels: Tensor, adjacency: Tensor, counted: Tensor, num_layers: int, num_labels: int
) -> SharedGraphs:
    """Merge the equal vertices of every group of graphs.

    Args:
        labels: Label of every vertex, 0 for padding, ``(G, n, V)`` int64.
        adjacency: ``adjacency[…, v, u]``: v hears u; ``(G, n, V, V)`` bool.
        counted: Which graphs the statistics are of, ``(G, n)`` bool.
        num_layers: Layers of the network.
        num_labels: Number of labels, padding included.
    """
    groups = len(labels)
    colours = labels.flatten(1)  # (G, M), M = n * V
    weight = counted[..., None].expand_as(labels).flatten(1).float()
    degree = int(adjacency.sum(dim=-1).max())
    # Neighbours first, in the order of the vertices: (G, n, V, S - 1), and whether there is one.
    neighbours = (~adjacency).to(torch.uint8).argsort(dim=-1, stable=True)[..., :degree]
    real = adjacency.gather(-1, neighbours)
    below = num_labels
    sources, weights, shares, sizes = [], [], [], []
    for _ in range(num_layers):
        # A multiset of colours is known by the sum of 64 random bits for each: two differ with near certainty.
        draws = torch.from_numpy(np.random.default_rng(0).integers(-(2**63), 2**63 - 1, (below, 2)))
        heard = colours.view_as(labels)[..., None, :].expand_as(adjacency).gather(-1, neighbours)  # (G, n, V, S - 1)
        key = draws[colours, 0] + torch.where(real, draws[heard, 1], 0).sum(dim=-1).flatten(1)
        ordered, order = key.sort(dim=1, stable=True)
        first = torch.ones_like(ordered, dtype=torch.bool)
        first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
        rank = first.cumsum(dim=1) - 1
        below = int(rank[:, -1].max()) + 1
        # One vertex of each colour speaks for it; what is left over goes to an extra column.
        speaker = torch.zeros(groups, below + 1, dtype=torch.long)
        speaker = speaker.scatter_(1, torch.where(first, rank, below), order)[:, :below, None]  # (G, U, 1)
        own = colours.gather(1, speaker[..., 0])[..., None]
        wide = speaker.expand(-1, -1, degree)
        others = heard.flatten(1, 2).gather(1, wide)
        mask = real.flatten(1, 2).gather(1, wide)
        sources.append(torch.cat([own, torch.where(mask, others, own)], dim=-1))  # (G, U, S)
        weights.append(torch.cat([torch.ones_like(own), mask], dim=-1).float())
        colours = torch.empty_like(colours).scatter_(1, order, rank)
        number = torch.zeros(groups, below).scatter_add_(1, colours, weight)
        shares.append(number / weight.sum(dim=1, keepdim=True).clamp_min(1))
        sizes.append(rank[:, -1] + 1)
    return SharedGraphs(sources, weights, shares, colours.view_as(labels), torch.stack(sizes, dim=1))


class GINShape(NamedTuple):
    """Sizes of the network ``layers of (GIN, batch norm, ReLU), linear, mean over vertices``.

    The linear maps inside the layers have no bias: the normalisation after each would take it out again.

    Attributes:
        num_labels: Features of a vertex, K.
        hidden_dim: Width H.
        num_layers: GIN layers.
        out_dim: Dimensions D of a graph's representation.
    """

    num_labels: int
    hidden_dim: int
    num_layers: int
    out_dim: int

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of all parameters of one run: per layer eps, first, scale, shift, second, scale, shift; then weight, bias."""
        H = self.hidden_dim
        vector: list[tuple[int, ...]] = [(1, H), (1, H)]
        widths = [self.num_labels] + [H] * (self.num_layers - 1)
        layers: list[list[tuple[int, ...]]] = [[(1, 1), (width, H), *vector, (H, H), *vector] for width in widths]
        return [shape for layer in layers for shape in layer] + [(H, self.out_dim), (1, self.out_dim)]

    def initial(self, seeds: Tensor) -> list[Tensor]:
        """First parameters of every run, ``(R, …)`` each: linear maps uniform in ±1/sqrt(inputs) as torch makes them.

        Args:
            seeds: Draws in [0, 1) that fix each run's, ``(R,)``.
        """
        return draw_uniform(self.shapes, [self._bound(number) for number in range(len(self.shapes))], seeds)

    def _bound(self, number: int) -> float | str:
        """Range of a parameter's first values, or the value itself."""
        last = 7 * self.num_layers
        if number >= last:
            return float(self.hidden_dim**-0.5)
        inputs = self.num_labels if number < 7 else self.hidden_dim
        kinds: list[float | str] = ["zero", inputs**-0.5, "one", "zero", self.hidden_dim**-0.5, "one", "zero"]
        return kinds[number % 7]


def draw_uniform(shapes: list[tuple[int, ...]], bounds: list[float | str], seeds: Tensor) -> list[Tensor]:
    """Values uniform in ±bound, or all "zero" or "one"; those of a run depend on its seed alone, ``(R, …)`` each."""
    drawn = [prod(shape) if isinstance(bound, float) else 0 for shape, bound in zip(shapes, bounds, strict=True)]
    flat = np.stack([
        np.random.default_rng(int(seed * 2**53)).random(sum(drawn), dtype=np.float32) for seed in seeds.tolist()
    ])  # fmt: skip
    parts = torch.split(torch.from_numpy(flat * 2.0 - 1.0), drawn, dim=1)
    values = []
    for part, shape, bound in zip(parts, shapes, bounds, strict=True):
        if isinstance(bound, float):
            values.append((part * bound).reshape(-1, *shape))
        else:
            values.append(torch.full((len(seeds), *shape), 1.0 if bound == "one" else 0.0))
    return values


Statistics = list[tuple[Tensor, Tensor]]
"""Mean and variance ``(R, 1, H)`` of every batch normalisation, in the order of the network."""


def gin(parameters: list[Tensor], graphs: SharedGraphs, statistics: Statistics | None = None) -> Tensor:
    """Representations of graphs, those of group r by the network of run r, ``(R, n, D)``.

    Args:
        parameters: As :attr:`GINShape.shapes` lists them, each with the run axis first.
        graphs: R groups of graphs.
        statistics: Where to leave mean and variance of every batch normalisation; None to forget them.
    """
    *layers, head, bias = parameters
    table = F.pad(layers[1], (0, 0, 1, 0))  # (R, K + 1, H): a label's row of the first map, zeros for padding
    for number in range(len(layers) // 7):
        eps, first, scale1, shift1, second, scale2, shift2 = layers[7 * number : 7 * number + 7]
        if number:
            table = table @ first  # before the sum, where there are fewer rows
        share = graphs.shares[number][:, None]
        x = _sum_sources(table, graphs.sources[number], graphs.weights[number], eps)
        x = _normalise(x, share, scale1, shift1, statistics)
        table = _normalise(x @ second, share, scale2, shift2, statistics)
    return _read_out(table, head, bias, graphs.vertices)


def _sum_sources(table: Tensor, sources: Tensor, weights: Tensor, eps: Tensor) -> Tensor:
    """``(1 + eps) own + sum of neighbours`` for every colour, ``(R, below, H)`` -> ``(R, U, H)``."""
    runs, below, _ = table.shape
    if sources.shape[1] * below <= _DENSE:
        matrix = table.new_zeros(runs, sources.shape[1], below)
        own = matrix.scatter(2, sources[..., :1], 1.0)
        return (matrix.scatter_add(2, sources, weights) + eps * own) @ table
    # One run after the other: the gradient is summed in an order that would depend on the other runs' rows.
    weights = torch.cat([weights[..., :1] * (1.0 + eps), weights[..., 1:]], dim=-1)
    sums = [
        F.embedding_bag(rows, one, mode="sum", per_sample_weights=weight)
        for rows, one, weight in zip(sources, table, weights, strict=True)
    ]
    return torch.stack(sums)


def _normalise(x: Tensor, share: Tensor, scale: Tensor, shift: Tensor, statistics: Statistics | None) -> Tensor:
    """Batch normalisation over the vertices that the colours stand for, then ReLU, ``(R, U, H)``."""
    output, mean, variance = _NormReLU.apply(x, share, scale, shift)  # type: ignore[no-untyped-call]
    if statistics is not None:
        statistics.append((mean, variance))
    return output  # type: ignore[no-any-return]


class _NormReLU(torch.autograd.Function):
    """The two in one with the gradient written out: half the passes over memory that autograd makes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, share: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean = share @ x  # (R, 1, H)
        unit = x - mean
        variance = share @ unit.square()
        deviation = (variance + _EPSILON).rsqrt()
        unit *= deviation
        output = torch.addcmul(shift, unit, scale).relu_()
        ctx.save_for_backward(unit, share, scale * deviation, output)
        ctx.mark_non_differentiable(mean, variance)
        return output, mean, variance

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor, None, Tensor, Tensor]:
        unit, share, factor, output = ctx.saved_tensors
        gradient = torch.ops.aten.threshold_backward(gradient, output, 0)
        ones = torch.ones_like(share)
        total = ones @ gradient  # (R, 1, H)
        aligned = ones @ (gradient * unit)
        # d/dx_i = factor (g_i - share_i (sum g + unit_i sum g unit))
        inner = torch.addcmul(total, unit, aligned).mul_(share.mT)
        return gradient.sub(inner).mul_(factor), None, aligned, total


def _read_out(table: Tensor, head: Tensor, bias: Tensor, vertices: Tensor) -> Tensor:
    """Mean over vertices of the linear map, ``(R, n, D)``."""
    projected = table @ head  # (R, U, D)
    return (
        torch.stack([F.embedding_bag(r, one, mode="mean") for r, one in zip(vertices, projected, strict=True)]) + bias
    )


class RunParameters:
    """Parameters of R networks and the state of their Adam (arXiv 1412.6980); a run's lie together in one row.

    Args:
        parts: First values, each with the run axis first.
    """

    def __init__(self, parts: list[Tensor]) -> None:
        self.shapes = [part.shape[1:] for part in parts]
        values = torch.cat([part.flatten(1) for part in parts], dim=1)
        # Rows of whole vector registers: what is left over at the end of a tensor is rounded differently.
        self.spare = -values.shape[1] % 16
        self.values = F.pad(values, (0, self.spare))  # (R, P)
        self.first, self.second = torch.zeros_like(self.values), torch.zeros_like(self.values)
        self.steps = torch.zeros(len(values))

    def rows(self, runs: Tensor) -> RunParameters:
        """Some of the runs (a copy), all with the same number of steps behind them."""
        chosen = copy(self)
        for name in ("values", "first", "second", "steps"):
            setattr(chosen, name, getattr(self, name)[runs])
        return chosen

    def put(self, runs: Tensor, given: RunParameters) -> None:
        """The inverse of :meth:`rows`."""
        for name in ("values", "first", "second", "steps"):
            getattr(self, name)[runs] = getattr(given, name)

    def leaves(self) -> list[Tensor]:
        """Views of the parameters, ``(R, …)`` each, to take gradients at; :meth:`step` changes them, too."""
        used = self.values[:, : self.values.shape[1] - self.spare]
        parts = torch.split(used, [prod(shape) for shape in self.shapes], dim=1)
        views = (part.view(-1, *shape) for part, shape in zip(parts, self.shapes, strict=True))
        return [view.detach().requires_grad_() for view in views]

    def step(self, gradients: Sequence[Tensor], learning_rate: float, weight_decay: float = 0.0) -> None:
        """One step down these gradients, shaped as the parameters are, and towards zero by ``weight_decay`` of them."""
        gradient = F.pad(torch.cat([g.flatten(1) for g in gradients], dim=1), (0, self.spare))
        step = self.steps[0].clone()
        adam(
            [self.values], [gradient], [self.first], [self.second], [], [step], fused=True, amsgrad=False, beta1=0.9,
            beta2=0.999, lr=learning_rate, weight_decay=weight_decay, eps=1e-8, maximize=False,
        )  # fmt: skip
        self.steps.fill_(step)


class FrozenGIN:
    """Networks of R runs with fixed statistics, whose normalisations are folded into the linear maps.

    Args:
        parameters: As for :func:`gin`; gradients are not kept.
        statistics: Mean and variance of every batch normalisation, from :func:`gin`.
    """

    def __init__(self, parameters: list[Tensor], statistics: Statistics) -> None:
        *layers, self.head, self.bias = (parameter.detach() for parameter in parameters)
        self.layers = []
        for number in range(len(layers) // 7):
            eps, first, scale1, shift1, second, scale2, shift2 = layers[7 * number : 7 * number + 7]
            (mean1, variance1), (mean2, variance2) = statistics[2 * number : 2 * number + 2]
            factor1 = scale1 * (variance1 + _EPSILON).rsqrt()
            factor2 = scale2 * (variance2 + _EPSILON).rsqrt()
            self.layers.append(
                (eps, first * factor1, shift1 - mean1 * factor1, second * factor2, shift2 - mean2 * factor2)
            )

    @torch.no_grad()
    def embed(self, graphs: SharedGraphs) -> Tensor:
        """Representations of graphs ``(G, n, D)``: group r by the network of run r, or one group by all, ``(R, n, D)``.

        One run after the other: their tables then stay in the cache.
        """
        shared = len(graphs.vertices) == 1
        outputs = []
        for run in range(len(self.head)):
            group = 0 if shared else run
            # Without the fillers, whose number depends on the other groups.
            outputs.append(self._embed(run, graphs.part(slice(group, group + 1), graphs.sizes[group].tolist())))
        return torch.cat(outputs)

    def _embed(self, run: int, graphs: SharedGraphs) -> Tensor:
        r = slice(run, run + 1)
        table = F.pad(self.layers[0][1][r], (0, 0, 1, 0))
        for number, (eps, first, shift1, second, shift2) in enumerate(self.layers):
            if number:
                table = table @ first[r]
            x = _sum_sources(table, graphs.sources[number], graphs.weights[number], eps[r])
            x = x.add_(shift1[r]).relu_()
            table = torch.baddbmm(shift2[r], x, second[r]).relu_()
        return _read_out(table, self.head[r], self.bias[r], graphs.vertices)
