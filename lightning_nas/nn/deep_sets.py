"""Networks of sets: the order of the elements does not matter (Zaheer et al., arXiv 1703.06114)."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

Init = Literal["he", "torch"]
"""How the weights of linear maps begin: He's normal distribution with biases of zero, or torch's default."""


class ReLULinear(nn.Linear):
    """A linear map before a ReLU that keeps the scale of its input (He et al., arXiv 1502.01852, Eq. 10).

    torch's default shrinks it several times; eight such layers in a row nearly forget what they were given.
    """

    def reset_parameters(self) -> None:
        """Fresh weights; biases are zero."""
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        nn.init.zeros_(self.bias)


class DeepSets(nn.Module):
    """A perceptron for every element, the mean over elements, and a perceptron for the mean.

    Both have four linear maps with ReLUs between them (arXiv 2102.04208, released code).

    Args:
        num_features: Features of an element, K.
        hidden_dim: Width of all hidden layers.
        embedding_dim: Width of the result, D.
        init: How the weights begin; the released code has ``torch``.

    Shapes:
        ``(..., N, K)`` -> ``(..., D)``.
    """

    def __init__(self, num_features: int, hidden_dim: int = 256, embedding_dim: int = 256, init: Init = "he") -> None:
        super().__init__()
        kind = LINEAR[init]
        self.element = _perceptron(kind, num_features, *[hidden_dim] * 4)
        self.whole = _perceptron(kind, *[hidden_dim] * 4, embedding_dim)

    def forward(self, elements: Tensor) -> Tensor:
        """Embeddings of sets."""
        # The last map of the elements is linear, so the mean can go first, which leaves it a part of the work.
        *front, last = self.element
        hidden = elements
        for layer in front:
            hidden = layer(hidden)
        embedded: Tensor = self.whole(last(hidden.mean(dim=-2)))
        return embedded


LINEAR: dict[Init, type[nn.Linear]] = {"he": ReLULinear, "torch": nn.Linear}


def _perceptron(kind: type[nn.Linear], *widths: int) -> nn.Sequential:
    layers = [layer for ends in pairwise(widths) for layer in (kind(*ends), nn.ReLU())]
    return nn.Sequential(*layers[:-1])
