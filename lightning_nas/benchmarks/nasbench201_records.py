"""Official NAS-Bench-201 and NATS-Bench records, read with their authors' own classes.

Both packages keep, for every architecture and number of epochs, one record per (training set, seed) with accuracy by
epoch, seconds, parameters, multiply-adds and latency. :func:`gather` turns them into columns, one architecture at a
time, so a NATS-Bench folder never has more than one architecture in memory.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightning_nas.benchmarks.catalog import how_to_get
from lightning_nas.errors import BenchmarkDataError

Record = Callable[[int], Mapping[int, Any]]
"""Index of an architecture -> {epochs: the package's ``ArchResults``}."""

_EPOCHS = (12, 200)  # of the topology space
# (data set of the table, split, training set of the benchmark, evaluation set of the benchmark)
_PROTOCOL = (
    ("cifar10", "valid", "cifar10-valid", "x-valid"),
    ("cifar10", "test", "cifar10", "ori-test"),
    ("cifar100", "valid", "cifar100", "x-valid"),
    ("cifar100", "test", "cifar100", "x-test"),
    ("imagenet16", "valid", "ImageNet16-120", "x-valid"),
    ("imagenet16", "test", "ImageNet16-120", "x-test"),
)
_LEGACY_SEED = 888
"""Where trials of one cell disagree about its size, an old migration is to blame and this seed's are right."""


def open_pth(source: Path, rows: int) -> tuple[list[str], Record]:
    """Names of the cells and access to the records of the one-file format.

    Args:
        source: ``NAS-Bench-201-v1_1-….pth``; it is read whole, which takes several times its size in memory.
        rows: Number of architectures it must hold.

    Raises:
        BenchmarkDataError: The file is damaged, incomplete or something else.
    """
    import torch

    ArchResults = _package("nas_201_api", "nas-bench-201").ArchResults
    contents = _unpickle(source, lambda: torch.load(source, map_location="cpu", weights_only=False))
    if not isinstance(contents, dict) or not {"meta_archs", "arch2infos"} <= contents.keys():
        raise BenchmarkDataError(
            f"{source}: holds no 'meta_archs' and 'arch2infos', so it is not NAS-Bench-201; {how_to_get('nasbench201')}"
        )
    records = contents["arch2infos"]
    _require_all([index for index in range(rows) if index not in records], rows, source)

    def record(index: int) -> Mapping[int, Any]:
        states = records.pop(index)  # frees memory as it goes
        return {n: ArchResults.create_from_state_dict(states[key]) for n, key in ((12, "less"), (200, "full"))}

    return list(contents["meta_archs"]), record


def open_nats(
    source: Path, rows: int, epochs: Sequence[int] = _EPOCHS, table: str = "nasbench201"
) -> tuple[list[str], Record]:
    """Names of the architectures and access to the records of an unpacked NATS-Bench folder.

    Args:
        source: Folder with ``meta.pickle.pbz2`` and ``000000.pickle.pbz2``, ``000001.pickle.pbz2`` …
        rows: Number of architectures it must hold.
        epochs: Lengths of the trainings that are read.
        table: The published table, named in errors.

    Raises:
        BenchmarkDataError: A file is missing or damaged.
    """
    package = _package("nats_bench", "nats_bench")
    meta = source / "meta.pickle.pbz2"
    if not meta.is_file():
        raise BenchmarkDataError(f"{source}: no {meta.name}, so not a NATS-Bench folder; {how_to_get(table)}")
    files = [source / f"{index:06d}.pickle.pbz2" for index in range(rows)]
    _require_all([index for index, file in enumerate(files) if not file.is_file()], rows, source)
    contents = _unpickle(meta, lambda: package.pickle_load(str(meta)), table)

    def record(index: int) -> Mapping[int, Any]:
        states = _unpickle(files[index], lambda: package.pickle_load(str(files[index])), table)
        return {n: package.ArchResults.create_from_state_dict(states[f"{n:02d}"]) for n in epochs}

    try:
        return list(contents["meta_archs"]), record
    except (KeyError, TypeError) as error:
        raise BenchmarkDataError(f"{meta}: holds no list 'meta_archs', so not NATS-Bench") from error


def gather(
    record: Record,
    names: Sequence[str],
    source: Path,
    track: Callable[[Sequence[int]], Iterable[int]] = iter,
    epochs: Sequence[int] = _EPOCHS,
) -> tuple[dict[str, np.ndarray], dict[str, list[int]]]:
    """Columns of all architectures, and which training seed stands in which position of a column with several.

    Args:
        record: Gives the results of one architecture.
        names: The cells' strings in order; each record must be of the cell it is filed under.
        source: Named in errors.
        track: Shows progress over the rows.
        epochs: Lengths of the trainings, the longest last; each record must have all.
    """
    by_seed: dict[str, dict[int, np.ndarray]] = defaultdict(dict)
    plain: dict[str, np.ndarray] = {}
    rows = len(names)
    for row in track(range(rows)):
        try:
            results = record(row)
            for result in results.values():
                if result.arch_str != names[row]:
                    raise BenchmarkDataError(
                        f"{source}: record {row} is of {result.arch_str!r}, expected {names[row]!r}"
                    )
            for (column, seed), value in _scores(results, epochs):
                if seed not in by_seed[column]:
                    by_seed[column][seed] = np.full(rows, np.nan, np.float32)
                by_seed[column][seed][row] = value
            for column, values in _properties(results, epochs):
                if column not in plain:
                    # Counts stay exact in float64; curves are long, so they are kept in float32.
                    plain[column] = np.full((rows, *np.shape(values)), np.nan, np.float32 if np.ndim(values) else None)
                plain[column][row] = values
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            raise BenchmarkDataError(
                f"{source}: the record of architecture {row} is not laid out as expected ({error!r}); get it again"
            ) from error
    return _assemble(by_seed, plain)


def _scores(results: Mapping[int, Any], lengths: Sequence[int]) -> Iterable[tuple[tuple[str, int], float]]:
    """Accuracy and seconds of one architecture: ((column, seed), value)."""
    for epochs in lengths:
        for dataset, split, training, evaluation in _PROTOCOL:
            last = f"{evaluation}@{epochs - 1}"
            for seed, trial in results[epochs].query(training).items():
                yield (f"{dataset}/{split}@{epochs}", seed), trial.eval_acc1es[last]
                seconds = (trial.eval_times or {}).get(last)
                if split == "valid" and trial.train_times and seconds is not None:
                    # One pass over the validation set at the end, as the benchmark's own simulation charges it.
                    yield (f"{dataset}/cost@{epochs}", seed), sum(trial.train_times.values()) + seconds


def _properties(results: Mapping[int, Any], lengths: Sequence[int]) -> Iterable[tuple[str, Any]]:
    """Size, latency and validation curves of one architecture: (column, value or values by epoch)."""
    trials = results[lengths[-1]].query("cifar10")
    sized = trials.get(_LEGACY_SEED) or next(iter(trials.values()))
    yield "params", round(sized.params * 1e6)
    yield "flops", round(sized.flop * 1e6)
    latencies = [latency for trial in trials.values() if (latency := trial.get_latency()) > 0]
    if latencies:
        yield "latency/official", 1e3 * sum(latencies) / len(latencies)
    for epochs in lengths:
        for dataset, split, training, evaluation in _PROTOCOL:
            steps = [f"{evaluation}@{epoch}" for epoch in range(epochs)]
            curves = [
                [trial.eval_acc1es[step] for step in steps]
                for trial in results[epochs].query(training).values()
                if split == "valid" and all(step in trial.eval_acc1es for step in steps)
            ]
            if curves:
                yield f"{dataset}/valid@{epochs}/curve", np.mean(curves, axis=0)


def _assemble(
    by_seed: Mapping[str, Mapping[int, np.ndarray]], plain: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, list[int]]]:
    """Stack seeds; columns nobody needs to have (cost, latency, curves) stay only when every row has them."""
    columns: dict[str, np.ndarray] = {}
    seeds = {column: sorted(arrays) for column, arrays in by_seed.items()}
    for column, arrays in by_seed.items():
        stacked = np.stack([arrays[seed] for seed in seeds[column]], axis=1)
        if "/cost@" not in column or np.isfinite(stacked).any(axis=1).all():
            columns[column] = stacked
    for column, values in plain.items():
        if np.isfinite(values).all():
            columns[column] = values.astype(np.int64 if column in ("params", "flops") else np.float32)
    return columns, {column: seeds[column] for column in columns if column in seeds}


def _require_all(missing: Sequence[int], rows: int, source: Path) -> None:
    if missing:
        raise BenchmarkDataError(
            f"{source}: holds {rows - len(missing)} of {rows} architectures (the first one missing is {missing[0]}); "
            "the download is incomplete, get it again"
        )


def _unpickle(path: Path, load: Callable[[], Any], table: str = "nasbench201") -> Any:
    try:
        return load()
    except Exception as error:  # a damaged pickle can fail in any way whatever
        raise BenchmarkDataError(
            f"{path}: cannot be read ({type(error).__name__}: {error}); damaged, cut short "
            f"({path.stat().st_size} bytes) or another kind of file; {how_to_get(table)}"
        ) from error


def _package(module: str, requirement: str) -> Any:
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as error:
        raise BenchmarkDataError(
            f"reading this file needs the package {requirement}; run 'pip install {requirement}'"
        ) from error
