"""How steep the sigmoids of a perceptron are (Rawal et al., arXiv 2005.13092, Sec. 4.1)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from operator import index as as_int
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_nas.errors import EncodingError, SpaceError
from lightning_nas.spaces.base import CellGraph, FiniteSpace, SearchSpace
from lightning_nas.spaces.encodings import Encoding


class Sigmoid(nn.Module):
    """``1 / (1 + exp(-slope * x))``.

    Args:
        slope: Of the curve at 0, times four.
    """

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        """Element by element."""
        return torch.sigmoid(self.slope * x)


class SigmoidSlope(FiniteSpace[float]):
    """Slopes of the sigmoids in a perceptron: any number of an interval, of which a grid is numbered.

    As a graph, a slope of the grid is a single vertex between input and output, labelled with it.

    Args:
        low: Smallest slope.
        high: Largest slope.
        num_slopes: Equally spaced members, both ends included.

    Example:
        >>> space = SigmoidSlope()
        >>> len(space), space.format(space[11]), space.index(space.parse("0.232222"))
        (100, '0.232222', 11)
    """

    name = "sigmoid_slope"
    num_vertices = 3

    def __init__(self, low: float = 0.01, high: float = 2.01, num_slopes: int = 100) -> None:
        if not 0 < low < high or num_slopes < 2:
            raise SpaceError(
                f"sigmoid_slope: got low={low}, high={high}, num_slopes={num_slopes}, expected 0 < low < high and at "
                "least two slopes"
            )
        self.low, self.high, self.num_slopes = low, high, num_slopes

    @cached_property
    def slopes(self) -> tuple[float, ...]:
        """All members in their order, rounded to what their notation shows."""
        return tuple(round(float(slope), 6) for slope in np.linspace(self.low, self.high, self.num_slopes))

    @cached_property
    def _places(self) -> dict[float, int]:
        return {slope: place for place, slope in enumerate(self.slopes)}

    @property
    def vertex_labels(self) -> tuple[str, ...]:  # type: ignore[override]
        """Input, all members, output."""
        return ("input", *map(self.format, self.slopes), "output")

    def __len__(self) -> int:
        return self.num_slopes

    def __getitem__(self, index: int) -> float:  # type: ignore[override]
        return self.slopes[as_int(index)]

    def index(self, arch: float) -> int:  # type: ignore[override]
        """Position on the grid; raises ``SpaceError`` for a slope beside it."""
        place = self._places.get(round(self._checked(arch), 6))
        if place is None:
            step = (self.high - self.low) / (self.num_slopes - 1)
            raise SpaceError(
                f"sigmoid_slope: {arch} is none of the {self.num_slopes} numbered slopes, which begin at {self.low} "
                f"and are {step:.6f} apart"
            )
        return place

    def neighbors(self, arch: float) -> Iterator[float]:
        """The next slopes of the grid on both sides."""
        place = self.index(arch)
        yield from self.slopes[max(0, place - 1) : place]
        yield from self.slopes[place + 1 : place + 2]

    def parse(self, text: str) -> float:
        """Read a number of the interval, on the grid or beside it."""
        try:
            slope = float(text)
        except ValueError:
            raise SpaceError(f"sigmoid_slope: got {text!r}, expected a number such as 0.25") from None
        return self._checked(slope)

    def format(self, arch: float) -> str:
        """Write a slope with six decimals."""
        return f"{self._checked(arch):.6f}"

    def graph(self, arch: float) -> CellGraph:
        """Input, the slope, output, in a row."""
        ops = torch.tensor([0, self.index(arch) + 1, self.num_slopes + 1])
        return CellGraph(ops, torch.eye(3, dtype=torch.bool).roll(1, dims=1).triu(diagonal=1))

    def from_graph(self, graph: CellGraph) -> float:
        """The inverse of :meth:`graph`."""
        labels = graph.ops.tolist()
        if len(labels) == 3 and 1 <= labels[1] <= self.num_slopes:
            expected = self.graph(self[labels[1] - 1])
            if torch.equal(graph.ops, expected.ops) and torch.equal(graph.adjacency.bool(), expected.adjacency):
                return self[labels[1] - 1]
        raise SpaceError(f"sigmoid_slope: got the labels {labels}, expected 'input', a slope and 'output' in a row")

    def build(
        self, arch: float, num_classes: int = 10, in_channels: int = 3, image_size: int = 32, width: int = 100
    ) -> nn.Module:
        """The perceptron: two hidden layers whose sigmoids have the slope.

        Args:
            arch: The slope.
            num_classes: Outputs of the classifier.
            in_channels: Channels of the image.
            image_size: Height and width of the image in pixels.
            width: Neurons of a hidden layer.
        """
        slope = self._checked(arch)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(in_channels * image_size**2, width), Sigmoid(slope), nn.Linear(width, width),
            Sigmoid(slope), nn.Linear(width, num_classes),
        )  # fmt: skip

    def _checked(self, slope: float) -> float:
        if not self.low - 1e-9 <= slope <= self.high + 1e-9:
            raise SpaceError(f"sigmoid_slope: got {slope}, expected a slope from {self.low} to {self.high}")
        return slope


class SlopeEncoding(Encoding):
    """The slope itself, for regressions.

    Example:
        >>> SlopeEncoding().encode(SigmoidSlope(0.5, 1.0, 2)).tolist()
        [[0.5], [1.0]]
    """

    def encode(self, space: SearchSpace[Any]) -> Tensor:
        """Slopes of all members, ``(N, 1)``."""
        if not isinstance(space, SigmoidSlope):
            raise EncodingError(f"SlopeEncoding: got the space {space.name!r}, expected 'sigmoid_slope'")
        return torch.tensor(space.slopes)[:, None]
