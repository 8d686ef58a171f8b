"""How well trees on the embeddings of a few networks predict the accuracy of all others (arXiv 2102.04208, Table 1)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lightning_nas.analysis.figures import density_panels
from lightning_nas.analysis.findings import Findings, publish
from lightning_nas.analysis.runs import every_run, load_runs, read_accuracies
from lightning_nas.analysis.views import (
    agreement,
    data_of,
    described,
    fitted,
    jacobian_features,
    network_views,
    predicted,
    split,
)
from lightning_nas.errors import UsageError
from lightning_nas.ledger import Row

PUBLISHED = {
    "cifar10": {"Pearson": "0.88", "Kendall": "0.57"},
    "cifar100": {"Pearson": "0.86", "Kendall": "0.57"},
    "imagenet16": {"Pearson": "0.84", "Kendall": "0.52"},
}
_SOURCE = "Contrastive embeddings for neural architectures (Hesslow & Poli, arXiv 2102.04208), Table 1 and Figure 4"
_THEIRS = (
    "Networks with 16 channels and 5 cells per stage, 256 CIFAR images, 4 initialisations, encoder trained on all of "
    "them; LightGBM on 500 random cells, 4 rows each, tested on 2,000 others by the mean of 4 predictions; one run"
)


def regression(
    run: list[Path],
    dataset: str | None = None,
    epochs: int | None = None,
    table: str | None = None,
    num_train: int = 500,
    num_draws: int = 5,
    seed: int = 0,
    data_dir: str | None = None,
    output: Path | None = None,
    record: Path | None = None,
) -> None:
    """Fit LightGBM to the embeddings of a few networks and predict the accuracy of all others.

    Every initialisation is a row of its own; the prediction for a network is the mean over its initialisations. The
    same trees on what needs no encoder stand beside: the Jacobian's largest singular value, all of its singular values,
    parameters, multiply-adds. Isomorphic cells share a network; none that the trees were fitted on is predicted.

    Args:
        run: Run folders of 'lightning-nas fit' with Jacobians as data, several seeds of one method.
        dataset: Data set of the table, for example cifar10; default: the only one.
        epochs: Training epochs behind the accuracies; default: the most there are.
        table: Name or path of the benchmark table; default: the space's name.
        num_train: Architectures that are fitted.
        num_draws: Fits with other architectures, for each run.
        seed: Seed of the architectures that are fitted, different ones for every run.
        data_dir: Folder of tables; default $LIGHTNING_NAS_DATA or ~/.cache/lightning_nas.
        output: Folder for figures and numbers; default: analysis/regression in the first run folder.
        record: Folder of the ledger, usually docs/results; writes the numbers there.
    """
    groups = load_runs(run)
    runs = every_run(groups)
    if len(groups) > 1:
        raise UsageError(f"analyze regression: got runs of {' and '.join(groups)}, expected seeds of one method")
    if num_draws < 1:
        raise UsageError(f"analyze regression: got num_draws={num_draws}, expected at least 1")
    truth = read_accuracies(runs[0].space, table, dataset, epochs, data_dir)
    findings = Findings("regression", "LightGBM on embeddings", [], "", "", {}, dataset=truth.dataset)
    measured: dict[tuple[str, str], list[float]] = {}
    panels: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for number, member in enumerate(runs):
        (networks,) = data_of(member).jacobian_sets()
        views = network_views(member, networks, truth, jacobian_features(member, networks))
        for draw in range(num_draws):
            train, unseen = split(views, num_train, (seed, number, draw))
            for label, features in views.features.items():
                trees = fitted(gradient_boosting(), features, views.scores, train)
                guess = predicted(trees, features, unseen)
                actual, linked = views.scores[unseen].numpy(), views.connected[unseen].numpy()
                for where, chosen in (("", slice(None)), (", connected", linked)):
                    for name, value in agreement(guess[chosen], actual[chosen]).items():
                        measured.setdefault((label, name + where), []).append(value)
                panels.setdefault(label, (actual, guess))
    seeds = f"{len(runs)} run{'s' * (len(runs) > 1)} x {num_draws} draws from seed {seed}"
    own = runs[0].method
    published = PUBLISHED.get(truth.dataset, {}) if runs[0].space.name == "nasbench201" and num_train == 500 else {}
    for (label, name), values in measured.items():
        paper = published.get(name, "") if label == own == "Contrastive" else ""
        findings.rows.append(Row.of(values, label=label, metric=name, unit="", paper=paper, seeds=seeds))
    if published:
        findings.source, findings.reference_protocol = _SOURCE, _THEIRS
    data = data_of(runs[0])
    left_out = int((~views.connected).sum())
    findings.protocol = (
        f"LightGBM with its defaults on {num_train} random architectures, a row for each of "
        f"{data.num_initialisations} initialisations, predicts the {truth.split} accuracy ({truth.dataset}, "
        f"{truth.epochs} epochs, mean over training seeds) of all that are not isomorphic to these, by the mean over "
        f"initialisations; {described(runs[0])}; encoder trained without accuracies on canonical networks; 'connected' "
        f"leaves out {left_out} architectures without a path from input to output"
    )
    findings.scale = f"{len(views.scores):,} architectures of the table {truth.table}, {len(runs)} trained modules"
    shown = {label: panels[label] for label in (own, "singular values", "largest singular value", "parameters")}
    notes = [
        f"Pearson {np.mean(measured[label, 'Pearson']):.3f}, τ {np.mean(measured[label, 'Kendall']):.3f}"
        for label in shown
    ]
    low = float(np.quantile(truth.values.numpy(), 0.05))
    where = f"Numbers: mean over all fits and architectures; drawn: the first fit, {1 - 0.05:.0%} of the architectures."
    findings.figures["regression"] = density_panels(shown, notes, low, where)
    findings.details = {"num_train": num_train, "seed": seed, "disconnected": left_out}
    publish(findings, runs, output, record)


def gradient_boosting() -> Any:
    """LightGBM's regression as the paper has it: 100 rounds, 31 leaves, learning rate 0.1; one thread.

    Raises:
        UsageError: LightGBM is not installed.
    """
    try:
        from lightgbm import LGBMRegressor
    except ImportError as error:
        raise UsageError("this analysis needs the package 'lightgbm': pip install 'lightning-nas[trees]'") from error
    return LGBMRegressor(n_jobs=1, verbosity=-1, deterministic=True)
