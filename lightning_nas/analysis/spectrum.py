"""What the largest singular value of a network's Jacobian says about its accuracy (arXiv 2102.04208, Fig. 7)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lightning_nas.analysis.figures import scatter_panels
from lightning_nas.analysis.findings import Findings, publish
from lightning_nas.analysis.runs import every_run, load_runs, read_accuracies
from lightning_nas.analysis.views import data_of, described, jacobian_features, network_views
from lightning_nas.errors import UsageError
from lightning_nas.ledger import Row

_SOURCE = "Contrastive embeddings for neural architectures (Hesslow & Poli, arXiv 2102.04208), Figure 7"
_THEIRS = "Largest singular value against ImageNet16-120 accuracy in both spaces; a figure without numbers"


def spectrum(
    run: list[Path],
    datasets: list[str] = ["cifar10", "cifar100", "imagenet16"],  # noqa: B006  # a CLI default
    data_dir: str | None = None,
    output: Path | None = None,
    record: Path | None = None,
) -> None:
    """Draw the largest singular value of every network's Jacobian against its accuracy.

    In numbers: Spearman's and Kendall's rank correlation for each space and data set, with and without architectures
    that have no path from input to output. No encoder takes part; a run only says which Jacobians are meant.

    Args:
        run: A run folder of 'lightning-nas fit' with Jacobians of one or several spaces as data.
        datasets: Data sets of the spaces' tables; one row of panels for each.
        data_dir: Folder of tables; default $LIGHTNING_NAS_DATA or ~/.cache/lightning_nas.
        output: Folder for figures and numbers; default: analysis/spectrum in the first run folder.
        record: Folder of the ledger, usually docs/results; writes the numbers there.
    """
    from scipy.stats import kendalltau, spearmanr

    runs = every_run(load_runs(run, several_spaces=True))
    if len(runs) > 1:
        raise UsageError(f"analyze spectrum: got {len(runs)} run folders, expected one: encoders take no part")
    data = data_of(runs[0])
    findings = Findings("spectrum", "Largest singular value and accuracy", [], "", "", {})
    findings.source, findings.reference_protocol = _SOURCE, _THEIRS
    panels: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    notes, sources = [], []
    for dataset in datasets:
        for networks in data.jacobian_sets():
            truth = read_accuracies(networks.space, None, dataset, None, data_dir)
            sources.append(f"{networks.space.name}, {dataset}: {truth.split}, {truth.epochs} epochs")
            views = network_views(runs[0], networks, truth, jacobian_features(runs[0], networks, embedded=False))
            values, rows = views.features["largest singular value"]
            largest = values.mean(dim=1)[rows, 0].numpy()
            actual, linked = views.scores.numpy(), views.connected.numpy()
            for where, chosen in (("", slice(None)), (", connected", linked)):
                for name, correlation in (("Spearman", spearmanr), ("Kendall", kendalltau)):
                    value = float(correlation(largest[chosen], actual[chosen]).statistic)
                    metric = f"{name}, {dataset}{where}"
                    seeds = f"{len(actual[chosen]):,} architectures"
                    row = Row.of([value], label=networks.space.name, metric=metric, unit="", paper="", seeds=seeds)
                    findings.rows.append(row)
            panels[f"{networks.space.name}, {dataset}"] = largest[linked], actual[linked]
            notes.append(f"Spearman {findings.rows[-2].mean:.2f}, Kendall {findings.rows[-1].mean:.2f}")
    findings.figures["spectrum"] = scatter_panels(
        panels, notes, ("largest singular value", "accuracy (%)"), len(data.jacobian_sets())
    )
    findings.protocol = (
        f"mean of the largest singular value over initialisations, never divided; {described(runs[0])}; rank "
        f"correlation with accuracies ({', '.join(sources)}; means over training seeds); 'connected' leaves out "
        "architectures without a path from input to output, as the figure does"
    )
    findings.scale = ", ".join(f"{part.size:,} networks of {part.space.name}" for part in data.jacobian_sets())
    publish(findings, runs, output, record)
