"""Recurrent policies of R runs, trained side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

State = tuple[Tensor, Tensor]
"""Hidden and cell state of an LSTM cell, two of ``(R, H)``."""


class LSTMPolicy:
    """An LSTM cell and a linear layer for every run, which say the mean of a Gaussian action; trained with Adam.

    The parameters of all runs lie in a few tensors, so that a step is one batched product, and the gradient is
    written out by hand: it is linear in the action's noise.

    Args:
        seeds: What fixes the initial weights of each run, in the form that ``numpy.random.default_rng`` takes.
        size: Dimensions D of states and actions.
        hidden_size: Units H of the LSTM cell.
        learning_rate: Of Adam.
    """

    def __init__(self, seeds: Sequence[Sequence[int]], size: int, hidden_size: int, learning_rate: float) -> None:
        self.size, self.hidden_size, self.learning_rate = size, hidden_size, learning_rate
        shapes = [
            (size + hidden_size, 4 * hidden_size), (1, 4 * hidden_size), (hidden_size, size), (1, size),
        ]  # fmt: skip
        counts = [math.prod(shape) for shape in shapes]
        # Uniform in +-1/sqrt(H), as torch's own layers of this kind are.
        drawn = np.stack([np.random.default_rng(seed).random(sum(counts), dtype=np.float32) for seed in seeds])
        flat = torch.from_numpy(drawn).mul_(2.0).sub_(1.0).div_(math.sqrt(hidden_size))
        parts = flat.split(counts, dim=1)  # type: ignore[no-untyped-call]
        #: Input and hidden state to gates, its bias, read-out, its bias; each with the run axis first.
        self.parameters = [p.reshape(len(flat), *s).contiguous() for p, s in zip(parts, shapes, strict=True)]
        self._first = [torch.zeros_like(p) for p in self.parameters]
        self._second = [torch.zeros_like(p) for p in self.parameters]
        self.updates = 0

    def blank(self) -> State:
        """The state before the first step."""
        zeros = self.parameters[1].new_zeros(len(self.parameters[1]), self.hidden_size)
        return zeros, zeros

    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """Mean of the next action, ``(R, D)``, and the state after it.

        Args:
            inputs: What was reached by the action before, ``(R, D)``.
            state: The state before.
        """
        hidden, cell, _ = self._cell(inputs, state)
        return torch.baddbmm(self.parameters[3], hidden[:, None], self.parameters[2])[:, 0], (hidden, cell)

    def _cell(self, inputs: Tensor, state: State) -> tuple[Tensor, Tensor, Tensor]:
        weight, bias = self.parameters[:2]
        gates = torch.baddbmm(bias, torch.cat([inputs, state[0]], dim=1)[:, None], weight)[:, 0]  # (R, 4H)
        size = self.hidden_size
        gates = torch.cat([gates[:, : 3 * size].sigmoid(), gates[:, 3 * size :].tanh()], dim=1)
        enter, keep, leave, candidate = gates.split(size, dim=1)  # type: ignore[no-untyped-call]
        cell = keep * state[1] + enter * candidate
        return leave * cell.tanh(), cell, gates

    def improve(self, inputs: Tensor, push: Tensor) -> None:
        """One step of Adam that moves the means of an episode's actions.

        Args:
            inputs: What the policy saw, ``(R, L, D)``.
            push: Gradient of the loss with respect to the means, ``(R, L, D)``.
        """
        state, cells, gates, reads = self.blank(), [], [], []
        for step in range(inputs.shape[1]):
            reads.append(torch.cat([inputs[:, step], state[0]], dim=1))
            cells.append(state[1])
            *state, values = self._cell(inputs[:, step], state)  # type: ignore[assignment]
            gates.append(values)
        cells.append(state[1])
        hidden = torch.stack([*(read[:, self.size :] for read in reads[1:]), state[0]], dim=1)  # (R, L, H)
        to_hidden = push @ self.parameters[2].mT  # (R, L, H)
        recurrent = self.parameters[0][:, self.size :].mT
        later_hidden, later_cell = self.blank()
        slopes: list[Tensor] = []
        for step in reversed(range(inputs.shape[1])):
            enter, keep, leave, candidate = gates[step].split(self.hidden_size, dim=1)  # type: ignore[no-untyped-call]
            shown = cells[step + 1].tanh()
            on_hidden = to_hidden[:, step] + later_hidden
            on_cell = later_cell + on_hidden * leave * (1.0 - shown.square())
            parts = [
                on_cell * candidate * enter * (1.0 - enter),
                on_cell * cells[step] * keep * (1.0 - keep),
                on_hidden * shown * leave * (1.0 - leave),
                on_cell * enter * (1.0 - candidate.square()),
            ]
            slopes.append(torch.cat(parts, dim=1))  # (R, 4H)
            later_cell = on_cell * keep
            later_hidden = (slopes[-1][:, None] @ recurrent)[:, 0]
        slope = torch.stack(slopes[::-1], dim=1)  # (R, L, 4H)
        self._adam([
            torch.stack(reads, dim=1).mT @ slope, slope.sum(1, keepdim=True),
            hidden.mT @ push, push.sum(1, keepdim=True),
        ])  # fmt: skip

    def _adam(self, gradients: list[Tensor]) -> None:
        self.updates += 1
        beta1, beta2 = 0.9, 0.999
        torch._foreach_lerp_(self._first, gradients, 1.0 - beta1)
        torch._foreach_mul_(self._second, beta2)
        torch._foreach_addcmul_(self._second, gradients, gradients, 1.0 - beta2)
        size = torch._foreach_sqrt(self._second)
        torch._foreach_div_(size, math.sqrt(1.0 - beta2**self.updates))
        torch._foreach_add_(size, 1e-8)
        torch._foreach_addcdiv_(self.parameters, self._first, size, -self.learning_rate / (1.0 - beta1**self.updates))
