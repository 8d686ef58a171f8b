"""Training one architecture of any search space as an image classifier, the way the field evaluates what it found."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pytorch_lightning import LightningModule
from pytorch_lightning.cli import OptimizerCallable
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.utils.data import DistributedSampler
from torchmetrics.classification import MulticlassAccuracy

from lightning_nas.errors import SpaceError, UsageError
from lightning_nas.nn.auxiliary import HasAuxiliary
from lightning_nas.nn.cutout import cutout as cut_out
from lightning_nas.nn.drop_path import has_drop_path, set_drop_path
from lightning_nas.nn.optimizers import cosine
from lightning_nas.spaces.base import SearchSpace
from lightning_nas.spaces.config import describe_space, make_space

Batch = tuple[Tensor, Tensor]
"""Images ``(B, C, H, W)``, normalised float32, and labels ``(B,)`` int64."""

_IMAGES = ("classes", "mean", "std", "max_pixel")  # what turns an image into a network's input, and scores into names


class PercentAccuracy(MulticlassAccuracy):
    """Share of right answers in percent."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, average="micro")

    def compute(self) -> Tensor:
        """The share over all processes."""
        return 100.0 * super().compute()


class ImageClassifier(LightningModule):
    """Trains one architecture of a search space from scratch; the defaults are the recipe of NAS-Bench-201.

    That is SGD with Nesterov momentum under a cosine (Dong & Yang, arXiv 2001.00326, Table 1; they lower the rate once
    an epoch, this module at every step). Cutout, drop path and an auxiliary head make it the evaluation of DARTS
    (Liu et al., arXiv 1806.09055, section 3.1). Gradients are clipped by ``--trainer.gradient_clip_val``.

    Args:
        space: The search space.
        architecture: What to train, in the space's own notation.
        num_classes: Classes (linked from the data).
        image_shape: Channels, height and width of the images (linked from the data).
        classes: Names of the classes; here as in the next three, what the data say when a training begins is taken
            instead, for that is what the weights are made for.
        mean: What the data subtract from the pixels of every channel.
        std: What the data divide by, likewise.
        max_pixel: The brightest pixel of the data.
        channels: Width of the network's first stage; default: that of the space's ``build``.
        cells_per_stage: Cells in each stage; default likewise.
        num_stages: Stages; default likewise.
        stem: What comes before the cells, where a space has a choice: in that of DARTS ``cifar`` keeps the image's
            size, ``imagenet`` takes an eighth of it; default likewise.
        label_smoothing: Share of the target that is spread over all classes.
        cutout: Side in pixels of the square that is zeroed in every training image; 0 for none, CIFAR-10 has 16.
        drop_path: Probability of dropping an edge of a cell at the end of the training; rises linearly from 0.
        auxiliary_weight: Weight of the loss of an auxiliary head, DARTS has 0.4; 0 for no such head.
        optimizer: Optimiser; its learning rate is the peak of the schedule.
        schedule: Share of the peak by the progress of the training: ``cosine`` or ``one_cycle`` of
            ``lightning_nas.nn.training``, or any function of a number from 0 to 1.
        seed: Seed of cutout and dropped paths; draws depend on (seed, epoch, batch, process) alone, so training
            resumes exactly.

    Shapes:
        A batch is ``(images (B, C, H, W), labels (B,))``; class scores are ``(B, num_classes)``.

    Example:
        >>> from lightning_nas.spaces.nasbench201 import NASBench201
        >>> space = NASBench201()
        >>> module = ImageClassifier(space, space.format(space[9930]), 10, (1, 8, 8), channels=4, cells_per_stage=1)
        >>> module.eval()(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        space: SearchSpace,  # type: ignore[type-arg]  # jsonargparse would instantiate SearchSpace[A] itself
        architecture: str,
        num_classes: int,
        image_shape: tuple[int, int, int],
        classes: tuple[str, ...] | None = None,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        max_pixel: int | None = None,
        channels: int | None = None,
        cells_per_stage: int | None = None,
        num_stages: int | None = None,
        stem: str | None = None,
        label_smoothing: float = 0.0,
        cutout: int = 0,
        drop_path: float = 0.0,
        auxiliary_weight: float = 0.0,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.SGD(
            parameters, lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True
        ),
        schedule: Callable[[float], float] = cosine,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._check_ranges(label_smoothing, cutout, drop_path, auxiliary_weight)
        # Hyperparameters of a checkpoint hold the space as a class path, which is what a configuration says, too.
        self.space: SearchSpace[Any] = make_space(space) if isinstance(space, dict) else space
        self.save_hyperparameters(ignore=["optimizer", "schedule", "space"])
        self.save_hyperparameters({"space": describe_space(self.space)})
        self.arch = self.space.parse(architecture)
        self.image_shape = image_shape
        self.label_smoothing, self.cutout, self.seed = label_smoothing, cutout, seed
        self.drop_path, self.auxiliary_weight = drop_path, auxiliary_weight
        self.optimizer, self.schedule = optimizer, schedule
        sizes = {
            "channels": channels, "cells_per_stage": cells_per_stage, "num_stages": num_stages, "stem": stem,
        }  # fmt: skip
        with torch.inference_mode(False), torch.enable_grad():  # weights must be trainable wherever they are loaded
            self.network = self._build({name: size for name, size in sizes.items() if size is not None}, num_classes)
            self.val_accuracy, self.test_accuracy = PercentAccuracy(num_classes), PercentAccuracy(num_classes)

    def _check_ranges(self, label_smoothing: float, cutout: int, drop_path: float, auxiliary_weight: float) -> None:
        shares = 0.0 <= label_smoothing < 1.0 and 0.0 <= drop_path < 1.0
        if not shares or cutout < 0 or auxiliary_weight < 0.0:
            raise UsageError(
                f"ImageClassifier(label_smoothing={label_smoothing}, cutout={cutout}, drop_path={drop_path}, "
                f"auxiliary_weight={auxiliary_weight}): expected label_smoothing and drop_path in [0, 1), the others "
                "not negative"
            )

    def _build(self, sizes: dict[str, Any], num_classes: int) -> nn.Module:
        """The network, once shown an image; whatever does not fit together is said here, before the work starts."""
        arguments: dict[str, Any] = {**sizes, "num_classes": num_classes, "in_channels": self.image_shape[0]}
        if self.auxiliary_weight:
            arguments["auxiliary"] = True
        known = inspect.signature(self.space.build).parameters
        missing = [name for name in arguments if name not in known]
        if missing and not any(p.kind is p.VAR_KEYWORD for p in known.values()):
            raise UsageError(
                f"ImageClassifier: got {', '.join(missing)} ({arguments}), but networks of the space "
                f"{self.space.name!r} are made from {', '.join(list(known)[1:])}; leave the others out"
                + (", auxiliary_weight must be 0" if "auxiliary" in missing else "")
            )
        network = self.space.build(self.arch, **arguments)
        if self.auxiliary_weight and not (isinstance(network, HasAuxiliary) and network.auxiliary is not None):
            raise UsageError(
                f"ImageClassifier(auxiliary_weight={self.auxiliary_weight}): networks of the space "
                f"{self.space.name!r} have no auxiliary head, expected auxiliary_weight: 0"
            )
        if self.drop_path and not has_drop_path(network):
            raise UsageError(
                f"ImageClassifier(drop_path={self.drop_path}): networks of the space {self.space.name!r} have no "
                "paths to drop (lightning_nas.nn.drop_path.DropPath), expected drop_path: 0"
            )
        network.eval()
        try:
            scores = network(torch.zeros(1, *self.image_shape))
            if scores.shape != (1, num_classes):
                raise SpaceError(f"its scores have shape {tuple(scores.shape)}, expected (1, {num_classes})")
        except Exception as error:
            raise SpaceError(
                f"a network of the space {self.space.name!r} with {arguments} cannot classify an image of shape "
                f"{self.image_shape} ({error}); expected not more stages than the image can be halved"
            ) from error
        self._freeze_unused(network, scores)
        network.train()
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def _freeze_unused(self, network: nn.Module, scores: Tensor) -> None:
        """Weights on dead branches get no gradient; distributed training would wait for one."""
        if self.auxiliary_weight:
            scores = scores + network.with_auxiliary(torch.zeros(1, *self.image_shape))[1]  # type: ignore[operator]
        weights = [weight for weight in network.parameters() if weight.requires_grad]
        for weight, gradient in zip(
            weights, torch.autograd.grad(scores.sum(), weights, allow_unused=True), strict=True
        ):
            weight.requires_grad_(gradient is not None)

    def setup(self, stage: str) -> None:
        """Keep what turns an image into a network's input with the weights: a checkpoint is all that is exported."""
        data = getattr(self.trainer, "datamodule", None)
        for name in _IMAGES:
            if stage == "fit" or self.hparams[name] is None:
                self.hparams[name] = getattr(data, name, self.hparams[name])

    def forward(self, images: Tensor) -> Tensor:
        """Class scores of normalised images, ``(B, C, H, W)`` -> ``(B, num_classes)``."""
        return self.network(images)  # type: ignore[no-any-return]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Cross-entropy, and that of the auxiliary head."""
        images, labels = batch
        if self.training:
            images = self._disturb(images, batch_idx)
        if self.training and self.auxiliary_weight:
            scores, auxiliary_scores = self.network.with_auxiliary(images)  # type: ignore[operator]
            loss = self._loss(scores, labels) + self.auxiliary_weight * self._loss(auxiliary_scores, labels)
        else:
            loss = self._loss(self.network(images), labels)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(labels), sync_dist=True)
        return loss

    def _loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(scores, labels, label_smoothing=self.label_smoothing)

    def _disturb(self, images: Tensor, batch_idx: int) -> Tensor:
        """Choose which paths are dropped in this step, and cut squares out of the images."""
        if not (self.cutout or self.drop_path):
            return images
        place = (self.seed, self.current_epoch, batch_idx, self.global_rank)
        first, second = (int(word) >> 1 for word in np.random.SeedSequence(place).generate_state(2, np.uint64))
        if self.drop_path:
            probability = self.drop_path * self.global_step / self._steps
            set_drop_path(self.network, probability, torch.Generator(self.device).manual_seed(first))
        return cut_out(images, self.cutout, torch.Generator().manual_seed(second)) if self.cutout else images

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Forget the generator: nothing but numbers and weights stays in the network."""
        set_drop_path(self.network, 0.0)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Accuracy in percent."""
        self._measure(self.val_accuracy, *self._each_once(batch, batch_idx, self.trainer.val_dataloaders))
        self.log("val/accuracy", self.val_accuracy, on_step=False, on_epoch=True, prog_bar=True)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Accuracy in percent."""
        self._measure(self.test_accuracy, *self._each_once(batch, batch_idx, self.trainer.test_dataloaders))
        self.log("test/accuracy", self.test_accuracy, on_step=False, on_epoch=True)

    def _measure(self, accuracy: PercentAccuracy, images: Tensor, labels: Tensor) -> None:
        if len(labels):  # a last batch of nothing but a repeated image is empty
            accuracy.update(self.network(images), labels)

    def _each_once(self, batch: Batch, batch_idx: int, loader: Any) -> Batch:
        """Without the image that a distributed sampler repeats so that all processes have equally many.

        It deals the images out in turn, and the repeated ones last: to the last processes, as their last image.
        """
        sampler = getattr(loader, "sampler", None)
        if isinstance(sampler, DistributedSampler) and batch_idx == len(loader) - 1:
            repeated = sampler.total_size - len(sampler.dataset)  # type: ignore[arg-type]
            if sampler.rank >= sampler.num_replicas - repeated:
                return batch[0][:-1], batch[1][:-1]
        return batch

    def predict_step(self, batch: Batch | Tensor, batch_idx: int) -> Tensor:
        """Probabilities of the classes, ``(B, num_classes)``."""
        images = batch if isinstance(batch, Tensor) else batch[0]
        return self.network(images).softmax(dim=1)  # type: ignore[no-any-return]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """One optimiser for all weights, and the schedule over the steps of the whole training."""
        self._steps = steps = self._num_steps()
        optimizer = self.optimizer(self.parameters())
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.schedule(min(step / steps, 1.0)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _num_steps(self) -> int:
        steps = self.trainer.estimated_stepping_batches
        if not math.isfinite(steps):
            raise UsageError(
                "ImageClassifier: the trainer has no end, so that the learning rate cannot follow its schedule; "
                "expected trainer.max_epochs or trainer.max_steps"
            )
        return int(steps)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the weights of another architecture, some of which would fit, and to continue with other images."""
        saved = checkpoint.get("hyper_parameters", {})
        for name in ("space", "architecture"):
            if name in saved and saved[name] != self.hparams[name]:
                raise UsageError(
                    f"ImageClassifier({name}={self.hparams[name]!r}): the checkpoint is of {saved[name]!r}; expected "
                    "the same, choose another --run_dir to train another architecture"
                )
        if self._trainer is None or not self._trainer.training:
            return
        for name in _IMAGES:  # setup has asked the data
            before, now = saved.get(name), self.hparams[name]
            if before is not None and now is not None and before != now:
                raise UsageError(
                    f"ImageClassifier: the data have {name}={now!r:.100}, but the checkpoint was trained with "
                    f"{before!r:.100}; continue with the same images, or choose another --run_dir"
                )
