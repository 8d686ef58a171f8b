"""Language models of recurrent cells, many cells side by side (NAO's recurrent network, arXiv 1808.07233)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

ACTIVATIONS = ("tanh", "relu", "identity", "sigmoid")


class Level(NamedTuple):
    """Nodes of all cells that are equally far from their initial states, those of one activation next to each other.

    Attributes:
        parent: Row of the level before that each node takes, ``(M,)``; level 0 has a row for each cell.
        cell: Which cell each belongs to, ``(M,)``.
        weight: Row of the cells' weights, all nodes of a cell in turn, ``(M,)``.
        counts: Nodes of each activation.
    """

    parent: Tensor
    cell: Tensor
    weight: Tensor
    counts: list[int]


def levels(cells: Tensor) -> list[Level]:
    """Nodes by their depth: a step of all cells takes as many operations as the deepest has levels, not nodes.

    Args:
        cells: ``p1 a1 p2 a2 …`` of N cells, ``(N, 2 V)``.
    """
    device = cells.device
    sources, activations = cells[:, ::2].cpu(), cells[:, 1::2].cpu()
    count, nodes = sources.shape
    depth = torch.zeros(count, nodes + 1, dtype=torch.long)
    for number in range(nodes):
        depth[:, number + 1] = depth.gather(1, sources[:, number : number + 1])[:, 0] + 1
    place = torch.zeros(count, nodes + 1, dtype=torch.long)  # of each node in its level
    place[:, 0] = torch.arange(count)
    found = []
    for number in range(1, int(depth.max()) + 1):
        cell, node = (depth[:, 1:] == number).nonzero(as_tuple=True)
        kind = activations[cell, node]
        order = kind.argsort(stable=True)
        cell, node = cell[order], node[order]
        place[cell, node + 1] = torch.arange(len(cell))
        parent = place[cell, sources[cell, node]]
        counts = kind.bincount(minlength=len(ACTIVATIONS)).tolist()
        found.append(Level(parent.to(device), cell.to(device), (cell * nodes + node).to(device), counts))
    return found


def activated(values: Tensor, counts: list[int]) -> Tensor:
    """The first rows through tanh, the next through relu, and so on."""
    tanh, relu, identity, sigmoid = torch.split(values, counts)
    return torch.cat([tanh.tanh(), relu.relu(), identity, sigmoid.sigmoid()])


def gated_step(state: Tensor, values: Tensor, counts: list[int]) -> Tensor:
    """``s + c (h - s)`` with a gate c and an activation h; h alone where the values are no wider than the state."""
    if values.shape[-1] == state.shape[-1]:
        return activated(values, counts)
    gate, step = values.chunk(2, dim=-1)
    return torch.lerp(state, activated(step, counts), gate.sigmoid())


class Dropped(NamedTuple):
    """Variational dropout of a batch: masks that stay for all its time steps, already divided by what is kept.

    Attributes:
        words: Of whole words, ``(vocabulary,)``.
        inputs: Of the cell's input, ``(B, H)``.
        hidden: Of the hidden state, ``(B, H)``.
        outputs: Of the cell's output, ``(B, H)``.
    """

    words: Tensor | None
    inputs: Tensor | None
    hidden: Tensor | None
    outputs: Tensor | None


NOTHING_DROPPED = Dropped(None, None, None, None)


class LanguageModels(nn.Module):
    """N language models of one size with their own cells, embedding and softmax tied.

    A step: from input and last state the initial state ``s0 = h + c0 (h0 - h)`` with ``[c0, h0] = [x, h] W0``, gate
    ``c0 = sigmoid``, ``h0 = tanh``; node i takes ``s_p`` and gives ``s_p + c (act(h) - s_p)`` with ``[c, h] =
    s_p W_i``; the new state is the mean of all nodes.

    Args:
        cells: ``(N, 2 V)`` integers.
        vocabulary_size: Words.
        width: Of embedding and state, H.
        init_range: Weights are uniform within plus and minus this.
        seed: Of the weights, which are the same for all cells.
        gated: Whether nodes have gates.

    Shapes:
        tokens ``(T, B)``, state ``(N, B, H)`` -> outputs ``(N, T, B, H)`` and the next state.
    """

    def __init__(
        self, cells: Tensor, vocabulary_size: int, width: int, init_range: float = 0.04, seed: int = 0,
        gated: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        count, nodes = len(cells), cells.shape[1] // 2
        columns = 2 * width if gated else width
        generator = torch.Generator().manual_seed(seed)

        def drawn(*shape: int) -> nn.Parameter:
            values = init_range * (2.0 * torch.rand(shape, generator=generator) - 1.0)
            return nn.Parameter(values.expand(count, *shape).clone())

        self.vocabulary_size, self.width, self.nodes = vocabulary_size, width, nodes
        self.embedding = drawn(vocabulary_size, width)
        self.first = drawn(2 * width, columns)
        self.matrices = drawn(nodes, width, columns)
        self.bias = nn.Parameter(torch.zeros(count, vocabulary_size))
        self.cells: Tensor
        self.register_buffer("cells", cells)
        self.levels = levels(cells)

    def initial_state(self, batch_size: int) -> Tensor:
        """Zeros, ``(N, B, H)``."""
        return self.bias.new_zeros(len(self.cells), batch_size, self.width)

    def forward(self, tokens: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits ``(N, T, B, vocabulary)`` and the next state."""
        outputs, state = self.run(tokens, self.initial_state(tokens.shape[1]) if state is None else state)
        return self.logits(outputs), state

    def logits(self, outputs: Tensor) -> Tensor:
        """Class scores of outputs, ``(N, T, B, H)`` -> ``(N, T, B, vocabulary)``."""
        flat = torch.baddbmm(self.bias[:, None], outputs.flatten(1, 2), self.embedding.mT)
        return flat.view(*outputs.shape[:-1], -1)

    def run(self, tokens: Tensor, state: Tensor, dropped: Dropped = NOTHING_DROPPED) -> tuple[Tensor, Tensor]:
        """Outputs ``(N, T, B, H)``, before dropout of these, and the last state ``(N, B, H)``."""
        count, (length, size) = len(self.cells), tokens.shape
        offsets = torch.arange(count, device=tokens.device)[:, None] * self.vocabulary_size
        words = self.embedding.flatten(0, 1).index_select(0, (tokens.flatten() + offsets).flatten())
        inputs = words.view(count, length, size, self.width)
        if dropped.words is not None:
            inputs = inputs * dropped.words[tokens][..., None]
        if dropped.inputs is not None:
            inputs = inputs * dropped.inputs
        of_input, of_state = self.first.split(self.width, dim=1)  # type: ignore[no-untyped-call]
        projected = torch.bmm(inputs.flatten(1, 2), of_input).view(count, length, size, -1).unbind(1)
        matrices = [self.matrices.flatten(0, 1).index_select(0, level.weight) for level in self.levels]
        outputs = []
        for step in projected:
            before = state if dropped.hidden is None else state * dropped.hidden
            here = gated_step(before, torch.baddbmm(step, before, of_state), [count, 0, 0, 0])
            total = torch.zeros_like(here)
            for level, matrix in zip(self.levels, matrices, strict=True):
                taken = here.index_select(0, level.parent)
                here = gated_step(taken, torch.bmm(taken, matrix), level.counts)
                total = total.index_add(0, level.cell, here)
            state = total / self.nodes
            outputs.append(state)
        return torch.stack(outputs, dim=1), state
