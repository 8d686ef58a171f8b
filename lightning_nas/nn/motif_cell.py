"""Motif-networks of recurrent cells (arXiv 2005.13092, Sec. 4.2)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_nas.errors import UsageError
from lightning_nas.nn.motif_network import MotifNetwork
from lightning_nas.nn.recurrent_cells import Level, gated_step, levels


class RecurrentNetwork(MotifNetwork):
    """Recurrent cells of a few neurons, wired as the large ones, with binary labels at every time step.

    The paper has three neurons, inputs of size 10, 20 sequences of 10 steps and "140 parameters": without gates the
    cell has 39 + 99, with gates twice as many, so that gates are off by default. What its labels are is not said; here
    every step has ``num_outputs`` of them, read off the state by one linear map.

    Args:
        width: Neurons of the state.
        num_inputs: Numbers of an input at a time step.
        num_outputs: Labels at a time step.
        num_samples: Sequences.
        length: Time steps.
        gated: Whether nodes have gates, as the large cells have.
        num_nodes: Nodes of a cell.

    Example:
        >>> network = RecurrentNetwork()
        >>> network.num_parameters - network.num_head_parameters
        138
    """

    def __init__(
        self,
        width: int = 3,
        num_inputs: int = 10,
        num_outputs: int = 10,
        num_samples: int = 20,
        length: int = 10,
        gated: bool = False,
        num_nodes: int = 11,
    ) -> None:
        if min(width, num_inputs, num_outputs, num_samples, length, num_nodes) < 1:
            raise UsageError(
                f"RecurrentNetwork(width={width}, num_inputs={num_inputs}, num_outputs={num_outputs}, num_samples="
                f"{num_samples}, length={length}, num_nodes={num_nodes}): expected positive numbers"
            )
        self.width, self.num_inputs, self.num_outputs = width, num_inputs, num_outputs
        self.num_samples, self.length, self.gated, self.num_nodes = num_samples, length, gated, num_nodes
        self.motif_shape = (2 * num_nodes,)
        self.input_shape, self.label_shape = (length, num_samples, num_inputs), (length, num_samples, num_outputs)
        self._columns = 2 * width if gated else width
        self._sizes = [
            num_inputs * self._columns, width * self._columns, num_nodes * width * self._columns, width * num_outputs,
            num_outputs,
        ]  # fmt: skip
        self.num_parameters = sum(self._sizes)

    @property
    def num_head_parameters(self) -> int:
        """Weights that read labels off the state."""
        return sum(self._sizes[-2:])

    def motifs(self, architectures: list[Any]) -> Tensor:
        """Cells, ``(N, 22)`` int64."""
        return torch.tensor(architectures)

    def prepared(self, motifs: Tensor) -> list[Level]:
        """Nodes by their depth."""
        return levels(motifs)

    def loss(self, weights: Tensor, blueprint: list[Level], inputs: Tensor, labels: Tensor) -> Tensor:
        """Mean binary cross-entropy over time steps, sequences and labels, ``(N,)``."""
        of_input, of_state, nodes, head, bias = torch.split(weights, self._sizes, dim=1)
        count = len(weights)
        flat = inputs.flatten(1, 2) @ of_input.reshape(count, -1, self._columns)
        steps = flat.view(count, self.length, self.num_samples, -1).unbind(1)
        matrix = of_state.reshape(count, -1, self._columns)
        stacked = nodes.reshape(-1, self.width, self._columns)
        matrices = [stacked.index_select(0, level.weight) for level in blueprint]
        state = weights.new_zeros(count, self.num_samples, self.width)
        outputs = []
        for step in steps:
            here = gated_step(state, step + state @ matrix, [count, 0, 0, 0])
            total = torch.zeros_like(here)
            for level, own in zip(blueprint, matrices, strict=True):
                taken = here.index_select(0, level.parent)
                here = gated_step(taken, taken @ own, level.counts)
                total = total.index_add(0, level.cell, here)
            state = total / self.num_nodes
            outputs.append(state)
        read = torch.cat(outputs, dim=1) @ head.reshape(count, self.width, -1) + bias[:, None]  # (N, T B, O)
        targets = labels.flatten(-3, -2)
        return (F.softplus(read) - targets * read).mean(dim=(1, 2))
