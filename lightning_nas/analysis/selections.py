"""Architectures that selections read off supernets: a table over seeds, and how the largest weights got there."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from lightning_nas.analysis.tables_of_runs import Study, keep_study
from lightning_nas.errors import RunFolderError, UsageError
from lightning_nas.ledger import Row
from lightning_nas.plots import DASHES, PALETTE, STYLE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = (
    ("skip_connections", "skip connections", ""),
    ("training_seconds", "training", "s"),
    ("seconds", "selection", "s"),
)

Outcome = Mapping[str, Any]
"""Content of a ``selection/<label>.json``."""


def selections(
    run: list[Path],
    name: str = "darts/selections",
    title: str = "Architectures read off supernets",
    source: str = "none",
    reference_protocol: str = "none",
    protocol: str = "see the runs' config.yaml",
    scale: str = "see the runs' config.yaml",
    published: dict[str, str] = {},  # noqa: B006  # a CLI default
    not_run: list[dict[str, str]] = [],  # noqa: B006
    output: Path | None = None,
    record: Path | None = None,
) -> None:
    """Collect what selections found in supernets, over methods and seeds.

    Leaves a table, and, of methods that keep it, a figure of what their largest weights would have been worth after
    each epoch, with what perturbation made of the same supernets beside. Runs that found the same for a label and a
    seed, as random selections of several supernets do, count once.

    Args:
        run: Run folders of 'lightning-nas fit' with selections, or folders that hold some.
        name: File name in the ledger.
        title: Heading in the ledger.
        source: Paper, arXiv id and table of published numbers.
        reference_protocol: How the source measured.
        protocol: How these runs measured.
        scale: How much was run.
        published: Published numbers by 'label, data set', for example 'DARTS, cifar10'.
        not_run: Published numbers that were not measured: label, metric, unit, paper, and the command that would.
        output: Folder for table and figure; default: analysis/selections in the first folder.
        record: Folder of the ledger, usually docs/results; writes the numbers there.
    """
    started = time.perf_counter()
    found = _read(run)
    figures = {}
    if any(_path(outcome) for outcomes in found.values() for outcome in outcomes):
        figures["trajectory"] = trajectory_figure(found)
    if any(_gaps(outcome) for outcomes in found.values() for outcome in outcomes):
        figures["skip_gap"] = gap_figure(found)
    study = Study(
        name=name,
        title=title,
        source=source,
        reference_protocol=reference_protocol,
        protocol=protocol,
        scale=scale,
        rows=[*rows_of(found, published), *(Row.not_run(**row) for row in not_run)],
        figures=figures,
        details={label: list(outcomes) for label, outcomes in found.items()},
        seconds=_seconds([outcome for outcomes in found.values() for outcome in outcomes]),
        started=started,
    )
    keep_study(study, output or Path(run[0]) / "analysis" / "selections", record)


def _seconds(outcomes: Sequence[Outcome]) -> float:
    """Of all selections, and of the training of every run folder once."""
    trainings = {outcome["run"]: float(outcome.get("training_seconds") or 0.0) for outcome in outcomes}
    return sum(float(outcome["seconds"]) for outcome in outcomes) + sum(trainings.values())


def _path(outcome: Outcome) -> Sequence[Mapping[str, Any]]:
    """What was selected after each epoch, where that was kept and scored."""
    return [point for point in outcome.get("trajectory") or [] if point["scores"]]


def _read(run: Sequence[Path]) -> dict[str, list[Outcome]]:
    """Outcomes by label, in the order of seeds."""
    paths = sorted({path for folder in run for path in Path(folder).rglob("selection/*.json")})
    if not paths:
        raise RunFolderError(
            f"analyze selections: got {', '.join(map(str, run))}, which hold no selection/*.json; expected run folders "
            "of 'lightning-nas fit' with a selection, for example --config darts/nasbench201_digits"
        )
    found: dict[str, list[Outcome]] = {}
    for path in paths:
        try:
            outcome = {**json.loads(path.read_text("utf-8")), "run": str(path.parent.parent)}
            found.setdefault(str(outcome["label"]), []).append(outcome)
        except (ValueError, KeyError, TypeError) as error:
            raise RunFolderError(f"{path}: cannot be read ({error}); delete it, and select again") from error
    for label in found:
        found[label] = outcomes = _distinct(found[label])
        seeds = [int(outcome["seed"]) for outcome in outcomes]
        if len(set(seeds)) < len(seeds):
            raise UsageError(f"analyze selections: got several runs of {label!r} with the same seed, seeds {seeds}")
        if len({tuple(outcome["scores"]) for outcome in outcomes}) > 1:
            raise UsageError(f"analyze selections: the runs of {label!r} looked at different data sets")
    return found


def _distinct(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """One of those with the same seed and architecture, in the order of seeds."""
    once = {(int(outcome["seed"]), outcome["architecture"]): outcome for outcome in reversed(outcomes)}
    return sorted(once.values(), key=lambda outcome: int(outcome["seed"]))


def rows_of(found: Mapping[str, Sequence[Outcome]], published: Mapping[str, str]) -> list[Row]:
    """Test accuracies, skip connections and seconds of every method; differences that perturbation makes, by seed."""
    rows = []
    for label, outcomes in found.items():
        seeds = "seeds " + ", ".join(str(outcome["seed"]) for outcome in outcomes)
        for dataset in outcomes[0]["scores"]:
            tests = [float(outcome["scores"][dataset]["test"]) for outcome in outcomes]
            paper = published.get(f"{label}, {dataset}", "")
            metric, note = f"{dataset}: test accuracy", f"lowest {min(tests):.2f}, highest {max(tests):.2f}"
            rows.append(Row.of(tests, metric=metric, unit="%", note=note, label=label, paper=paper, seeds=seeds))
            base = found.get(label.removesuffix("-PT"))
            if label.endswith("-PT") and base and [o["seed"] for o in base] == [o["seed"] for o in outcomes]:
                gains = [test - float(one["scores"][dataset]["test"]) for test, one in zip(tests, base, strict=True)]
                what = f"{dataset}: gain by perturbation, same supernets"
                if label.startswith("SGAS"):
                    what = f"{dataset}: gain by perturbation, same seeds"
                rows.append(Row.of(gains, metric=what, unit="points", label=label, paper="", seeds=seeds))
        for key, metric, unit in _COLUMNS:
            values = [float(outcome[key]) for outcome in outcomes if outcome.get(key) is not None]
            if len(values) == len(outcomes):
                rows.append(Row.of(values, metric=metric, unit=unit, label=label, paper="", seeds=seeds))
        rows += _on_the_way(label, outcomes, found.get(label.removesuffix("-PT"), []))
        gaps = [_gap_correlation(outcome) for outcome in outcomes]
        if all(gap is not None for gap in gaps) and not label.endswith("-PT"):  # of the same supernets
            metric = "Spearman over epochs, weight of skips less convolutions and supernet accuracy"
            rows.append(Row.of(gaps, metric=metric, unit="", label=label, paper="", seeds=seeds))  # type: ignore[arg-type]
    return rows


def _on_the_way(label: str, outcomes: Sequence[Outcome], base: Sequence[Outcome]) -> list[Row]:
    """Test accuracies of perturbation after some epochs of the training, and of the largest weights then (Fig. 3.1)."""
    rows = []
    for epoch in _epochs(outcomes) if label.endswith("-PT") else []:
        for name, group in ((label.removesuffix("-PT"), base), (label, outcomes)):
            if epoch not in _epochs(group):
                continue
            for dataset in group[0]["scores"]:
                tests = [_test_at(outcome, epoch, dataset) for outcome in group]
                metric, seeds = f"{dataset}: test accuracy after {epoch} epochs", f"{len(tests)} seeds"
                rows.append(Row.of(tests, metric=metric, unit="%", label=name, paper="", seeds=seeds))
    return rows


def _epochs(outcomes: Sequence[Outcome]) -> list[int]:
    """Epochs after which all of them say what they had selected."""
    each = [{int(point["epoch"]) for point in _path(outcome)} for outcome in outcomes]
    return sorted(set.intersection(*each)) if each else []


def _test_at(outcome: Outcome, epoch: int, dataset: str) -> float:
    return next(float(point["scores"][dataset]["test"]) for point in _path(outcome) if point["epoch"] == epoch)


def _gaps(outcome: Outcome) -> list[tuple[float, float]]:
    """Accuracy of the supernet, and how much more its skip connections weigh than convolutions, after each epoch."""
    points = [(one.get("supernet_accuracy"), one.get("skip_gap")) for one in outcome.get("trajectory") or []]
    return [(accuracy, gap) for accuracy, gap in points if accuracy is not None and gap is not None]


def _gap_correlation(outcome: Outcome) -> float | None:
    """How the gap of a supernet's skip connections grows with its accuracy (thesis, Fig. 2.3); None where not kept."""
    from scipy.stats import spearmanr

    points = _gaps(outcome)
    if len(points) < 3 or 1 in (len({accuracy for accuracy, _ in points}), len({gap for _, gap in points})):
        return None
    return float(spearmanr(*zip(*points, strict=True)).statistic)


def gap_figure(found: Mapping[str, Sequence[Outcome]]) -> Figure:
    """The gap between skip connections and convolutions against the supernet's accuracy, a point for every epoch."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.8), layout="constrained")
        ax = figure.subplots()
        pointed = {label: [point for one in outcomes for point in _gaps(one)] for label, outcomes in found.items()}
        for number, (label, points) in enumerate((label, points) for label, points in pointed.items() if points):
            ax.plot(*zip(*points, strict=True), ".", color=PALETTE[number % len(PALETTE)], markersize=3, label=label)
        ax.set_xlabel("validation accuracy of the supernet (%)")
        ax.set_ylabel("weight of skips less convolutions")
        figure.legend(loc="outside right upper", fontsize=7)
    return figure


def trajectory_figure(found: Mapping[str, Sequence[Outcome]]) -> Figure:
    """Test accuracy of the largest weights after each epoch, mean over seeds; perturbation as crosses."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.8), layout="constrained")
        ax = figure.subplots()
        moving = [label for label, outcomes in found.items() if _epochs(outcomes) and not label.endswith("-PT")]
        for number, label in enumerate(moving):
            color, dash = PALETTE[number % len(PALETTE)], DASHES[number // len(PALETTE) % len(DASHES)]
            (dataset, *_) = found[label][0]["scores"]
            epochs = _epochs(found[label])
            means = [fmean(_test_at(outcome, epoch, dataset) for outcome in found[label]) for epoch in epochs]
            ax.plot(epochs, means, color=color, linestyle=dash, label=label, zorder=3)
            perturbed = found.get(f"{label}-PT", [])
            if perturbed:
                places = _epochs(perturbed)
                means = [fmean(_test_at(outcome, epoch, dataset) for outcome in perturbed) for epoch in places]
                end = fmean(float(outcome["scores"][dataset]["test"]) for outcome in perturbed)
                ax.plot([*places, epochs[-1] * 1.03], [*means, end], "x", color=color, zorder=4)
        ax.set_xlabel("epochs of the supernet (crosses: perturbation)")
        ax.set_ylabel("test accuracy of the selected cell (%)")
        figure.legend(loc="outside right upper", fontsize=7)
    return figure
