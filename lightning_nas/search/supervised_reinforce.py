"""REINFORCE whose embedding is trained along with the policy: the supervised counterpart of arch2vec's search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import LongTensor, Tensor

from lightning_nas.errors import UsageError
from lightning_nas.nn.shared_gin import GINShape, RunParameters, SharedGraphs, gin, share_vertices
from lightning_nas.search.history import SearchHistory
from lightning_nas.search.policy import LSTMPolicy, State
from lightning_nas.search.pool import CandidatePool
from lightning_nas.search.reinforce import Reinforce


@dataclass
class _Learned:
    """What the policies and encoders of some runs have learned; only saves replaying the history."""

    pool: CandidatePool[Any]
    indices: Tensor  # what the walk has seen …
    valid: Tensor  # … and the scores that were learned from
    policy: LSTMPolicy
    encoder: RunParameters
    table: Tensor  # embeddings of all candidates by the present encoders, (R, P, D)


class SupervisedReinforce(Reinforce):
    """REINFORCE through the encoder: arch2vec's supervised baseline (arXiv 2006.06936, Section 4.2).

    The walk is :class:`~lightning_nas.search.reinforce.Reinforce`'s, but in the embedding of a graph isomorphism
    network that begins untrained and takes one step of Adam after every episode, too: the policy's gradient reaches it
    by the embeddings of the cells from which the walk took its steps. Then all candidates are embedded anew, with
    batch normalisation over all of them. That costs a pass over the pool for each run and episode: a method for few
    runs on pools of some ten thousand candidates. Like the policy, the encoder follows from the history.

    Args:
        latent_dim: Dimensions of the embedding.
        hidden_dim: Width of the GIN layers.
        num_layers: GIN layers.
        encoder_learning_rate: Of the encoder's Adam.
        symmetric: Let vertices hear both their successors and their predecessors, instead of only their successors as
            published.
        discount: Weight of the next reward in a return; the paper has 0.8 on NAS-Bench-101 and 0.4 on NAS-Bench-201.
        baseline: Subtracted from returns, in percent; None for the mean of a run's own returns so far.
        spread: Standard deviation that the embeddings are scaled to, where the action's is one.
        episode_length: Queries between two updates, each of which embeds all candidates anew; the released code has 16.
        learning_rate: Of the policy's Adam.
        hidden_size: Units of the LSTM cell.
        mode: reference does what the released code does: every step is taken from the initial cell, a random one that
            is no query, so the policy never sees where it is; returns are the rewards alone; embeddings enter unscaled.
        skip_nearest: Never evaluate the candidate nearest to the action, but the next one, as the released code does on
            NAS-Bench-201 by an index that begins at one.
        block_size: Distances computed at a time; bounds memory.
    """

    def __init__(
        self,
        latent_dim: int = 16,
        hidden_dim: int = 128,
        num_layers: int = 4,
        encoder_learning_rate: float = 0.001,
        symmetric: bool = False,
        discount: float = 0.0,
        baseline: float | None = None,
        spread: float = 0.01,
        episode_length: int = 4,
        learning_rate: float = 0.01,
        hidden_size: int = 128,
        mode: Literal["paper", "reference"] = "paper",
        skip_nearest: bool = False,
        block_size: int = 2_000_000,
    ) -> None:
        if min(latent_dim, hidden_dim, num_layers) < 1 or encoder_learning_rate <= 0:
            raise UsageError(
                f"SupervisedReinforce(latent_dim={latent_dim}, hidden_dim={hidden_dim}, num_layers={num_layers}, "
                f"encoder_learning_rate={encoder_learning_rate}): all must be positive"
            )
        super().__init__(
            discount, baseline, spread, episode_length, learning_rate, hidden_size, None, mode, skip_nearest, block_size
        )
        self.latent_dim, self.hidden_dim, self.num_layers = latent_dim, hidden_dim, num_layers
        self.encoder_learning_rate, self.symmetric = encoder_learning_rate, symmetric
        self._learned: dict[tuple[int, ...], _Learned] = {}
        self._graphs: tuple[CandidatePool[Any], SharedGraphs] | None = None

    @property
    def needs_embeddings(self) -> bool:
        """It makes its own."""
        return False

    def _walk(self, history: SearchHistory, pool: CandidatePool[Any], count: int, episodes: int) -> LongTensor:
        """The next step of runs that have the same numbers of evaluations and of episodes behind them, ``(R,)``."""
        learned = self._remember(history, pool, count, episodes)
        while learned.policy.updates < episodes:
            self._improve(learned, history)
        state = learned.policy.blank()
        for column in range(count - (count - self._first) % self.episode_length, count + 1):
            mean, state = self._step(learned, history, column, state)
        learned.indices = history.indices[:, :count].clone()
        action = mean + self._noise(history, count, self.latent_dim)
        single = [slice(run, run + 1) for run in range(len(action))]
        return torch.cat([  # type: ignore[return-value]
            self._nearest(action[run], learned.table[row], history.rows(run), count) for row, run in enumerate(single)
        ])  # fmt: skip

    def _step(self, learned: _Learned, history: SearchHistory, column: int, state: State) -> tuple[Tensor, State]:
        place = self._place(history, column, learned.table.shape[1])
        return learned.policy.step(learned.table[torch.arange(len(place)), place], state)

    def _place(self, history: SearchHistory, column: int, size: int) -> Tensor:
        """The candidate from which a run takes the step of the given column, ``(R,)``."""
        return self._start(history, size) if self.mode == "reference" else super()._place(history, column, size)

    def _remember(self, history: SearchHistory, pool: CandidatePool[Any], count: int, episodes: int) -> _Learned:
        """What is remembered of these runs, if it follows from their history; otherwise what has learned nothing."""
        learned = self._learned.get(key := (history.seed, *history.runs.tolist()))
        if learned is not None and learned.pool is pool and learned.policy.updates <= episodes:
            asked, told = learned.indices.shape[1], learned.valid.shape[1]
            same = asked <= count and torch.equal(learned.indices, history.indices[:, :asked])
            if same and torch.equal(learned.valid, history.valid[:, :told].nan_to_num(nan=-1.0)):
                return learned
        runs = history.runs.tolist()
        policy = LSTMPolicy(
            [(history.seed, run, 0, 1) for run in runs], self.latent_dim, self.hidden_size, self.learning_rate
        )
        draws = torch.tensor([np.random.default_rng((history.seed, run, 0, 3)).random() for run in runs])
        shape = GINShape(len(pool.space.vertex_labels), self.hidden_dim, self.num_layers, self.latent_dim)
        encoder = RunParameters(shape.initial(draws.double()))
        nothing = history.prefix(0)
        learned = _Learned(pool, nothing.indices, nothing.valid, policy, encoder, torch.empty(0))
        self._embed_all(learned)
        self._learned[key] = learned
        return learned

    def _improve(self, learned: _Learned, history: SearchHistory) -> None:
        """Improve policy and encoder by the first episode that they have not learned from."""
        begin = self._first + learned.policy.updates * self.episode_length
        columns = range(begin, begin + self.episode_length)
        size = learned.table.shape[1]
        places = torch.stack([self._place(history, column, size) for column in columns], dim=1)  # (R, L)
        inputs = learned.table.gather(1, places[..., None].expand(-1, -1, self.latent_dim))
        noise = torch.stack([self._noise(history, column, self.latent_dim) for column in columns], dim=1)
        push = noise * self._advantages(history, begin).float()[..., None] / -self.episode_length  # (R, L, D)
        slope = _input_gradient(learned.policy, inputs, push)
        learned.policy.improve(inputs, push)
        gradients = []
        for run, leaves in enumerate(self._single(learned.encoder)):
            with torch.enable_grad():
                seen = self._embed(leaves, learned.pool)[places[run]]
            gradients.append(torch.autograd.grad(seen, leaves, slope[run]))
        stacked = [torch.cat(parts) for parts in zip(*gradients, strict=True)]
        learned.encoder.step(stacked, self.encoder_learning_rate)
        self._embed_all(learned)
        learned.valid = history.valid[:, : columns.stop].nan_to_num(nan=-1.0)

    @staticmethod
    def _single(encoder: RunParameters) -> list[list[Tensor]]:
        """The parameters of every run by itself, ``(1, …)`` each."""
        return [encoder.rows(torch.tensor([run])).leaves() for run in range(len(encoder.values))]

    def _embed_all(self, learned: _Learned) -> None:
        with torch.no_grad():
            learned.table = torch.stack([self._embed(one, learned.pool) for one in self._single(learned.encoder)])

    def _embed(self, parameters: list[Tensor], pool: CandidatePool[Any]) -> Tensor:
        """Embeddings of all candidates by one run's encoder, ``(P, D)``."""
        if self._graphs is None or self._graphs[0] is not pool:
            ops, adjacency = (part[pool.members] for part in pool.space.all_graphs())
            heard = adjacency | adjacency.mT if self.symmetric else adjacency
            everything = torch.ones(1, len(ops), dtype=torch.bool)
            labels = len(pool.space.vertex_labels) + 1
            self._graphs = pool, share_vertices(ops[None] + 1, heard[None], everything, self.num_layers, labels)
        embeddings = gin(parameters, self._graphs[1])[0]
        if self.mode == "reference":
            return embeddings
        centred = embeddings - embeddings.mean(dim=0)
        return centred * (self.spread / centred.square().mean().sqrt().clamp_min(1e-12))


def _input_gradient(policy: LSTMPolicy, inputs: Tensor, push: Tensor) -> Tensor:
    """Gradient of the loss with respect to what the policy saw, ``(R, L, D)``; arguments as ``LSTMPolicy.improve``."""
    with torch.enable_grad():
        seen = inputs.detach().requires_grad_()
        state, total = policy.blank(), seen.new_zeros(())
        for step in range(seen.shape[1]):
            mean, state = policy.step(seen[:, step], state)
            total = total + (mean * push[:, step]).sum()
        return torch.autograd.grad(total, seen)[0]
