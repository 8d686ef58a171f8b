"""A step of a bilevel search, and the scoring of an edge, against the way public scripts write them; one thread.

``python -m tests.bench.bench_supernet``: NAS-Bench-201 at full size, 16 channels, 5 cells a stage, 64 + 64 images of
32 x 32. The plain version has every operation of every edge by itself, multiplied by its weight, channels first; its
weights, batches and updates are the same. Both in turn; processor seconds, medians.
"""

import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

from lightning_nas.modules.darts import DARTS
from lightning_nas.modules.supernet_scores import accuracy_without
from lightning_nas.nn.cells import EDGES, StagedNetwork
from lightning_nas.nn.nasbench201_supernet import CANDIDATES, NASBench201Supercell
from lightning_nas.nn.operations import make_operation
from lightning_nas.spaces.nasbench201 import NASBench201
from tests.bench.keeping import Times

BATCH, REPEATS = 64, 3


class PlainCell(nn.Module):
    """Six edges of five operations each; operations of weight 0 are left out."""

    def __init__(self, channels):
        super().__init__()
        self.edges = nn.ModuleList(
            nn.ModuleList(make_operation(name, channels, affine=False) for name in CANDIDATES) for _ in EDGES
        )

    def forward(self, x, weights):
        nodes = [x]
        for head in range(1, 4):
            arriving = [edge for edge, (_, end) in enumerate(EDGES) if end == head]
            nodes.append(sum(self._edge(edge, nodes[EDGES[edge][0]], weights[edge]) for edge in arriving))
        return nodes[-1]

    def _edge(self, edge, x, weights):
        return sum(w * operation(x) for w, operation in zip(weights, self.edges[edge], strict=True) if w != 0)


class PlainNetwork(nn.Module):
    """The benchmark's skeleton around plain cells, with the weights of one of ours."""

    def __init__(self, network, channels, cells):
        super().__init__()
        self.skeleton = StagedNetwork(PlainCell, channels, cells)
        for name in ("stem", "last_activation", "classifier"):
            getattr(self.skeleton, name).load_state_dict(getattr(network.skeleton, name).state_dict())
        for ours, plain in zip(network.skeleton.cells, self.skeleton.cells, strict=True):
            if not isinstance(ours, NASBench201Supercell):
                plain.load_state_dict(ours.state_dict())
                continue
            for edge, (tail, _) in enumerate(EDGES):
                place = [other for other, (start, _) in enumerate(EDGES) if start == tail].index(edge)
                for code, convs in ((2, ours.conv1), (3, ours.conv3)):
                    plain.edges[edge][code].load_state_dict(convs[tail].state_of(place), strict=False)

    def forward(self, images, weights):
        x = self.skeleton.stem(images)
        for block in self.skeleton.cells:
            x = block(x, weights) if isinstance(block, PlainCell) else block(x)
        return self.skeleton.classify(x)


def plain_step(network, alpha, train, valid, optimizers):
    """As the first-order scripts have it: alpha on validation images, then the weights."""
    weights_optimizer, alpha_optimizer = optimizers
    for (images, labels), optimizer in ((valid, alpha_optimizer), (train, weights_optimizer)):
        optimizer.zero_grad()
        F.cross_entropy(network(images, alpha.softmax(dim=-1)), labels).backward()
        if optimizer is weights_optimizer:
            nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()


def plain_scores(network, alpha, edge, batch):
    """Accuracy without each operation of an edge, one after the other."""
    images, labels = batch
    scores = []
    with torch.no_grad():
        for code in range(len(CANDIDATES)):
            weights = alpha.softmax(dim=-1)
            weights[edge, code] = 0.0
            scores.append(float((network(images, weights).argmax(dim=1) == labels).float().mean()))
    return scores


def our_scores(module, edge, batch):
    """The same by the selection's own function."""
    scores: list[float] = []
    for code, name in enumerate(CANDIDATES):
        active = module.mixture().active.clone()
        active[0, edge, code] = name == "none"
        scores.append(accuracy_without(module, [batch], active))
    return scores


def timed(work):
    """Processor seconds of a call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main(channels=16, cells=5):
    """Measure, print and keep."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    times = Times(
        "supernet", "A search step and the scoring of an edge, processor seconds", "as public scripts have it"
    )
    module = DARTS(NASBench201(), 10, (3, 32, 32), {"channels": channels, "cells_per_stage": cells}).train()
    plain = PlainNetwork(module.network, channels, cells).train()
    batches = [(torch.randn(BATCH, 3, 32, 32), torch.randint(10, (BATCH,))) for _ in range(2)]
    alpha = nn.Parameter(module.alpha.detach()[0].clone())
    theirs = (
        torch.optim.SGD(plain.parameters(), 0.025, momentum=0.9, weight_decay=3e-4),
        torch.optim.Adam([alpha], 3e-4, betas=(0.5, 0.999), weight_decay=1e-3),
    )
    ours = module.make_optimizers()
    scored = (batches[1][0].contiguous(memory_format=torch.channels_last), batches[1][1])
    assert our_scores(module, 3, scored) == plain_scores(plain, alpha, 3, batches[1])
    pairs = [
        (timed(lambda: our_scores(module, 3, scored)), timed(lambda: plain_scores(plain, alpha, 3, batches[1])))
        for _ in range(REPEATS)
    ]
    times.add("scoring of an edge, 64 images", *map(statistics.median, zip(*pairs, strict=True)))
    pairs = [
        (
            timed(lambda: module.search_step(*batches, ours, (0,), 0.0)),
            timed(lambda: plain_step(plain, alpha, *batches, theirs)),
        )
        for _ in range(REPEATS)
    ]
    times.add("search step, 64 + 64 images", *map(statistics.median, zip(*pairs, strict=True)))
    times.keep(f"NAS-Bench-201, {channels} channels, {cells} cells a stage, first order")


if __name__ == "__main__":
    main(*map(int, (arg for arg in sys.argv[1:] if arg.isdigit())))
