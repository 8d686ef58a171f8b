"""How architecture parameters become the weights of a supernet's operations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_nas.errors import UsageError

Loss = Callable[[Tensor], Tensor]
"""Loss of the supernet on a training batch by the weights of its operations."""


class Mixing(ABC):
    """What a supernet computes with, given alpha.

    Everywhere: alpha ``(G, E, K)``, active ``(G, E, K)`` bool on the same device; weights of inactive operations are 0.

    Attributes:
        learns: Whether there is anything to learn about alpha.
    """

    learns = True

    @abstractmethod
    def mean(self, alpha: Tensor, active: Tensor) -> Tensor:
        """Weights without noise, ``(G, E, K)``: what is validated with, and what a choice is read off."""

    def sample(self, alpha: Tensor, active: Tensor, generator: torch.Generator) -> Tensor:
        """Weights of one step, with gradients with respect to alpha, ``(G, E, K)``."""
        return self.mean(alpha, active)

    def disturb(
        self, weights: Tensor, active: Tensor, progress: float, generator: torch.Generator, loss: Loss
    ) -> Tensor:
        """Weights by which the network's own weights are trained.

        Args:
            weights: Those of the step.
            active: Operations that are computed.
            progress: Share of the training that is over.
            generator: Of draws.
            loss: On the step's training batch.
        """
        return weights

    def penalty(self, alpha: Tensor, active: Tensor) -> Tensor:
        """What is added to the loss that alpha minimises."""
        return alpha.new_zeros(())


class SoftmaxMixing(Mixing):
    """A softmax on every edge (DARTS, arXiv 1806.09055, Eq. 2)."""

    def mean(self, alpha: Tensor, active: Tensor) -> Tensor:
        """Softmax over the active operations."""
        return masked_softmax(alpha, active)


class UniformMixing(Mixing):
    """The same weight for all operations; alpha is not trained (the "fixed alpha" of DARTS-PT, arXiv 2108.04392)."""

    learns = False

    def mean(self, alpha: Tensor, active: Tensor) -> Tensor:
        """One over the number of active operations."""
        return masked_softmax(torch.zeros_like(alpha), active)


class PerturbedMixing(SoftmaxMixing):
    """A softmax; the network's weights are trained at disturbed ones (SmoothDARTS, arXiv 2002.05283).

    Args:
        kind: ``random``: uniform noise, as in the released code; ``gaussian``: noise of that deviation, as in the text;
            ``adversarial``: what raises the loss most, by steps along the gradient's sign (with the statistics of the
            batch, where the released code has the running ones).
        start: Size of the noise when training begins.
        end: Size when it ends; linear between.
        num_steps: Steps of the adversarial search.
    """

    def __init__(
        self,
        kind: Literal["random", "gaussian", "adversarial"] = "random",
        start: float = 0.03,
        end: float = 0.3,
        num_steps: int = 7,
    ) -> None:
        if kind not in ("random", "gaussian", "adversarial") or min(start, end) < 0.0 or num_steps < 1:
            raise UsageError(
                f"PerturbedMixing(kind={kind!r}, start={start}, end={end}, num_steps={num_steps}): expected kind "
                "'random', 'gaussian' or 'adversarial', sizes of 0 or more, at least one step"
            )
        self.kind, self.start, self.end, self.num_steps = kind, start, end, num_steps

    def disturb(
        self, weights: Tensor, active: Tensor, progress: float, generator: torch.Generator, loss: Loss
    ) -> Tensor:
        """Noise on the simplex: added, cut to 0 … 1, normalised again."""
        size = self.start + (self.end - self.start) * progress
        centre = weights.detach()
        draws = torch.rand if self.kind != "gaussian" else torch.randn
        noise = draws(centre.shape, generator=generator, device=centre.device, dtype=centre.dtype)
        begun = on_simplex(centre + size * (noise if self.kind == "gaussian" else 2.0 * noise - 1.0), active)
        if self.kind != "adversarial":
            return begun
        current = begun
        with torch.no_grad():
            before = loss(centre)
        for _ in range(self.num_steps):
            current.requires_grad_()
            with torch.enable_grad():
                (gradient,) = torch.autograd.grad(loss(current), current)
            moved = current.detach() + 2.0 * size / self.num_steps * gradient.sign()
            current = on_simplex(torch.minimum(torch.maximum(moved, centre - size), centre + size), active)
        with torch.no_grad():
            return current if loss(current) > before else centre


class DirichletMixing(Mixing):
    """Weights drawn from a Dirichlet distribution, whose concentrations are learnt (DrNAS, arXiv 2006.10355).

    The concentration elu(alpha) + 1 is 1 where alpha is 0: a weight decay of alpha holds it there.

    Args:
        kl_weight: Weight of the divergence from the uniform Dirichlet distribution over the active operations; with it
            the weight decay of alpha's optimiser belongs at 0.
    """

    def __init__(self, kl_weight: float = 0.0) -> None:
        if kl_weight < 0.0:
            raise UsageError(f"DirichletMixing(kl_weight={kl_weight}): expected 0 or more")
        self.kl_weight = kl_weight

    def mean(self, alpha: Tensor, active: Tensor) -> Tensor:
        """The distribution's mean."""
        return _normalised(self._concentration(alpha) * active)

    def sample(self, alpha: Tensor, active: Tensor, generator: torch.Generator) -> Tensor:
        """One draw on every edge, the same in all cells of a kind."""
        # Of gammas, whose share of their sum is the draw; the distribution's own class takes no generator.
        draws = torch._standard_gamma(self._concentration(alpha), generator=generator)
        return _normalised(draws * active)

    def penalty(self, alpha: Tensor, active: Tensor) -> Tensor:
        """Sum over edges of KL(Dir(concentration) || Dir(1)), weighted."""
        if self.kl_weight == 0.0:
            return alpha.new_zeros(())
        concentration, count = self._concentration(alpha), active.sum(dim=-1)
        total = (concentration * active).sum(dim=-1)
        some = count > 0
        total, count = torch.where(some, total, 1.0), torch.where(some, count, 1)
        terms = (concentration - 1.0) * (concentration.digamma() - total.digamma()[..., None]) - concentration.lgamma()
        divergence = total.lgamma() - count.to(total).lgamma() + (terms * active).sum(dim=-1)
        return self.kl_weight * (divergence * some).sum()

    @staticmethod
    def _concentration(alpha: Tensor) -> Tensor:
        return F.elu(alpha) + 1.0


def masked_softmax(alpha: Tensor, active: Tensor) -> Tensor:
    """Softmax over the active entries of the last axis; all zeros where there are none."""
    logits = alpha.masked_fill(~active, -torch.inf)
    some = active.any(dim=-1, keepdim=True)
    return torch.where(some, logits, 0.0).softmax(dim=-1) * active


def on_simplex(weights: Tensor, active: Tensor) -> Tensor:
    """Cut to 0 … 1 and normalised; where nothing is left, the largest one has it all."""
    cut = weights.clamp(0.0, 1.0) * active
    best = F.one_hot(weights.masked_fill(~active, -torch.inf).argmax(dim=-1), weights.shape[-1]) * active
    return _normalised(torch.where(cut.sum(dim=-1, keepdim=True) > 0.0, cut, best.to(cut)))


def _normalised(weights: Tensor) -> Tensor:
    return weights / weights.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
