"""Walks through the latent table: is the nearest cell a similar cell (arch2vec, arXiv 2006.06936, Fig. 2)?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import LongTensor, Tensor

from lightning_nas.analysis.edit_distance import EditDistances, hamming_distances
from lightning_nas.analysis.findings import Findings, publish
from lightning_nas.analysis.runs import draw, every_run, load_runs, read_accuracies, representations
from lightning_nas.analysis.supervised import LABEL, supervised_tables
from lightning_nas.cell_drawing import cells_figure
from lightning_nas.errors import UsageError
from lightning_nas.ledger import Row
from lightning_nas.spaces.base import CellGraph
from lightning_nas.spaces.encodings import Encoding

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PUBLISHED = {("nasbench101", "Arch2Vec"): "2.9", ("nasbench101", LABEL): "8.9"}
"""Mean edit distance of adjacent cells; the paper does not say of which kind, so it stands beside both."""

_SOURCE = "arch2vec (Yan et al., NeurIPS 2020, arXiv 2006.06936), Figure 2"
_THEIRS = (
    "15 moves from one random cell, each to the nearest cell not visited; the code has two edit distances, entry-wise "
    "and exact, and which of them the paper reports is not said"
)
_METRICS = "edit distance of adjacent cells", "differing entries of adjacent cells"
_CHANCE = 500  # random pairs
_BLOCK = 10_000_000  # entries of the largest block of distances, 80 MB


def walk(
    run: list[Path],
    num_moves: int = 15,
    num_starts: int = 100,
    num_drawn: int = 1,
    encodings: dict[str, Encoding] | None = None,
    dataset: str | None = None,
    epochs: int | None = None,
    table: str | None = None,
    num_samples: int = 250,
    seed: int = 0,
    max_steps: int = 200_000,
    data_dir: str | None = None,
    output: Path | None = None,
    record: Path | None = None,
) -> None:
    """Walk through the latent space, always to the nearest cell not visited, and draw the cells.

    A good embedding changes a cell little from step to step. Measured by the mean edit distance of adjacent cells,
    exact (graph edit distance) and entry-wise (Hamming distance of labels and adjacency matrices, where a changed
    operation counts twice). Compared with random pairs of cells, with the same network untrained, with an encoder
    trained on accuracies (--dataset), and with any encodings.

    Args:
        run: Run folders of 'lightning-nas fit', several seeds of a method or several methods of one space.
        num_moves: Moves of each walk.
        num_starts: Random cells that walks start from; the mean is over all of them.
        num_drawn: Walks drawn for each representation.
        encodings: Further representations to walk in, by the name they are shown under.
        dataset: Data set of a benchmark table; when given, an encoder trained on accuracies is compared, too.
        epochs: Training epochs behind the test accuracies; default: the most there are.
        table: Name or path of the benchmark table; default: the space's name.
        num_samples: Cells on whose test accuracies the supervised encoder is trained.
        seed: Seed of the starts and of the untrained network.
        max_steps: Effort spent on one edit distance; pairs that need more count with an upper bound, and the output
            says how many.
        data_dir: Folder of tables; default $LIGHTNING_NAS_DATA or ~/.cache/lightning_nas.
        output: Folder for figures and numbers; default: analysis/walk in the first run folder.
        record: Folder of the ledger, usually docs/results; writes the numbers there.
    """
    if min(num_moves, num_starts) < 1 or num_drawn < 0:
        raise UsageError(
            f"analyze walk: got num_moves={num_moves}, num_starts={num_starts}, num_drawn={num_drawn}; expected at "
            "least one move and one start, and no negative number of drawings"
        )
    groups = load_runs(run)
    runs = every_run(groups)
    space = runs[0].space
    if num_moves >= len(space):
        raise UsageError(f"analyze walk: got {num_moves} moves, expected fewer than the {len(space)} cells there are")
    supervised = {}
    if dataset is not None:
        truth = read_accuracies(space, table, dataset, epochs, data_dir)
        supervised[LABEL] = supervised_tables(space, truth, num_samples, len(runs), seed)
    findings = Findings("walk", "Walks through the latent space", [], "", "", {})
    graphs = space.all_graphs()
    measure = EditDistances(graphs, max_steps)
    starts = draw(len(space), num_starts, seed)
    bounds = 0
    for label, tables in representations(groups, encodings or {}, supervised, seed).items():
        exact, entries = [], []
        for number, vectors in enumerate(tables):
            paths = latent_walks(vectors, starts, num_moves)
            left, right = paths[:, :-1].flatten(), paths[:, 1:].flatten()
            found = measure(left, right)
            bounds += int((~found.exact).sum())
            exact.append(float(found.values.double().mean()))
            entries.append(float(_entry_wise(graphs, left, right, len(space.vertex_labels)).double().mean()))
            if number == 0:
                for walked in range(min(num_drawn, num_starts)):
                    steps = found.values.view(num_starts, num_moves)[walked].tolist()
                    name = f"walk_{_slug(label)}" + (f"_{walked + 1}" if num_drawn > 1 else "")
                    findings.figures[name] = _drawing(graphs, paths[walked], steps, space.vertex_labels, label)
        paper = PUBLISHED.get((space.name, label), "")
        text: dict[str, Any] = {
            "label": label,
            "unit": "",
            "paper": paper,
            "seeds": f"{len(tables)} run{'s' * (len(tables) > 1)}, seed {seed}",
        }
        findings.rows.append(Row.of(exact, metric=_METRICS[0], **text))
        findings.rows.append(Row.of(entries, metric=_METRICS[1], **text))
    chance = draw(len(space), 2 * min(_CHANCE, len(space) // 2), seed).view(2, -1)
    found = measure(*chance)
    bounds += int((~found.exact).sum())
    text = {"label": "random pairs", "unit": "", "paper": "", "seeds": f"{chance.shape[1]} pairs, seed {seed}"}
    apart = (
        [float(found.values.double().mean())],
        [float(_entry_wise(graphs, chance[0], chance[1], len(space.vertex_labels)).double().mean())],
    )
    findings.rows += [Row.of(value, metric=metric, **text) for value, metric in zip(apart, _METRICS, strict=True)]
    if space.name == "nasbench101" and "Arch2Vec" in groups:
        findings.source, findings.reference_protocol = _SOURCE, _THEIRS
    findings.protocol = (
        f"{num_moves} moves from each of {num_starts} random cells, each to the nearest cell (L2) of the whole space "
        "that the walk has not visited; mean over all moves, mean ± standard deviation over trained modules; edit "
        "distance: exact graph edit distance of directed, labelled graphs with unit costs; entries: one-hot labels and "
        "adjacency matrices"
    )
    findings.scale = f"{num_starts} walks of {num_moves} moves, {len(runs)} trained modules"
    if bounds:
        findings.notes = (f"{bounds} edit distances are upper bounds: their search was cut after {max_steps:,} steps.",)
    findings.details = {"starts": starts.tolist(), "num_moves": num_moves, "upper_bounds": bounds, "seed": seed}
    publish(findings, runs, output, record)


def latent_walks(embeddings: Tensor, starts: Tensor, num_moves: int) -> LongTensor:
    """From every start to the nearest cell that the walk has not visited, again and again.

    Args:
        embeddings: Of all cells, ``(N, D)``.
        starts: First cells, ``(R,)``.
        num_moves: Steps T of each walk.

    Returns:
        The cells in order, ``(R, T + 1)``; of equally near ones the first by index.
    """
    table = embeddings.double() - embeddings.double().mean(dim=0)
    chunk = max(1, _BLOCK // len(table))
    return torch.cat([_walks(table, part, num_moves) for part in torch.split(starts, chunk)])  # type: ignore[return-value]


def _walks(table: Tensor, starts: Tensor, num_moves: int) -> Tensor:
    path = starts[:, None]
    lengths = table.square().sum(dim=1)
    for _ in range(num_moves):
        distances = torch.addmm(lengths, table[path[:, -1]], table.T, alpha=-2.0)  # (R, N), each row up to a constant
        distances.scatter_(1, path, torch.inf)
        path = torch.cat([path, distances.argmin(dim=1, keepdim=True)], dim=1)
    return path


def _entry_wise(graphs: CellGraph, left: Tensor, right: Tensor, num_ops: int) -> LongTensor:
    one, other = (CellGraph(graphs.ops[i], graphs.adjacency[i]) for i in (left, right))
    return hamming_distances(one, other, num_ops)


def _drawing(graphs: CellGraph, path: Tensor, steps: list[int], labels: tuple[str, ...], heading: str) -> Figure:
    cells = [CellGraph(graphs.ops[i], graphs.adjacency[i]) for i in path.tolist()]
    titles = ["start", *(f"{move}: {step} edit{'s' * (step != 1)}" for move, step in enumerate(steps, start=1))]
    mean = sum(steps) / len(steps)
    return cells_figure(cells, titles, labels, f"{heading}: nearest cells in turn, {mean:.1f} edits per move")


def _slug(label: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in label.lower()).strip("_")
