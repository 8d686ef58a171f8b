"""Training-free proxies: what an untrained network and a few images say about its accuracy after training.

Every function takes S initialisations of one architecture as a :class:`Twins`, works on all of them in the same pass,
and returns ``(S,)`` float64, higher for what should be better. Layers are convolutions and linear maps, theta their
weights, L the cross-entropy of the images, g its gradient; networks are in training mode, so that batch normalisation
uses the statistics of the images. Formulas are those of the papers named, with the reference code's constants.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_nas.nn.side_by_side import SideBySide, StackedLinear

_LAYERS = (nn.Conv2d, nn.Linear, StackedLinear)
_EPSILON = 1e-5
_SMALLEST = 1e-300  # of what a logarithm is taken: networks that nothing goes through are the worst, not undefined
_ILL_CONDITIONED = 1e5  # the condition number of a network that has none


class Twins:
    """S initialisations of one architecture as one network, ``(B, S C, H, W)`` -> ``(B, S, num_classes)``.

    Args:
        network: Takes the images of all S side by side.
        size: S.
    """

    def __init__(self, network: nn.Module, size: int) -> None:
        self.network, self.size = network, size
        self.layers = [layer for layer in network.modules() if isinstance(layer, _LAYERS)]
        self.weights: list[Tensor] = [layer.weight for layer in self.layers]
        network.train().requires_grad_(True)

    @classmethod
    def of(cls, networks: Sequence[nn.Module], image_shape: tuple[int, int, int]) -> list[Twins]:
        """All together where they can become one network, else each by itself; copies.

        Args:
            networks: Equal but for their weights.
            image_shape: ``(C, H, W)`` of an image.
        """
        together = SideBySide(networks, image_shape)
        if together.wide is not None:
            return [cls(together.wide, len(networks))]
        return [cls(network, 1) for network in together.networks]

    def __call__(self, images: Tensor) -> Tensor:
        """Class scores of all for the same images ``(B, C, H, W)``, or for their own ``(B, S C, H, W)``."""
        if images.shape[1] * self.size == self._channels:
            images = images.repeat(1, self.size, 1, 1)
        scores: Tensor = self.network(images)
        return scores.reshape(len(images), self.size, -1)

    @property
    def _channels(self) -> int:
        return next(layer.in_channels for layer in self.layers if isinstance(layer, nn.Conv2d))

    def apart(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Of tensors shaped as the weights are, every network's own numbers, ``(S, n)`` each."""
        return [value.reshape(self.size, -1) for value in values]

    def channels(self, activations: Tensor) -> Tensor:
        """Activations ``(B, S C, …)`` as ``(S, B, C, positions)``."""
        shaped = activations.reshape(len(activations), self.size, -1, *activations.shape[2:])
        return shaped.flatten(3).transpose(0, 1) if shaped.dim() > 3 else shaped.unsqueeze(3).transpose(0, 1)

    def losses(self, images: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of every network, ``(S,)``."""
        scores = self(images).transpose(0, 1)
        each = F.cross_entropy(scores.flatten(0, 1), labels.repeat(self.size), reduction="none")
        return each.view(self.size, -1).mean(dim=1)

    def gradients(self, output: Tensor, keep: bool = False) -> list[Tensor]:
        """Gradients of a scalar at all weights; zeros where it does not depend on them."""
        if not output.requires_grad:
            return [torch.zeros_like(weight) for weight in self.weights]
        found = torch.autograd.grad(output, self.weights, create_graph=keep, allow_unused=True)
        return [torch.zeros_like(w) if g is None else g for w, g in zip(self.weights, found, strict=True)]


def l2_norm(twins: Twins, images: Tensor, labels: Tensor) -> Tensor:
    """Magnitude at initialisation: the sum over layers of ||theta||_2 (arXiv 2101.08134)."""
    return _total(part.double().norm(dim=1) for part in twins.apart([w.detach() for w in twins.weights]))


def grad_norm(twins: Twins, images: Tensor, labels: Tensor) -> Tensor:
    """The sum over layers of ||g||_2 (arXiv 2101.08134)."""
    return _total(part.double().norm(dim=1) for part in twins.apart(_loss_gradients(twins, images, labels)))


def plain(twins: Twins, images: Tensor, labels: Tensor) -> Tensor:
    """The sum of g theta (arXiv 2101.08134)."""
    return _total(part.double().sum(dim=1) for part in _saliency(twins, images, labels))


def snip(twins: Twins, images: Tensor, labels: Tensor) -> Tensor:
    """The sum of |g theta|, what the loss says of a mask on the weights (arXiv 1810.02340)."""
    return _total(part.double().abs().sum(dim=1) for part in _saliency(twins, images, labels))


def grasp(twins: Twins, images: Tensor, labels: Tensor) -> Tensor:
    """Minus the sum of (H g) theta, H being the Hessian of L (arXiv 2002.07376)."""
    loss = twins.losses(images, labels).sum()
    gradients = twins.gradients(loss, keep=True)
    alignment = sum(((g.detach() * g).sum() for g in gradients), torch.zeros(()))
    products = twins.gradients(alignment)
    moved = [product * weight.detach() for product, weight in zip(products, twins.weights, strict=True)]
    return -_total(part.double().sum(dim=1) for part in twins.apart(moved))


def fisher(twins: Twins, images: Tensor, labels: Tensor) -> Tensor:
    """The sum over channels of 0.5 mean_batch(sum_positions a dL/da)^2, once for each weight (arXiv 1801.05787)."""
    outputs: list[tuple[nn.Module, Tensor]] = []  # in the order of computation, which is not that of the layers
    with _hooks(twins.layers, lambda layer, inputs, output: outputs.append((layer, output))):
        loss = twins.losses(images, labels).sum()
    if not loss.requires_grad:
        return torch.zeros(twins.size, dtype=torch.float64)
    found = torch.autograd.grad(loss, [output for _, output in outputs], allow_unused=True)
    total = torch.zeros(twins.size, dtype=torch.float64)
    for (layer, activation), gradient in zip(outputs, found, strict=True):
        if gradient is not None:
            weight: Tensor = layer.weight  # type: ignore[assignment]
            each = twins.channels((activation * gradient).detach().double()).sum(dim=3)  # (S, B, C)
            per_channel = weight.numel() // (twins.size * each.shape[2])
            total += 0.5 * each.square().mean(dim=1).sum(dim=1) * per_channel
    return total


def synflow(twins: Twins, images: Tensor, labels: Tensor) -> Tensor:
    """Log sum |theta dR/dtheta| with |theta| for theta, an input of ones, no normalisation, R the sum of all outputs.

    In double precision, and its logarithm, for the sum spans dozens of decades (arXiv 2006.05467).
    """
    twins = _double(twins, normalisation=False)
    with torch.no_grad():
        for parameter in twins.network.parameters():
            parameter.abs_()
    flow = twins(torch.ones_like(images[:1], dtype=torch.float64)).sum()
    parts = zip(twins.weights, twins.gradients(flow), strict=True)
    total = _total(part.abs().sum(dim=1) for part in twins.apart([weight.detach() * g for weight, g in parts]))
    return total.clamp_min(_SMALLEST).log()


def jacob_cov(twins: Twins, images: Tensor, labels: Tensor) -> Tensor:
    """-sum_i [log(v_i + e) + 1 / (v_i + e)], v being eigenvalues (arXiv 2006.04647, first version).

    They are those of the correlations between the Jacobians of the images. NaN where a Jacobian is constant, as in
    networks that nothing goes through.
    """
    return torch.stack([_spectral_score(_correlations(jacobian)) for jacobian in _jacobians(twins, images)])


def epe_nas(twins: Twins, images: Tensor, labels: Tensor) -> Tensor:
    """The sum over classes of |sum_ij log(|c_ij| + e)|, c the correlations of its images' Jacobians (arXiv 2102.08099).

    NaN as for :func:`jacob_cov`.
    """
    scores = []
    for jacobian in _jacobians(twins, images):
        classes = (jacobian[labels == label] for label in labels.unique())  # type: ignore[no-untyped-call]
        sums = [(_correlations(rows).abs() + _EPSILON).log().sum().abs() for rows in classes if len(rows) > 1]
        scores.append(torch.stack(sums).sum() if sums else torch.tensor(torch.nan, dtype=torch.float64))
    return torch.stack(scores)


def naswot(twins: Twins, images: Tensor, labels: Tensor) -> Tensor:
    """Log |det K|, K_ij the number of ReLU units that are both on or both off for two images (arXiv 2006.04647 v2)."""
    codes = torch.cat(_relu_codes(twins, images), dim=2).double()  # (S, B, units)
    agreeing = codes @ codes.mT + (1.0 - codes) @ (1.0 - codes).mT
    determinant: Tensor = torch.linalg.slogdet(agreeing).logabsdet
    return determinant.clamp_min(math.log(_SMALLEST))


def zen(twins: Twins, images: Tensor, labels: Tensor) -> Tensor:
    """Log E|f(x) - f(x + 0.01 e)| + sum over normalisations of log sqrt(mean variance) (Zen-NAS, arXiv 2102.01063).

    f is the last feature map; x and e are normal noise, the same for every architecture; weights of layers are those of
    the initialisation scaled to unit variance, which normal ones are in the paper.
    """
    twins = Twins(copy.deepcopy(twins.network), twins.size)
    with torch.no_grad():
        for weight in twins.weights:
            parts = weight.reshape(twins.size, -1)
            weight.copy_((parts / parts.std(dim=1, keepdim=True).clamp_min(1e-12)).reshape(weight.shape))
    generator = torch.Generator().manual_seed(0)
    noise = [torch.randn(images.shape, generator=generator).to(images) for _ in range(2)]
    maps, variances = [], list[Tensor]()
    for x in (noise[0], noise[0] + 0.01 * noise[1]):
        found: list[Tensor] = []

        def keep(layer: nn.Module, inputs: Any, output: Any, found: list[Tensor] = found, x: Tensor = x) -> None:
            if isinstance(layer, nn.BatchNorm2d) and x is noise[0]:
                seen = twins.channels(inputs[0])
                variances.append(seen.var(dim=(1, 3), correction=0).mean(dim=1))
            if isinstance(output, Tensor) and output.dim() == 4:
                found[:] = [output]

        with torch.no_grad(), _hooks(list(twins.network.modules()), keep):
            twins(x)
        maps.append(twins.channels(found[0]).double())
    change = (maps[0] - maps[1]).abs().mean(dim=(1, 2, 3)).clamp_min(_SMALLEST).log()
    return change + _total(0.5 * v.double().clamp_min(_SMALLEST).log() for v in variances)


def ntk(twins: Twins, images: Tensor, labels: Tensor) -> Tensor:
    """Minus the condition number of G Gᵀ, G the gradients of every image's summed scores (TE-NAS, arXiv 2102.11535).

    Eigenvalues in double precision; what has no condition number, as networks that nothing goes through, gets 1e5.
    """
    scores = twins(images).sum(dim=(1, 2))
    if not scores.requires_grad:
        return torch.full((twins.size,), -_ILL_CONDITIONED, dtype=torch.float64)
    rows = [
        torch.autograd.grad(score, twins.weights, retain_graph=True, allow_unused=True) for score in scores.unbind()
    ]
    gram = torch.zeros(twins.size, len(rows), len(rows), dtype=torch.float64)
    for number, weight in enumerate(twins.weights):
        found = [torch.zeros_like(weight) if row[number] is None else row[number] for row in rows]
        gradients = torch.stack([part.reshape(twins.size, -1) for part in found], dim=1)  # (S, B, n)
        gram += (gradients @ gradients.mT).double()
    values = torch.linalg.eigvalsh(gram)
    condition = values[:, -1] / values[:, 0]
    sound = condition.isfinite() & (values[:, 0] > 0)
    return -torch.where(sound, condition, _ILL_CONDITIONED)


def linear_regions(twins: Twins, crops: Tensor, labels: Tensor | None = None) -> Tensor:
    """Number of different patterns of active ReLU units over many tiny images (TE-NAS, arXiv 2102.11535).

    Args:
        twins: Networks of images with one channel.
        crops: Images of 3 x 3 pixels, ``(B, 1, 3, 3)``; TE-NAS has 3,000.
        labels: Not used.
    """
    generator = torch.Generator().manual_seed(0)
    hashes: Tensor | int = 0
    for codes in _relu_codes(twins, crops):
        # A sum of 64 random bits for every active unit: two patterns differ in it with near certainty.
        numbers = torch.randint(-(2**63), 2**63 - 1, (codes.shape[2],), generator=generator)
        hashes = hashes + torch.where(codes, numbers.to(codes.device), 0).sum(dim=2)
    if isinstance(hashes, int):
        return torch.ones(twins.size, dtype=torch.float64)
    return torch.tensor([float(len(row.unique())) for row in hashes], dtype=torch.float64)


Proxy = Callable[[Twins, Tensor, Tensor], Tensor]

OF_IMAGES: dict[str, Proxy] = {
    proxy.__name__: proxy
    for proxy in (
        l2_norm, grad_norm, plain, snip, grasp, fisher, synflow, jacob_cov, naswot, epe_nas, zen, ntk,
    )
}  # fmt: skip
"""Proxies that see a batch of images and labels, by name; :func:`linear_regions` sees crops instead."""


def te_nas(ntk_scores: Tensor, regions: Tensor) -> Tensor:
    """Sum of the ranks by condition number and by linear regions of n architectures, ``(n,)``; higher is better."""
    return sum((_rank(values) for values in (ntk_scores, regions)), torch.zeros(len(regions), dtype=torch.float64))


def vote(scores: Sequence[Tensor]) -> Tensor:
    """How many of the others the majority of several proxies puts behind an architecture, ``(n,)`` float64.

    zero-cost-nas asks ``synflow``, ``jacob_cov`` and ``snip`` (arXiv 2101.08134). NaN is the worst.

    Args:
        scores: Of n architectures by every proxy, ``(n,)`` each.
    """
    known = [score.nan_to_num(nan=-torch.inf) for score in scores]
    ballots = sum((score[:, None] > score[None]).long() - (score[:, None] < score[None]).long() for score in known)
    return (torch.as_tensor(ballots) > 0).sum(dim=1).double()


def _rank(values: Tensor) -> Tensor:
    """How many are lower, ``(n,)`` float64; NaN is the worst."""
    known = values.double().nan_to_num(nan=-torch.inf)
    return torch.searchsorted(known.sort().values, known).double()


def _total(parts: Iterator[Tensor] | Sequence[Tensor]) -> Tensor:
    return torch.stack(list(parts)).double().sum(dim=0)


def _loss_gradients(twins: Twins, images: Tensor, labels: Tensor) -> list[Tensor]:
    return twins.gradients(twins.losses(images, labels).sum())


def _saliency(twins: Twins, images: Tensor, labels: Tensor) -> list[Tensor]:
    """G theta of every layer, ``(S, n)`` each."""
    pairs = zip(twins.weights, _loss_gradients(twins, images, labels), strict=True)
    return twins.apart([weight.detach() * gradient for weight, gradient in pairs])


def _double(twins: Twins, normalisation: bool = True) -> Twins:
    """A copy in double precision, if wanted without batch normalisation."""
    network = copy.deepcopy(twins.network).double()
    if not normalisation:
        for name, layer in list(network.named_modules()):
            if isinstance(layer, nn.BatchNorm2d):
                network.set_submodule(name, nn.Identity())
    return Twins(network, twins.size)


def _jacobians(twins: Twins, images: Tensor) -> Tensor:
    """Gradients of every image's summed scores at its pixels, ``(S, B, C H W)`` float64."""
    own = images.repeat(1, twins.size, 1, 1).requires_grad_()
    scores = twins(own).sum()
    found = torch.autograd.grad(scores, own, allow_unused=True)[0] if scores.requires_grad else None
    gradient = torch.zeros_like(own) if found is None else found
    return gradient.reshape(len(images), twins.size, -1).transpose(0, 1).double()


def _correlations(rows: Tensor) -> Tensor:
    """Pearson correlations of rows, ``(n, P)`` -> ``(n, n)``; NaN for constant ones."""
    centred = rows - rows.mean(dim=1, keepdim=True)
    norms = centred.norm(dim=1, keepdim=True)
    unit = centred / torch.where(norms > 0, norms, torch.nan)
    return (unit @ unit.mT).clamp(-1.0, 1.0)


def _spectral_score(correlations: Tensor) -> Tensor:
    if not bool(correlations.isfinite().all()):
        return torch.tensor(torch.nan, dtype=torch.float64)
    shifted: Tensor = torch.linalg.eigvalsh(correlations).clamp_min(0.0) + _EPSILON
    return -(shifted.log() + 1.0 / shifted).sum()


def _relu_codes(twins: Twins, images: Tensor) -> list[Tensor]:
    """Which units of every ReLU are on, ``(S, B, units)`` bool each."""
    codes: list[Tensor] = []

    def keep(layer: nn.Module, inputs: Any, output: Tensor) -> None:
        codes.append((twins.channels(output) > 0).flatten(2))

    relus = [layer for layer in twins.network.modules() if isinstance(layer, nn.ReLU)]
    with torch.no_grad(), _hooks(relus, keep):
        twins(images)
    return codes


@contextmanager
def _hooks(layers: Sequence[nn.Module], hook: Callable[[nn.Module, Any, Any], Any]) -> Iterator[None]:
    """Call a function behind every layer."""

    def behind(layer: nn.Module, inputs: Any, output: Any) -> None:
        hook(layer, inputs, output)  # whose answer would replace the output

    handles = [layer.register_forward_hook(behind) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
