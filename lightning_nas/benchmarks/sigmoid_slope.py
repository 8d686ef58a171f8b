"""Importer of the published accuracies of sigmoid slopes on MNIST (Rawal et al., arXiv 2005.13092)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from lightning_nas.benchmarks.catalog import PUBLISHED, how_to_get
from lightning_nas.benchmarks.table import Table, write_table
from lightning_nas.errors import BenchmarkDataError
from lightning_nas.files import ensure_writable
from lightning_nas.spaces.sigmoid_slope import SigmoidSlope

Track = Callable[[Sequence[int]], Iterable[int]]
"""Shows progress while rows are passed through, for example ``rich.progress.track``."""

_NAME, _KEY = "sigmoid_slope", "mnist_slope_accuracy_full100"


def prepare(source: Path, target: Path, trust_pickle: bool = False, track: Track = iter) -> Table:
    """Read a source, check it and write the table, whole or not at all.

    The source has one accuracy for each slope, the mean of 20 runs on MNIST, which stands for validation and test; how
    long they were trained is not published, so that columns say one epoch.

    Args:
        source: JSON with pairs of slope and accuracy (a share) under ``mnist_slope_accuracy_full100``.
        target: Table to write.
        trust_pickle: Not needed: nothing here is a pickle.
        track: Shows progress over the rows.

    Raises:
        BenchmarkDataError: The source is missing, damaged, or holds something else.
        RunFolderError: The target's folder cannot be written; found out before reading starts.
    """
    if not source.is_file():
        raise BenchmarkDataError(f"{source}: no such file; {how_to_get(_NAME)}")
    ensure_writable(target.parent)
    try:
        pairs = np.array(json.loads(source.read_text("utf-8"))[_KEY], dtype=np.float64)
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        raise BenchmarkDataError(
            f"{source}: holds no pairs under {_KEY!r} ({type(error).__name__}: {error}); {how_to_get(_NAME)}"
        ) from error
    space = SigmoidSlope()
    if pairs.shape != (len(space), 2) or not ((pairs[:, 1] > 0) & (pairs[:, 1] < 1)).all():
        raise BenchmarkDataError(
            f"{source}: got {_KEY} of shape {pairs.shape}, expected {len(space)} pairs of a slope and an accuracy "
            "between 0 and 1"
        )
    pairs = pairs[pairs[:, 0].argsort()]
    if not np.allclose(pairs[:, 0], space.slopes, atol=1e-5):
        raise BenchmarkDataError(f"{source}: its slopes are not the {len(space)} from {space.low} to {space.high}")
    accuracies = np.array([100.0 * pairs[row, 1] for row in track(range(len(pairs)))])
    published = PUBLISHED[_NAME]
    meta = {
        "name": published.name, "space": space.name, "source": source.name, "licence": published.licence,
        "citation": published.citation, "checked": "the slopes, and that all accuracies are shares",
    }  # fmt: skip
    return write_table(target, meta, {"mnist/valid@1": accuracies, "mnist/test@1": accuracies})
