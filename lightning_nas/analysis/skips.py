"""Why supernets come to prefer skip connections: the thesis's proposition on their best weight, measured."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from lightning_nas.analysis.supernets import load_supernet
from lightning_nas.analysis.tables_of_runs import Study, keep_study
from lightning_nas.datamodules.bilevel import BilevelDataModule
from lightning_nas.errors import UsageError
from lightning_nas.ledger import Row
from lightning_nas.modules.darts import DARTS
from lightning_nas.nn.supernet import frozen_statistics
from lightning_nas.plots import PALETTE, STYLE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SKIP = "skip_connect"


class SkipShare(NamedTuple):
    """The skip connection's share of what an edge gives to it and to a convolution.

    Attributes:
        name: The edge and the convolution in words.
        predicted: By the proposition: the convolution's variance around the cell's last node, over that and the skip
            connection's, mean over cells.
        learned: By alpha.
        best: With the smallest loss on the images for alpha, all else as it is.
    """

    name: str
    predicted: float
    learned: float
    best: float


def skips(
    run: list[Path],
    num_shares: int = 11,
    name: str = "darts/skips",
    output: Path | None = None,
    record: Path | None = None,
) -> None:
    """Compare the weight of skip connections with the one that the variances of an edge's messages predict.

    The proposition: where every edge of a cell estimates the same feature map m*, an edge does best with weights of
    the convolution in proportion to var(x - m*) and of the skip connection in proportion to var(o(x) - m*). What m* is
    nobody knows; the cell's last node stands for it here, its best estimate.

    Args:
        run: Run folders of 'lightning-nas fit' with a supernet, seeds of one method.
        num_shares: Shares from 0 to 1 that are tried on every edge.
        name: File name in the ledger.
        output: Folder for figure and numbers; default: analysis/skips in the first run folder.
        record: Folder of the ledger, usually docs/results; writes the numbers there.
    """
    if not run or num_shares < 2:
        raise UsageError(f"analyze skips: got {len(run)} runs, num_shares={num_shares}; expected some, and 2 or more")
    started = time.perf_counter()
    found: dict[str, list[SkipShare]] = {}
    label = ""
    for folder in run:
        module, data = load_supernet(folder)
        label = module.label
        found[str(folder)] = measure_shares(module, data, num_shares)
    seeds = f"{len(run)} runs, {len(found[str(run[0])])} edges each"
    study = Study(
        name=name,
        title=f"Weights of skip connections, {label}",
        source="Wang, Towards efficient, effective, and robust NAS methods (2021), proposition on optimal weights",
        reference_protocol="stated, not measured",
        protocol=(
            "shares of skip connection and convolution on every edge that has both: by variances around the cell's "
            "last node, by alpha, and the one with the smallest validation loss"
        ),
        scale=seeds,
        rows=_rows(label, list(found.values()), seeds),
        figures={"skips": shares_figure([share for shares in found.values() for share in shares])},
        started=started,
        details={folder: [share._asdict() for share in shares] for folder, shares in found.items()},
    )
    keep_study(study, output or Path(run[0]) / "analysis" / "skips", record)


def _rows(label: str, found: Sequence[Sequence[SkipShare]], seeds: str) -> list[Row]:
    """Means over the edges of every run, and rank correlations over all edges of a run."""
    from scipy.stats import spearmanr

    rows = []
    for key, metric in (
        ("predicted", "share of skip connections, predicted by variances"), ("learned", "share, learned"),
        ("best", "share, with the smallest validation loss"),
    ):  # fmt: skip
        means = [float(np.mean([getattr(share, key) for share in shares])) for shares in found]
        rows.append(Row.of(means, metric=metric, unit="", label=label, paper="", seeds=seeds))
    for key, metric in (("learned", "Spearman, predicted and learned"), ("best", "Spearman, predicted and best")):
        values = [
            spearmanr([share.predicted for share in shares], [getattr(share, key) for share in shares]).statistic
            for shares in found
            if len({getattr(share, key) for share in shares}) > 1
        ]
        if values:
            rows.append(Row.of([float(v) for v in values], metric=metric, unit="", label=label, paper="", seeds=seeds))
    return rows


def measure_shares(module: DARTS, data: BilevelDataModule, num_shares: int) -> list[SkipShare]:
    """The three shares of every edge that has a skip connection and a convolution of 3x3.

    Raises:
        UsageError: No edge has both, or operations see some of the channels only.
    """
    module.train()
    pairs = _pairs(module)
    if not pairs or module.sizes.get("partial", 1) != 1:
        raise UsageError(
            f"analyze skips: got a supernet of {module.space.name} with sizes {module.sizes}; expected edges with a "
            "skip connection and a convolution of 3x3, which see all channels"
        )
    with torch.no_grad(), frozen_statistics(module.network):
        predicted = _predicted(module, data, pairs)
        return [
            SkipShare(
                f"{module.network.groups[kind].name} {edge}, {module.network.groups[kind].operations[edge][conv]}",
                predicted[kind, edge],
                _learned(module, kind, edge, skip, conv),
                _best(module, data, (kind, edge, skip, conv), num_shares),
            )
            for kind, edge, skip, conv in pairs
            if (kind, edge) in predicted
        ]


def _pairs(module: DARTS) -> list[tuple[int, int, int, int]]:
    """Kind, edge, and the places of its skip connection and convolution."""
    found = []
    for kind, group in enumerate(module.network.groups):
        for edge, names in enumerate(group.operations):
            convs = [place for place, name in enumerate(names) if name.endswith("conv_3x3")]
            if _SKIP in names and convs:
                found.append((kind, edge, names.index(_SKIP), convs[0]))
    return found


def _predicted(
    module: DARTS, data: BilevelDataModule, pairs: Sequence[tuple[int, int, int, int]]
) -> dict[tuple[int, int], float]:
    """By edge; those of reduction cells whose tail is larger than the last node have none."""
    convs = {(kind, edge): module.network.groups[kind].operations[edge][conv] for kind, edge, _, conv in pairs}
    sums: dict[tuple[int, int, int], np.ndarray] = {}
    for images, _ in data.scoring_batches():
        for number, view in enumerate(module.network.views(images, module.mixture())):
            place = view.kind, view.edge
            if place in convs and view.tail.shape == view.last.shape:
                errors = [view.tail - view.last, view.outputs[convs[place]] - view.last]
                variances = np.array([float(error.var(unbiased=False)) for error in errors])
                sums[(*place, number)] = sums.get((*place, number), np.zeros(2)) + len(images) * variances
    shares: dict[tuple[int, int], list[float]] = {}
    for (kind, edge, _), (of_skip, of_conv) in sums.items():
        shares.setdefault((kind, edge), []).append(float(of_conv / (of_skip + of_conv)))
    return {place: float(np.mean(values)) for place, values in shares.items()}


def _learned(module: DARTS, kind: int, edge: int, skip: int, conv: int) -> float:
    weights = module.mixture().weights[kind, edge]
    return float(weights[skip] / (weights[skip] + weights[conv]))


def _best(module: DARTS, data: BilevelDataModule, place: tuple[int, int, int, int], num_shares: int) -> float:
    """The share with the smallest loss; both weights' sum and all others stay."""
    kind, edge, skip, conv = place
    batches, mixture = data.scoring_batches(), module.mixture()
    total = mixture.weights[kind, edge, skip] + mixture.weights[kind, edge, conv]
    losses = []
    for share in np.linspace(0.0, 1.0, num_shares):
        weights = mixture.weights.clone()
        weights[kind, edge, skip], weights[kind, edge, conv] = total * float(share), total * float(1.0 - share)
        changed = mixture._replace(weights=weights)
        losses.append(sum(float(F.cross_entropy(module.network(x, changed), y, reduction="sum")) for x, y in batches))
    return float(np.linspace(0.0, 1.0, num_shares)[int(np.argmin(losses))])


def shares_figure(shares: Sequence[SkipShare]) -> Figure:
    """Learned and best shares of skip connections against the predicted one."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(4.4, 3.6), layout="constrained")
        ax = figure.subplots()
        predicted = [share.predicted for share in shares]
        ax.plot([0, 1], [0, 1], color="#AAAAAA", linewidth=0.8)
        ax.plot(predicted, [share.learned for share in shares], "o", color=PALETTE[0], markersize=4, label="learned")
        ax.plot(predicted, [share.best for share in shares], "x", color=PALETTE[1], markersize=4, label="smallest loss")
        ax.set_xlabel("share of the skip connection, predicted by variances")
        ax.set_ylabel("share of the skip connection")
        ax.set_xlim(0, 1)
        ax.set_ylim(-0.03, 1.03)
        figure.legend(loc="outside right upper")
    return figure
