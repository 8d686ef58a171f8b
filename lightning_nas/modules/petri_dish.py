"""Synthetic Petri Dish: data learned so that tiny networks rank motifs as large ones do (arXiv 2005.13092)."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_nas.errors import UsageError
from lightning_nas.nn.described import described, made
from lightning_nas.nn.inner_loop import InnerLoop
from lightning_nas.nn.motif_network import MotifNetwork, SlopeNetwork

Batch = tuple[Tensor, Tensor, Tensor]
"""Indices in the space ``(N,)``, motifs ``(N, …)``, scores ``(N,)``, higher for better."""

LOWEST = -100.0
"""Score of a motif whose training overflows, in standard deviations: worse than any that does not."""

_OVERFLOW = 1e100
_log = logging.getLogger(__name__)


def standardised(values: Tensor) -> Tensor:
    """Less their mean, by their standard deviation (over all of them), along the last axis; NaN is left out.

    The released code divides by zero where all values are the same; here they become 0.

    Shapes:
        ``(…, N)`` -> ``(…, N)``, NaN where the value is.
    """
    known = values.isfinite()
    count = known.sum(dim=-1, keepdim=True).clamp_min(1)
    centred = torch.where(known, values, 0.0)
    centred = torch.where(known, values - centred.sum(dim=-1, keepdim=True) / count, 0.0)
    variance = centred.square().sum(dim=-1, keepdim=True) / count
    safe = variance > 0
    scaled = centred * torch.where(safe, variance, 1.0).rsqrt() * safe
    return torch.where(known, scaled, torch.nan)


def matching_loss(losses: Tensor, scores: Tensor) -> Tensor:
    """Mean squared difference between standardised negative losses and scores (Sec. 3 of the paper).

    Motifs whose loss is NaN are left out on both sides.

    Shapes:
        ``(…, N)``, ``(…, N)`` -> ``(…)``.
    """
    known = losses.isfinite()
    difference = standardised(-losses) - standardised(torch.where(known, scores, torch.nan))
    squares = torch.where(known, difference, 0.0).square()
    return squares.sum(dim=-1) / known.sum(dim=-1).clamp_min(1)


class PetriDish(LightningModule):
    """Learns the inputs on which motif-networks are trained and evaluated, so that their losses rank motifs.

    Every motif makes a tiny network of it; all begin with the same weights, are trained on the learned training inputs
    and evaluated on the learned validation inputs; labels are random and stay. An outer step moves the inputs along the
    gradient through the whole training. A new motif is scored by the same training. All of the dish, inputs, labels,
    initial weights and how motif-networks are trained, is in the checkpoint. Everything is in double precision: losses
    differ by little, and the chain of steps is long. An epoch is one outer step on all motifs, which several processes
    share.

    Args:
        network: Blueprint of the motif-networks; default ``SlopeNetwork``.
        loop: How they are trained; default 250 steps of Adam.
        num_dishes: Dishes that differ in inputs, labels and initial weights, trained side by side; the median of their
            scores counts, for a single dish (the paper's) may extrapolate to anything.
        keep: Share of the dishes whose median this is, at least one: those that match the known scores best.
        init_scale: Standard deviation of the initial weights.
        penalty: Weight of the sum of squares of all inputs.
        stages: Outer steps and learning rate of each stage, in turn; the last one goes on for as long as the trainer
            does. The released code has 20 steps of 0.05, 30 of 0.02, 30 of 0.008.
        reset_moments: Begin every stage with a new optimiser (released code).
        optimizer: Outer optimiser, whose learning rate is that of the stage; default Adam.
        clip: Largest norm of a dish's gradient; None for no limit.
        normalise: Make the gradient of every dish one long.
        seed: Of inputs, labels and initial weights.

    Shapes:
        A batch is ``(index (N,), motifs (N, …), scores (N,))``, all motifs at once; losses are ``(R, N)``, of R dishes.

    Example:
        >>> dish = PetriDish(num_dishes=2, loop=InnerLoop(num_steps=3))
        >>> dish(torch.tensor([0.5, 1.0, 1.5])).shape
        torch.Size([2, 3])
    """

    method = "Petri dish"

    def __init__(
        self,
        network: MotifNetwork | None = None,
        loop: InnerLoop | None = None,
        num_dishes: int = 8,
        keep: float = 0.6,
        init_scale: float = 1.0,
        penalty: float = 1e-5,
        stages: Sequence[tuple[int, float]] = ((20, 0.05), (30, 0.02), (30, 0.008)),
        reset_moments: bool = True,
        optimizer: OptimizerCallable | None = None,
        clip: float | None = None,
        normalise: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        stages = [(int(steps), float(rate)) for steps, rate in stages]
        if not stages or min(num_dishes, init_scale, *(n for pair in stages for n in pair)) <= 0 or penalty < 0:
            raise UsageError(
                f"PetriDish(num_dishes={num_dishes}, init_scale={init_scale}, penalty={penalty}, stages={stages}): "
                "expected positive numbers (penalty may be 0), and at least one stage of steps and learning rate"
            )
        if not 0 < keep <= 1:
            raise UsageError(f"PetriDish(keep={keep}): expected a share in (0, 1]")
        if clip is not None and (clip <= 0 or normalise):
            raise UsageError(f"PetriDish(clip={clip}, normalise={normalise}): expected a positive clip, or one of them")
        self.network: MotifNetwork = made(network) or SlopeNetwork()
        self.loop: InnerLoop = made(loop) or InnerLoop()
        self.save_hyperparameters(ignore=["optimizer", "network", "loop", "stages"])
        self.save_hyperparameters({
            "network": described(self.network), "loop": described(self.loop), "stages": [list(pair) for pair in stages]
        })  # fmt: skip
        self.stages, self.reset_moments, self.optimizer = stages, reset_moments, optimizer
        self.init_scale, self.penalty, self.clip, self.normalise, self.seed = init_scale, penalty, clip, normalise, seed
        self.keep = keep
        self.inputs: nn.Parameter
        self.valid_inputs: nn.Parameter
        self.labels: Tensor
        self.initial: Tensor
        self.location: Tensor  # of the training motifs' losses at the last outer step, and their standard deviation
        self.scale: Tensor
        self.misfit: Tensor  # matching loss at the last outer step
        dishes = [self._fresh(seed, number, init_scale) for number in range(num_dishes)]
        inputs, labels, initial = (torch.stack(parts) for parts in zip(*dishes, strict=True))
        self.inputs, self.valid_inputs = nn.Parameter(inputs), nn.Parameter(inputs.clone())
        self.register_buffer("labels", labels)
        self.register_buffer("initial", initial)
        self.register_buffer("location", torch.zeros(num_dishes, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(num_dishes, dtype=torch.float64))
        self.register_buffer("misfit", torch.zeros(num_dishes, dtype=torch.float64))
        self._most_dropped = 0

    def _fresh(self, seed: int, number: int, scale: float) -> tuple[Tensor, Tensor, Tensor]:
        """Normal inputs, fair bits, initial weights."""
        (entropy,) = np.random.SeedSequence((seed, number)).generate_state(1, np.uint64).tolist()
        generator = torch.Generator().manual_seed(entropy >> 1)
        inputs = torch.randn(self.network.input_shape, generator=generator, dtype=torch.float64)
        labels = torch.randint(2, self.network.label_shape, generator=generator).double()
        return inputs, labels, self.network.initial(generator, scale)

    @torch.no_grad()
    def begin_anew(self, dishes: Sequence[tuple[int, int]]) -> None:
        """Give every dish the random data and weights of a seed of its own and a number within that seed."""
        for place, (seed, number) in enumerate(dishes):
            inputs, self.labels[place], self.initial[place] = self._fresh(seed, number, self.init_scale)
            self.inputs[place] = self.valid_inputs[place] = inputs

    def fresh_inputs(self, number: int) -> Tensor:
        """Inputs of a dish before it learned anything."""
        return self._fresh(self.seed, number, 1.0)[0]

    def forward(self, motifs: Tensor) -> Tensor:
        """Validation losses of motifs after their training, NaN where that overflows.

        Shapes:
            ``(N, …)``, or for each dish its own ``(R, N, …)`` -> ``(R, N)``.
        """
        dishes = len(self.labels)
        if motifs.dim() == self._motif_dim:
            motifs = motifs.expand(dishes, *motifs.shape)
        count = motifs.shape[1]
        inputs, valid, labels, initial = (
            values.unsqueeze(1).expand(-1, count, *values.shape[1:]).flatten(0, 1)
            for values in (self.inputs, self.valid_inputs, self.labels, self.initial)
        )
        motifs = motifs.flatten(0, 1)
        trained = self.loop.train(self.network, initial, motifs, inputs, labels)
        finite = trained.detach().abs().amax(dim=1) < _OVERFLOW
        trained = torch.where(finite[:, None], trained, initial)  # anything without NaN, so that no gradient has one
        losses = self.network.loss(trained, self.network.prepared(motifs), valid, labels)
        return torch.where(finite, losses, torch.nan).view(dishes, count)

    @property
    def _motif_dim(self) -> int:
        return 1 + len(self.network.motif_shape)

    def score(self, motifs: Tensor) -> Tensor:
        """Negative losses in standard deviations of the training motifs' losses, ``(N, …)`` -> ``(R, N)``."""
        with torch.no_grad():
            scores: Tensor = (self.location[:, None] - self(motifs)) / self.scale[:, None]
        return scores.nan_to_num(nan=LOWEST)

    def consensus(self, motifs: Tensor, num_runs: int = 1) -> Tensor:
        """Median score of the dishes that match the known scores best, of runs with as many dishes each.

        Shapes:
            As in :meth:`forward` -> ``(num_runs, N)``.
        """
        scores = self.score(motifs).view(num_runs, -1, motifs.shape[-self._motif_dim])
        kept = max(1, round(self.keep * scores.shape[1]))
        best = self.misfit.view(num_runs, -1).argsort(dim=1, stable=True)[:, :kept]
        return scores.gather(1, best[..., None].expand(-1, -1, scores.shape[2])).quantile(0.5, dim=1)

    # One outer step

    def outer_loss(self, motifs: Tensor, scores: Tensor) -> Tensor:
        """Of every dish, matching loss and penalty; motifs as in :meth:`forward`, scores ``(…, N)`` -> ``(R,)``."""
        losses = self._of_all(motifs)
        self._keep_statistics(losses.detach())
        mine = matching_loss(losses, scores.double().expand_as(losses))
        self.misfit.copy_(mine.detach())
        squares = self.inputs.square().flatten(1).sum(dim=1) + self.valid_inputs.square().flatten(1).sum(dim=1)
        # Every process knows all losses but only the slopes of its own; their mean is taken over processes.
        return mine * self._world_size + self.penalty * squares + (1 - self._world_size) * mine.detach()

    @property
    def _world_size(self) -> int:
        return 1 if self._trainer is None else self.trainer.world_size

    def _of_all(self, motifs: Tensor) -> Tensor:
        """Losses of all motifs, those of this process's share with gradients."""
        if self._world_size == 1:
            return self(motifs)  # type: ignore[no-any-return]
        shared = motifs.dim() == self._motif_dim
        count = motifs.shape[0 if shared else 1]
        own = torch.arange(self.global_rank, count, self._world_size, device=self.device)
        losses = self(motifs[own] if shared else motifs[:, own])
        everyone = losses.new_zeros(len(losses), count).index_copy(1, own, losses.detach())
        everyone = self.trainer.strategy.reduce(everyone, reduce_op="sum")
        return everyone.index_copy(1, own, losses)

    @torch.no_grad()
    def _keep_statistics(self, losses: Tensor) -> None:
        known = losses.isfinite()
        dropped = int((~known).sum())
        if dropped > self._most_dropped:
            self._most_dropped = dropped
            _log.warning(
                "PetriDish: left %d of %d motifs out, whose training overflowed; a lower inner learning rate, fewer "
                "inner steps or loop.max_norm prevents it", dropped, known.numel(),
            )  # fmt: skip
        for place, row in enumerate(losses):
            values = row[row.isfinite()]
            if len(values) < 2:
                raise UsageError(
                    f"PetriDish: {len(values)} of {len(row)} motifs are left in dish {place}; expected at least two. "
                    "Lower the learning rate of the inner loop, or set its max_norm"
                )
            self.location[place] = values.mean()
            self.scale[place] = values.std(correction=0).clamp_min(torch.finfo(values.dtype).tiny)

    def begin_step(self, number: int, optimizer: Optimizer) -> None:
        """Set the learning rate of an outer step, counted from 0; the moments where a stage begins."""
        ends = list(accumulate(steps for steps, _ in self.stages))
        stage = min(bisect_right(ends, number), len(ends) - 1)
        if number in (0, *ends[:-1]) and self.reset_moments:
            optimizer.state.clear()
        for group in optimizer.param_groups:
            group["lr"] = self.stages[stage][1]

    @torch.no_grad()
    def shape_gradients(self) -> None:
        """Shorten or normalise the gradient of every dish, where asked to."""
        if self.clip is None and not self.normalise:
            return
        gradients = [parameter.grad for parameter in (self.inputs, self.valid_inputs) if parameter.grad is not None]
        norm = torch.cat([gradient.flatten(1) for gradient in gradients], dim=1).norm(dim=1)
        factor = 1.0 / norm.clamp_min(1e-300) if self.clip is None else self.clip / norm.clamp_min(self.clip)
        for gradient in gradients:
            gradient *= factor.view(-1, *[1] * (gradient.dim() - 1))

    def learn(self, motifs: Tensor, scores: Tensor, num_steps: int | None = None) -> list[Tensor]:
        """All outer steps without a trainer; the loss of every dish before each, ``(R,)``.

        Args:
            motifs: ``(N, …)``, or for each dish its own ``(R, N, …)``.
            scores: Higher for better, ``(N,)`` or ``(R, N)``.
            num_steps: Outer steps; default: those of all stages.
        """
        optimizer, found = self.make_optimizer(), []
        for number in range(sum(steps for steps, _ in self.stages) if num_steps is None else num_steps):
            self.begin_step(number, optimizer)
            optimizer.zero_grad()
            with torch.enable_grad():
                loss = self.outer_loss(motifs, scores)
                loss.sum().backward()  # type: ignore[no-untyped-call]
            self.shape_gradients()
            optimizer.step()
            found.append(loss.detach())
        return found

    def make_optimizer(self) -> Optimizer:
        """A new outer optimiser."""
        parameters = [self.inputs, self.valid_inputs]
        return self.optimizer(parameters) if self.optimizer else torch.optim.Adam(parameters, self.stages[0][1])

    # Lightning

    def on_train_epoch_start(self) -> None:
        """An epoch is one outer step."""
        optimizer: Any = self.optimizers()
        self.begin_step(self.current_epoch, optimizer.optimizer)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Outer loss, the sum over dishes: they do not know of each other."""
        _, motifs, scores = batch
        loss = self.outer_loss(motifs, scores)
        size = len(scores)
        self.log("train/loss", loss.detach().mean(), on_step=False, on_epoch=True, batch_size=size, prog_bar=True)
        self.log("train/input_norm", self.inputs.detach().norm(), on_step=False, on_epoch=True, batch_size=size)
        return loss.sum()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Guards of the gradient."""
        self.shape_gradients()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """How well motifs that were not trained on are ranked, and how far off they are in standard deviations."""
        self._rank(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """The same on the test motifs."""
        self._rank(batch, "test")

    def _rank(self, batch: Batch, part: str) -> None:
        from torchmetrics.functional import spearman_corrcoef

        _, motifs, scores = batch
        guess = self.consensus(motifs)[0]
        agreement = spearman_corrcoef(guess, scores.double())
        error = (standardised(guess) - standardised(scores.double())).square().mean()
        self.log(f"{part}/spearman", agreement, batch_size=len(scores), prog_bar=True)
        self.log(f"{part}/mse", error, batch_size=len(scores))

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> tuple[Tensor, Tensor]:
        """Indices of motifs ``(B,)``, and their scores, median over dishes, ``(B, 1)``."""
        return batch[0], self.consensus(batch[1])[0, :, None]

    def configure_optimizers(self) -> Optimizer:
        """The outer optimiser; :meth:`begin_step` sets its learning rate."""
        return self.make_optimizer()
