"""The NAS-Bench-201 cell and the macro skeleton around it (Dong & Yang, arXiv 2001.00326, Fig. 1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from lightning_nas.nn.auxiliary import AuxiliaryHead
from lightning_nas.nn.drop_path import DropPath
from lightning_nas.nn.operations import ResNetReduction, Zero, make_operation

EDGES: tuple[tuple[int, int], ...] = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
"""Edges (tail, head) of the cell in the order of the architecture string."""


class NASBench201Cell(nn.Module):
    """Four nodes, one operation on each of the six edges; a node is the sum of its incoming edges.

    In training, every edge but skip connections can be dropped (see :class:`~lightning_nas.nn.drop_path.DropPath`).

    Args:
        operations: Names of the six operations in the order of :data:`EDGES`.
        channels: Width C of the cell.
    """

    def __init__(self, operations: Sequence[str], channels: int) -> None:
        super().__init__()
        self.edges = nn.ModuleList(make_operation(name, channels) for name in operations)
        self.drop_path = DropPath()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the cell, ``(B, C, H, W)`` -> the same shape."""
        nodes: list[Tensor | None] = [x, None, None, None]  # None is a sum of nothing
        for (tail, head), operation in zip(EDGES, self.edges, strict=True):
            if isinstance(operation, Zero):
                continue  # adding zeros would cost as much as adding a signal
            message, so_far = operation(_signal(nodes[tail], x)), nodes[head]
            if not isinstance(operation, nn.Identity):
                message = self.drop_path(message)
            nodes[head] = message if so_far is None else so_far + message
        return _signal(nodes[-1], x)


def _signal(node: Tensor | None, x: Tensor) -> Tensor:
    return x.mul(0.0) if node is None else node


class StagedNetwork(nn.Module):
    """Stem, stages of equal cells with a residual reduction between them, global average pooling, linear head.

    Args:
        make_cell: Builds one cell for a given width.
        channels: Width of the first stage; doubles at every reduction.
        cells_per_stage: Cells in each stage.
        num_stages: Number of stages.
        num_classes: Outputs of the classifier.
        in_channels: Channels of the input image.
        auxiliary: Whether there is a second classifier behind two thirds of the blocks, for :meth:`with_auxiliary`.
    """

    def __init__(
        self,
        make_cell: Callable[[int], nn.Module],
        channels: int = 16,
        cells_per_stage: int = 5,
        num_stages: int = 3,
        num_classes: int = 10,
        in_channels: int = 3,
        auxiliary: bool = False,
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
        self.branch_off = 2 * len(blocks) // 3  # where DARTS has it: in its 20 cells that is the second reduction
        stages_after = num_stages - 1 - (self.branch_off + 1) // (cells_per_stage + 1)
        # Last, so that the other weights do not depend on whether it is there.
        self.auxiliary = AuxiliaryHead(channels // 2**stages_after, num_classes) if auxiliary else None

    def forward(self, images: Tensor) -> Tensor:
        """Class scores, ``(B, in_channels, H, W)`` -> ``(B, num_classes)``."""
        return self.classify(self.cells(self.stem(images)))

    def classify(self, features: Tensor) -> Tensor:
        """Class scores of the last block's output, ``(B, C, H, W)`` -> ``(B, num_classes)``."""
        features = self.last_activation(features)
        # The gradient of a mean would be laid out as (B, C, H, W) whatever the features are, which slows a CPU down.
        pooled = features.sum(dim=(2, 3)) / (features.shape[2] * features.shape[3])
        return self.classifier(pooled)  # type: ignore[no-any-return]

    def with_auxiliary(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Class scores of the network and of its auxiliary head, two of ``(B, num_classes)``."""
        assert self.auxiliary is not None, "made without an auxiliary head"
        front = self.cells[: self.branch_off + 1](self.stem(images))
        return self.classify(self.cells[self.branch_off + 1 :](front)), self.auxiliary(front)
