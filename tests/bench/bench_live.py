"""What the live benchmark costs beside a bare PyTorch loop, and what a second worker brings.

``python -m tests.bench.bench_live``.

The bare loop is what one would write in a good script: one network after the other, ``torch.optim``, the same images,
augmentation, steps and accuracies, everything vectorised. The live benchmark adds worker processes, the store, and the
counting of weights and multiply-adds; its workers are started before the clock is. Both train the same cells of
NAS-Bench-201 on the digits with the recipe of tabulate/nasbench201_digits, on one thread each.
"""

import math
import statistics
import sys
import tempfile
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from lightning_nas.benchmarks.live import LiveBenchmark
from lightning_nas.datamodules.vision import DigitsDataModule
from lightning_nas.nn.training import TrainingRecipe
from lightning_nas.spaces.nasbench201 import NASBench201

CELLS, REPEATS = 12, 3
SPACE, RECIPE, SEEDS = NASBench201(), TrainingRecipe(), 3


def bare_training(network: nn.Module, data: DigitsDataModule, seed: int) -> float:
    """Train as a script would, return the test accuracy."""
    splits = [(split.images.float() / 16, split.labels) for split in (data.train, data.valid, data.test)]
    (images, labels), valid, test = splits
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(network.parameters(), 0.3, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = len(labels) // RECIPE.batch_size
    copies = F.pad(images, [1, 1, 1, 1]).unfold(2, 8, 1).unfold(3, 8, 1)  # every image moved by every number of pixels

    def share(step: int) -> float:
        done = step / (RECIPE.epochs * steps)
        return 0.04 + 3.2 * done if done < 0.3 else 0.5 + 0.5 * math.cos(math.pi * (done - 0.3) / 0.7)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    for _ in range(RECIPE.epochs):
        network.train()
        for index in torch.randperm(len(labels), generator=generator)[: steps * RECIPE.batch_size].view(steps, -1):
            down, right = torch.randint(3, (2, len(index)), generator=generator)
            optimizer.zero_grad()
            F.cross_entropy(network(copies[index, :, down, right]), labels[index]).backward()
            optimizer.step()
            schedule.step()
        accuracy(network, *valid)
    padded = F.pad(test[0], [1, 1, 1, 1])
    moved = [padded[:, :, down : down + 8, right : right + 8] for down in range(3) for right in range(3)]
    return statistics.mean(accuracy(network, copies, test[1]) for copies in moved)


@torch.inference_mode()
def accuracy(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of right answers in percent."""
    network.eval()
    return 100 * float((network(images).argmax(dim=1) == labels).float().mean())


def bare(cells: list, data: DigitsDataModule) -> float:
    """Seconds per training of the loop."""
    start = time.perf_counter()
    for cell in cells:
        for seed in range(SEEDS):
            torch.manual_seed(seed)
            network = SPACE.build(cell, channels=8, cells_per_stage=1, num_stages=1, num_classes=10, in_channels=1)
            bare_training(network, data, seed)
    return (time.perf_counter() - start) / (len(cells) * SEEDS)


def live(cells: list, data: DigitsDataModule, workers: int, num_seeds: int, folder: str) -> float:
    """Seconds per training of the live benchmark."""
    store = f"{folder}/{time.monotonic_ns()}.sqlite"
    benchmarks = [
        LiveBenchmark(SPACE, data, num_stages=1, workers=workers, num_seeds=num_seeds, seed=seed, store=store)
        for seed in range(0, SEEDS, num_seeds)
    ]
    seconds = 0.0
    for benchmark in benchmarks:
        benchmark.evaluate([(0,) * 6, (0, 0, 0, 1, 0, 0)])  # starts the workers
        start = time.perf_counter()
        benchmark.evaluate(cells)
        seconds += time.perf_counter() - start
        benchmark.close()
    return seconds / (len(cells) * SEEDS)


def main() -> None:
    """Print medians of paired repeats."""
    torch.set_num_threads(1)
    data = DigitsDataModule(600, 450)
    data.setup("fit")
    indices = np.random.default_rng(0).choice(np.flatnonzero(SPACE.connected.numpy()), CELLS, replace=False)
    cells = [SPACE[int(index)] for index in indices]
    names = ("bare loop", "1 worker", "1 worker, 3 seeds side by side", "2 workers, 3 seeds side by side")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        bare(cells[:1], data)
        for _ in range(REPEATS):
            ours = [live(cells, data, workers, seeds, folder) for workers, seeds in ((1, 1), (1, 3), (2, 3))]
            rows.append([bare(cells, data), *ours])
    for place, name in enumerate(names):
        seconds = statistics.median(row[place] for row in rows)
        ratio = statistics.median(row[place] / row[0] for row in rows)
        sys.stdout.write(f"{name:>31}: {60 / seconds:6.1f} trainings a minute, {ratio:.2f} x the bare loop's time\n")


if __name__ == "__main__":
    main()
