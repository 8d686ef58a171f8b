"""One outer step of a Petri dish against plain autograd, motif by motif and as a batch; one thread, double precision.

``python -m tests.bench.bench_petri_dish``: 250 inner steps of Adam, 18 motifs, the released code's networks of 33
weights. The plain versions differentiate through ``torch.autograd.grad(…, create_graph=True)``, as published code does.
All in turn; wall seconds, medians. Then how time grows with motifs.
"""

import statistics
import time

import torch

from lightning_nas.modules.petri_dish import PetriDish, matching_loss
from lightning_nas.nn.inner_loop import InnerLoop
from tests.bench.keeping import Times

MOTIFS, STEPS, REPEATS = 18, 250, 5


def motifs_and_scores(count):
    """Slopes right of the peak, and falling scores."""
    slopes = torch.linspace(0.4, 1.5, count, dtype=torch.float64)
    return slopes, 97 - 4 * slopes


def plain_training(dish, slopes, inputs, labels):
    """Weights after the inner loop, with torch's own graph through all of it."""
    network, adam = dish.network, dish.loop.optimizer
    (first, second), blueprint = adam.betas, network.prepared(slopes)
    weights = dish.initial[0].expand(len(slopes), -1).clone().requires_grad_()
    mean, square = torch.zeros_like(weights), torch.full_like(weights, adam.eps**4)
    for number in range(1, dish.loop.num_steps + 1):
        loss = network.loss(weights, blueprint, inputs, labels).sum()
        (gradient,) = torch.autograd.grad(loss, weights, create_graph=True)
        mean = first * mean + (1 - first) * gradient
        square = second * square + (1 - second) * gradient**2
        root = (square / (1 - second**number)).sqrt() + adam.eps
        weights = weights - adam.learning_rate * (mean / (1 - first**number)) / root
    return weights


def plain_step(dish, slopes, scores, together):
    """Gradient of the outer loss, all motifs as a batch or one after the other."""
    inputs, valid = (values.detach().clone().requires_grad_() for values in (dish.inputs, dish.valid_inputs))
    losses = []
    for part in [slopes] if together else slopes.split(1):
        size = len(part), -1, -1
        weights = plain_training(dish, part, inputs.expand(size), dish.labels[0])
        losses.append(dish.network.loss(weights, dish.network.prepared(part), valid.expand(size), dish.labels[0]))
    loss = matching_loss(torch.cat(losses), scores) + dish.penalty * (inputs.square().sum() + valid.square().sum())
    loss.backward()
    return inputs.grad, valid.grad


def our_step(dish, slopes, scores):
    """The same by the module."""
    dish.zero_grad()
    dish.outer_loss(slopes, scores).sum().backward()
    return dish.inputs.grad, dish.valid_inputs.grad


def timed(work, *args):
    """Seconds of a call."""
    start = time.perf_counter()
    work(*args)
    return time.perf_counter() - start


def main():
    """Measure, print and keep."""
    torch.set_num_threads(1)
    problem = motifs_and_scores(MOTIFS)
    dish = PetriDish(num_dishes=1, loop=InnerLoop(num_steps=STEPS))
    for together in (True, False):
        for ours, theirs in zip(our_step(dish, *problem), plain_step(dish, *problem, together), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-12)
    times = Times("petri_dish", "An outer step of a Petri dish, 250 inner steps", "plain autograd", _notes())
    for label, together, repeats in (("18 motifs, one after the other", False, 1), ("18 motifs, as a batch", True, 3)):
        pairs = [
            (
                statistics.median(timed(our_step, dish, *problem) for _ in range(REPEATS)),
                timed(plain_step, dish, *problem, together),
            )
            for _ in range(repeats)
        ]
        times.add(label, *map(statistics.median, zip(*pairs, strict=True)))
    base = statistics.median(timed(our_step, dish, *problem) for _ in range(REPEATS))
    for count in (100, 1000):
        many = statistics.median(timed(our_step, dish, *motifs_and_scores(count)) for _ in range(3))
        times.add(
            f"{count} motifs; beside: {MOTIFS} motifs, ours times {count / MOTIFS:.3g}", many, base * count / MOTIFS
        )
    times.keep(f"{MOTIFS} motifs, {STEPS} steps of Adam, 33 weights, double precision")


def _notes():
    return (
        "A step of the released code (autograd/HIPS, all motifs in one masked network) is said to take about 10 s; it "
        "was not run here.",
    )


if __name__ == "__main__":
    main()
