"""From one latent vector per vertex back to a labelled graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class JointDecoder(nn.Module):
    """A perceptron that sees the latent vectors of all vertices at once and gives all labels and arcs.

    A dot product gives vertices with equal latent vectors an arc, whether they are twins or both padding. Here vertices
    are told apart by their place, so that every graph whose vertices have an agreed order can be reached.

    Args:
        num_vertices: Vertices V of every (padded) graph.
        latent_dim: Dimensions D of a latent vector.
        num_ops: Operation labels K.
        hidden_dim: Width of the perceptron's two hidden layers.

    Shapes:
        ``(B, V, D)`` -> logits of the operations ``(B, V, K)`` and of the arcs ``(B, V, V)``, whose entries on and
        below the diagonal are zero.
    """

    def __init__(self, num_vertices: int, latent_dim: int, num_ops: int, hidden_dim: int = 256) -> None:
        super().__init__()
        self.num_vertices, self.num_ops = num_vertices, num_ops
        row, column = torch.triu_indices(num_vertices, num_vertices, offset=1)
        self.register_buffer("places", row * num_vertices + column, persistent=False)
        self.body = nn.Sequential(
            nn.Linear(num_vertices * latent_dim, hidden_dim),
            nn.ReLU(inplace=True),
            nn.Linear(hidden_dim, hidden_dim),
            nn.ReLU(inplace=True),
            nn.Linear(hidden_dim, num_vertices * num_ops + len(row)),
        )

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of operations and arcs."""
        batch, vertices = z.shape[:2]
        ops, arcs = self.body(z.flatten(1)).tensor_split([vertices * self.num_ops], dim=1)
        adjacency = arcs.new_zeros(batch, vertices**2).index_copy(1, self.places, arcs)
        return ops.unflatten(1, (vertices, self.num_ops)), adjacency.unflatten(1, (vertices, vertices))
