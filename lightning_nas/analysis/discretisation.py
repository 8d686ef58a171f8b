"""Whether the weights of a supernet's operations say what they are worth (DARTS-PT, arXiv 2108.04392, Fig. 1)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from lightning_nas.analysis.supernets import load_supernet, supernet_accuracy
from lightning_nas.analysis.tables_of_runs import Study, keep_study
from lightning_nas.datamodules.bilevel import BilevelDataModule
from lightning_nas.errors import UsageError
from lightning_nas.ledger import Row
from lightning_nas.modules.darts import DARTS
from lightning_nas.modules.supernet_scores import copied
from lightning_nas.plots import PALETTE, STYLE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_EPOCH = 3_000_000  # batches other than those of trainings and selections


class EdgeWorth(NamedTuple):
    """What the operations of one edge are worth.

    Attributes:
        name: The edge in words.
        operations: Names of its operations.
        weights: What the supernet gives them.
        accuracies: Of the supernet in percent, after each was the edge's only one for some epochs.
    """

    name: str
    operations: tuple[str, ...]
    weights: list[float]
    accuracies: list[float]


def discretisation(
    run: list[Path],
    num_edges: int = 3,
    cell: str | None = None,
    epochs: int = 5,
    lr: float = 0.0025,
    seed: int = 0,
    name: str = "darts/discretisation",
    output: Path | None = None,
    record: Path | None = None,
) -> None:
    """Make operations an edge's only one, train the supernet on, and compare its accuracy with their weights.

    Args:
        run: Run folders of 'lightning-nas fit' with a supernet, seeds of one method.
        num_edges: Random edges of each supernet; all there are where they are fewer.
        cell: Kind of cell, for example normal; default: all.
        epochs: Epochs of training after each discretisation.
        lr: Learning rate of the weights meanwhile.
        seed: Of the choice of edges.
        name: File name in the ledger.
        output: Folder for figure and numbers; default: analysis/discretisation in the first run folder.
        record: Folder of the ledger, usually docs/results; writes the numbers there.
    """
    if not run or min(num_edges, epochs) < 1:
        raise UsageError(
            f"analyze discretisation: got {len(run)} runs, num_edges={num_edges}, epochs={epochs}; expected some"
        )
    started = time.perf_counter()
    found: dict[str, list[EdgeWorth]] = {}
    label = ""
    for number, folder in enumerate(run):
        module, data = load_supernet(folder)
        label = module.label
        rng = np.random.default_rng((seed, number))
        chosen = rng.permutation(_edges(module, cell))[:num_edges]
        found[str(folder)] = [_worth(module, data, kind, edge, epochs, lr) for kind, edge in chosen.tolist()]
    correlations, wrong = _agreement(found)
    seeds = f"{len(run)} runs, {len(found[str(run[0])])} edges each"
    text = {"label": label, "paper": "", "seeds": seeds}
    rows = [
        Row.of(correlations, metric="Spearman, weights and accuracies of an edge", unit="", **text),  # type: ignore[arg-type]
        Row.of(wrong, metric="edges whose largest weight is not the best operation", unit="%", **text),  # type: ignore[arg-type]
        *(Row.of(values, metric=metric, unit="%", **text) for metric, values in _skips(found).items()),  # type: ignore[arg-type]
    ]
    study = Study(
        name=name,
        title=f"Weights and worth of operations, {label}",
        source="DARTS-PT (Wang et al., arXiv 2108.04392), Fig. 1, which shows three edges",
        reference_protocol="three random edges, each operation made the only one, tuned until the accuracy rests",
        protocol=(
            f"random edges; each operation the only one, then {epochs} epochs of both levels at a rate of {lr}; "
            "validation accuracy by the statistics of each batch"
        ),
        scale=seeds,
        rows=rows,
        figures={"discretisation": worth_figure(found[str(run[0])])},
        started=started,
        details={folder: [edge._asdict() for edge in edges] for folder, edges in found.items()},
    )
    keep_study(study, output or Path(run[0]) / "analysis" / "discretisation", record)


def _edges(module: DARTS, cell: str | None) -> list[tuple[int, int]]:
    """Number of the kind of cell, and of the edge."""
    names = [group.name for group in module.network.groups]
    if cell is not None and cell not in names:
        raise UsageError(f"analyze discretisation: got cell={cell!r}, expected one of {', '.join(names)}")
    kinds, edges, _ = module.network.shape
    return [(kind, edge) for kind in range(kinds) for edge in range(edges) if cell in (None, names[kind])]


def _skips(found: Mapping[str, Sequence[EdgeWorth]]) -> dict[str, list[float]]:
    """Share of every run's edges on which the skip connection is first, by weight and by worth (thesis, Fig. 2.2)."""
    if not all("skip_connect" in edge.operations for edges in found.values() for edge in edges):
        return {}
    shares = {}
    for what, key in (("largest weight", "weights"), ("best operation", "accuracies")):
        shares[f"edges whose {what} is the skip connection"] = [
            100.0 * float(np.mean([one.operations[np.argmax(getattr(one, key))] == "skip_connect" for one in edges]))
            for edges in found.values()
        ]
    return shares


def _worth(module: DARTS, data: BilevelDataModule, kind: int, edge: int, epochs: int, lr: float) -> EdgeWorth:
    group = module.network.groups[kind]
    weights = module.mixture().weights[kind, edge].tolist()
    accuracies = []
    for code in range(len(weights)):
        one = copied(module)
        one.decided[kind, edge] = code
        optimizers = one.make_optimizers()
        for parameters in optimizers[0].param_groups:
            parameters["lr"] = lr
        one.train()
        for epoch in range(epochs):
            for step, (train, valid) in enumerate(data.batches(_EPOCH + epoch)):
                one.search_step(train, valid, optimizers, (_EPOCH + epoch, step), 1.0)
        accuracies.append(supernet_accuracy(one, data))
    tail, head = group.edges[edge]
    return EdgeWorth(f"{group.name} {tail} → {head}", group.operations[edge], weights, accuracies)


def _agreement(found: Mapping[str, Sequence[EdgeWorth]]) -> tuple[list[float], list[float]]:
    """Rank correlation of every run, its edges' mean, and the share of edges whose largest weight is not the best."""
    from scipy.stats import spearmanr

    correlations, wrong = [], []
    for edges in found.values():
        values = [float(spearmanr(edge.weights, edge.accuracies).statistic) for edge in edges]
        correlations.append(float(np.nan_to_num(values).mean()))
        misses = [edge.accuracies[int(np.argmax(edge.weights))] < max(edge.accuracies) for edge in edges]
        wrong.append(100.0 * float(np.mean(misses)))
    return correlations, wrong


def worth_figure(edges: Sequence[EdgeWorth]) -> Figure:
    """Weights beside accuracies of the operations of some edges, a column of panels for each."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(2.4 * len(edges) + 0.6, 4.2), layout="constrained")
        axes = figure.subplots(2, len(edges), squeeze=False)
        for column, edge in enumerate(edges):
            places = torch.arange(len(edge.operations)).numpy()
            for row, (values, text) in enumerate(((edge.weights, "weight"), (edge.accuracies, "accuracy (%)"))):
                ax = axes[row, column]
                best = int(np.argmax(values))
                ax.bar(places, values, color=[PALETTE[1] if place == best else PALETTE[0] for place in places])
                if row:
                    low, high = min(values), max(values)
                    ax.set_ylim(low - 0.3 * (high - low) - 0.1, high + 0.1 * (high - low) + 0.1)
                ax.set_xticks(
                    places, edge.operations if row else [""] * len(places), rotation=60, ha="right", fontsize=7
                )
                if not column:
                    ax.set_ylabel(text)
            axes[0, column].set_title(edge.name, fontsize=8)
    return figure
