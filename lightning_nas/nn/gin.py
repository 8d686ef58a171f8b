"""Graph isomorphism network on padded dense batches (Xu et al., arXiv 1810.00826)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn


def refine(colours: Tensor, adjacency: Tensor) -> Tensor:
    """One round of colour refinement (Weisfeiler-Lehman): vertices stay alike that see alike neighbours.

    Sums of random 64-bit numbers, one per colour, stand for multisets, so that two of n colours fall together with a
    probability of about n²/2⁶⁴.

    Shapes:
        colours ``(B, V)`` int64, from 0; adjacency ``(B, V, V)`` -> ``(B, V)`` int64, from 0 without gaps.
    """
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randint(-(2**63), 2**63 - 1, (2, int(colours.max()) + 1), generator=generator).to(colours.device)
    heard = torch.where(adjacency.bool(), numbers[0][colours][:, None, :], 0).sum(dim=-1)
    return torch.unique(heard + numbers[1][colours], return_inverse=True)[1]  # type: ignore[no-any-return]


class VertexBatchNorm(nn.BatchNorm1d):
    """Batch normalisation over all vertices of all graphs, ``(B, V, F)`` -> the same shape."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise every feature over B * V entries."""
        return super().forward(x.flatten(0, 1)).view_as(x)


class GINLayer(nn.Module):
    """One layer, ``MLP((1 + eps) h_v + sum of neighbours' h_u)`` (arXiv 1810.00826, Eq. 4.1).

    The own vertex enters as an arc of weight 1 + eps to itself, so that all sums are one matrix product.

    Args:
        num_features: Features of a vertex, F.
        hidden_dim: Width H of both linear maps of the perceptron.

    Shapes:
        features ``(B, V, F)``, adjacency ``(B, V, V)`` float -> ``(B, V, H)``.
    """

    def __init__(self, num_features: int, hidden_dim: int) -> None:
        super().__init__()
        self.eps = nn.Parameter(torch.zeros(1))
        self.nn = nn.Sequential(
            nn.Linear(num_features, hidden_dim),
            VertexBatchNorm(hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim),
        )

    def forward(self, features: Tensor, adjacency: Tensor) -> Tensor:
        """Vertex representations."""
        own = (1.0 + self.eps) * torch.eye(adjacency.shape[-1], dtype=features.dtype, device=features.device)
        output: Tensor = self.nn((adjacency + own) @ features)
        return output


_Layers: TypeAlias = Iterable[tuple[GINLayer, VertexBatchNorm]]
_Perceptron: TypeAlias = tuple[nn.Linear, VertexBatchNorm, nn.ReLU, nn.Linear]


class GINEncoder(nn.Module):
    """Layers of ``MLP((1 + eps) h_v + sum of neighbours' h_u)``, each followed by batch normalisation and ReLU.

    Args:
        num_features: Features of a vertex, F.
        hidden_dim: Width H of every layer.
        num_layers: Number of layers; a vertex hears from others up to this many arcs away.

    Shapes:
        features ``(B, V, F)``, adjacency ``(B, V, V)`` float -> ``(B, V, H)``.
    """

    def __init__(self, num_features: int, hidden_dim: int = 128, num_layers: int = 4) -> None:
        super().__init__()
        widths = [num_features] + [hidden_dim] * (num_layers - 1)
        self.convolutions = nn.ModuleList(GINLayer(width, hidden_dim) for width in widths)
        self.norms = nn.ModuleList(VertexBatchNorm(hidden_dim) for _ in widths)

    def forward(self, features: Tensor, adjacency: Tensor) -> Tensor:
        """Vertex representations."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            features = torch.relu(norm(convolution(features, adjacency)))
        return features

    @torch.no_grad()
    def chunks(self, colours: Tensor, features: Tensor, adjacency: Tensor, size: int = 512) -> Iterator[Tensor]:
        """The same in evaluation mode for many graphs, faster, a few graphs at a time.

        While vertices have heard little, many are alike, and each kind is computed once. Linear maps commute with sums
        over neighbours, so they go first, on as many rows as there are kinds, with batch normalisation folded into
        them. What is left runs in chunks that fit in a processor's cache.

        Args:
            colours: Number of every vertex's features, below C.
            features: Rows of the distinct features.
            adjacency: Symmetric, without self loops.
            size: Graphs in a chunk.

        Shapes:
            colours ``(B, V)``, features ``(C, F)``, adjacency ``(B, V, V)`` -> parts of ``(B, V, H)``.
        """
        layers = [_FoldedLayer(*pair) for pair in cast("_Layers", zip(self.convolutions, self.norms, strict=True))]
        while layers and len(features) <= colours.numel() // 8:
            refined = refine(colours, adjacency)
            count = int(refined.max()) + 1
            if count > colours.numel() // 2:
                break
            features = layers.pop(0).of_kinds(colours, features, adjacency, refined, count)
            colours = refined
        if layers:
            features = features @ layers[0].first.T
        for kinds, arcs in zip(torch.split(colours, size), torch.split(adjacency, size), strict=True):
            hidden = nn.functional.embedding(kinds, features)  # (B, V, H)
            for layer, following in zip_longest(layers, layers[1:]):
                hidden = layer.perceptron(layer.sum(hidden, arcs))
                if following is not None:
                    hidden = hidden @ following.first.T
            yield hidden


class _FoldedLayer:
    """A layer and the normalisation behind it, in evaluation mode, as two linear maps.

    relu(x + b) = max(x, -b) + b, and the b behind it goes into the bias of the second map: a pass over memory less.
    """

    def __init__(self, convolution: GINLayer, norm: VertexBatchNorm) -> None:
        linear, inner, _, second = cast("_Perceptron", convolution.nn)
        self.own = 1.0 + convolution.eps
        self.first, bias = _folded(linear, inner)
        self.second, second_bias = _folded(second, norm)
        self.floor, self.bias = -bias, second_bias + self.second @ bias

    def sum(self, hidden: Tensor, adjacency: Tensor) -> Tensor:
        """Of what the first map made of the own vertex and its neighbours, without its bias."""
        eye = torch.eye(adjacency.shape[-1], dtype=hidden.dtype, device=hidden.device)
        return torch.bmm(adjacency.to(hidden) + self.own * eye, hidden)

    def perceptron(self, summed: Tensor) -> Tensor:
        """What comes behind the sum; overwrites it."""
        inner = torch.maximum(summed, self.floor, out=summed)
        return torch.addmm(self.bias, inner.flatten(0, -2), self.second.T).relu_().view_as(summed)

    def of_kinds(self, colours: Tensor, features: Tensor, adjacency: Tensor, refined: Tensor, count: int) -> Tensor:
        """Outputs of the layer for one vertex of every refined colour, ``(count, H)``."""
        vertices = colours.shape[-1]
        chosen = torch.empty(count, dtype=torch.long, device=colours.device)
        chosen[refined.flatten()] = torch.arange(colours.numel(), device=colours.device)
        heard = features @ self.first.T
        vertex, neighbour = adjacency.flatten(0, 1)[chosen].nonzero(as_tuple=True)
        counts = torch.bincount(vertex, minlength=count)
        rows = colours[chosen // vertices][vertex, neighbour]
        total = nn.functional.embedding_bag(rows, heard, counts.cumsum(0) - counts, mode="sum")
        own = nn.functional.embedding(colours.flatten()[chosen], heard)
        return self.perceptron(total.add_(own.mul_(self.own)))


def _folded(linear: nn.Linear, norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """Weight and bias of a linear map with the batch normalisation behind it, in evaluation mode."""
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return linear.weight * scale[:, None], (linear.bias - norm.running_mean) * scale + norm.bias
