"""Results of real trainings in one SQLite file that any number of processes may use at the same time."""

from __future__ import annotations

import csv
import json
import math
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from lightning_nas.errors import BenchmarkDataError, RunFolderError
from lightning_nas.files import canonical_json, ensure_writable, fingerprint, write_atomically

_APPLICATION_ID = 0x4C4E4153  # "LNAS": tells our files from any other SQLite database
_VERSION = 1
_BUSY_SECONDS = 60.0
_KEY = ("space", "architecture", "recipe", "seed", "epochs")
_VALUES = ("valid", "test", "cost", "params", "flops", "curve", "error", "created")
_SCHEMA = f"""
CREATE TABLE results (
    space TEXT NOT NULL, architecture TEXT NOT NULL, recipe TEXT NOT NULL, seed INTEGER NOT NULL,
    epochs INTEGER NOT NULL, valid REAL, test REAL, cost REAL, params INTEGER, flops INTEGER,
    curve TEXT NOT NULL, error TEXT, created TEXT NOT NULL,
    PRIMARY KEY ({", ".join(_KEY)})
);
CREATE TABLE recipes (fingerprint TEXT PRIMARY KEY, details TEXT NOT NULL);
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {_VERSION};
"""
_PUT = f"""
INSERT INTO results ({", ".join(_KEY + _VALUES)}) VALUES ({", ".join("?" * len(_KEY + _VALUES))})
ON CONFLICT DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in _VALUES)} WHERE results.error IS NOT NULL
"""


class ResultKey(NamedTuple):
    """What fixes a training's outcome.

    Attributes:
        space: Name of the search space.
        architecture: The space's notation for it.
        recipe: :func:`~lightning_nas.files.fingerprint` of everything else: data, network size, training recipe without
            its epochs.
        seed: Seed of weights, order and augmentation.
        epochs: Length of the training.
    """

    space: str
    architecture: str
    recipe: str
    seed: int
    epochs: int


@dataclass(frozen=True)
class Result:
    """Outcome of one training, one row of the store.

    Attributes:
        key: What was trained, and how.
        valid: Validation accuracy in percent; NaN when the training failed.
        test: Test accuracy in percent; NaN when the training failed.
        cost: Seconds it took; NaN when it failed.
        params: Trainable weights; None when the network could not be built.
        flops: Multiply-adds for one image; None when the network could not be built.
        curve: Validation accuracy in percent after every epoch.
        error: Why it failed; None when it did not.
        created: Time of writing, ISO 8601 in UTC.
    """

    key: ResultKey
    valid: float = math.nan
    test: float = math.nan
    cost: float = math.nan
    params: int | None = None
    flops: int | None = None
    curve: tuple[float, ...] = ()
    error: str | None = None
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))


class ResultStore:
    """One row per :class:`ResultKey`; every :meth:`put` is a committed transaction that survives ``kill -9``.

    Each operation opens its own connection, so a store may be pickled and used from any process or thread. The first
    successful result of a key stays for ever; a failure is replaced by whatever comes later.

    Args:
        path: SQLite file; it and its folder are made when missing.

    Raises:
        BenchmarkDataError: The file is damaged or is something else.
        RunFolderError: The folder cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser().absolute()
        ensure_writable(self.path.parent)
        with self._connection(create=True) as connection:
            _create_or_check(connection, self.path)

    def get(self, keys: Iterable[ResultKey]) -> dict[ResultKey, Result]:
        """Stored results, failures included; keys without one are left out."""
        question = f"SELECT * FROM results WHERE {' AND '.join(f'{name} = ?' for name in _KEY)}"
        with self._connection() as connection:
            rows = [connection.execute(question, key).fetchone() for key in keys]
        return {result.key: result for result in map(_result, filter(None, rows))}

    def put(self, *results: Result) -> None:
        """Keep results, all or none; on return they are on disk. Repeats change nothing."""
        with self._connection() as connection:
            connection.executemany(_PUT, map(_row, results))

    def describe(self, details: Mapping[str, Any]) -> str:
        """Keep what a fingerprint stands for, so that the file explains itself; returns the fingerprint."""
        name = fingerprint(details)
        with self._connection() as connection:
            connection.execute("INSERT OR IGNORE INTO recipes VALUES (?, ?)", (name, canonical_json(details)))
        return name

    def recipes(self) -> dict[str, dict[str, Any]]:
        """What each fingerprint stands for."""
        with self._connection() as connection:
            rows = connection.execute("SELECT fingerprint, details FROM recipes ORDER BY fingerprint").fetchall()
        return {name: json.loads(details) for name, details in rows}

    def rows(self) -> list[Result]:
        """Everything there is, ordered by key."""
        with self._connection() as connection:
            return [_result(row) for row in connection.execute(f"SELECT * FROM results ORDER BY {', '.join(_KEY)}")]

    def count(self) -> int:
        """Number of rows, failures included."""
        with self._connection() as connection:
            return int(connection.execute("SELECT count(*) FROM results").fetchone()[0])

    def export(self, path: Path) -> None:
        """Write all rows as CSV; the curve is a JSON list, missing numbers are empty."""
        with self._connection() as connection, write_atomically(path) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(_KEY + _VALUES)
            writer.writerows(connection.execute(f"SELECT * FROM results ORDER BY {', '.join(_KEY)}"))

    @contextmanager
    def _connection(self, create: bool = False) -> Iterator[sqlite3.Connection]:
        address = f"{self.path.as_uri()}?mode={'rwc' if create else 'rw'}"
        try:
            with closing(sqlite3.connect(address, timeout=_BUSY_SECONDS, uri=True)) as connection, connection:
                yield connection
        except sqlite3.DatabaseError as error:
            # SQLITE_ERROR stands for a missing table or column: the file is a database, but not a whole store.
            if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_ERROR:
                raise RunFolderError(
                    f"{self.path}: cannot use the result store ({error}); expected a file that exists and can be "
                    "written: check permissions, free space and other processes that hold it"
                ) from error
            raise _damaged(self.path, str(error)) from error


def _create_or_check(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("BEGIN IMMEDIATE")  # of several processes that make the same file, one goes first
    if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        for statement in _SCHEMA.strip().split(";\n"):
            connection.execute(statement)
    connection.commit()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != _APPLICATION_ID:
        raise BenchmarkDataError(
            f"{path}: is a SQLite database of another program, expected a result store; choose another file name"
        )
    if version != _VERSION:
        raise BenchmarkDataError(
            f"{path}: is a result store of version {version}, expected {_VERSION}; use the lightning-nas version that "
            "wrote it, or choose another file name"
        )
    verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise _damaged(path, verdict)
    _write_ahead(connection)


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Let readers and a writer work at the same time; file systems that cannot do it keep the slower journal."""
    deadline = time.monotonic() + _BUSY_SECONDS
    while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:  # SQLite's own busy timeout does not cover this change of mode
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _damaged(path: Path, reason: str) -> BenchmarkDataError:
    return BenchmarkDataError(
        f"{path}: not a readable result store ({reason}); move the file away to start a new one, or restore a copy "
        f"(the sqlite3 program's '.recover' may rescue its rows)"
    )


def _result(row: tuple[Any, ...]) -> Result:
    key, (valid, test, cost, params, flops, curve, error, created) = ResultKey(*row[: len(_KEY)]), row[len(_KEY) :]
    valid, test, cost = (math.nan if x is None else x for x in (valid, test, cost))
    return Result(key, valid, test, cost, params, flops, tuple(json.loads(curve)), error, created)


def _row(result: Result) -> tuple[Any, ...]:
    numbers = (None if math.isnan(x) else x for x in (result.valid, result.test, result.cost))
    curve = json.dumps(result.curve)
    return (*result.key, *numbers, result.params, result.flops, curve, result.error, result.created)
