"""What an encoder adds, in three maps: raw Jacobians, untrained encoder, trained encoder (arXiv 2102.04208, Fig. 3)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from lightning_nas.analysis.figures import map_panels
from lightning_nas.analysis.findings import Findings, publish
from lightning_nas.analysis.runs import TrainedRun, draw, every_run, load_runs, read_accuracies, untrained
from lightning_nas.analysis.tsne import neighbour_agreement, tsne_map
from lightning_nas.analysis.views import data_of, described
from lightning_nas.errors import UsageError
from lightning_nas.ledger import Row

_SOURCE = "Contrastive embeddings for neural architectures (Hesslow & Poli, arXiv 2102.04208), Figure 3"
_THEIRS = (
    "scikit-learn's t-SNE with its defaults of 1,500 random architectures: flattened Jacobians of one initialisation, "
    "their embedding by the untrained network, and by the trained one; a figure without numbers"
)


def stages(
    run: list[Path],
    dataset: str | None = None,
    epochs: int | None = None,
    table: str | None = None,
    num_networks: int = 1500,
    perplexity: float = 30.0,
    num_neighbors: int = 10,
    seed: int = 0,
    data_dir: str | None = None,
    output: Path | None = None,
    record: Path | None = None,
) -> None:
    """Map networks by t-SNE at three stages: their Jacobians, these embedded untrained, and trained.

    In numbers: how well the mean accuracy of a network's nearest neighbours, on the map and in the vectors themselves,
    agrees with its own (Pearson).

    Args:
        run: Run folders of 'lightning-nas fit' with Jacobians as data, several seeds of one method.
        dataset: Data set of the table, for example cifar10; default: the only one.
        epochs: Training epochs behind the accuracies; default: the most there are.
        table: Name or path of the benchmark table; default: the space's name.
        num_networks: Random networks that are mapped, at most; isomorphic cells are one.
        perplexity: Of t-SNE: about how many neighbours count.
        num_neighbors: Neighbours whose accuracies are averaged.
        seed: Seed of the networks, of the untrained encoders and of t-SNE.
        data_dir: Folder of tables; default $LIGHTNING_NAS_DATA or ~/.cache/lightning_nas.
        output: Folder for figures and numbers; default: analysis/stages in the first run folder.
        record: Folder of the ledger, usually docs/results; writes the numbers there.
    """
    groups = load_runs(run)
    runs = every_run(groups)
    if len(groups) > 1:
        raise UsageError(f"analyze stages: got runs of {' and '.join(groups)}, expected seeds of one method")
    truth = read_accuracies(runs[0].space, table, dataset, epochs, data_dir)
    (networks,) = data_of(runs[0]).jacobian_sets()
    # Other seeds of the data have other networks, or these in another order.
    shared = truth.members
    for member in runs:
        (own,) = data_of(member).jacobian_sets()
        shared = shared[torch.isin(shared, own.store.order[: own.size])]  # type: ignore[assignment]
    chosen = shared[draw(len(shared), num_networks, seed)]
    if not 1 <= num_neighbors < len(chosen) or not 0 < perplexity < len(chosen):
        raise UsageError(
            f"analyze stages: got perplexity={perplexity:g}, num_neighbors={num_neighbors} for {len(chosen)} "
            "networks; expected both positive and below their number"
        )
    accuracy = torch.full((len(networks.space),), torch.nan, dtype=torch.float64)
    accuracy[truth.members] = truth.values
    scores = accuracy[chosen].numpy()
    findings = Findings("stages", "What the encoder adds", [], "", "", {}, dataset=truth.dataset)
    findings.source, findings.reference_protocol = _SOURCE, _THEIRS
    measured: dict[tuple[str, str], list[float]] = {}
    for number, member in enumerate(runs):
        panels = {}
        for label, vectors in _vectors(member, chosen, seed + number).items():
            panels[label] = tsne_map(vectors, perplexity, seed)
            for where, points in (("on the map", panels[label]), ("in the vectors", vectors.numpy())):
                agreement = neighbour_agreement(points, scores, num_neighbors)
                measured.setdefault((label, where), []).append(agreement)
        name = "stages" if len(runs) == 1 else f"stages_{number}"
        findings.figures[name] = map_panels(
            panels, scores, f"{member.method}, {networks.space.name}: {truth.dataset}", truth.split
        )
    for (label, where), values in measured.items():
        metric = f"Pearson, accuracy against that of the neighbours {where}"
        row = Row.of(values, label=label, metric=metric, unit="", paper="", seeds=f"{len(runs)} runs, seed {seed}")
        findings.rows.append(row)
    findings.protocol = (
        f"{len(chosen):,} random canonical networks, the first of their initialisations; {described(runs[0])}; "
        f"scikit-learn's t-SNE, perplexity {perplexity:g}, otherwise its defaults; "
        f"{num_neighbors} nearest neighbours; {truth.split} accuracy ({truth.dataset}, {truth.epochs} epochs)"
    )
    findings.scale = f"{len(chosen):,} of {networks.size:,} networks, {len(runs)} trained modules"
    findings.details = {"num_networks": len(chosen), "perplexity": perplexity, "seed": seed}
    publish(findings, runs, output, record)


@torch.no_grad()
def _vectors(run: TrainedRun, members: Tensor, seed: int) -> dict[str, Tensor]:
    """What stands for the first initialisation of some canonical members at every stage, three of ``(n, d)``."""
    data = data_of(run)
    (networks,) = data.jacobian_sets()
    places = torch.full((len(networks.space),), -1)
    places[networks.store.order] = torch.arange(len(networks.store.order))
    chunks = [data.scores(networks, chunk)[:, :1].clone() for chunk in torch.split(places[members], 512)]
    fresh = untrained(run.module, seed)
    found = {"Jacobians": torch.cat(chunks).flatten(1)}
    for label, module in (("untrained encoder", fresh), ("trained encoder", run.module)):
        found[label] = torch.cat([module.embed_views(chunk)[:, 0] for chunk in chunks])  # type: ignore[operator]
    return found
