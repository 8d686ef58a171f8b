"""Differentiable architecture search: one supernet, two levels of optimisation (DARTS, arXiv 1806.09055)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer

from lightning_nas.errors import UsageError
from lightning_nas.modules.classifier import PercentAccuracy
from lightning_nas.nn.described import described, made
from lightning_nas.nn.mixing import Mixing, SoftmaxMixing
from lightning_nas.nn.supernet import Mixture, Supernet, frozen_statistics
from lightning_nas.spaces.base import SearchSpace
from lightning_nas.spaces.config import describe_space, make_space

Images = tuple[Tensor, Tensor]
"""Normalised images ``(B, C, H, W)`` and labels ``(B,)``."""

Order = Literal["first", "second", "exact"]


class DARTS(LightningModule):
    """Trains a supernet's weights on one half of the images and its architecture parameters on the other.

    How parameters become weights of operations is the mixing: a softmax makes it DARTS, a draw from a Dirichlet
    distribution DrNAS, a disturbed softmax SmoothDARTS, equal weights the supernet without architecture parameters.
    ``sizes: {partial: 4}`` with ``edge_weights: true`` is PC-DARTS. What is read off the supernet, and when, is up to
    callbacks: see ``lightning_nas.callbacks.selection``.

    In every step alpha moves first (against the loss on validation images), then the weights, as in the released code.
    Gradients with respect to alpha are taken by hand and averaged over processes, so that all processes have the same
    alpha whatever operations a step leaves out.

    Args:
        space: A search space with a supernet, ``NASBench201`` or ``DARTSNetwork``.
        num_classes: Classes (linked from the data).
        image_shape: Channels, height and width of the images (linked from the data).
        sizes: Arguments of the space's ``supernet``: channels, cells, ``partial`` …
        mixing: How alpha becomes weights of operations; default ``SoftmaxMixing``.
        order: ``first`` takes the weights as they are, ``second`` looks one step of theirs ahead and approximates what
            alpha does to it by a finite difference (both as published), ``exact`` differentiates through that step.
        epsilon: Length of the weights' displacement in the finite difference (the paper: 0.01). In small networks the
            kinks of ReLUs within that length spoil the approximation; in float64 1e-4 agrees with ``exact``.
        edge_weights: Learn a weight for every edge, too, a softmax over the edges into a node (PC-DARTS).
        optimizer: Of the weights; default SGD with learning rate 0.025, momentum 0.9, weight decay 3e-4.
        alpha_optimizer: Of alpha; default Adam with learning rate 3e-4, betas (0.5, 0.999), weight decay 1e-3.
        min_lr: Learning rate of the weights at the end of a cosine over all epochs.
        clip: Largest norm of the gradient of the weights.
        accumulate: Steps whose gradients are added up before either optimiser moves.
        warmup_epochs: Epochs before alpha moves.
        lr_warmup_epochs: Epochs in which the weights' learning rate rises to where the cosine begins.
        seed: Of alpha's start and of noise; draws depend on (seed, step) alone.
        label: What the method is called in tables.

    Shapes:
        A batch is two of ``(images (B, C, H, W), labels (B,))``: for the weights, for alpha.

    Example:
        >>> from lightning_nas.spaces.nasbench201 import NASBench201
        >>> module = DARTS(NASBench201(), 10, (1, 8, 8), {"channels": 4, "cells_per_stage": 1, "num_stages": 1})
        >>> module.eval()(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    method = "DARTS"

    def __init__(
        self,
        space: SearchSpace,  # type: ignore[type-arg]  # jsonargparse would instantiate SearchSpace[A] itself
        num_classes: int,
        image_shape: tuple[int, int, int],
        sizes: dict[str, Any] | None = None,
        mixing: Mixing | None = None,
        order: Order = "first",
        epsilon: float = 0.01,
        edge_weights: bool = False,
        optimizer: OptimizerCallable | None = None,
        alpha_optimizer: OptimizerCallable | None = None,
        min_lr: float = 0.001,
        clip: float = 5.0,
        accumulate: int = 1,
        warmup_epochs: int = 0,
        lr_warmup_epochs: int = 0,
        seed: int = 0,
        label: str = "DARTS",
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.space: SearchSpace[Any] = make_space(space) if isinstance(space, dict) else space
        if (
            order not in ("first", "second", "exact")
            or min(clip, accumulate, epsilon) <= 0
            or min(min_lr, warmup_epochs, lr_warmup_epochs) < 0
        ):
            raise UsageError(
                f"DARTS(order={order!r}, epsilon={epsilon}, clip={clip}, accumulate={accumulate}, min_lr={min_lr}, "
                f"warmup_epochs={warmup_epochs}, lr_warmup_epochs={lr_warmup_epochs}): expected order 'first', "
                "'second' or 'exact', positive epsilon, clip and accumulate, the others not negative"
            )
        if order != "first" and accumulate > 1:
            raise UsageError(f"DARTS(order={order!r}, accumulate={accumulate}): a step ahead is one step; expected 1")
        if not hasattr(self.space, "supernet"):
            raise UsageError(
                f"DARTS: the space {self.space.name!r} has no supernet; expected NASBench201 or DARTSNetwork"
            )
        self.save_hyperparameters(ignore=["optimizer", "alpha_optimizer", "space", "mixing"])
        mixing = made(mixing) or SoftmaxMixing()
        self.save_hyperparameters({"space": describe_space(self.space), "mixing": described(mixing)})
        self.sizes = dict(sizes or {})
        self.mixing: Mixing = mixing
        self.order, self.epsilon, self.seed = order, epsilon, seed
        self.optimizer, self.alpha_optimizer = optimizer, alpha_optimizer
        self.min_lr, self.clip, self.accumulate, self.warmup_epochs = min_lr, clip, accumulate, warmup_epochs
        self.lr_warmup_epochs = lr_warmup_epochs
        self.num_classes, self.image_shape, self.label = num_classes, image_shape, label
        self.network: Supernet = self.make_network(self.sizes)
        kinds, edges, candidates = self.network.shape
        draws = torch.Generator().manual_seed(seed)
        self.alpha = nn.Parameter(1e-3 * torch.randn(kinds, edges, candidates, generator=draws))
        self.beta = nn.Parameter(1e-3 * torch.randn(kinds, edges, generator=draws)) if edge_weights else None
        self.decided: Tensor
        self.register_buffer("decided", torch.full((kinds, edges), -1))  # operation of an edge that is settled
        self.active: Tensor
        self.register_buffer("active", torch.ones(kinds, edges, candidates, dtype=torch.bool))
        self.val_accuracy = PercentAccuracy(num_classes)

    def make_network(self, sizes: dict[str, Any]) -> Supernet:
        """A supernet of the space with fresh weights."""
        try:
            network: Supernet = self.space.supernet(  # type: ignore[attr-defined]
                **sizes, num_classes=self.num_classes, in_channels=self.image_shape[0]
            )
        except TypeError as error:
            raise UsageError(
                f"DARTS(sizes={sizes}): {error}; see the arguments of {self.space.name}'s supernet"
            ) from error
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    # What the supernet computes with

    def mixture(self, weights: Tensor | None = None) -> Mixture:
        """The mixture of a forward pass: settled edges have one operation, the others these weights.

        Args:
            weights: ``(G, E, K)``; default: the mixing's mean.
        """
        if weights is None:
            weights = self.mixing.mean(self.alpha, self.active)
        settled = self.decided >= 0
        one_hot = F.one_hot(self.decided.clamp_min(0), weights.shape[-1]).to(weights)
        weights = torch.where(settled[..., None], one_hot, weights)
        active = torch.where(settled[..., None], one_hot.bool() & self.active, self.active)
        edges = self._edge_weights()
        return Mixture(weights if edges is None else weights * edges[..., None], edges, active.cpu())  # type: ignore[arg-type]

    def _edge_weights(self) -> Tensor | None:
        """A softmax over the edges into every node, ``(G, E)``."""
        if self.beta is None:
            return None
        weights = torch.empty_like(self.beta)
        for kind, beta in enumerate(self.beta):
            for arriving in self.network.arriving(kind):
                weights[kind, arriving] = beta[arriving].softmax(dim=0)
        return weights

    def forward(self, images: Tensor) -> Tensor:
        """Class scores, ``(B, C, H, W)`` -> ``(B, num_classes)``."""
        return self.network(images, self.mixture())  # type: ignore[no-any-return]

    def loss(self, batch: Images, weights: Tensor, parameters: dict[str, Tensor] | None = None) -> Tensor:
        """Cross-entropy of a batch with weights of operations, and perhaps with other weights of the network."""
        images, labels = batch
        mixture = self.mixture(weights)
        if parameters is None:
            return F.cross_entropy(self.network(images, mixture), labels)
        return F.cross_entropy(functional_call(self.network, parameters, (images, mixture)), labels)

    def choice(self) -> Tensor:
        """The architecture with the largest weights, ``(G, E)``; −1 for no edge."""
        with torch.no_grad():
            return self.network.choose(self.mixture().weights)

    def architecture(self, choice: Tensor) -> Any:
        """A choice as an architecture of the space."""
        part = {"part": self.sizes["part"]} if "part" in self.sizes else {}
        return self.space.from_choice(choice, **part)  # type: ignore[attr-defined]

    # One step

    @property
    def arch_parameters(self) -> list[nn.Parameter]:
        """Alpha, and the edges' parameters where there are some."""
        return [self.alpha] if self.beta is None else [self.alpha, self.beta]

    def search_step(
        self, train: Images, valid: Images, optimizers: Sequence[Optimizer], place: tuple[int, ...], progress: float,
        learns: bool = True, moves: bool = True,
    ) -> Tensor:  # fmt: skip
        """Alpha, then the weights.

        Args:
            train: Images for the weights.
            valid: Images for alpha.
            optimizers: Of the weights, of alpha.
            place: Where in the training this is, from which all draws follow.
            progress: Share of the training that is over.
            learns: Whether alpha moves.
            moves: Whether the optimisers step after this batch, or gradients are added up.

        Returns:
            The loss of the weights.
        """
        generator = self._begin(place)
        weights = self.mixing.sample(self.alpha, self.active, generator)
        if learns and self.mixing.learns:
            self._add(self.arch_parameters, self._alpha_gradient(train, valid, weights, optimizers[0]))
            if moves:
                self._step_alpha(optimizers[1])
            weights = self.mixing.sample(self.alpha, self.active, generator)
        weights = self.mixing.disturb(
            weights.detach(), self.active, progress, generator, lambda mixed: self._quiet_loss(train, mixed)
        )
        loss = self.loss(train, weights)
        parameters = list(self.network.parameters())
        self._add(parameters, self._gradients(loss, parameters))
        if moves:
            nn.utils.clip_grad_norm_(parameters, self.clip)
            self._step(optimizers[0])
        return loss.detach()

    def _begin(self, place: tuple[int, ...]) -> torch.Generator:
        """What a step draws from; operations that make noise get theirs, too."""
        first, second = np.random.SeedSequence((self.seed, *place)).generate_state(2, np.uint64).tolist()
        self.network.set_noise(second >> 24)
        return torch.Generator(self.device).manual_seed(first >> 1)

    def _quiet_loss(self, batch: Images, weights: Tensor) -> Tensor:
        with frozen_statistics(self.network):
            return self.loss(batch, weights)

    @staticmethod
    def _step(optimizer: Optimizer) -> None:
        optimizer.step()
        optimizer.zero_grad()

    def _step_alpha(self, optimizer: Optimizer) -> None:
        """Settled edges, and those without operations, stay where they are: weight decay would move them, too."""
        rests = (self.decided >= 0) | ~self.active.any(dim=-1)
        before = [parameter.detach().clone() for parameter in self.arch_parameters]
        self._step(optimizer)
        with torch.no_grad():
            for parameter, value in zip(self.arch_parameters, before, strict=True):
                parameter[rests] = value[rests]

    def _add(self, parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> None:
        """Add up gradients where the optimisers look for them."""
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                share = gradient / self.accumulate if self.accumulate > 1 else gradient
                parameter.grad = share if parameter.grad is None else parameter.grad + share

    def _gradients(self, loss: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor | None]:
        """Gradients, the mean over processes; None where nobody depends on a parameter."""
        return self._mean(torch.autograd.grad(loss, parameters, allow_unused=True))

    def _mean(self, gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
        if self._trainer is None or self.trainer.world_size == 1:
            return list(gradients)
        # The same operations run in all processes, so the same gradients are absent.
        there = [gradient for gradient in gradients if gradient is not None]
        if not there:
            return list(gradients)
        flat = self.trainer.strategy.reduce(torch.cat([gradient.flatten() for gradient in there]), reduce_op="mean")
        parts = iter(flat.split([gradient.numel() for gradient in there]))
        return [None if gradient is None else next(parts).view_as(gradient) for gradient in gradients]

    def _alpha_gradient(
        self, train: Images, valid: Images, weights: Tensor, optimizer: Optimizer
    ) -> list[Tensor | None]:
        """Gradient of the validation loss with respect to alpha, at the weights or one step of theirs ahead."""
        penalty = self.mixing.penalty(self.alpha, self.active)
        parameters = self.arch_parameters
        if self.order == "first":
            return self._gradients(self.loss(valid, weights) + penalty, parameters)
        now = dict(self.network.named_parameters())
        rate = optimizer.param_groups[0]["lr"]
        with frozen_statistics(self.network):
            loss = self.loss(train, weights)
            exact = self.order == "exact"
            slopes = torch.autograd.grad(
                loss, list(now.values()), create_graph=exact, retain_graph=True, allow_unused=True
            )
            ahead = _ahead(now, slopes, optimizer)
            found = torch.autograd.grad(
                self.loss(valid, weights, ahead) + penalty, [*parameters, *ahead.values()], retain_graph=True,
                allow_unused=True,
            )  # fmt: skip
            direct, direction = found[: len(parameters)], found[len(parameters) :]
            indirect: Sequence[Tensor | None]
            if exact:  # Eq. 7 without its approximation in Eq. 8
                pairs = [(s, d) for s, d in zip(slopes, direction, strict=True) if s is not None and d is not None]
                product = torch.stack([(s * d).sum() for s, d in pairs]).sum()
                indirect = torch.autograd.grad(product, parameters, allow_unused=True)
            else:
                indirect = self._finite_difference(train, weights, now, direction)
        return self._mean([_minus(d, i, rate) for d, i in zip(direct, indirect, strict=True)])

    def _finite_difference(
        self, train: Images, weights: Tensor, now: dict[str, nn.Parameter], direction: Sequence[Tensor | None]
    ) -> list[Tensor | None]:
        """Second derivative of the training loss by alpha and the weights, times a direction of the weights (Eq. 8)."""
        length = torch.cat([part.flatten() for part in direction if part is not None]).norm()
        size = self.epsilon / length.clamp_min(torch.finfo(length.dtype).tiny)
        sides = []
        for sign in (1.0, -1.0):
            moved = {
                name: value.detach() if along is None else value.detach() + sign * size * along
                for (name, value), along in zip(now.items(), direction, strict=True)
            }
            loss = self.loss(train, weights, moved)
            sides.append(torch.autograd.grad(loss, self.arch_parameters, retain_graph=True, allow_unused=True))
        return [None if a is None or b is None else (a - b) / (2.0 * size) for a, b in zip(*sides, strict=True)]

    # Lightning

    def training_step(self, batch: tuple[Images, Images], batch_idx: int) -> None:
        """One step of both levels."""
        train, valid = batch
        optimizers: Any = self.optimizers()
        last = batch_idx + 1 == self.trainer.num_training_batches
        loss = self.search_step(
            train, valid, optimizers, (self.current_epoch, batch_idx),
            self.current_epoch / max(1, self._num_epochs), self.current_epoch >= self.warmup_epochs,
            last or (batch_idx + 1) % self.accumulate == 0,
        )  # fmt: skip
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(train[1]), sync_dist=True)

    def on_train_epoch_end(self) -> None:
        """Lower the learning rate of the weights, and log what alpha is like."""
        self.lr_schedulers().step()  # type: ignore[union-attr]
        with torch.no_grad():
            weights = self.mixture().weights
            entropy = -(weights * weights.clamp_min(1e-12).log()).sum(dim=-1).mean()
            self.log("alpha/entropy", entropy)
            self.log("alpha/skip_connections", float(self.num_skips(self.choice())))
            self.log("alpha/skip_gap", self.skip_gap())

    def num_skips(self, choice: Tensor) -> int:
        """Skip connections of an architecture."""
        names = [
            group.operations[edge][code]
            for group, codes in zip(self.network.groups, choice.tolist(), strict=True)
            for edge, code in enumerate(codes)
            if code >= 0
        ]
        return names.count("skip_connect")

    @torch.no_grad()
    def skip_gap(self) -> float:
        """Weight of the skip connection less the mean weight of convolutions, mean over edges that have both."""
        weights, gaps = self.mixture().weights, []
        for kind, group in enumerate(self.network.groups):
            for edge, names in enumerate(group.operations):
                convs = [place for place, name in enumerate(names) if "conv" in name]
                if "skip_connect" in names and convs:
                    row = weights[kind, edge]
                    gaps.append(float(row[names.index("skip_connect")] - row[convs].mean()))
        return float(np.mean(gaps)) if gaps else 0.0

    def validation_step(self, batch: Images, batch_idx: int) -> None:
        """Accuracy of the supernet in percent."""
        self.val_accuracy.update(self(batch[0]), batch[1])
        self.log("val/accuracy", self.val_accuracy, on_step=False, on_epoch=True, prog_bar=True)

    def configure_optimizers(self) -> Any:
        """Optimisers of weights and alpha, and the cosine of the former's learning rate, a step for every epoch."""
        if str(self.trainer.precision).startswith("16"):
            raise UsageError(
                f"DARTS: got trainer.precision={self.trainer.precision!r}, expected 'bf16-mixed' or '32-true': its "
                "gradients are taken by hand, and nothing scales them"
            )
        self._num_epochs = self.trainer.max_epochs or 0
        if self._num_epochs < 1:
            raise UsageError("DARTS: the trainer has no end, so that the cosine has none; expected trainer.max_epochs")
        weights, alpha = self.make_optimizers()
        base = weights.param_groups[0]["lr"]
        floor = self.min_lr / base if base else 0.0

        def rate(epoch: int) -> float:
            rise = min(1.0, (epoch + 1) / (self.lr_warmup_epochs + 1))
            return rise * (floor + (1.0 - floor) * (1.0 + math.cos(math.pi * epoch / self._num_epochs)) / 2.0)

        return [weights, alpha], [torch.optim.lr_scheduler.LambdaLR(weights, rate)]

    def make_optimizers(self) -> tuple[Optimizer, Optimizer]:
        """New optimisers of weights and alpha."""
        weights, alpha = list(self.network.parameters()), self.arch_parameters
        return (
            self.optimizer(weights)
            if self.optimizer
            else torch.optim.SGD(weights, lr=0.025, momentum=0.9, weight_decay=3e-4),
            self.alpha_optimizer(alpha)
            if self.alpha_optimizer
            else torch.optim.Adam(alpha, lr=3e-4, betas=(0.5, 0.999), weight_decay=1e-3),
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the supernet's sizes, which pruning in stages changes."""
        checkpoint["sizes"] = dict(self.sizes)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the weights of another space or mixing; take the sizes on."""
        hyperparameters = checkpoint.get("hyper_parameters", {})
        for name in ("space", "mixing"):
            saved = hyperparameters.get(name)
            if saved not in (None, self.hparams[name]):
                raise UsageError(f"DARTS({name}={self.hparams[name]}): the checkpoint is of {saved}; expected the same")
        sizes = checkpoint.get("sizes", self.sizes)
        if sizes != self.sizes:
            self.sizes = dict(sizes)
            self.network = self.make_network(self.sizes).to(self.device)


def _ahead(now: dict[str, nn.Parameter], slopes: Sequence[Tensor | None], optimizer: Optimizer) -> dict[str, Tensor]:
    """The weights after a step of stochastic gradient descent with momentum."""
    optimizer = getattr(optimizer, "optimizer", optimizer)  # Lightning's wrapper has no state
    group = optimizer.param_groups[0]
    if "momentum" not in group:
        raise UsageError(
            f"DARTS: got {type(optimizer).__name__} for the weights, expected SGD: a step ahead is one of its steps "
            "(order: first takes any)"
        )
    moved = {}
    for (name, value), slope in zip(now.items(), slopes, strict=True):
        here = value.detach()
        if slope is not None:
            step = slope.detach() + group["weight_decay"] * here
            buffer = optimizer.state.get(value, {}).get("momentum_buffer")
            step = step if buffer is None else step + group["momentum"] * buffer
            here = here - group["lr"] * step
        moved[name] = here.clone().requires_grad_()
    return moved


def _minus(direct: Tensor | None, indirect: Tensor | None, rate: float) -> Tensor | None:
    if direct is None or indirect is None:
        return direct
    return direct - rate * indirect
