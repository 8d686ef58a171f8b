"""Importer of NAS-Bench-201 / NATS-Bench topology results (arXiv 2001.00326, 2009.00437) into one compact table.

Sources: the official ``.pth``, an unpacked NATS-Bench folder, or an ``.npz`` of plain columns. Protocol of the table:
CIFAR-10 validation comes from the networks trained on half of the training set (``cifar10-valid``), CIFAR-10 test from
those trained on all of it; the other data sets have one training and its ``x-valid`` and ``x-test`` sets.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from lightning_nas.benchmarks.catalog import PUBLISHED, how_to_get
from lightning_nas.benchmarks.nasbench201_records import gather, open_nats, open_pth
from lightning_nas.benchmarks.table import Table, write_table
from lightning_nas.errors import BenchmarkDataError, UsageError
from lightning_nas.files import ensure_writable, opened_npz
from lightning_nas.spaces.nasbench201 import NASBench201

Track = Callable[[Sequence[int]], Iterable[int]]
"""Shows progress while rows are passed through, for example ``rich.progress.track``."""

_DATASETS = ("cifar10", "cifar100", "imagenet16")
_REQUIRED = tuple(f"{d}/{split}@{epochs}" for d in _DATASETS for split in ("valid", "test") for epochs in (12, 200))
_OPTIMA = {  # published best means over seeds, with the tolerance that covers the file versions' differences
    "cifar10/test@200": (94.37, 0.01),
    "cifar100/test@200": (73.51, 0.01),
    "imagenet16/test@200": (47.31, 0.01),
    "cifar10/valid@200": (91.61, 0.05),
    "cifar100/valid@200": (73.49, 0.05),
    "imagenet16/valid@200": (46.73, 0.05),
}
_PLAIN = {  # column of the .npz source -> column of the table
    "test200_mean": "test@200",
    "val200_mean": "valid@200",
    "val12": "valid@12",
    "test12": "test@12",
    "test200_mean_v2": "test@200/v1_1",
    "test200_seeds": "test@200/seeds",
    "test200_oneseed": "test@200/oneseed",
}


def prepare(
    source: Path,
    target: Path,
    trust_pickle: bool = False,
    space: NASBench201 | None = None,
    track: Track = iter,
) -> Table:
    """Read a source, check it and write the table, whole or not at all.

    Args:
        source: Official ``.pth`` file, unpacked NATS-Bench folder, or ``.npz`` of columns.
        target: Table to write.
        trust_pickle: Read pickled sources, which can run any code; say so only for files from the official pages.
        space: The cells the source must hold, in their order; default all of NAS-Bench-201.
        track: Shows progress over the rows.

    Raises:
        BenchmarkDataError: The source is missing, damaged, or not NAS-Bench-201 in its official order.
        UsageError: The source is a pickle and ``trust_pickle`` is off.
        RunFolderError: The target's folder cannot be written; found out before reading starts.
    """
    cells = space or NASBench201()
    if not source.exists():
        raise BenchmarkDataError(f"{source}: no such file or folder; {how_to_get('nasbench201')}")
    ensure_writable(target.parent)
    seeds: dict[str, list[int]] = {}
    if source.suffix == ".npz":
        names, columns = _read_plain(source)
        _check_order(names, cells, source)
    else:
        _check_kind(source, trust_pickle)
        columns, seeds = _read_official(source, cells, track)
    _check_numbers(columns, source, complete=len(cells) == PUBLISHED["nasbench201"].rows)
    published = PUBLISHED["nasbench201"]
    meta = {
        "name": published.name,
        "space": cells.name,
        "source": source.name,
        "md5": _md5(source) if source.is_file() else None,
        "seeds": seeds,
        "licence": published.licence,
        "citation": published.citation,
    }
    return write_table(target, meta, columns)


def _check_kind(source: Path, trust_pickle: bool) -> None:
    if not source.is_dir() and source.suffix != ".pth":
        raise BenchmarkDataError(
            f"{source}: expected a .pth file, an .npz file or a folder (unpack a .tar first); "
            f"{how_to_get('nasbench201')}"
        )
    if not trust_pickle:
        raise UsageError(
            f"{source}: is pickled, and a pickle can run any code when it is read; add --trust_pickle if you have it "
            f"from {' or '.join(s.url for s in PUBLISHED['nasbench201'].sources)}"
        )
    _check_md5(source)


def _read_official(
    source: Path, space: NASBench201, track: Track
) -> tuple[dict[str, np.ndarray], dict[str, list[int]]]:
    names, record = open_nats(source, len(space)) if source.is_dir() else open_pth(source, len(space))
    _check_order(names, space, source)
    return gather(record, names, source, track)


def _read_plain(source: Path) -> tuple[list[str], dict[str, np.ndarray]]:
    """Names of the cells and columns, under the table's names, of an ``.npz`` source."""
    with opened_npz(source) as file:
        if "meta" in file.files:
            raise BenchmarkDataError(f"{source}: is a prepared table already; copy it to the data folder")
        if "arch" not in file.files:
            raise BenchmarkDataError(f"{source}: no column 'arch' with the cells' strings, so not NAS-Bench-201")
        arch = file["arch"].tolist()
        columns = {_table_name(name): file[name] for name in file.files if _table_name(name)}
    if "flops" in columns:  # in millions there
        columns["flops"] = np.rint(1e6 * columns["flops"].astype(np.float64)).astype(np.int64)
    # Bytes that are no letters stay visible as escapes; the check of the order then says where they are.
    names = [name.decode("ascii", "backslashreplace") if isinstance(name, bytes) else str(name) for name in arch]
    wrong = [name for name, values in columns.items() if len(values) != len(names)]
    if wrong:
        raise BenchmarkDataError(f"{source}: columns {', '.join(wrong)} do not have one row for each 'arch'")
    return names, columns


def _table_name(plain: str) -> str:
    """The table's name of an ``.npz`` column, empty for columns that are left out."""
    dataset, _, rest = plain.partition("_")
    if dataset in _DATASETS:
        return f"{dataset}/{_PLAIN[rest]}" if rest in _PLAIN else ""
    if plain.startswith("latency_ms_"):
        return f"latency/{plain.removeprefix('latency_ms_')}"
    free = {"params_cifar10": "params", "flops_cifar10_M": "flops", "canonical_class": "canonical_class"}
    return free.get(plain, "")


def _check_order(names: Sequence[str], space: NASBench201, source: Path) -> None:
    if len(names) != len(space):
        raise BenchmarkDataError(
            f"{source}: holds {len(names)} architectures, expected {len(space)}; {how_to_get('nasbench201')}"
        )
    for index, (name, codes) in enumerate(zip(names, space.codes.tolist(), strict=True)):
        if name != (expected := space.format(tuple(codes))):
            raise BenchmarkDataError(
                f"{source}: row {index} is {name!r}, expected {expected!r}; rows must be in the benchmark's own order"
            )


def _check_numbers(columns: Mapping[str, np.ndarray], source: Path, complete: bool) -> None:
    missing = [name for name in _REQUIRED if name not in columns]
    if missing:
        raise BenchmarkDataError(f"{source}: has no {', '.join(missing)}; {how_to_get('nasbench201')}")
    for name in _REQUIRED:
        seen = np.isfinite(columns[name]).reshape(len(columns[name]), -1).any(axis=1)
        if not seen.all():
            first = int(np.flatnonzero(~seen)[0])
            raise BenchmarkDataError(
                f"{source}: no number for {name} in {int((~seen).sum())} rows (the first is row {first}); "
                "the download is incomplete, get it again"
            )
    for name, (optimum, tolerance) in _OPTIMA.items() if complete else ():
        values = columns[name]
        best = float(np.nanmax(np.nanmean(values, axis=1) if values.ndim == 2 else values))
        if abs(best - optimum) > tolerance:
            raise BenchmarkDataError(
                f"{source}: the best {name} is {best:.3f}, expected the published {optimum:.2f}; "
                "this is not the official data, or another version of it"
            )


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _check_md5(source: Path) -> None:
    """The official ``.pth`` carries the end of its own checksum in its name."""
    named = re.fullmatch(r"NAS-Bench-201-v\d+_\d+-([0-9a-f]{6})\.pth", source.name)
    if named and not (got := _md5(source)).endswith(named[1]):
        raise BenchmarkDataError(
            f"{source}: the checksum is {got}, expected one ending in {named[1]} as the name says; the download is "
            f"damaged or cut short ({source.stat().st_size / 1e9:.2f} GB), get it again"
        )
