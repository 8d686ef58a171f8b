"""A hash of labelled directed graphs that does not depend on the order of their vertices."""

from __future__ import annotations

from typing import Protocol

from torch import LongTensor, Tensor


class Graphs(Protocol):
    """Labels of vertices ``(B, V)`` and arcs ``(B, V, V)``."""

    @property
    def ops(self) -> Tensor:
        """Label of every vertex."""
        ...

    @property
    def adjacency(self) -> Tensor:
        """Whether an arc leads from u to v."""
        ...


def isomorphism_hashes(graphs: Graphs) -> LongTensor:
    """A number per graph that is equal for isomorphic labelled graphs (Weisfeiler-Lehman), ``(B,)`` int64.

    Every vertex repeatedly mixes its own number with the sums over predecessors and successors; after V rounds the
    graph's number is the sum over vertices. Integers wrap around, which is what makes the mixing cheap.

    Args:
        graphs: B labelled graphs, for example a ``CellGraph``; label -1 is padding.
    """
    adjacency = graphs.adjacency.long()
    state = _mix(graphs.ops + 2)
    for _ in range(graphs.ops.shape[-1]):
        heard = _mix(_gather(adjacency, state) + 3), _mix(_gather(adjacency.mT, state) + 5)
        state = _mix(state * 7 + heard[0] * 11 + heard[1] * 13)
    return state.sum(dim=-1)  # type: ignore[return-value]


def _gather(adjacency: Tensor, state: Tensor) -> Tensor:
    return (adjacency * state[:, None, :]).sum(dim=-1)  # integer matmul is slow or missing on most devices


def _mix(x: Tensor) -> Tensor:
    """Bijective scrambling of 64-bit integers (the finaliser of splitmix64)."""
    x = (x ^ _shift(x, 30)) * -4658895280553007687
    x = (x ^ _shift(x, 27)) * -7723592293110705685
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Shift right filling with zeros; torch copies the sign, which would drop a bit of the number."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
