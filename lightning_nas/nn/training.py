"""Training small image classifiers with plain torch: what a live benchmark does to every candidate."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_nas.errors import EvaluationError, UsageError
from lightning_nas.nn.auxiliary import HasAuxiliary
from lightning_nas.nn.cutout import cutout
from lightning_nas.nn.drop_path import has_drop_path, set_drop_path
from lightning_nas.nn.images import LabelledImages, augmented, normalise
from lightning_nas.nn.optimizers import OPTIMIZERS, SCHEDULES
from lightning_nas.nn.side_by_side import SideBySide

TRAINING_VERSION = 2
"""Part of every result's key: raise it whenever a change below changes what a network scores."""

_EVALUATION_BATCH = 128  # large enough to be fast, small enough for the cache of one core


@dataclass(frozen=True)
class TrainingRecipe:
    """How a candidate network is trained.

    Args:
        epochs: Passes over the training images; the learning rate's schedule ends with the last.
        batch_size: Images per step; the images that fill no whole batch are left out of the epoch.
        learning_rate: Peak of the schedule.
        schedule: ``one_cycle`` rises over 30 % of the steps and falls along a cosine to 0, ``cosine`` only falls,
            ``constant`` stays.
        optimizer: ``sgd`` with Nesterov momentum, or ``adamw``.
        momentum: Momentum of ``sgd``; first of the two decay rates of ``adamw``.
        weight_decay: L2 penalty on all weights; decoupled for ``adamw``.
        shift: Pixels by which training images are moved at random in both directions, zeros coming in: a random crop
            after padding.
        test_shift: Test accuracy is the mean over all ``(2 * test_shift + 1)**2`` moved copies of the images, which
            tells good networks apart; 0 for the images as they are. Validation accuracy always is
            of the images as they are.
        cutout: Side in pixels of the square that is zeroed in every training image; 0 for none.
        drop_path: Probability of dropping an edge of a cell at the end of the training; rises linearly from 0.
        auxiliary_weight: Weight of the loss of an auxiliary head, DARTS has 0.4; 0 for no such head.
        gradient_clip: Largest norm of a network's gradient; 0 for any.
    """

    # Chosen on the digits; benchmarks/tables/README.md has the trials.
    epochs: int = 12
    batch_size: int = 50
    learning_rate: float = 0.3
    schedule: Literal["one_cycle", "cosine", "constant"] = "one_cycle"
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    shift: int = 1
    test_shift: int = 1
    cutout: int = 0
    drop_path: float = 0.0
    auxiliary_weight: float = 0.0
    gradient_clip: float = 0.0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 2 or min(self.shift, self.test_shift) < 0:
            raise UsageError(f"got {self}, expected epochs >= 1, batch_size >= 2 and shifts >= 0")
        for name, known in (("schedule", SCHEDULES), ("optimizer", OPTIMIZERS)):
            if getattr(self, name) not in known:
                raise UsageError(f"got {name}={getattr(self, name)!r}, expected one of {', '.join(known)}")
        if not 0.0 <= self.drop_path < 1.0 or min(self.cutout, self.auxiliary_weight, self.gradient_clip) < 0:
            raise UsageError(f"got {self}, expected drop_path in [0, 1), the others not negative")

    def identity(self) -> dict[str, Any]:
        """All fields; what came later is left out while it is 0, so that results from before stay valid."""
        return {k: v for k, v in asdict(self).items() if v or k not in _LATER}

    @property
    def of_build(self) -> dict[str, Any]:
        """What a space's ``build`` must be told besides the sizes."""
        return {"auxiliary": True} if self.auxiliary_weight else {}

    def check(self, network: nn.Module) -> None:
        """Raise ``UsageError`` when a network lacks what is to be trained with."""
        if self.auxiliary_weight and not (isinstance(network, HasAuxiliary) and network.auxiliary is not None):
            raise UsageError(f"got auxiliary_weight={self.auxiliary_weight}, expected 0: there is no auxiliary head")
        if self.drop_path and not has_drop_path(network):
            raise UsageError(f"got drop_path={self.drop_path}, expected 0: the network has no paths to drop")


_LATER = ("cutout", "drop_path", "auxiliary_weight", "gradient_clip")


@dataclass(frozen=True, eq=False)  # equal when the same: tensors have no single truth
class TrainingData:
    """Images to train, select and report on, and what makes a network's input of their pixels.

    Args:
        train: Images to learn from.
        valid: Images to select by.
        test: Images to report on.
        mean: Mean pixel of every channel.
        std: Standard deviation of the pixels of every channel.
        max_pixel: The brightest pixel.
        augmentation: What changes a batch of training images, floats in 0 … 1, one after another.

    Raises:
        UsageError: A split is empty.
    """

    train: LabelledImages
    valid: LabelledImages
    test: LabelledImages
    mean: tuple[float, ...]
    std: tuple[float, ...]
    max_pixel: int = 255
    augmentation: Sequence[Callable[[Tensor], Tensor]] = ()

    def __post_init__(self) -> None:
        empty = [name for name in ("train", "valid", "test") if not len(getattr(self, name).labels)]
        if empty:  # the accuracy of no images is NaN, after a whole training
            raise UsageError(
                f"TrainingData: got no images in {' and '.join(empty)}, expected some to train on, to select by "
                "and to report on; hold some out, for example with purpose='search'"
            )

    def to(self, device: torch.device) -> TrainingData:
        """The same images on another device."""
        train, valid, test = (
            LabelledImages(*(part.to(device) for part in split)) for split in (self.train, self.valid, self.test)
        )
        return replace(self, train=train, valid=valid, test=test)


class TrainingResult(NamedTuple):
    """What the training of one network leaves behind besides the weights.

    Attributes:
        curve: Validation accuracy in percent after every epoch.
        test: Test accuracy in percent at the end, mean over moved copies.
        seconds: The calling thread's processor time, shared equally among networks trained side by side; unlike wall
            time it does not grow with other work on the machine. On a GPU it is wall time.
    """

    curve: tuple[float, ...]
    test: float
    seconds: float


class Training:
    """Training of S networks that differ in their seeds alone, side by side.

    On one thread of one machine the outcome depends on nothing but the arguments, and a training that was saved and
    loaded goes on bit for bit as if it had never stopped.

    Args:
        networks: S fresh networks; copies of them are trained.
        data: Images, on the device where training takes place.
        recipe: How to train.
        seeds: Seed of the order, the shifts, the squares cut out and the dropped paths of every network, ``S``.
            Augmentation and dropout draw from torch's global generator.

    Raises:
        UsageError: The networks lack what the recipe trains with.
    """

    def __init__(
        self, networks: Sequence[nn.Module], data: TrainingData, recipe: TrainingRecipe, seeds: Sequence[int]
    ) -> None:
        self.data, self.recipe = data, recipe
        images = data.train.images
        self.device = images.device
        for network in networks:
            recipe.check(network)
        # What is done to every network for itself.
        apart = bool(recipe.drop_path or recipe.auxiliary_weight or recipe.gradient_clip)
        self.network = SideBySide(networks, tuple(images.shape[1:]), merge=not apart)  # type: ignore[arg-type]
        self.network.to(self.device)
        self.optimizer = OPTIMIZERS[recipe.optimizer](
            self.network.parameters(), recipe.learning_rate, recipe.momentum, recipe.weight_decay
        )
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.batch_size = min(recipe.batch_size, len(images))
        self.steps = len(images) // self.batch_size
        self.curve: list[Tensor] = []
        self.seconds = 0.0

    @property
    def epoch(self) -> int:
        """Epochs behind us."""
        return len(self.curve)

    def run(self, epochs: int) -> None:
        """Train until so many epochs are done, of the recipe's number at most.

        Raises:
            EvaluationError: A loss stopped being finite.
        """
        start = self._clock()
        while self.epoch < min(epochs, self.recipe.epochs):
            self._train_epoch()
            self.curve.append(self._accuracy(self.data.valid, 0))
        self.seconds += self._clock() - start

    def results(self) -> list[TrainingResult]:
        """What every network has come to; measures the test accuracy."""
        start = self._clock()
        test = self._accuracy(self.data.test, self.recipe.test_shift).tolist()
        curves = torch.stack(self.curve, dim=1).tolist()  # (S, epochs)
        seconds = (self.seconds + self._clock() - start) / len(curves)
        return [TrainingResult(tuple(curve), accuracy, seconds) for curve, accuracy in zip(curves, test, strict=True)]

    def _train_epoch(self) -> None:
        self.network.train()
        recipe, (steps, size) = self.recipe, (self.steps, self.batch_size)
        labels = self.data.train.labels
        total = torch.zeros(len(self.generators), device=self.device)
        draws = [
            (
                torch.randperm(len(labels), generator=g)[: steps * size].view(steps, size),
                torch.randint(2 * recipe.shift + 1, (steps, 2, size), generator=g),
            )
            for g in self.generators
        ]
        order, moves = (torch.stack(parts, dim=1).to(self.device) for parts in zip(*draws, strict=True))
        paths = self._path_generators() if recipe.drop_path else []
        for step in range(steps):  # order (steps, S, B), moves (steps, S, 2, B)
            index, down, right = order[step], moves[step, :, 0], moves[step, :, 1]
            targets = labels[index]
            pixels = moved(self.data.train.images[index.flatten()], recipe.shift, down.flatten(), right.flatten())
            images = self._input(pixels.view(*index.shape, *pixels.shape[1:]), training=True)
            progress = (self.epoch * steps + step) / (recipe.epochs * steps)
            for network, generator in zip(self.network.networks, paths, strict=False):
                set_drop_path(network, recipe.drop_path * progress, generator)
            losses = self._losses(images, targets)
            torch.autograd.backward(losses.sum())
            if recipe.gradient_clip:
                for network in self.network.networks:
                    nn.utils.clip_grad_norm_(network.parameters(), recipe.gradient_clip)
            self.optimizer.step(recipe.learning_rate * SCHEDULES[recipe.schedule](progress))
            total += losses.detach()
        if not torch.isfinite(total).all():  # once an epoch: reading numbers back at every step would slow a GPU down
            raise EvaluationError(
                f"the training loss became {total.sum().item()} in epoch {self.epoch + 1} of {recipe.epochs}; "
                f"expected a finite number, try a lower learning_rate than {recipe.learning_rate}"
            )

    def _losses(self, images: Tensor, targets: Tensor) -> Tensor:
        """Of every network, ``(S, B, C, H, W)`` and ``(S, B)`` -> ``(S,)``."""
        weight = self.recipe.auxiliary_weight
        if not weight:
            return _cross_entropy(self.network(images), targets)
        scores, auxiliary = self.network.with_auxiliary(images)
        return _cross_entropy(scores, targets) + weight * _cross_entropy(auxiliary, targets)

    def _path_generators(self) -> list[torch.Generator]:
        """A source of dropped paths for every network, on its device; those of an epoch depend on nothing before it."""
        seeds = [int(torch.randint(2**62, (), generator=generator)) for generator in self.generators]
        return [torch.Generator(self.device).manual_seed(seed) for seed in seeds]

    def _input(self, pixels: Tensor, training: bool = False) -> Tensor:
        """Pixels to the networks' input, ``(…, C, H, W)``; in training the first axis is that of the networks."""
        images = pixels
        if pixels.dtype == torch.uint8:
            data, flat = self.data, pixels.flatten(0, -4)
            if training:
                floats = augmented(flat, data.augmentation, data.mean, data.std, data.max_pixel)
            else:
                floats = normalise(flat, data.mean, data.std)
            images = floats.view(*pixels.shape[:-3], *floats.shape[1:])
        if not (training and self.recipe.cutout):
            return images
        return torch.stack([cutout(x, self.recipe.cutout, g) for x, g in zip(images, self.generators, strict=True)])

    @torch.inference_mode()
    def _accuracy(self, split: LabelledImages, shift: int) -> Tensor:
        """Share of right answers of every network in percent, mean over all moved copies, ``(S,)`` float64."""
        self.network.eval()
        right, moves = torch.zeros(len(self.generators), dtype=torch.float64, device=self.device), 2 * shift + 1
        for rows, labels in zip(*(torch.split(part, _EVALUATION_BATCH) for part in split), strict=True):
            windows = shifted_windows(rows, shift)
            for down in range(moves):
                for across in range(moves):
                    images = self._input(windows[:, :, down, across])
                    scores = self.network(images.expand(len(right), *images.shape))
                    right += (scores.argmax(dim=-1) == labels).sum(dim=1)
        return (100 * right / (len(split.labels) * moves**2)).cpu()

    def _clock(self) -> float:
        if self.device.type == "cpu":
            return time.thread_time()
        torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        """All that decides how the training goes on; primitives and tensors only."""
        on_gpu = {"device_generator": torch.cuda.get_rng_state(self.device)} if self.device.type == "cuda" else {}
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generators": [generator.get_state() for generator in self.generators],
            "global_generator": torch.get_rng_state(),
            "curve": self.curve,
            "seconds": self.seconds,
            **on_gpu,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`, torch's global generators included.

        Args:
            state: With tensors on the CPU, wherever the training takes place: the generators' states belong there, and
                weights are copied to where they are needed.
        """
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        for generator, saved in zip(self.generators, state["generators"], strict=True):
            generator.set_state(saved)
        self.curve, self.seconds = list(state["curve"]), state["seconds"]
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["device_generator"], self.device)
        torch.set_rng_state(state["global_generator"])  # last: when something is amiss, it is as it was


def _cross_entropy(scores: Tensor, targets: Tensor) -> Tensor:
    """Mean over the images of every network, ``(S, B, num_classes)`` and ``(S, B)`` -> ``(S,)``."""
    losses = F.cross_entropy(scores.flatten(0, 1), targets.flatten(), reduction="none")
    return losses.view_as(targets).mean(1)


def moved(images: Tensor, shift: int, down: Tensor, right: Tensor) -> Tensor:
    """Every image seen from an offset of its own; ``shift`` is none.

    Shapes:
        ``(N, C, H, W)``, offsets ``(N,)`` in 0 … 2 * shift -> ``(N, C, H, W)``.
    """
    # Of a batch and not of all images: these may lie in a file that is larger than the memory.
    return shifted_windows(images, shift)[torch.arange(len(images), device=images.device), :, down, right]


def shifted_windows(images: Tensor, shift: int) -> Tensor:
    """View of all zero-padded moves of every image: ``windows[n, :, i, j]`` is image n seen from offset (i, j).

    Shapes:
        ``(N, C, H, W)`` -> ``(N, C, 2 * shift + 1, 2 * shift + 1, H, W)``; offset ``[shift, shift]`` does not move.
    """
    height, width = images.shape[-2:]
    padded = F.pad(images, [shift] * 4) if shift else images
    return padded.unfold(2, height, 1).unfold(3, width, 1)
