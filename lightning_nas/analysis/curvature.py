"""How curved a supernet's validation loss is in its architecture (RobustDARTS, arXiv 1909.09656; DrNAS, 2006.10355)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from lightning_nas.analysis.supernets import load_supernet
from lightning_nas.analysis.tables_of_runs import Study, keep_study
from lightning_nas.errors import UsageError
from lightning_nas.ledger import Row
from lightning_nas.modules.darts import DARTS, Images
from lightning_nas.nn.supernet import frozen_statistics


def curvature(
    run: list[Path], name: str = "darts/curvature", output: Path | None = None, record: Path | None = None
) -> None:
    """Trace and largest eigenvalue of the validation loss's Hessian in alpha, and in the weights of operations.

    Methods have different maps from alpha to weights; in the weights, which a selection makes zero and one, their
    curvatures are of the same quantity. Weights are those that are selected by, of DrNAS the distribution's mean.

    Args:
        run: Run folders of 'lightning-nas fit' with supernets, seeds of one or several methods.
        name: File name in the ledger.
        output: Folder for numbers; default: analysis/curvature in the first run folder.
        record: Folder of the ledger, usually docs/results; writes the numbers there.
    """
    if not run:
        raise UsageError("analyze curvature: got no run; expected run folders of 'lightning-nas fit' with a supernet")
    started = time.perf_counter()
    found: dict[str, list[dict[str, float]]] = {}
    for folder in run:
        module, data = load_supernet(folder)
        found.setdefault(module.label, []).append(measure_curvature(module, data.scoring_batches()))
    rows = []
    for label, values in found.items():
        seeds = f"{len(values)} runs"
        for metric in values[0]:
            each = [one[metric] for one in values]
            rows.append(Row.of(each, metric=metric, unit="", label=label, paper="", seeds=seeds))
    study = Study(
        name=name,
        title="Curvature of supernets' validation loss",
        source="Wang, Towards efficient, effective, and robust NAS methods (2021), proposition on DrNAS",
        reference_protocol="stated: the loss that DrNAS minimises bounds the Hessian's trace",
        protocol="exact Hessians of the loss on the images for alpha, by the statistics of each batch",
        scale=", ".join(f"{label}: {len(values)} runs" for label, values in found.items()),
        rows=rows,
        figures={},
        started=started,
        details=dict(found),
    )
    keep_study(study, output or Path(run[0]) / "analysis" / "curvature", record)


def measure_curvature(module: DARTS, batches: Sequence[Images]) -> dict[str, float]:
    """Trace and largest eigenvalue of both Hessians, by what they are."""
    module.train()
    mixing, active = module.mixing, module.active
    with frozen_statistics(module.network):
        in_alpha = _hessian(module, lambda alpha: mixing.mean(alpha, active), module.alpha.detach(), batches)
        weights = mixing.mean(module.alpha.detach(), active)
        in_weights = _hessian(module, lambda given: given, weights, batches)
    found = {}
    for place, hessian in (("alpha", in_alpha), ("weights of operations", in_weights)):
        found[f"trace in {place}"] = float(hessian.trace())
        found[f"largest eigenvalue in {place}"] = float(torch.linalg.eigvalsh(hessian).max())
    return found


def _hessian(module: DARTS, weights_of: Callable[[Tensor], Tensor], point: Tensor, batches: Sequence[Images]) -> Tensor:
    """Second derivatives of the mean loss, ``(N, N)`` in float64, the point having N entries."""
    size, images = point.numel(), sum(len(labels) for _, labels in batches)
    total = torch.zeros(size, size, dtype=torch.float64)
    for batch in batches:
        at = point.clone().requires_grad_()
        (slope,) = torch.autograd.grad(module.loss(batch, weights_of(at)), at, create_graph=True)
        rows = [torch.autograd.grad(entry, at, retain_graph=True)[0].flatten() for entry in slope.flatten()]
        total += torch.stack(rows).double().cpu() * len(batch[1]) / images
    return (total + total.T) / 2.0
