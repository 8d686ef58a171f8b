"""Importer of the results of NATS-Bench's size space (Dong et al., arXiv 2009.00437) into one compact table.

Sources: an unpacked NATS-Bench folder, or an ``.npz`` of plain columns. The protocol is that of NAS-Bench-201's table;
the long trainings have 90 epochs and one seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from lightning_nas.benchmarks.catalog import PUBLISHED, how_to_get
from lightning_nas.benchmarks.nasbench201_records import gather, open_nats
from lightning_nas.benchmarks.table import Table, write_table
from lightning_nas.errors import BenchmarkDataError, UsageError
from lightning_nas.files import ensure_writable, opened_npz
from lightning_nas.spaces.natsbench_size import NATSBenchSize

Track = Callable[[Sequence[int]], Iterable[int]]
"""Shows progress while rows are passed through, for example ``rich.progress.track``."""

_NAME = "natsbench_size"
_EPOCHS = (1, 12, 90)
_OPTIMA = {"cifar10": 90.71, "cifar100": 70.92, "imagenet16": 46.73}  # published best validation accuracies, 90 epochs


def prepare(
    source: Path, target: Path, trust_pickle: bool = False, space: NATSBenchSize | None = None, track: Track = iter
) -> Table:
    """Read a source, check it and write the table, whole or not at all.

    Args:
        source: Unpacked NATS-Bench folder, or ``.npz`` with the columns ``channels`` ``(N, 5)`` and
            ``cifar10_val90``, ``cifar100_val90``, ``imagenet16_val90`` (validation accuracies alone: such a table
            serves predictions, not searches that report test accuracies).
        target: Table to write.
        trust_pickle: Read pickled sources, which can run any code; say so only for files from the official pages.
        space: The networks the source must hold, in their order; default all of the size space.
        track: Shows progress over the rows.

    Raises:
        BenchmarkDataError: The source is missing, damaged, or not the size space in its official order.
        UsageError: The source is pickled and ``trust_pickle`` is off.
        RunFolderError: The target's folder cannot be written; found out before reading starts.
    """
    networks = space or NATSBenchSize()
    published = PUBLISHED[_NAME]
    if not source.exists() or not (source.is_dir() or source.suffix == ".npz"):
        got = "another kind of file" if source.exists() else "no such file or folder"
        raise BenchmarkDataError(f"{source}: {got}, expected a folder or an .npz; {how_to_get(_NAME)}")
    if source.is_dir() and not trust_pickle:
        raise UsageError(
            f"{source}: is pickled, and a pickle can run any code when it is read; add --trust_pickle if you have it "
            f"from {published.sources[0].url}"
        )
    ensure_writable(target.parent)
    expected = [networks.format(networks[index]) for index in range(len(networks))]
    seeds: dict[str, list[int]] = {}
    if source.is_dir():
        names, record = open_nats(source, len(networks), _EPOCHS, _NAME)
        _check_order(names, expected, source)
        columns, seeds = gather(record, names, source, track, _EPOCHS)
    else:
        names, columns = _read_plain(source)
        _check_order(names, expected, source)
    _check_numbers(columns, source, complete=len(networks) == published.rows)
    meta = {
        "name": published.name, "space": networks.name, "source": source.name, "seeds": seeds,
        "licence": published.licence, "citation": published.citation,
    }  # fmt: skip
    return write_table(target, meta, columns)


def _read_plain(source: Path) -> tuple[list[str], dict[str, np.ndarray]]:
    with opened_npz(source) as file:
        if "meta" in file.files:
            raise BenchmarkDataError(f"{source}: is a prepared table already; copy it to the data folder")
        wanted = {f"{dataset}_val90": f"{dataset}/valid@90" for dataset in _OPTIMA}
        missing = [name for name in ("channels", *wanted) if name not in file.files]
        if missing:
            raise BenchmarkDataError(f"{source}: has no column {', '.join(missing)}; {how_to_get(_NAME)}")
        channels, columns = file["channels"], {name: file[plain] for plain, name in wanted.items()}
    if channels.ndim != 2 or any(len(values) != len(channels) for values in columns.values()):
        raise BenchmarkDataError(f"{source}: the columns do not have one row for each of the 'channels' (N, 5)")
    return [":".join(map(str, row)) for row in channels.tolist()], columns


def _check_order(names: Sequence[str], expected: Sequence[str], source: Path) -> None:
    if len(names) != len(expected):
        raise BenchmarkDataError(
            f"{source}: holds {len(names)} architectures, expected {len(expected)}; {how_to_get(_NAME)}"
        )
    for index, (name, right) in enumerate(zip(names, expected, strict=True)):
        if name != right:
            raise BenchmarkDataError(
                f"{source}: row {index} is {name!r}, expected {right!r}; rows must be in the benchmark's own order"
            )


def _check_numbers(columns: Mapping[str, np.ndarray], source: Path, complete: bool) -> None:
    for dataset, optimum in _OPTIMA.items():
        name = f"{dataset}/valid@90"
        if name not in columns:
            raise BenchmarkDataError(f"{source}: has no {name}; {how_to_get(_NAME)}")
        values = columns[name].reshape(len(columns[name]), -1)
        seen = np.isfinite(values).any(axis=1)
        if not seen.all():
            raise BenchmarkDataError(
                f"{source}: no number for {name} in {int((~seen).sum())} rows (the first is row "
                f"{int(np.flatnonzero(~seen)[0])}); the download is incomplete, get it again"
            )
        best = float(np.nanmean(values, axis=1).max())
        if complete and abs(best - optimum) > 0.01:
            raise BenchmarkDataError(
                f"{source}: the best {name} is {best:.3f}, expected the published {optimum:.2f}; this is not the "
                "official data, or another version of it"
            )
