"""The NAS-Bench-201 cell and the macro skeleton around it (Dong & Yang, arXiv 2001.00326, Fig. 1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from lightning_nas.nn.operations import ResNetReduction, make_operation

EDGES: tuple[tuple[int, int], ...] = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
"""Edges (tail, head) of the cell in the order of the architecture string."""


class NASBench201Cell(nn.Module):
    """Four nodes, one operation on each of the six edges; a node is the sum of its incoming edges.

    Args:
        operations: Names of the six operations in the order of :data:`EDGES`.
        channels: Width C of the cell.
    """

    def __init__(self, operations: Sequence[str], channels: int) -> None:
        super().__init__()
        self.edges = nn.ModuleList(make_operation(name, channels) for name in operations)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the cell, ``(B, C, H, W)`` -> the same shape."""
        nodes: list[Tensor | None] = [x, None, None, None]
        for (tail, head), operation in zip(EDGES, self.edges, strict=True):
            message, so_far = operation(nodes[tail]), nodes[head]
            nodes[head] = message if so_far is None else so_far + message
        return nodes[-1]  # type: ignore[return-value]


class StagedNetwork(nn.Module):
    """Stem, stages of equal cells with a residual reduction between them, global average pooling, linear head.

    Args:
        make_cell: Builds one cell for a given width.
        channels: Width of the first stage; doubles at every reduction.
        cells_per_stage: Cells in each stage.
        num_stages: Number of stages.
        num_classes: Outputs of the classifier.
        in_channels: Channels of the input image.
    """

    def __init__(
        self,
        make_cell: Callable[[int], nn.Module],
        channels: int = 16,
        cells_per_stage: int = 5,
        num_stages: int = 3,
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(in_channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
        blocks: list[nn.Module] = []
        for stage in range(num_stages):
            if stage:
                blocks.append(ResNetReduction(channels, 2 * channels))
                channels *= 2
            blocks.extend(make_cell(channels) for _ in range(cells_per_stage))
        self.cells = nn.Sequential(*blocks)
        self.last_activation = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores, ``(B, in_channels, H, W)`` -> ``(B, num_classes)``."""
        features = self.last_activation(self.cells(self.stem(images)))
        return self.classifier(features.mean(dim=(2, 3)))  # type: ignore[no-any-return]
