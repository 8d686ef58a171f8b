"""Whether a regression fitted in one search space predicts accuracies in another (arXiv 2102.04208, Table 2)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from lightning_nas.analysis.findings import Findings, publish
from lightning_nas.analysis.runs import TrainedRun, every_run, load_runs, read_accuracies
from lightning_nas.analysis.views import (
    NetworkViews,
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

PUBLISHED = {  # Pearson, Kendall; which data set the accuracies are of is not said
    ("natsbench_size", "natsbench_size"): ("0.59 ± 0.002", "0.39 ± 0.002"),
    ("natsbench_size", "nasbench201"): ("0.39 ± 0.051", "0.26 ± 0.044"),
    ("nasbench201", "natsbench_size"): ("0.42 ± 0.006", "0.31 ± 0.007"),
    ("nasbench201", "nasbench201"): ("0.89 ± 0.000", "0.60 ± 0.001"),
}
_SOURCE = "Contrastive embeddings for neural architectures (Hesslow & Poli, arXiv 2102.04208), Table 2 and Figure 8"
_THEIRS = (
    "All 48,393 networks at full size, 256 images, 4 initialisations, normalised Jacobians; one encoder, one epoch of "
    "batches of 256; random forest of 100 trees, 8 features a split, on 10,000 networks of a space, tested on 3,000; "
    "the deviation is that of the forest's seed alone, over 10; data set of the accuracies not said"
)


def transfer(
    run: list[Path],
    datasets: list[str] = ["cifar10", "cifar100", "imagenet16"],  # noqa: B006  # a CLI default
    num_train: int = 3000,
    num_test: int = 1000,
    seed: int = 0,
    data_dir: str | None = None,
    output: Path | None = None,
    record: Path | None = None,
) -> None:
    """Fit a random forest to the embeddings of one space's networks, and predict accuracies in every space.

    Every run, that is every encoder, has another split. The same forest on what needs no encoder stands beside: the
    Jacobian's largest singular value, all of its singular values, parameters, multiply-adds.

    Args:
        run: Run folders of 'lightning-nas fit' with Jacobians of several spaces as data, several seeds of one method.
        datasets: Data sets of the spaces' tables.
        num_train: Networks of the source that are fitted.
        num_test: Other networks that are predicted.
        seed: Seed of splits and forests.
        data_dir: Folder of tables; default $LIGHTNING_NAS_DATA or ~/.cache/lightning_nas.
        output: Folder for numbers; default: analysis/transfer in the first run folder.
        record: Folder of the ledger, usually docs/results; writes the numbers there.
    """
    findings = Findings("transfer", "Prediction within and across spaces", [], "", "", {})
    groups = load_runs(run, several_spaces=True)
    runs = every_run(groups)
    if len(groups) > 1:
        raise UsageError(f"analyze transfer: got runs of {' and '.join(groups)}, expected seeds of one method")
    measured: dict[tuple[str, str], list[float]] = {}
    for number, member in enumerate(runs):
        features = [jacobian_features(member, networks) for networks in data_of(member).jacobian_sets()]
        for place, dataset in enumerate(datasets):
            found = _every_pair(member, features, dataset, (num_train, num_test), (seed, number, place), data_dir)
            for key, value in found.items():
                measured.setdefault(key, []).append(value)
    own = runs[0].method
    for (label, metric), values in measured.items():
        findings.rows.append(
            Row.of(
                values, label=label, metric=metric, unit="", paper=_paper(own, label, metric), seeds=f"{len(runs)} runs"
            )
        )
    data = data_of(runs[0])
    if any(row.paper for row in findings.rows):
        findings.source, findings.reference_protocol = _SOURCE, _THEIRS
    sizes = ", ".join(f"{networks.size:,} of {networks.space.name}" for networks in data.jacobian_sets())
    findings.protocol = (
        f"random forest of 100 trees, 8 features a split, on {num_train:,} random architectures of the source, a row "
        f"for each of {data.num_initialisations} initialisations, predicts {num_test:,} of the target, none of them "
        "isomorphic to what its own forest was fitted on, by the mean over initialisations; every run has its own "
        f"encoder, split and forest; {described(runs[0])}; encoder trained without accuracies on canonical networks; "
        "'connected' leaves out architectures without a path from input to output"
    )
    for networks in data.jacobian_sets():
        truth = read_accuracies(networks.space, None, datasets[0], None, data_dir)
        findings.protocol += f"; accuracies of {networks.space.name}: {truth.split}, {truth.epochs} epochs"
    findings.scale = f"networks: {sizes}; {len(runs)} trained modules"
    findings.details = {"num_train": num_train, "num_test": num_test, "seed": seed}
    publish(findings, runs, output, record)


def _every_pair(
    run: TrainedRun,
    shown: list[dict[str, Tensor]],
    dataset: str,
    counts: tuple[int, int],
    entropy: tuple[int, ...],
    data_dir: str | None,
) -> dict[tuple[str, str], float]:
    """Pearson and Kendall for every source, target and kind of features; one forest for each source."""
    num_train, num_test = counts
    spaces: dict[str, tuple[NetworkViews, Tensor, Tensor]] = {}
    for place, networks in enumerate(data_of(run).jacobian_sets()):
        truth = read_accuracies(networks.space, None, dataset, None, data_dir)
        views = network_views(run, networks, truth, shown[place])
        train, unseen = split(views, num_train, (*entropy, place))
        if not 2 <= num_test <= len(unseen):
            raise UsageError(
                f"analyze transfer: got num_test={num_test}, expected 2 to the {len(unseen):,} architectures of "
                f"{networks.space.name!r} that num_train={num_train} leaves"
            )
        spaces[networks.space.name] = views, train, unseen[:num_test]
    found = {}
    (state,) = np.random.SeedSequence(entropy).generate_state(1).tolist()
    for source, (views, train, _) in spaces.items():
        for label, features in views.features.items():
            forest = fitted(_random_forest(state, features.values.shape[-1]), features, views.scores, train)
            forest.n_jobs = 1  # several threads would add up their trees in any order, which changes the last bit
            for target, (others, _, test) in spaces.items():
                guess = predicted(forest, others.features[label], test)
                actual, linked = others.scores[test].numpy(), others.connected[test].numpy()
                for where, chosen in (("", slice(None)), (", connected", linked)):
                    for name, value in agreement(guess[chosen], actual[chosen]).items():
                        found[label, f"{source} to {target}, {dataset}: {name}{where}"] = value
    return found


def _random_forest(seed: int, num_features: int) -> Any:
    from sklearn.ensemble import RandomForestRegressor

    return RandomForestRegressor(100, max_features=min(8, num_features), random_state=seed, n_jobs=-1)


def _paper(own: str, label: str, metric: str) -> str:
    for (source, target), (pearson, kendall) in PUBLISHED.items():
        if label == own == "Contrastive" and metric.startswith(f"{source} to {target},"):
            return {"Pearson": pearson, "Kendall": kendall}.get(metric.rpartition(": ")[2], "")
    return ""
