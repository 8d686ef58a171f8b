"""Graph isomorphism network on padded dense batches (Xu et al., arXiv 1810.00826)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class VertexBatchNorm(nn.BatchNorm1d):
    """Batch normalisation over all vertices of all graphs, ``(B, V, F)`` -> the same shape."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise every feature over B * V entries."""
        return super().forward(x.flatten(0, 1)).view_as(x)


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
        from torch_geometric.nn import DenseGINConv  # seconds to import, so only when a network is made

        def perceptron(width: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Linear(width, hidden_dim), VertexBatchNorm(hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, hidden_dim)
            )

        widths = [num_features] + [hidden_dim] * (num_layers - 1)
        self.convolutions = nn.ModuleList(DenseGINConv(perceptron(width), train_eps=True) for width in widths)
        self.norms = nn.ModuleList(VertexBatchNorm(hidden_dim) for _ in widths)

    def forward(self, features: Tensor, adjacency: Tensor) -> Tensor:
        """Vertex representations."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            features = torch.relu(norm(convolution(features, adjacency)))
        return features
