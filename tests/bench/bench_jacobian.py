"""Projected Jacobians against plain code, on one thread.

``python -m tests.bench.bench_jacobian``: one initialisation's Jacobian of random NAS-Bench-201 networks at full size
(16 channels, 5 cells per stage, 256 images), projected; the plain version differentiates with respect to everything and
decomposes the whole matrix. Both in turn, network by network; the median ratio counts.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from lightning_nas.nn.jacobian import input_jacobian, principal_scores
from lightning_nas.spaces.nasbench201 import NASBench201
from tests.bench.keeping import Times

NETWORKS, IMAGES, COMPONENTS = 7, 256, 256


def plain(network: nn.Module, images: Tensor) -> Tensor:
    """Gradients of everything, singular value decomposition."""
    images = images.clone().requires_grad_()
    network.train()(images).sum().backward()
    assert images.grad is not None
    left, values, _ = torch.linalg.svd(images.grad.flatten(1), full_matrices=False)
    scores: Tensor = left * values
    return scores[:, :COMPONENTS]


def ours(network: nn.Module, images: Tensor) -> Tensor:
    """As the data module has it."""
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return principal_scores(input_jacobian(network, images), COMPONENTS)


def seconds(work: Callable[[nn.Module, Tensor], Tensor], arch: tuple[int, ...], images: Tensor) -> float:
    """Wall time for a fresh network, whose making does not count."""
    space = NASBench201()
    torch.manual_seed(0)
    network = space.build(arch)
    start = time.perf_counter()
    work(network, images)
    return time.perf_counter() - start


def main() -> None:
    """Measure, print and keep."""
    torch.set_num_threads(1)
    times = Times("jacobian", "Projected Jacobian of one network, seconds", "full backward pass and SVD")
    space, images = NASBench201(), torch.randn(IMAGES, 3, 32, 32)
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(NETWORKS):
        arch = space.sample(rng)
        pairs.append((seconds(ours, arch, images), seconds(plain, arch, images)))
    mine, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    times.add("projected Jacobian", mine, theirs, ratio=ratio)
    times.keep(f"{NETWORKS} random cells of NAS-Bench-201 at full size, {IMAGES} images")


if __name__ == "__main__":
    main()
