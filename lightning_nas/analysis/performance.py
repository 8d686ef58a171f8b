"""How well the embedding predicts accuracy (arch2vec, arXiv 2006.06936, Fig. 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import LongTensor, Tensor
from torchmetrics.functional import mean_squared_error, pearson_corrcoef, spearman_corrcoef

from lightning_nas.analysis.figures import density_panels
from lightning_nas.analysis.findings import Findings, publish
from lightning_nas.analysis.runs import Accuracies, every_run, load_runs, read_accuracies
from lightning_nas.analysis.supervised import LABEL, fitted_cells
from lightning_nas.errors import UsageError
from lightning_nas.ledger import Row
from lightning_nas.predictors.gp import GaussianProcess
from lightning_nas.predictors.supervised_gin import SupervisedGIN
from lightning_nas.search.bayesian import Surrogate
from lightning_nas.search.pool import CandidatePool
from lightning_nas.spaces.encodings import AdjacencyEncoding, Encoding, GraphEncoding

PUBLISHED = {
    ("nasbench101", "Arch2Vec", "RMSE"): "0.018 ± 0.001",
    ("nasbench101", "Arch2Vec", "Pearson"): "0.67 ± 0.02",
    ("nasbench101", "supervised", "RMSE"): "0.038 ± 0.025",
    ("nasbench101", "supervised", "Pearson"): "0.53 ± 0.09",
}
_SOURCE = "arch2vec (Yan et al., NeurIPS 2020, arXiv 2006.06936), Figure 1"
_THEIRS = (
    "Gaussian process (kernel and library unknown, scripts not released) fitted on 250 of 423,624 cells, predicts all; "
    "10 seeds; RMSE and Pearson correlation over points above 0.8"
)
_COUNTS = "variance of the embedding explained by operation counts"
_CHUNK = 2048  # candidates predicted at a time


@dataclass(frozen=True)
class Contestant:
    """A regression and what it sees of a cell.

    Args:
        predictor: Regression, for example ``lightning_nas.predictors.gp.GaussianProcess``.
        encoding: What it sees, for example ``AdjacencyEncoding``; networks on graphs need ``GraphEncoding``; None for
            the embeddings of the runs.
    """

    predictor: Surrogate
    encoding: Encoding | None = None


class Prediction(NamedTuple):
    """Predicted accuracies of all n cells by S fits.

    Shapes:
        fitted ``(S, m)`` positions of the cells that each fit has seen; values ``(S, n)`` float64 in percent.
    """

    fitted: LongTensor
    values: Tensor


def performance(
    run: list[Path],
    dataset: str | None = None,
    epochs: int | None = None,
    table: str | None = None,
    num_samples: int = 250,
    num_seeds: int = 10,
    above: float = 80.0,
    predictor: Surrogate | None = None,
    compare: dict[str, Contestant] | None = None,
    seed: int = 0,
    data_dir: str | None = None,
    output: Path | None = None,
    record: Path | None = None,
) -> None:
    """Fit a regression on the embeddings of a few cells and predict the test accuracy of all others.

    Measured over the cells that the regression has not seen, all of them and those above a threshold: root mean squared
    error (of accuracies between 0 and 1, as published), correlations of Pearson, Spearman and Kendall. Compared with
    the same regression on arcs and labels, and with the encoder trained on the accuracies themselves, at the published
    learning rate, which saturates its features, and at a tenth of that. Says besides how much of the embedding is no
    more than the number of operations of each kind.

    Args:
        run: Run folders of 'lightning-nas fit', several seeds of a method or several methods of one space.
        dataset: Data set of the table, for example cifar10; default: the only one.
        epochs: Training epochs behind the test accuracies; default: the most there are.
        table: Name or path of the benchmark table; default: the space's name.
        num_samples: Cells that are fitted.
        num_seeds: Fits with other cells, for each run.
        above: Threshold in percent test accuracy; most spaces have cells that do not learn at all.
        predictor: Regression on the embeddings, for example lightning_nas.predictors.dngo.DNGO; default: a Gaussian
            process.
        compare: Further regressions by the name they are shown under, each a predictor and an encoding; default: the
            predictor on arcs and labels (AdjacencyEncoding), and the supervised counterpart of arch2vec (SupervisedGIN
            on GraphEncoding, with two learning rates).
        seed: Seed of the cells that are fitted.
        data_dir: Folder of tables; default $LIGHTNING_NAS_DATA or ~/.cache/lightning_nas.
        output: Folder for figures and numbers; default: analysis/performance in the first run folder.
        record: Folder of the ledger, usually docs/results; writes the numbers there.
    """
    groups = load_runs(run)
    runs = every_run(groups)
    space = runs[0].space
    truth = read_accuracies(space, table, dataset, epochs, data_dir)
    _check(truth, num_samples, num_seeds, above)
    findings = Findings("performance", "Predictive performance", [], "", "", {}, dataset=truth.dataset)
    regression = predictor or GaussianProcess()
    draws = fitted_cells(len(truth.values), num_samples, num_seeds, seed)
    panels: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    notes = []
    contestants: list[tuple[str, Contestant, Sequence[Tensor | None]]] = [
        (label, Contestant(regression), [member.embeddings[truth.members] for member in group])
        for label, group in groups.items()
    ]
    others = _usual(regression, space.num_vertices) if compare is None else compare
    contestants += [(label, other, _inputs(label, other, groups)) for label, other in others.items()]
    for label, contestant, inputs in contestants:
        measured: dict[str, list[float]] = {}
        for number, embeddings in enumerate(inputs):
            pool = CandidatePool(space, truth.members, embeddings)
            guess = predict(pool.features(contestant.encoding), truth.values, contestant.predictor, draws, seed)
            for fit in range(num_seeds):
                for name, value in _metrics(guess, fit, truth.values, above).items():
                    measured.setdefault(name, []).append(value)
            if number == 0:
                unseen = _unseen(guess.fitted[0], len(truth.values))
                panels[label] = truth.values[unseen].numpy(), guess.values[0, unseen].numpy()
        seeds = f"{len(inputs)} run{'s' * (len(inputs) > 1)} x {num_seeds} draws from seed {seed}"
        for name, values in measured.items():
            paper = PUBLISHED.get((space.name, label, name.removesuffix(f" above {above:g} %")), "")
            text: dict[str, Any] = {
                "label": label,
                "unit": "",
                "paper": paper if "above" in name and (num_samples, above) == (250, 80.0) else "",
                "seeds": seeds,
            }
            findings.rows.append(Row.of(values, metric=name, **text))
        mean = {name: float(np.mean(values)) for name, values in measured.items()}
        notes.append(f"RMSE {mean[f'RMSE above {above:g} %']:.4f}, Pearson {mean[f'Pearson above {above:g} %']:.3f}")
    ops = space.all_graphs().ops[truth.members]
    for label, group in groups.items():
        shares = [explained_by_counts(member.embeddings[truth.members], ops) for member in group]
        text = {"label": label, "unit": "", "paper": "", "seeds": f"{len(group)} runs"}
        findings.rows.append(Row.of(shares, metric=_COUNTS, **text))
    if space.name == "nasbench101" and "Arch2Vec" in groups:
        findings.source, findings.reference_protocol = _SOURCE, _THEIRS
    count = int((truth.values > above).sum())
    findings.protocol = (
        f"fitted on the test accuracies of {num_samples} random cells, predicts all others; {num_seeds} draws of "
        f"cells, the same for all; {truth.dataset}, {truth.epochs} epochs, mean over training seeds; RMSE of "
        f"accuracies between 0 and 1; 'above {above:g} %': the {count:,} cells whose true test accuracy exceeds it; "
        f"'{_COUNTS}': R² of a linear regression of the embedding on the numbers of vertices with each label, which "
        "say nothing about the wiring"
    )
    findings.scale = f"{len(truth.values):,} cells of the table {truth.table}, {len(runs)} trained modules"
    where = f"Numbers: mean over all fits, cells above {above:g} % that were not fitted; drawn: the first fit."
    findings.figures["performance"] = density_panels(panels, notes, above, where)
    findings.details = {"num_samples": num_samples, "above": above, "cells_above": count, "seed": seed}
    publish(findings, runs, output, record)


def predict(features: Tensor, scores: Tensor, predictor: Surrogate, fitted: LongTensor, seed: int) -> Prediction:
    """Predict all scores from some, several times.

    Args:
        features: Of all cells, ``(n, D)``.
        scores: Of all cells, ``(n,)``; only the fitted ones are looked at.
        predictor: The regression.
        fitted: Cells that each fit sees, ``(S, m)``.
        seed: Of the regression's own randomness.
    """
    generator = torch.Generator().manual_seed(seed)
    seeds = torch.rand(len(fitted), generator=generator, dtype=torch.float64)
    known = torch.ones_like(fitted, dtype=torch.bool)
    with torch.no_grad():
        model: Any = predictor.fit(features[fitted], scores[fitted], known, seeds)
        parts = []
        for chunk in torch.split(features, _CHUNK):
            points = chunk[:, None, None].expand(-1, len(fitted), 1, -1)  # (c, S, 1, D)
            parts.append(model.posterior(points).mean[..., 0, 0].double())
    return Prediction(fitted, torch.cat(parts).mT)


def _metrics(guess: Prediction, fit: int, truth: Tensor, above: float) -> dict[str, float]:
    """RMSE and correlations of one fit over the cells it has not seen."""
    from scipy.stats import kendalltau

    unseen = _unseen(guess.fitted[fit], len(truth))
    found: dict[str, float] = {}
    for where, chosen in ((f" above {above:g} %", unseen & (truth > above)), ("", unseen)):
        ours, theirs = guess.values[fit, chosen] / 100, truth[chosen] / 100
        correlations = {
            "Pearson": float(pearson_corrcoef(ours, theirs)),
            "Spearman": float(spearman_corrcoef(ours, theirs)),
            # torchmetrics compares all pairs one by one; scipy sorts, which matters for hundreds of thousands of cells.
            "Kendall": float(kendalltau(ours.numpy(), theirs.numpy()).statistic),
        }
        found[f"RMSE{where}"] = float(mean_squared_error(ours, theirs, squared=False))
        # A saturated network predicts one number for all cells, and so ranks none of them.
        found |= {f"{name}{where}": 0.0 if np.isnan(value) else value for name, value in correlations.items()}
    return found


def explained_by_counts(embeddings: Tensor, ops: Tensor) -> float:
    """Share of the embeddings' variance that a linear map of the numbers of vertices with each label explains.

    Shapes:
        embeddings ``(n, D)``, ops ``(n, V)`` with -1 for padding.
    """
    counts = torch.nn.functional.one_hot(ops.long() + 1).sum(dim=1).double()
    targets = embeddings.double() - embeddings.double().mean(dim=0)
    inputs = counts - counts.mean(dim=0)
    left = targets - inputs @ (torch.linalg.pinv(inputs) @ targets)
    return float(1 - left.square().sum() / targets.square().sum())


def _unseen(fitted: Tensor, size: int) -> Tensor:
    unseen = torch.ones(size, dtype=torch.bool)
    unseen[fitted] = False
    return unseen


def _usual(regression: Surrogate, num_vertices: int) -> dict[str, Contestant]:
    """What embeddings are compared with: the same regression without them, and the encoder trained on accuracies."""
    return {
        "arcs and labels": Contestant(regression, AdjacencyEncoding()),
        LABEL: Contestant(SupervisedGIN(num_vertices), GraphEncoding()),
        f"{LABEL}, learning rate 0.001": Contestant(SupervisedGIN(num_vertices, learning_rate=0.001), GraphEncoding()),
    }


def _inputs(label: str, contestant: Contestant, groups: dict[str, Any]) -> Sequence[Tensor | None]:
    if contestant.encoding is None:
        raise UsageError(
            f"analyze performance: --compare {label!r} has no encoding; expected one such as GraphEncoding (another "
            "regression on the embeddings is --predictor)"
        )
    if label in groups:
        raise UsageError(f"analyze performance: --compare {label!r} is a trained module's name; choose another")
    return [None]


def _check(truth: Accuracies, num_samples: int, num_seeds: int, above: float) -> None:
    if num_samples < 2 or num_seeds < 1 or num_samples + 2 > len(truth.values):
        raise UsageError(
            f"analyze performance: got num_samples={num_samples}, num_seeds={num_seeds}; expected 2 to "
            f"{len(truth.values) - 2} samples of the {len(truth.values):,} cells, and at least 1 seed"
        )
    left = int((truth.values > above).sum()) - num_samples
    if left < 2:
        raise UsageError(
            f"analyze performance: got --above {above:g}, which {left + num_samples} cells exceed on {truth.dataset}; "
            f"expected a lower threshold, such as the median {float(truth.values.median()):.1f}, or fewer samples"
        )
