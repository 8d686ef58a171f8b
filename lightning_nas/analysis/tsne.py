"""A map of the embedding, coloured by accuracy (arch2vec, arXiv 2006.06936, Fig. 4)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_nas.analysis.figures import map_figure
from lightning_nas.analysis.findings import Findings, publish
from lightning_nas.analysis.runs import draw, every_run, load_runs, read_accuracies
from lightning_nas.errors import UsageError
from lightning_nas.ledger import Row

if TYPE_CHECKING:
    from torch import Tensor

_SOURCE = "arch2vec (Yan et al., NeurIPS 2020, arXiv 2006.06936), Figure 4"
_THEIRS = "t-SNE of 10,000 random cells, mean test accuracy on a grid of 51 x 51; a figure without numbers"


def tsne(
    run: list[Path],
    dataset: str | None = None,
    epochs: int | None = None,
    table: str | None = None,
    num_cells: int = 10_000,
    grid: int = 51,
    perplexity: float = 30.0,
    num_neighbors: int = 10,
    seed: int = 0,
    data_dir: str | None = None,
    output: Path | None = None,
    record: Path | None = None,
) -> None:
    """Map the embedding to the plane by t-SNE and colour it by test accuracy.

    Two drawings for each run: the cells themselves, and the mean over the cells of every square of a grid. In numbers:
    how well the mean accuracy of a cell's nearest neighbours, on the map and in the embedding itself, agrees with its
    own (Pearson).

    Args:
        run: Run folders of 'lightning-nas fit', several seeds of a method or several methods of one space.
        dataset: Data set of the table, for example cifar10; default: the only one.
        epochs: Training epochs behind the test accuracies; default: the most there are.
        table: Name or path of the benchmark table; default: the space's name.
        num_cells: Random cells that are mapped, at most.
        grid: Squares of the grid along each axis.
        perplexity: Of t-SNE: about how many neighbours count.
        num_neighbors: Neighbours whose accuracies are averaged.
        seed: Seed of the cells and of t-SNE.
        data_dir: Folder of tables; default $LIGHTNING_NAS_DATA or ~/.cache/lightning_nas.
        output: Folder for figures and numbers; default: analysis/tsne in the first run folder.
        record: Folder of the ledger, usually docs/results; writes the numbers there.
    """
    groups = load_runs(run)
    runs = every_run(groups)
    truth = read_accuracies(runs[0].space, table, dataset, epochs, data_dir)
    chosen = draw(len(truth.values), num_cells, seed)
    if grid < 1 or not 1 <= num_neighbors < len(chosen) or not 0 < perplexity < len(chosen):
        raise UsageError(
            f"analyze tsne: got grid={grid}, perplexity={perplexity:g}, num_neighbors={num_neighbors} for "
            f"{len(chosen)} cells; expected at least one square, perplexity and neighbours below {len(chosen)}"
        )
    findings = Findings("tsne", "Map of the embedding", [], "", "", {}, dataset=truth.dataset)
    scores = truth.values[chosen].numpy()
    for label, group in groups.items():
        measured: dict[str, list[float]] = {}
        for number, member in enumerate(group):
            table_of_cells = member.embeddings[truth.members[chosen]]
            places = tsne_map(table_of_cells, perplexity, seed)
            squares = grid_means(places, scores, grid)
            for name, points in (("on the map", places), ("in the embedding", table_of_cells.numpy())):
                agreement = neighbour_agreement(points, scores, num_neighbors)
                measured.setdefault(f"accuracy against that of the neighbours {name}", []).append(agreement)
            name = "tsne" if len(runs) == 1 else f"tsne_{len(findings.figures)}"
            heading = label if len(group) == 1 else f"{label}, {member.folder.name}"
            findings.figures[name] = map_figure(places, scores, squares, f"{heading}: {truth.dataset}")
            findings.details[f"{label} {number}"] = {
                "run": str(member.folder), "squares_with_cells": int(np.isfinite(squares).sum()),
            }  # fmt: skip
        seeds = f"{len(group)} runs, seed {seed}"
        findings.rows += [
            Row.of(values, label=label, metric=f"Pearson, {name}", unit="", paper="", seeds=seeds)
            for name, values in measured.items()
        ]
    if runs[0].space.name == "nasbench101" and "Arch2Vec" in groups:
        findings.source, findings.reference_protocol = _SOURCE, _THEIRS
    findings.protocol = (
        f"{len(chosen):,} random cells; scikit-learn's t-SNE, perplexity {perplexity:g}, otherwise its defaults; each "
        f"axis divided by its largest absolute value; grid of {grid} x {grid}; {num_neighbors} nearest neighbours; "
        f"{truth.dataset}, {truth.epochs} epochs"
    )
    findings.scale = f"{len(chosen):,} of {len(truth.values):,} cells of the table {truth.table}, {len(runs)} modules"
    findings.details |= {"num_cells": len(chosen), "grid": grid, "perplexity": perplexity, "seed": seed}
    publish(findings, runs, output, record)


def tsne_map(embeddings: Tensor, perplexity: float, seed: int) -> np.ndarray:
    """Places on the plane, each axis divided by its largest absolute value, ``(n, D)`` -> ``(n, 2)`` in [-1, 1]."""
    from sklearn.manifold import TSNE

    kind: Any = TSNE(n_components=2, perplexity=perplexity, random_state=seed)
    places = kind.fit_transform(embeddings.numpy()).astype(np.float64)
    normalised: np.ndarray = places / np.maximum(np.abs(places).max(axis=0), 1e-12)
    return normalised


def grid_means(places: np.ndarray, scores: np.ndarray, grid: int) -> np.ndarray:
    """Mean score in every square of a grid over [-1, 1]², NaN where there is none, rows upwards, ``(grid, grid)``."""
    square = np.clip(((places + 1) / 2 * grid).astype(int), 0, grid - 1)
    number = square[:, 1] * grid + square[:, 0]
    total = np.bincount(number, weights=scores, minlength=grid**2)
    count = np.bincount(number, minlength=grid**2)
    means = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return means.reshape(grid, grid)


def neighbour_agreement(points: np.ndarray, scores: np.ndarray, count: int) -> float:
    """Pearson's correlation of scores with the mean score of the nearest neighbours, ``(n, d)`` and ``(n,)``."""
    from sklearn.neighbors import NearestNeighbors

    near = NearestNeighbors(n_neighbors=count).fit(points).kneighbors(return_distance=False)  # without the cell itself
    return float(np.corrcoef(scores, scores[near].mean(axis=1))[0, 1])
