"""The supernet of NAS-Bench-201: all five operations on all six edges (arXiv 2001.00326; DARTS, arXiv 1806.09055)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_nas.nn.cells import EDGES, StagedNetwork
from lightning_nas.nn.supernet import (
    EdgeGroup,
    EdgeView,
    Mixture,
    Supernet,
    channels_seen,
    pooled_sum,
    runs_of,
    scaled_norm,
    shuffled,
)

CANDIDATES = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
_NONE, _SKIP, _CONV1, _CONV3, _POOL = range(len(CANDIDATES))
_FROM = tuple([edge for edge, (tail, _) in enumerate(EDGES) if tail == node] for node in range(3))
_INTO = tuple([edge for edge, (_, head) in enumerate(EDGES) if head == node] for node in range(4))


class MixedConvs(nn.Module):
    """ReLU, the convolutions of all edges that leave a node side by side, batch normalisation.

    Args:
        channels: Width C of one edge.
        num_edges: Edges that leave the node.
        kernel_size: Side of the kernel.
    """

    def __init__(self, channels: int, num_edges: int, kernel_size: int) -> None:
        super().__init__()
        self.channels = channels
        self.conv = nn.Conv2d(channels, channels * num_edges, kernel_size, padding=kernel_size // 2, bias=False)
        self.norm = nn.BatchNorm2d(channels * num_edges, affine=False)

    def forward(self, activation: Tensor, weights: Tensor, active: Sequence[bool]) -> list[Tensor | None]:
        """Weighted messages along every edge, None along inactive ones, n times ``(B, C, H, W)``.

        Args:
            activation: The node after its ReLU, which both kernel sizes share.
            weights: One for each edge, ``(n,)``.
            active: Which edges are computed.
        """
        messages: list[Tensor | None] = [None] * len(active)
        for run in runs_of(active):
            part = slice(run.start * self.channels, run.stop * self.channels)
            out = F.conv2d(activation, self.conv.weight[part], padding=self.conv.padding)
            out = scaled_norm(self.norm, out, weights[run].repeat_interleave(self.channels), part)
            messages[run] = out.split(self.channels, dim=1)  # type: ignore[no-untyped-call]
        return messages

    def block(self, place: int) -> list[Tensor]:
        """All numbers of one edge, as views."""
        part = slice(place * self.channels, (place + 1) * self.channels)
        mean, var = self.norm.running_mean, self.norm.running_var
        assert mean is not None
        assert var is not None
        return [self.conv.weight.detach()[part], mean[part], var[part]]

    def state_of(self, place: int) -> dict[str, Tensor]:
        """Weights of one edge, as :class:`~lightning_nas.nn.operations.ReLUConvBN` names them."""
        seen = self.norm.num_batches_tracked
        assert seen is not None
        weight, mean, var = self.block(place)
        return {
            "1.weight": weight, "2.weight": torch.ones_like(mean), "2.bias": torch.zeros_like(mean),
            "2.running_mean": mean, "2.running_var": var, "2.num_batches_tracked": seen,
        }  # fmt: skip


class NASBench201Supercell(nn.Module):
    """Four nodes; every edge is a weighted sum of all operations, every node the sum of its edges.

    With partial channels (PC-DARTS, arXiv 1907.05737) the operations see one k-th of the channels; the others go by,
    and all are shuffled. Whatever is linear is taken together over the edges of a node, with the same result.

    Args:
        channels: Width C.
        partial: One over the share of the channels that operations see, k.
    """

    def __init__(self, channels: int, partial: int = 1) -> None:
        super().__init__()
        self.partial, self.seen = partial, channels_seen(channels, partial)
        counts = [len(edges) for edges in _FROM]
        self.conv1 = nn.ModuleList(MixedConvs(self.seen, count, 1) for count in counts)
        self.conv3 = nn.ModuleList(MixedConvs(self.seen, count, 3) for count in counts)

    def forward(self, x: Tensor, weights: Tensor, edges: Tensor | None, active: Sequence[Sequence[bool]]) -> Tensor:
        """Apply the cell, ``(B, C, H, W)`` -> the same.

        Args:
            x: Input.
            weights: Of the operations, ``(6, 5)``; 0 for those that are not computed.
            edges: Of the edges, ``(6,)``; None for ones.
            active: Which operations are computed, six lists of five.
        """
        return self.nodes(x, weights, edges, active)[-1]

    def nodes(self, x: Tensor, weights: Tensor, edges: Tensor | None, active: Sequence[Sequence[bool]]) -> list[Tensor]:
        """The values of all four nodes; arguments are those of :meth:`forward`."""
        nodes, messages = [x], [list[Tensor]() for _ in range(4)]  # of convolutions, by the node they go to
        for node in range(1, 4):
            leaving, activation = _FROM[node - 1], F.relu(nodes[-1][:, : self.seen])
            for code, convs in ((_CONV1, self.conv1), (_CONV3, self.conv3)):
                flags = [active[edge][code] for edge in leaving]
                sent = convs[node - 1](activation, weights[leaving, code], flags)
                for edge, message in zip(leaving, sent, strict=True):
                    messages[EDGES[edge][1]] += [] if message is None else [message]
            nodes.append(self._node(_INTO[node], nodes, messages[node], weights, edges, active))
        return nodes

    def outputs(self, edge: int, tail: Tensor) -> dict[str, Tensor]:
        """What the operations of an edge make of the channels that they see, by their names."""
        node, seen = EDGES[edge][0], tail[:, : self.seen]
        found = {
            "skip_connect": seen, "avg_pool_3x3": F.avg_pool2d(seen, 3, 1, 1, count_include_pad=False),
            "none": torch.zeros_like(seen),
        }  # fmt: skip
        place = _FROM[node].index(edge)
        for name, convs in (("nor_conv_1x1", self.conv1), ("nor_conv_3x3", self.conv3)):
            flags = [one == edge for one in _FROM[node]]
            found[name] = convs[node](F.relu(seen), seen.new_ones(len(flags)), flags)[place]
        return found

    def _node(
        self,
        arriving: Sequence[int],
        nodes: Sequence[Tensor],
        messages: Sequence[Tensor],
        weights: Tensor,
        edges: Tensor | None,
        active: Sequence[Sequence[bool]],
    ) -> Tensor:
        """The sum of what arrives at a node: the convolutions' messages, and what is linear in earlier nodes."""
        tails = [nodes[EDGES[edge][0]] for edge in arriving]
        linear = [place for place, edge in enumerate(arriving) if active[edge][_SKIP] or active[edge][_POOL]]
        sources, rows = [tails[place][:, : self.seen] for place in linear], [arriving[place] for place in linear]
        terms = list(messages)
        if any(active[edge][_POOL] for edge in arriving):
            terms.append(pooled_sum(weights[rows, _SKIP], weights[rows, _POOL], sources))
        else:
            terms += [source * weights[edge, _SKIP] for source, edge in zip(sources, rows, strict=True)]
        total = _sum(terms) if terms else torch.zeros_like(tails[0][:, : self.seen])
        if self.partial == 1:
            return total
        passing = [tail[:, self.seen :] for tail in tails]
        if edges is not None:
            passing = [part * edges[edge] for part, edge in zip(passing, arriving, strict=True)]
        return shuffled(torch.cat([total, _sum(passing)], dim=1), self.partial)


def _sum(terms: Sequence[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


class NASBench201Supernet(Supernet):
    """The benchmark's skeleton around cells of mixed operations.

    Args:
        channels: Width of the first stage.
        cells_per_stage: Cells in each stage.
        num_stages: Number of stages.
        num_classes: Outputs of the classifier.
        in_channels: Channels of the input image.
        partial: One over the share of the channels that operations see, k; 1 for all.
    """

    groups = (EdgeGroup("cell", EDGES, (CANDIDATES,) * len(EDGES)),)

    def __init__(
        self,
        channels: int = 16,
        cells_per_stage: int = 5,
        num_stages: int = 3,
        num_classes: int = 10,
        in_channels: int = 3,
        partial: int = 1,
    ) -> None:
        super().__init__()

        def make_cell(width: int) -> NASBench201Supercell:
            return NASBench201Supercell(width, partial)

        self.skeleton = StagedNetwork(make_cell, channels, cells_per_stage, num_stages, num_classes, in_channels)

    def forward(self, images: Tensor, mixture: Mixture) -> Tensor:
        """Class scores, ``(B, C, H, W)`` -> ``(B, num_classes)``."""
        weights = mixture.weights[0] * mixture.active[0].to(mixture.weights.device)
        edges, active = None if mixture.edges is None else mixture.edges[0], mixture.active[0].tolist()
        x = self.skeleton.stem(images)
        for block in self.skeleton.cells:
            x = block(x, weights, edges, active) if isinstance(block, NASBench201Supercell) else block(x)
        return self.skeleton.classify(x)

    def views(self, images: Tensor, mixture: Mixture) -> Iterator[EdgeView]:
        """What passes along the edges of one cell after another."""
        weights = mixture.weights[0] * mixture.active[0].to(mixture.weights.device)
        edges, active = None if mixture.edges is None else mixture.edges[0], mixture.active[0].tolist()
        x = self.skeleton.stem(images)
        for block in self.skeleton.cells:
            if not isinstance(block, NASBench201Supercell):
                x = block(x)
                continue
            nodes = block.nodes(x, weights, edges, active)
            for edge, (tail, _) in enumerate(EDGES):
                yield EdgeView(0, edge, nodes[tail], block.outputs(edge, nodes[tail]), nodes[-1])
            x = nodes[-1]

    @torch.no_grad()
    def swap(self, kind: int, first: int, second: int) -> None:
        """Let two edges change places in every cell."""
        for cell in self.skeleton.cells:
            if not isinstance(cell, NASBench201Supercell):
                continue
            for convs in (cell.conv1, cell.conv3):
                (ours, theirs) = (
                    convs[EDGES[edge][0]].block(_FROM[EDGES[edge][0]].index(edge))  # type: ignore[operator]
                    for edge in (first, second)
                )
                for one, other in zip(ours, theirs, strict=True):
                    kept = one.clone()
                    one.copy_(other)
                    other.copy_(kept)

    def blocks(self, name: str) -> int:
        """The edges that leave a node share the tensors of a kind of convolution."""
        path = name.split(".")
        return len(_FROM[int(path[4])]) if path[3:4] in (["conv1"], ["conv3"]) else 1

    def derived_state(self, choice: Tensor) -> dict[str, Tensor]:
        """Weights of the stand-alone network of a choice ``(1, 6)``, by the names they have there."""
        whole = self.skeleton.state_dict()
        state = {name: value for name, value in whole.items() if ".conv1." not in name and ".conv3." not in name}
        for number, block in enumerate(self.skeleton.cells):
            if not isinstance(block, NASBench201Supercell):
                continue
            for edge, code in enumerate(choice[0].tolist()):
                tail = EDGES[edge][0]
                convs = {_CONV1: block.conv1, _CONV3: block.conv3}.get(code)
                if convs is not None:
                    for name, value in convs[tail].state_of(_FROM[tail].index(edge)).items():  # type: ignore[operator]
                        state[f"cells.{number}.edges.{edge}.{name}"] = value
        return state
