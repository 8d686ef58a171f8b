"""The NAS-Bench-101 cell and the network of such cells (Ying et al., arXiv 1902.09635, Sec. 2 and App. A)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_nas.errors import SpaceError

Matrix = Sequence[Sequence[int]]
"""Square and strictly upper triangular; ``matrix[u][v]`` is 1 when data flows from vertex u to vertex v."""


BN_MOMENTUM = 0.1
"""Share of a batch's statistics in the running ones of batch normalisation."""


class ConvBNReLU(nn.Sequential):
    """Convolution without bias, batch normalisation, ReLU; keeps the image's size.

    Args:
        channels_in: Input channels.
        channels_out: Output channels.
        kernel_size: Side of the square kernel.
        bn_momentum: See :class:`NASBench101Network`.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel_size: int, bn_momentum: float = BN_MOMENTUM) -> None:
        convolution = nn.Conv2d(channels_in, channels_out, kernel_size, padding=kernel_size // 2, bias=False)
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="linear")  # variance 1 / fan-in
        super().__init__(convolution, nn.BatchNorm2d(channels_out, eps=1e-5, momentum=bn_momentum), nn.ReLU())


def make_operation(name: str, channels: int, bn_momentum: float = BN_MOMENTUM) -> nn.Module:
    """Build an operation that keeps the shape ``(B, C, H, W)``.

    Args:
        name: ``conv1x1-bn-relu``, ``conv3x3-bn-relu`` or ``maxpool3x3``.
        channels: Width C.
        bn_momentum: See :class:`NASBench101Network`.
    """
    if name == "maxpool3x3":
        return nn.MaxPool2d(3, stride=1, padding=1)
    return ConvBNReLU(channels, channels, {"conv1x1-bn-relu": 1, "conv3x3-bn-relu": 3}[name], bn_momentum)


def vertex_channels(matrix: Matrix, channels_in: int, channels_out: int) -> list[int]:
    """Width of every vertex: those that the output concatenates share its channels, the others are as wide as needed.

    The shares are equal, but the first ones have one channel more where there is a remainder. Any other vertex is as
    wide as the widest one it leads to. The arc from input to output takes no share, since it is added.

    Args:
        matrix: Arcs among V vertices.
        channels_in: Width of the input.
        channels_out: Width of the output.

    Raises:
        SpaceError: There are more vertices to concatenate than channels.

    Example:
        >>> vertex_channels([[0, 1, 1, 1], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]], 16, 33)
        [16, 17, 16, 33]
    """
    last = len(matrix) - 1
    joined = [v for v in range(1, last) if matrix[v][last]]
    if len(joined) > channels_out:
        raise SpaceError(
            f"nasbench101: got a cell that concatenates {len(joined)} vertices to {channels_out} channels, expected at "
            "least as many 'channels'"
        )
    widths = [channels_in] + [0] * (last - 1) + [channels_out]
    for place, vertex in enumerate(joined):
        widths[vertex] = channels_out // len(joined) + (place < channels_out % len(joined))
    for vertex in range(last - 1, 0, -1):
        if not matrix[vertex][last]:
            widths[vertex] = max(widths[v] for v in range(vertex + 1, last) if matrix[vertex][v])
    return widths


class NASBench101Cell(nn.Module):
    """Operations on the vertices of a graph; a vertex sums what it hears, the output concatenates.

    What comes from the input is projected by a 1x1 convolution to the width of the vertex it goes to; what comes from a
    wider vertex loses its last channels. The input's own arc to the output is added to the concatenation.

    Args:
        matrix: Arcs among V vertices, each on a path from the first to the last.
        operations: Names of the V - 2 operations between input and output.
        channels_in: Width of the input.
        channels_out: Width of the output.
        bn_momentum: See :class:`NASBench101Network`.
    """

    def __init__(
        self,
        matrix: Matrix,
        operations: Sequence[str],
        channels_in: int,
        channels_out: int,
        bn_momentum: float = BN_MOMENTUM,
    ) -> None:
        super().__init__()
        self.widths = vertex_channels(matrix, channels_in, channels_out)
        self.tails = [[u for u in range(1, v) if matrix[u][v]] for v in range(len(matrix))]
        heads = [v for v in range(1, len(matrix)) if matrix[0][v]]
        self.projected = {vertex: place for place, vertex in enumerate(heads)}
        self.projections = nn.ModuleList(ConvBNReLU(channels_in, self.widths[v], 1, bn_momentum) for v in heads)
        self.operations = nn.ModuleList(
            make_operation(name, width, bn_momentum) for name, width in zip(operations, self.widths[1:-1], strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the cell, ``(B, C_in, H, W)`` -> ``(B, C_out, H, W)``."""
        values, last = [x], len(self.widths) - 1
        for vertex, operation in enumerate(self.operations, start=1):
            messages = [self._cut(values[u], u, vertex) for u in self.tails[vertex]]
            values.append(operation(_sum(messages + self._from_input(x, vertex))))
        joined = [values[u] for u in self.tails[last]]
        return _sum(([torch.cat(joined, dim=1)] if joined else []) + self._from_input(x, last))

    def _cut(self, message: Tensor, tail: int, head: int) -> Tensor:
        # Untouched where it fits, so that cells that cut nothing can be trained side by side as one.
        return message if self.widths[tail] == self.widths[head] else message[:, : self.widths[head]]

    def _from_input(self, x: Tensor, vertex: int) -> list[Tensor]:
        return [self.projections[self.projected[vertex]](x)] if vertex in self.projected else []


def _sum(messages: list[Tensor]) -> Tensor:
    total = messages[0]
    for message in messages[1:]:
        total = total + message
    return total


class NASBench101Network(nn.Module):
    """Stem, stages of equal cells with max-pooling between them, global average pooling, linear head.

    Every stage is twice as wide as the one before, which its first cell sees to.

    Args:
        matrix: Arcs of the cell.
        operations: Its operations.
        channels: Width of the first stage.
        cells_per_stage: Cells in each stage.
        num_stages: Number of stages.
        num_classes: Outputs of the classifier.
        in_channels: Channels of the input image.
        bn_momentum: Share of a batch's statistics in the running ones of batch normalisation. The benchmark's 0.003
            (TensorFlow's decay of 0.997) needs thousands of batches before a validation means anything.
    """

    def __init__(
        self,
        matrix: Matrix,
        operations: Sequence[str],
        channels: int = 128,
        cells_per_stage: int = 3,
        num_stages: int = 3,
        num_classes: int = 10,
        in_channels: int = 3,
        bn_momentum: float = BN_MOMENTUM,
    ) -> None:
        super().__init__()
        self.stem = ConvBNReLU(in_channels, channels, 3, bn_momentum)
        blocks: list[nn.Module] = []
        width = channels
        for stage in range(num_stages):
            if stage:
                blocks.append(nn.MaxPool2d(2, ceil_mode=True))  # an odd image keeps its last row, as in TensorFlow
            for _ in range(cells_per_stage):
                blocks.append(NASBench101Cell(matrix, operations, width, channels * 2**stage, bn_momentum))
                width = channels * 2**stage
        self.cells = nn.Sequential(*blocks)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores, ``(B, in_channels, H, W)`` -> ``(B, num_classes)``."""
        features = self.cells(self.stem(images))
        # The gradient of a mean would be laid out as (B, C, H, W) whatever the features are, which slows a CPU down.
        return self.classifier(features.sum(dim=(2, 3)) / (features.shape[2] * features.shape[3]))  # type: ignore[no-any-return]
