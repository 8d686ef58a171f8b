"""Evaluating a whole space into a table, in shards that any number of processes or sessions can share.

A shard is one ``.npz`` beside the table, written whole or not at all. What is there is not evaluated again, so an
interrupted tabulation goes on, shards can be copied together from several machines, and the last one assembles them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lightning_nas.benchmarks.live import LiveBenchmark
from lightning_nas.benchmarks.side_by_side import SideBySideBenchmark
from lightning_nas.benchmarks.store import Result
from lightning_nas.benchmarks.table import Table, read_table, write_table
from lightning_nas.errors import BenchmarkDataError, UsageError
from lightning_nas.files import opened_npz, write_atomically
from lightning_nas.spaces.base import FiniteSpace


@dataclass(frozen=True)
class Tabulation:
    """A finite space cut into shards of distinct architectures, in the space's order.

    Args:
        benchmark: Trains the architectures; its space must be finite.
        output: The table to be.
        num_shards: Number of shards.

    Raises:
        UsageError: The space is not finite, or there are more shards than architectures.
    """

    benchmark: LiveBenchmark[Any] | SideBySideBenchmark[Any]
    output: Path
    num_shards: int

    def __post_init__(self) -> None:
        if not isinstance(self.benchmark.space, FiniteSpace):
            raise UsageError(f"tabulate: the space {self.benchmark.space.name!r} has no end, expected a finite one")
        if not 1 <= self.num_shards <= len(self.distinct):
            raise UsageError(
                f"tabulate: got {self.num_shards} shards, expected 1 to the {len(self.distinct)} distinct architectures"
            )

    @cached_property
    def members(self) -> np.ndarray:
        """Index of the architecture that is trained for each member of the space, ``(N,)``."""
        space: FiniteSpace[Any] = self.benchmark.space  # type: ignore[assignment]  # checked above
        return space.representatives.numpy()

    @cached_property
    def distinct(self) -> np.ndarray:
        """Indices of the architectures to train, isomorphic duplicates once, ``(n,)`` ascending."""
        return np.unique(self.members)

    @property
    def folder(self) -> Path:
        """Folder of the shards: the table's name with ``.shards`` for ``.npz``."""
        return self.output.with_suffix(".shards")

    def path(self, shard: int) -> Path:
        """File of a shard."""
        return self.folder / f"{shard:0{len(str(self.num_shards - 1))}d}.npz"

    def indices(self, shard: int) -> np.ndarray:
        """Indices of a shard's architectures in the space."""
        return np.array_split(self.distinct, self.num_shards)[shard]

    @property
    def finished(self) -> bool:
        """Whether the table is there; refuses another one of the same name."""
        if not self.output.is_file():
            return False
        if read_table(self.output).meta.get("made_by") != self.benchmark.identity():
            raise BenchmarkDataError(
                f"{self.output}: holds another table (data, network, recipe or seeds differ); choose another --output, "
                "or move it away"
            )
        return True

    def missing(self) -> list[int]:
        """Shards that are not there yet; refuses to go on where others were made differently."""
        return [shard for shard in range(self.num_shards) if not self._is_there(shard)]

    def evaluate(self, shard: int) -> None:
        """Train a shard's architectures and write it.

        Raises:
            BenchmarkDataError: Trainings failed; the message names them.
        """
        indices, space = self.indices(shard), self.benchmark.space
        archs = [space[int(index)] for index in indices]  # type: ignore[index]
        found = self.benchmark.results(archs)
        failed = [results[0] for results in found if any(result.error for result in results)]
        if failed:
            raise BenchmarkDataError(
                f"tabulate: {len(failed)} of the {len(found)} architectures of shard {shard} could not be trained, the "
                f"first is {failed[0].key.architecture} ({failed[0].error}); mend the reason and repeat the command "
                "with '--benchmark.retry_failed true', or begin again with a recipe by which all can be trained"
            )
        with write_atomically(self.path(shard), "wb") as file:
            columns = {"identity": _json(self.benchmark.identity()), "index": indices, **_columns(found)}
            np.savez_compressed(file, **columns)  # type: ignore[arg-type]

    def assemble(self, meta: Mapping[str, Any]) -> Table:
        """Join all shards to the table.

        Args:
            meta: What the table says about itself, beside the benchmark's identity.
        """
        shards = [self._read(shard) for shard in range(self.num_shards)]
        joined = {name: np.concatenate([shard[name] for shard in shards]) for name in shards[0]}
        identity = self.benchmark.identity()
        data = identity["data"]["data"]
        row = np.searchsorted(self.distinct, self.members)
        columns = {"row": row.astype(np.int32), "params": joined["params"], "flops": joined["flops"]}
        epochs = joined["valid"].shape[2]
        for epoch in range(1, epochs + 1):
            columns[f"{data}/valid@{epoch}"] = joined["valid"][:, :, epoch - 1]
            # An epoch takes as long as any other; the test at the end counts as a part of them.
            columns[f"{data}/cost@{epoch}"] = (joined["cost"] * (epoch / epochs)).round(4)
        columns[f"{data}/test@{epochs}"] = joined["test"]
        digest = hashlib.md5()  # a search refuses to go on when the numbers are others
        for name in sorted(columns):
            digest.update(name.encode() + np.ascontiguousarray(columns[name]).tobytes())
        about = {"space": self.benchmark.space.name, **meta, "made_by": identity, "md5": digest.hexdigest()}
        return write_table(self.output, about, columns)

    def remove_shards(self) -> None:
        """Delete the shards of an assembled table."""
        shutil.rmtree(self.folder, ignore_errors=True)  # another part may be at it

    def _is_there(self, shard: int) -> bool:
        try:
            self._read(shard)
        except FileNotFoundError:  # not yet, or no longer
            return False
        return True

    def _read(self, shard: int) -> dict[str, np.ndarray]:
        path = self.path(shard)
        with opened_npz(path) as file:
            content = {name: file[name] for name in file.files}
        identity = content.pop("identity", None)
        if identity is None or str(identity) != str(_json(self.benchmark.identity())):
            raise BenchmarkDataError(
                f"{path}: was made by another benchmark (data, network, recipe or seeds differ); expected shards of "
                "this one: choose another --output, or move the shards away"
            )
        if not np.array_equal(content.pop("index"), self.indices(shard)):
            raise BenchmarkDataError(
                f"{path}: holds other architectures than shard {shard} of {self.num_shards}; repeat the command with "
                "the number of shards it began with"
            )
        return content


def shards_of(part: str, missing: Sequence[int]) -> Iterator[int]:
    """The share of one of several processes: every n-th shard, beginning with the k-th.

    Args:
        part: ``k/n`` with 1 <= k <= n.
        missing: Shards to be shared out.

    Example:
        >>> list(shards_of("2/3", range(8)))
        [1, 4, 7]
    """
    place, _, of = part.partition("/")
    if not (place.isdecimal() and of.isdecimal() and 1 <= int(place) <= int(of)):
        raise UsageError(f"tabulate: got part={part!r}, expected 'k/n' such as '2/4' with 1 <= k <= n")
    return (shard for shard in missing if shard % int(of) == int(place) - 1)


def _columns(found: Sequence[Sequence[Result]]) -> dict[str, np.ndarray]:
    """Scores of n architectures: valid ``(n, S, epochs)``, test and cost ``(n, S)``, params and flops ``(n,)``."""
    return {
        "valid": np.array([[result.curve for result in results] for results in found], dtype=np.float32),
        "test": np.array([[result.test for result in results] for results in found], dtype=np.float32),
        "cost": np.array([[result.cost for result in results] for results in found], dtype=np.float32),
        "params": np.array([results[0].params for results in found], dtype=np.int64),
        "flops": np.array([results[0].flops for results in found], dtype=np.int64),
    }


def _json(identity: Mapping[str, Any]) -> np.ndarray:
    return np.array(json.dumps(identity, sort_keys=True))
