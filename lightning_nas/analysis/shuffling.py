"""Whether a network still works when two of its parts change places (DARTS-PT, arXiv 2108.04392, Table 1)."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_nas.analysis.supernets import load_supernet, supernet_accuracy
from lightning_nas.analysis.tables_of_runs import Study, keep_study
from lightning_nas.datamodules.bilevel import BilevelDataModule
from lightning_nas.errors import UsageError
from lightning_nas.ledger import Row
from lightning_nas.modules.darts import DARTS
from lightning_nas.modules.supernet_scores import copied
from lightning_nas.nn.operations import ReLUConvBN

_EPOCH = 4_000_000  # batches other than those of trainings, selections and discretisations
_PAPER = {"VGG": ("92.69", "9.83 ± 0.33"), "ResNet": ("93.86", "83.20 ± 2.03"), "DARTS": ("88.44", "81.09 ± 1.87")}


class Stack(nn.Module):
    """A stem, equal layers one after another, with or without the identity beside each, and a linear head.

    Args:
        num_layers: Layers of ReLU, 3x3 convolution, batch normalisation.
        channels: Width.
        num_classes: Outputs.
        in_channels: Channels of the images.
        residual: Whether each layer adds to its input (ResNet) instead of replacing it (VGG).
    """

    def __init__(self, num_layers: int, channels: int, num_classes: int, in_channels: int, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.stem = nn.Sequential(nn.Conv2d(in_channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
        self.layers = nn.ModuleList(ReLUConvBN(channels, channels, 3) for _ in range(num_layers))
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores, ``(B, C, H, W)`` -> ``(B, num_classes)``."""
        x = self.stem(images)
        for each in self.layers:
            x = x + each(x) if self.residual else each(x)
        return self.classifier(x.relu().mean(dim=(2, 3)))  # type: ignore[no-any-return]


def shuffling(
    run: list[Path],
    num_swaps: int = 10,
    num_layers: int = 8,
    channels: int = 16,
    epochs: int = 50,
    lr: float = 0.05,
    seed: int = 0,
    name: str = "darts/shuffling",
    output: Path | None = None,
    record: Path | None = None,
) -> None:
    """Let two random edges of supernets, and two random layers of plain and of residual stacks, change places.

    A stack of each kind is trained for every run, on the images that trained the supernet's weights. Alpha and what is
    settled move with their edges, weights of edges (PC-DARTS) do not. Accuracies are on the images for alpha, by the
    statistics of each batch.

    Args:
        run: Run folders of 'lightning-nas fit' with a supernet, seeds of one method.
        num_swaps: Random pairs that change places, one at a time.
        num_layers: Layers of the stacks.
        channels: Width of the stacks.
        epochs: Epochs of the stacks' training.
        lr: Its learning rate at the beginning of a cosine.
        seed: Of pairs, weights and batches.
        name: File name in the ledger.
        output: Folder for numbers; default: analysis/shuffling in the first run folder.
        record: Folder of the ledger, usually docs/results; writes the numbers there.
    """
    if not run or min(num_swaps, num_layers - 1, channels, epochs) < 1:
        raise UsageError(
            f"analyze shuffling: got {len(run)} runs, num_swaps={num_swaps}, num_layers={num_layers}, "
            f"channels={channels}, epochs={epochs}; expected some, and two layers or more"
        )
    started = time.perf_counter()
    before: dict[str, list[float]] = {}
    after: dict[str, list[float]] = {}
    for number, folder in enumerate(run):
        module, data = load_supernet(folder)
        rng = np.random.default_rng((seed, number))
        measured = {module.label: _shuffled_supernet(module, data, num_swaps, rng)}
        for label, residual in (("VGG", False), ("ResNet", True)):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(rng.integers(2**31)))
                stack = Stack(num_layers, channels, data.num_classes, data.image_shape[0], residual)
            _train(stack, data, epochs, lr)
            measured[label] = _shuffled_stack(stack, data, num_swaps, rng)
        for label, (whole, swapped) in measured.items():
            before.setdefault(label, []).append(whole)
            after.setdefault(label, []).append(float(np.mean(swapped)))
    rows = []
    for label in before:
        paper = _PAPER.get(label, ("", ""))
        for values, metric, published in (
            (before[label], "accuracy", paper[0]), (after[label], "accuracy with two parts swapped", paper[1]),
        ):  # fmt: skip
            text = {"label": label, "unit": "%", "paper": published, "seeds": f"{len(run)} runs"}
            rows.append(Row.of(values, metric=metric, **text))  # type: ignore[arg-type]
    study = Study(
        name=name,
        title="Networks two of whose parts change places",
        source="DARTS-PT (Wang et al., arXiv 2108.04392), Table 1; as printed in the thesis (2021), Table 2.1",
        reference_protocol="CIFAR-10; VGG and ResNet of a depth that is not said, two layers of every stage swapped",
        protocol=(
            "supernets of the given runs, two edges of the same shape swapped in every cell; stacks of "
            f"{num_layers} equal layers of {channels} channels, {epochs} epochs; {num_swaps} random swaps each; images "
            "of the runs"
        ),
        scale=f"{len(run)} networks of each kind",
        rows=rows,
        figures={},
        started=started,
        details={"before": before, "after": after},
    )
    keep_study(study, output or Path(run[0]) / "analysis" / "shuffling", record)


def _shuffled_supernet(
    module: DARTS, data: BilevelDataModule, num_swaps: int, rng: np.random.Generator
) -> tuple[float, list[float]]:
    accuracies: list[float] = []
    kinds, edges, _ = module.network.shape
    while len(accuracies) < num_swaps:
        kind = int(rng.integers(kinds))
        first, second = (int(edge) for edge in rng.permutation(edges)[:2])
        other = copied(module)
        try:
            other.network.swap(kind, first, second)
        except UsageError:
            continue  # of different shapes
        with torch.no_grad():
            for name in ("alpha", "decided", "active"):
                getattr(other, name)[kind, [first, second]] = getattr(module, name)[kind, [second, first]]
        accuracies.append(supernet_accuracy(other, data))
    return supernet_accuracy(module, data), accuracies


def _shuffled_stack(
    stack: Stack, data: BilevelDataModule, num_swaps: int, rng: np.random.Generator
) -> tuple[float, list[float]]:
    accuracies = []
    for _ in range(num_swaps):
        first, second = (int(place) for place in rng.permutation(len(stack.layers))[:2])
        other = copy.deepcopy(stack)
        other.layers[first], other.layers[second] = other.layers[second], other.layers[first]
        accuracies.append(_accuracy(other, data))
    return _accuracy(stack, data), accuracies


@torch.no_grad()
def _accuracy(network: Callable[[Tensor], Tensor], data: BilevelDataModule) -> float:
    right = [(network(images).argmax(dim=1) == labels).float() for images, labels in data.scoring_batches()]
    return 100.0 * float(torch.cat(right).mean())


def _train(stack: Stack, data: BilevelDataModule, epochs: int, lr: float) -> None:
    optimizer = torch.optim.SGD(stack.parameters(), lr=lr, momentum=0.9, weight_decay=3e-4)
    for epoch in range(epochs):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1.0 + math.cos(math.pi * epoch / epochs)) / 2.0
        for (images, labels), _ in data.batches(_EPOCH + epoch):
            optimizer.zero_grad()
            F.cross_entropy(stack(images), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
