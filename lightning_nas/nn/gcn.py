"""Graph convolutional network on padded dense batches (Kipf & Welling, arXiv 1609.02907), encoder of GAE and VGAE."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Mode = Literal["paper", "reference"]


def normalised_adjacency(adjacency: Tensor, self_loops: bool) -> Tensor:
    """``D^(-1/2) A D^(-1/2)`` with D the degrees (arXiv 1609.02907, Eq. 2); vertices without arcs keep zero rows.

    Args:
        adjacency: Symmetric, without self loops.
        self_loops: Take A + I for A, as the paper does.

    Shapes:
        ``(B, V, V)`` float -> the same shape.
    """
    if self_loops:
        adjacency = adjacency + torch.eye(adjacency.shape[-1], dtype=adjacency.dtype, device=adjacency.device)
    scale = adjacency.sum(dim=-1).clamp_min(1e-12).rsqrt()  # arch2vec's code divides by zero for padded vertices
    return adjacency * scale[..., None, :] * scale[..., :, None]


class GraphConvolution(nn.Module):
    """One layer: neighbours' features, averaged by ``D^(-1/2) A D^(-1/2)``, through a linear map.

    Args:
        num_features: Features of a vertex, F.
        width: Features afterwards, H.
        activate: End in a ReLU.
        mode: ``paper``: ReLU of map plus bias; ``reference``: the bias comes behind the ReLU, as in arch2vec's code.

    Shapes:
        features ``(B, V, F)``, normalised adjacency ``(B, V, V)`` -> ``(B, V, H)``.
    """

    def __init__(self, num_features: int, width: int, activate: bool = True, mode: Mode = "paper") -> None:
        super().__init__()
        self.activate, self.mode = activate, mode
        self.linear = nn.Linear(num_features, width)

    def forward(self, features: Tensor, adjacency: Tensor) -> Tensor:
        """Vertex representations."""
        heard = adjacency @ nn.functional.linear(features, self.linear.weight)
        if not self.activate:
            return heard + self.linear.bias
        if self.mode == "reference":
            return torch.relu(heard) + self.linear.bias
        return torch.relu(heard + self.linear.bias)


class GCNEncoder(nn.Module):
    """Graph convolutions for all but the last layer of GAE and VGAE (Kipf & Welling, arXiv 1611.07308).

    Args:
        num_features: Features of a vertex, F.
        hidden_dim: Width H of every layer.
        num_layers: Number of layers.
        mode: See :class:`GraphConvolution`.

    Shapes:
        features ``(B, V, F)``, normalised adjacency ``(B, V, V)`` float -> ``(B, V, H)``.
    """

    def __init__(self, num_features: int, hidden_dim: int = 128, num_layers: int = 4, mode: Mode = "paper") -> None:
        super().__init__()
        widths = [num_features] + [hidden_dim] * (num_layers - 1)
        self.convolutions = nn.ModuleList(GraphConvolution(width, hidden_dim, mode=mode) for width in widths)

    def forward(self, features: Tensor, adjacency: Tensor) -> Tensor:
        """Vertex representations."""
        for convolution in self.convolutions:
            features = convolution(features, adjacency)
        return features
