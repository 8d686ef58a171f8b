"""Do cells that a few edits separate lie close to each other (arch2vec, arXiv 2006.06936, Fig. 3)?"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import LongTensor, Tensor
from torchmetrics.functional import spearman_corrcoef

from lightning_nas.analysis.edit_distance import Distances, EditDistances
from lightning_nas.analysis.figures import box_panels
from lightning_nas.analysis.findings import Findings, publish
from lightning_nas.analysis.runs import every_run, load_runs, read_accuracies, representations
from lightning_nas.analysis.supervised import LABEL, supervised_tables
from lightning_nas.errors import UsageError
from lightning_nas.ledger import Row
from lightning_nas.spaces.base import FiniteSpace
from lightning_nas.spaces.encodings import Encoding

_SOURCE = "arch2vec (Yan et al., NeurIPS 2020, arXiv 2006.06936), Figure 3"
_THEIRS = (
    "one random walk of 1,000 steps over valid cells with 7 vertices, pairs 1 to 8 steps apart, exact graph edit "
    "distance, L2 between embeddings as box plots for distances up to 7; a figure without numbers"
)


class Pairs(NamedTuple):
    """Cells of a random walk, some steps apart: indices in the space, two of ``(B,)``."""

    left: LongTensor
    right: LongTensor


def smoothness(
    run: list[Path],
    num_steps: int = 1000,
    max_gap: int = 8,
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
    """Compare edit distance with distance in the latent space, over pairs of cells from a random walk.

    The walk goes from neighbour to neighbour, so that pairs a few steps apart differ by a few edits. A smooth embedding
    has L2 distances that rise with the exact graph edit distance: box plots, and Spearman's correlation. Compared with
    the same network untrained, with an encoder trained on accuracies (--dataset), and with any encodings.

    Args:
        run: Run folders of 'lightning-nas fit', several seeds of a method or several methods of one space.
        num_steps: Steps of the random walk, each to a random neighbour.
        max_gap: Pairs are 1 to this many steps apart.
        encodings: Further representations to compare, by the name they are shown under.
        dataset: Data set of a benchmark table; when given, an encoder trained on accuracies is compared, too.
        epochs: Training epochs behind the test accuracies; default: the most there are.
        table: Name or path of the benchmark table; default: the space's name.
        num_samples: Cells on whose test accuracies the supervised encoder is trained.
        seed: Seed of the walk and of the untrained network.
        max_steps: Effort spent on one edit distance; pairs that need more are left out, and the output says how many.
        data_dir: Folder of tables; default $LIGHTNING_NAS_DATA or ~/.cache/lightning_nas.
        output: Folder for figures and numbers; default: analysis/smoothness in the first run folder.
        record: Folder of the ledger, usually docs/results; writes the numbers there.
    """
    if not 1 <= max_gap < num_steps:
        raise UsageError(
            f"analyze smoothness: got max_gap={max_gap}, num_steps={num_steps}; expected a gap of at least 1 and more "
            "steps than that"
        )
    groups = load_runs(run)
    runs = every_run(groups)
    space = runs[0].space
    supervised = {}
    if dataset is not None:
        truth = read_accuracies(space, table, dataset, epochs, data_dir)
        supervised[LABEL] = supervised_tables(space, truth, num_samples, len(runs), seed)
    findings = Findings("smoothness", "Edit distance against latent distance", [], "", "", {})
    pairs = walk_pairs(space, num_steps, max_gap, seed)
    found = EditDistances(space.all_graphs(), max_steps)(*pairs)
    edits = found.values[found.exact]
    if len(torch.unique(edits)) < 2:
        raise UsageError(
            f"analyze smoothness: all {len(edits)} pairs have one edit distance; expected a longer walk (--num_steps)"
        )
    panels, notes = {}, []
    for label, tables in representations(groups, encodings or {}, supervised, seed).items():
        lengths = [_lengths(table, pairs)[found.exact] for table in tables]
        correlation = [float(spearman_corrcoef(length, edits.double())) for length in lengths]
        rising = [_rising(length, edits) for length in lengths]
        text: dict[str, Any] = {
            "label": label,
            "unit": "",
            "paper": "",
            "seeds": f"{len(tables)} runs, walk of seed {seed}",
        }
        findings.rows.append(Row.of(correlation, metric="Spearman, edit distance and L2", **text))
        findings.rows.append(Row.of(rising, metric="medians of L2 that rise with the edit distance", **text))
        panels[label] = {int(k): lengths[0][edits == k].numpy() for k in torch.unique(edits).tolist()}
        notes.append(f"Spearman {np.mean(correlation):.3f}")
        findings.details[label] = {
            k: {"pairs": len(values), "quartiles": np.quantile(values, [0.25, 0.5, 0.75]).tolist()}
            for k, values in panels[label].items()
        }
    if space.name == "nasbench101" and "Arch2Vec" in groups:
        findings.source, findings.reference_protocol = _SOURCE, _THEIRS
    findings.protocol = (
        f"random walk of {num_steps:,} steps from a random cell, each to a random neighbour; all pairs 1 to {max_gap} "
        "steps apart; exact graph edit distance of directed, labelled graphs with unit costs; L2 between embeddings; "
        "'medians that rise': share of successive edit distances whose median L2 is larger, 1 for a monotonic rise"
    )
    findings.scale = f"{len(edits):,} pairs, {len(runs)} trained modules"
    left_out = int((~found.exact).sum())
    if left_out:
        findings.notes = (
            f"{left_out} of {len(found.values)} pairs are left out: their edit distance was not found within "
            f"{max_steps:,} steps.",
        )
    findings.figures["smoothness"] = box_panels(panels, notes, ("edit distance", "L2 distance"))
    findings.details |= {"left_out": left_out, "histogram": _histogram(found), "seed": seed}
    publish(findings, runs, output, record)


def walk_pairs(space: FiniteSpace[Any], num_steps: int, max_gap: int, seed: int) -> Pairs:
    """Pairs of cells 1 to ``max_gap`` steps apart on a random walk over neighbours.

    Args:
        space: Where to walk.
        num_steps: Steps of the walk.
        max_gap: Largest number of steps between the cells of a pair.
        seed: Seed of the walk.

    Raises:
        UsageError: The walk goes back and forth between a few cells, as in a sample that lacks most neighbours.
    """
    rng = np.random.default_rng(seed)
    arch = space.sample(rng)
    path = [space.index(arch)]
    for _ in range(num_steps):
        arch = space.mutate(arch, rng)
        path.append(space.index(arch))
    if len(set(path)) * 20 < num_steps:
        raise UsageError(
            f"analyze smoothness: {num_steps:,} steps lead to {len(set(path))} different cells, for of {space.name!r} "
            "only a sample is known, without most cells' neighbours; expected a whole space ('analyze walk' needs none)"
        )
    cells = torch.tensor(path)
    gaps = range(1, max_gap + 1)
    left, right = (torch.cat(parts) for parts in zip(*((cells[:-k], cells[k:]) for k in gaps), strict=True))
    return Pairs(left, right)  # type: ignore[arg-type]


def _lengths(table: Tensor, pairs: Pairs) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(table[pairs.left].double() - table[pairs.right].double(), dim=1)
    return lengths


def _rising(lengths: Tensor, edits: Tensor) -> float:
    medians = torch.stack([lengths[edits == k].median() for k in torch.unique(edits)])
    return float((medians.diff() > 0).double().mean())


def _histogram(found: Distances) -> dict[int, int]:
    values, counts = torch.unique(found.values[found.exact], return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))
