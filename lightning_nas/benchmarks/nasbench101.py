"""Importer of NAS-Bench-101 results (arXiv 1902.09635) into one compact table.

Sources: the official ``.tfrecord`` files, or an ``.npz`` of plain columns for some of the cells. Rows stand in the
order of :class:`~lightning_nas.spaces.nasbench101.NASBench101`, whatever the order and the drawing of the cells in the
source: isomorphic cells are one. A table that lacks some of them says in ``member`` which it holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lightning_nas.benchmarks.catalog import PUBLISHED, how_to_get
from lightning_nas.benchmarks.nasbench101_records import Trainings, read_trainings
from lightning_nas.benchmarks.table import Table, write_table
from lightning_nas.errors import BenchmarkDataError, UsageError
from lightning_nas.files import ensure_writable, opened_npz

if TYPE_CHECKING:
    from lightning_nas.spaces.nasbench101 import NASBench101

Track = Callable[[Sequence[int]], Iterable[int]]
"""Shows progress while numbers are passed through, for example ``rich.progress.track``."""

PUBLISHED_TABLE = PUBLISHED["nasbench101"]
_REPEATS, _LONGEST = 3, 108
_OPTIMA = {"cifar10/valid@108": 95.0554, "cifar10/test@108": 94.3176}
"""Best means over the three trainings, in percent; what every paper's regret refers to."""

_PLAIN = ("ops", "op_names", "adjacency", "val_error", "test_error")


class _Found(NamedTuple):
    """What a source holds: one row for each cell, in any order.

    Attributes:
        member: Index in the space of each cell, ``(m,)`` int64, each once.
        columns: Columns of the table.
        missing: In words, what a complete source would have and this one lacks; empty for nothing.
    """

    member: np.ndarray
    columns: dict[str, np.ndarray]
    missing: str


def prepare(
    source: Path,
    target: Path,
    trust_pickle: bool = False,
    space: NASBench101 | None = None,
    track: Track = iter,
    allow_partial: bool = False,
) -> Table:
    """Read a source, check it and write the table, whole or not at all.

    Args:
        source: Official ``.tfrecord`` file, or ``.npz`` with ``ops (N, 7)`` (codes into ``op_names``), ``adjacency
            (N, 7, 7)``, ``val_error`` and ``test_error (N, 3)`` (1 - accuracy of three trainings of 108 epochs) of
            some cells.
        target: Table to write; one of some cells must have another name than the published one.
        trust_pickle: Not needed: no source is pickled.
        space: The cells the source may hold; default all of NAS-Bench-101.
        track: Shows progress over the blocks of the file.
        allow_partial: Take a ``.tfrecord`` that lacks cells or trainings.

    Raises:
        BenchmarkDataError: The source is missing, damaged, incomplete, or not NAS-Bench-101.
        UsageError: A table of some cells would take the name of the whole one.
        RunFolderError: The target's folder cannot be written; found out before reading starts.
    """
    if not source.is_file():
        raise BenchmarkDataError(f"{source}: no such file; {how_to_get('nasbench101')}")
    if source.suffix not in (".npz", ".tfrecord"):
        raise BenchmarkDataError(f"{source}: expected a .tfrecord or .npz file; {how_to_get('nasbench101')}")
    ensure_writable(target.parent)
    _check_sha256(source)
    if space is None:
        from lightning_nas.spaces.nasbench101 import NASBench101

        space = NASBench101()
    plain = source.suffix == ".npz"
    found = _read_plain(source, space) if plain else _read_official(source, space, track)
    if found.missing and not plain and not allow_partial:
        raise BenchmarkDataError(
            f"{source}: {found.missing}; get it again, or make a table of what is there with --allow_partial "
            "--name NAME"
        )
    order = np.argsort(found.member)
    columns = {name: values[order] for name, values in found.columns.items()}
    if (len(order) < len(space) or found.missing) and target.stem == PUBLISHED_TABLE.name:
        raise UsageError(
            f"{source}: {found.missing or f'holds {len(order):,} of {len(space):,} architectures'}, so its table "
            f"cannot be called {target.stem!r}; add --name {target.stem}-NAME"
        )
    if len(order) < len(space):
        columns["member"] = found.member[order]
    elif not found.missing:
        _check_optima(columns, source, complete=len(space) == PUBLISHED_TABLE.rows)
    meta = {
        "name": target.stem,
        "space": space.name,
        "space_size": len(space),
        "source": source.name,
        "md5": _digest(source, "md5"),
        "licence": PUBLISHED_TABLE.licence,
        "citation": PUBLISHED_TABLE.citation,
        "checked": _checked(found, len(space)),
    }
    return write_table(target, meta, columns)


def _checked(found: _Found, size: int) -> str:
    if found.missing:
        return f"every architecture is one of the space, isomorphic ones agree; {found.missing}"
    best = ", published optima" if size == PUBLISHED_TABLE.rows else ""
    return f"number of the architectures, three trainings of each{best}"


def _read_official(source: Path, space: NASBench101, track: Track) -> _Found:
    trainings = read_trainings(source, track)
    if not len(trainings.cell):
        raise BenchmarkDataError(f"{source}: is empty; {how_to_get('nasbench101')}")
    member = _look_up(*_graphs(trainings, space, source), space, source, trainings.hashes)
    distinct, first = np.unique(member, return_index=True)
    if len(distinct) < len(member):
        again = int(np.setdiff1d(np.arange(len(member)), first)[0])
        names = [trainings.hashes[place] for place in np.flatnonzero(member == member[again])[:2]]
        raise BenchmarkDataError(f"{source}: {' and '.join(names)} are the same cell, expected each cell once")
    columns = _by_repeat(trainings, source)
    columns["params"] = trainings.params
    # A row needs a result of the longest training; of the shorter ones some may be missing.
    last = columns[f"cifar10/valid@{trainings.epochs.max()}"]
    kept = np.isfinite(last).any(axis=1)
    missing = [f"holds {kept.sum():,} of {len(space):,} architectures"] if kept.sum() < len(space) else []
    for epochs in np.unique(trainings.epochs).tolist():
        done = np.isfinite(columns[f"cifar10/valid@{epochs}"][kept]).sum(axis=1)
        if few := int((done < _REPEATS).sum()):
            missing.append(f"{few:,} of them have fewer than {_REPEATS} trainings of {epochs} epochs")
    columns = {name: values[kept] for name, values in columns.items()}
    return _Found(member[kept], columns, ", ".join(missing))


def _by_repeat(trainings: Trainings, source: Path) -> dict[str, np.ndarray]:
    """Columns ``(m, 3)`` in percent and seconds, repeats in the order of the file, NaN where one is missing."""
    accuracies = np.stack([trainings.valid, trainings.test])
    wrong = ~((accuracies >= 0) & (accuracies <= 1)).all(axis=0) | ~(trainings.seconds >= 0)
    if wrong.any():
        bad = int(np.argmax(wrong))
        raise BenchmarkDataError(
            f"{source}: record {bad} has validation accuracy {trainings.valid[bad]}, test accuracy "
            f"{trainings.test[bad]} and {trainings.seconds[bad]} seconds; expected accuracies from 0 to 1 and a time"
        )
    columns = {}
    for epochs in np.unique(trainings.epochs).tolist():
        chosen = np.flatnonzero(trainings.epochs == epochs)
        chosen = chosen[np.argsort(trainings.cell[chosen], kind="stable")]
        cell = trainings.cell[chosen]
        repeat = np.arange(len(cell)) - np.searchsorted(cell, cell)  # 0, 1, 2 within each cell
        if (repeat >= _REPEATS).any():
            name = trainings.hashes[int(cell[np.argmax(repeat >= _REPEATS)])]
            raise BenchmarkDataError(
                f"{source}: {name} was trained {int(repeat.max()) + 1} times for {epochs} epochs, expected {_REPEATS}"
            )
        scores = {"valid": 100 * trainings.valid, "test": 100 * trainings.test, "cost": trainings.seconds}
        for name, values in scores.items():
            column = np.full((len(trainings.hashes), _REPEATS), np.nan, np.float32)
            column[cell, repeat] = values[chosen]
            columns[f"cifar10/{name}@{epochs}"] = column
    return columns


def _graphs(trainings: Trainings, space: NASBench101, source: Path) -> tuple[np.ndarray, np.ndarray]:
    """Labels ``(m, 7)`` with padding -1 at the end and arcs ``(m, 7, 7)`` of all cells."""
    size = space.num_vertices
    codes = {label: code for code, label in enumerate(space.vertex_labels)}
    ops = np.full((len(trainings.hashes), size), -1, np.int64)
    adjacency = np.zeros((len(trainings.hashes), size, size), bool)
    vertices = np.array([len(labels) for labels in trainings.operations])
    for place, (labels, arcs) in enumerate(zip(trainings.operations, trainings.adjacency, strict=True)):
        count = len(labels)
        unknown = [label for label in labels if label not in codes]
        if unknown or count > size or len(arcs) != count * count or set(arcs) - {"0", "1"}:
            raise BenchmarkDataError(
                f"{source}: {trainings.hashes[place]} is a cell of {count} operations {', '.join(labels)} and "
                f"{len(arcs)} entries of adjacency {arcs}; expected at most {size} operations of "
                f"{', '.join(space.vertex_labels)}, and a 0 or 1 for every pair"
            )
    for count in np.unique(vertices).tolist():
        chosen = np.flatnonzero(vertices == count)
        numbers = [codes[label] for place in chosen.tolist() for label in trainings.operations[place]]
        ops[chosen, :count] = np.array(numbers).reshape(-1, count)
        digits = "".join(trainings.adjacency[place] for place in chosen.tolist()).encode()
        adjacency[chosen, :count, :count] = np.frombuffer(digits, np.uint8).reshape(-1, count, count) == ord("1")
    return ops, adjacency


def _look_up(
    ops: np.ndarray, adjacency: np.ndarray, space: NASBench101, source: Path, names: Sequence[str]
) -> np.ndarray:
    """Index in the space of each cell; refuses strangers."""
    import torch

    from lightning_nas.spaces.base import CellGraph

    member: np.ndarray = space.indices_of(CellGraph(torch.from_numpy(ops), torch.from_numpy(adjacency))).numpy()
    strangers = np.flatnonzero(member < 0)
    if len(strangers):
        first = int(strangers[0])
        labels = ", ".join(space.vertex_labels[code] for code in ops[first] if code >= 0)
        arcs = np.argwhere(adjacency[first]).tolist()
        raise BenchmarkDataError(
            f"{source}: {len(strangers):,} of {len(member):,} cells are not in {space.name}; the first is "
            f"{names[first]}: {labels} with the arcs {arcs}"
        )
    return member


def _read_plain(source: Path, space: NASBench101) -> _Found:
    """An ``.npz`` of some cells; several drawings of one cell are one row, if they agree."""
    with opened_npz(source) as file:
        if "meta" in file.files:
            raise BenchmarkDataError(f"{source}: is a prepared table already; copy it to the data folder")
        absent = [name for name in _PLAIN if name not in file.files]
        if absent:
            raise BenchmarkDataError(f"{source}: no column {', '.join(absent)}; expected {', '.join(_PLAIN)}")
        ops, names, arcs, *errors = (file[name] for name in _PLAIN)
    size, rows = space.num_vertices, len(ops)
    shapes = [ops.shape, arcs.shape, *(error.shape for error in errors)]
    if shapes != [(rows, size), (rows, size, size), (rows, _REPEATS), (rows, _REPEATS)]:
        raise BenchmarkDataError(
            f"{source}: ops, adjacency, val_error and test_error have the shapes {shapes}, expected (N, {size}), "
            f"(N, {size}, {size}), (N, {_REPEATS}) and (N, {_REPEATS})"
        )
    labels = [str(name) for name in names]
    if not set(labels) <= set(space.vertex_labels) or (rows and not 0 <= ops.min() <= ops.max() < len(labels)):
        raise BenchmarkDataError(
            f"{source}: op_names are {labels} and ops {ops.min()} to {ops.max()}; expected names among "
            f"{', '.join(space.vertex_labels)}, and positions in op_names"
        )
    if not rows or not all(((error >= 0) & (error <= 1)).all() for error in errors):
        raise BenchmarkDataError(f"{source}: expected at least one row, and errors from 0 to 1 in every place")
    codes = np.array([space.vertex_labels.index(label) for label in labels])
    member = _look_up(codes[ops], arcs.astype(bool), space, source, [f"row {row}" for row in range(rows)])
    distinct, first, of = np.unique(member, return_index=True, return_inverse=True)
    differs = np.any([(error != error[first][of]).any(axis=1) for error in errors], axis=0)
    if differs.any():
        row = int(np.argmax(differs))
        raise BenchmarkDataError(
            f"{source}: rows {first[of[row]]} and {row} draw the same cell and have different results; expected equal "
            "ones"
        )
    valid, test = ((100 * (1 - error[first].astype(np.float64))).astype(np.float32) for error in errors)
    columns = {f"cifar10/valid@{_LONGEST}": valid, f"cifar10/test@{_LONGEST}": test}
    missing = f"holds {len(distinct):,} of {len(space):,} architectures" if len(distinct) < len(space) else ""
    if missing and len(distinct) < rows:
        missing += f", drawn in {rows:,} ways"
    return _Found(distinct, columns, missing)


def _check_optima(columns: Mapping[str, np.ndarray], source: Path, complete: bool) -> None:
    for name, optimum in _OPTIMA.items() if complete else ():
        if name not in columns:
            raise BenchmarkDataError(f"{source}: has no {name}; {how_to_get('nasbench101')}")
        best = float(columns[name].astype(np.float64).mean(axis=1).max())
        if abs(best - optimum) > 0.001:
            raise BenchmarkDataError(
                f"{source}: the best {name} is {best:.4f}, expected the published {optimum:.4f}; this is not the "
                "official data, or another version of it"
            )


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()


def _check_sha256(source: Path) -> None:
    """A file that is called like an official one must be it."""
    expected = next((known.sha256 for known in PUBLISHED_TABLE.sources if known.file == source.name), None)
    if expected is not None and (got := _digest(source, "sha256")) != expected:
        raise BenchmarkDataError(
            f"{source}: the SHA-256 checksum is {got}, expected the published {expected}; the download is damaged or "
            f"cut short ({source.stat().st_size / 1e9:.2f} GB), get it again; another file needs another name"
        )
