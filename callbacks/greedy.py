"""Deciding a supernet's edges while it is trained: one after another (SGAS), or by pruning in stages (DrNAS)."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_nas.benchmarks.base import Benchmark
from lightning_nas.callbacks.selection import Selection
from lightning_nas.errors import UsageError
from lightning_nas.modules.darts import DARTS
from lightning_nas.modules.supernet_scores import missed_most
from lightning_nas.nn.supernet import Supernet


class SGAS(Selection):
    """Sequential greedy architecture search, criterion 1 (arXiv 1912.00195).

    After some epochs, and then at regular intervals, the edge is settled that is both important (weight of its
    operations other than ``none``) and certain (small entropy of their distribution): it keeps its largest operation,
    and its parameters stop learning. Where nodes keep some edges only, the others of a node leave when it has these.
    The released code also enlarges the batches after each decision, which this does not.

    Args:
        label: What the method is called in tables; default: the supernet's label.
        benchmarks: What architectures score, by the name of the data set.
        first: Epochs before the first decision (released code: 10 of 50).
        interval: Epochs between two decisions.
        operation: ``magnitude`` keeps an edge's largest operation, ``perturbation`` the one that the supernet misses
            most on the validation images (SGAS-PT, arXiv 2108.04392).
    """

    def __init__(
        self,
        label: str | None = None,
        benchmarks: dict[str, Benchmark] | None = None,  # type: ignore[type-arg]
        first: int = 10,
        interval: int = 5,
        operation: Literal["magnitude", "perturbation"] = "magnitude",
    ) -> None:
        super().__init__(label, benchmarks)
        if min(first, interval) < 1 or operation not in ("magnitude", "perturbation"):
            raise UsageError(
                f"SGAS(first={first}, interval={interval}, operation={operation!r}): expected positive numbers, and "
                "operation 'magnitude' or 'perturbation'"
            )
        self.first, self.interval, self.operation = first, interval, operation

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Also check that all edges are settled when training ends."""
        super().setup(trainer, pl_module, stage)
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        assert isinstance(pl_module, DARTS)
        network = pl_module.network
        decisions = network.shape[1] if network.kept is None else network.kept * len(network.arriving(0))
        needed = self.first + self.interval * (decisions - 1)
        if stage == "fit" and (trainer.max_epochs or 0) < needed:
            raise UsageError(
                f"SGAS(first={self.first}, interval={self.interval}): its {decisions} decisions end after {needed} "
                f"epochs; expected trainer.max_epochs of at least that, got {trainer.max_epochs}"
            )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Settle an edge of every kind of cell when it is time."""
        assert isinstance(pl_module, DARTS)
        past = trainer.current_epoch + 1 - self.first
        if past < 0 or past % self.interval:
            return
        for kind in range(pl_module.network.shape[0]):
            edge = self._next(pl_module, kind)
            if edge is not None:
                self._settle(trainer, pl_module, kind, edge)

    def _next(self, module: DARTS, kind: int) -> int | None:
        """The most important and certain edge that is not settled."""
        names = module.network.groups[kind].operations
        real = torch.tensor([[name != "none" for name in row] for row in names])
        with torch.no_grad():
            weights = module.mixing.mean(module.alpha, torch.ones_like(module.active))[kind].cpu() * real
        importance = weights.sum(dim=-1)
        shares = weights / importance[:, None]
        entropy = -(shares * shares.clamp_min(1e-12).log()).sum(dim=-1)
        certainty = 1.0 - entropy / math.log(int(real[0].sum()))
        score = _scaled(importance) * _scaled(certainty)
        free = (module.decided[kind] < 0).cpu() & module.active[kind].any(dim=-1).cpu()
        return int(score.masked_fill(~free, -1.0).argmax()) if free.any() else None

    def _settle(self, trainer: Trainer, module: DARTS, kind: int, edge: int) -> None:
        names = module.network.groups[kind].operations[edge]
        candidates = [code for code, name in enumerate(names) if name != "none"]
        if self.operation == "perturbation":
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            scored = data.scoring_batches(module.device)
            code = missed_most(module, lambda: scored, kind, edge, candidates)
        else:
            with torch.no_grad():
                weights = module.mixture().weights[kind, edge]
            code = max(candidates, key=lambda one: float(weights[one]))
        module.decided[kind, edge] = code
        if module.network.kept is None:
            return
        for arriving in module.network.arriving(kind):
            settled = [other for other in arriving if module.decided[kind, other] >= 0]
            if edge in arriving and len(settled) == module.network.kept:
                module.active[kind, [other for other in arriving if other not in settled]] = False

    def select(self, trainer: Trainer, module: DARTS) -> Tensor:
        """The settled edges."""
        choice = module.decided.cpu().clone()
        expected = choice.numel() if module.network.kept is None else None
        for kind in range(len(choice)):
            full = sum(min(module.network.kept or 0, len(edges)) for edges in module.network.arriving(kind))
            if int((choice[kind] >= 0).sum()) < (len(choice[kind]) if expected else full):
                raise UsageError(
                    f"SGAS: training ended with {int((choice[kind] >= 0).sum())} settled edges of the "
                    f"{module.network.groups[kind].name} cell; continue it with --ckpt_path last and more epochs"
                )
        return choice


def _scaled(values: Tensor) -> Tensor:
    """To 0 … 1; ones where all are the same but for rounding."""
    span = values.max() - values.min()
    return torch.ones_like(values) if span < 1e-6 else (values - values.min()) / span


class ProgressivePruning(Callback):
    """Leaves fewer operations on every edge from some epoch on, and shows them more channels (DrNAS, arXiv 2006.10355).

    The operations with the largest parameters stay; the others are not computed any more. New channels copy random old
    ones, in weights, statistics and momentum, so that the network goes on about where it was (section 3.4).

    Args:
        epoch: Epochs before.
        keep: Operations of every edge that stay.
        partial: One over the share of the channels that they see from then on, k; None for no change.
        warmup_epochs: Epochs after it in which alpha rests again.
    """

    def __init__(self, epoch: int, keep: int, partial: int | None = None, warmup_epochs: int = 0) -> None:
        if min(epoch, keep) < 1 or warmup_epochs < 0 or (partial is not None and partial < 1):
            raise UsageError(
                f"ProgressivePruning(epoch={epoch}, keep={keep}, partial={partial}, warmup_epochs={warmup_epochs}): "
                "expected positive numbers"
            )
        self.epoch, self.keep, self.partial, self.warmup_epochs = epoch, keep, partial, warmup_epochs

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check what can be checked before the work starts."""
        if not isinstance(pl_module, DARTS):
            raise UsageError(f"ProgressivePruning: got a {type(pl_module).__name__}, expected a DARTS supernet")
        if self.keep > (candidates := pl_module.network.shape[2]):
            raise UsageError(f"ProgressivePruning(keep={self.keep}): edges have only {candidates} operations")
        if self.partial is not None:
            pl_module.make_network({**pl_module.sizes, "partial": self.partial})

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune and widen when it is time; a training that is resumed later finds it done."""
        assert isinstance(pl_module, DARTS)
        if trainer.current_epoch >= self.epoch:
            pl_module.warmup_epochs = max(pl_module.warmup_epochs, self.epoch + self.warmup_epochs)
        if trainer.current_epoch != self.epoch:
            return
        best = pl_module.alpha.detach().topk(self.keep, dim=-1).indices
        pl_module.active &= torch.zeros_like(pl_module.active).scatter(-1, best, True)
        if self.partial is not None:
            self._widen(trainer, pl_module, self.partial)

    def _widen(self, trainer: Trainer, module: DARTS, partial: int) -> None:
        old = module.network
        new = module.make_network({**module.sizes, "partial": partial}).to(module.device)
        rng = np.random.default_rng((module.seed, 11))
        optimizer = trainer.optimizers[0]
        maps: dict[tuple[int, int], Tensor] = {}
        before, after = dict(old.named_parameters()), dict(new.named_parameters())
        with torch.no_grad():
            for name, buffer in new.named_buffers():
                buffer.copy_(widened(old, name, old.get_buffer(name), buffer.shape, rng, maps))
            for name, parameter in after.items():
                parameter.copy_(widened(old, name, before[name], parameter.shape, rng, maps))
        parameters = optimizer.param_groups[0]["params"]
        order = {id(parameter): name for name, parameter in before.items()}
        state = {}
        for parameter in parameters:
            name = order[id(parameter)]
            found = optimizer.state.pop(parameter, {})
            shape = after[name].shape
            state[after[name]] = {
                key: widened(old, name, value, shape, rng, maps) if torch.is_tensor(value) and value.dim() else value
                for key, value in found.items()
            }
        optimizer.param_groups[0]["params"] = [after[order[id(parameter)]] for parameter in parameters]
        optimizer.state.update(state)  # type: ignore[arg-type]
        module.sizes["partial"] = partial
        module.network = new


def widened(
    network: Supernet,
    name: str,
    old: Tensor,
    shape: torch.Size,
    rng: np.random.Generator,
    maps: dict[tuple[int, int], Tensor],
) -> Tensor:
    """A tensor of the network with more channels: the old ones, then copies of random ones.

    Args:
        network: The network before.
        name: Of the tensor.
        old: What it was.
        shape: What it becomes.
        rng: Draws the copied channels.
        maps: Which channel each new one copies, for every change of size: the same everywhere.
    """
    blocks = network.blocks(name)
    for axis, (before, after) in enumerate(zip(old.shape, shape, strict=True)):
        if before == after:
            continue
        count = blocks if axis == 0 else 1
        sizes = before // count, after // count
        if sizes not in maps:
            copies = rng.integers(sizes[0], size=sizes[1] - sizes[0])
            maps[sizes] = torch.from_numpy(np.concatenate([np.arange(sizes[0]), copies]))
        index = torch.cat([maps[sizes] + block * sizes[0] for block in range(count)]).to(old.device)
        old = old.index_select(axis, index)
    return old
