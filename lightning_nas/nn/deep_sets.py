"""Networks of sets: the order of the elements does not matter (Zaheer et al., arXiv 1703.06114)."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn


class DeepSets(nn.Module):
    """A perceptron for every element, the mean over elements, and a perceptron for the mean.

    Both have four linear maps with ReLUs between them (arXiv 2102.04208, released code).

    Args:
        num_features: Features of an element, K.
        hidden_dim: Width of all hidden layers.
        embedding_dim: Width of the result, D.

    Shapes:
        ``(..., N, K)`` -> ``(..., D)``.
    """

    def __init__(self, num_features: int, hidden_dim: int = 256, embedding_dim: int = 256) -> None:
        super().__init__()
        self.element = _perceptron(num_features, *[hidden_dim] * 4)
        self.whole = _perceptron(*[hidden_dim] * 4, embedding_dim)

    def forward(self, elements: Tensor) -> Tensor:
        """Embeddings of sets."""
        # The last map of the elements is linear, so the mean can go first, which leaves it a part of the work.
        *front, last = self.element
        hidden = elements
        for layer in front:
            hidden = layer(hidden)
        embedded: Tensor = self.whole(last(hidden.mean(dim=-2)))
        return embedded


def _perceptron(*widths: int) -> nn.Sequential:
    layers = [layer for ends in pairwise(widths) for layer in (nn.Linear(*ends), nn.ReLU())]
    return nn.Sequential(*layers[:-1])
