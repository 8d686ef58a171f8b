"""Training-free proxies of many architectures: computed by workers, kept in shards, assembled to a table."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lightning_nas.benchmarks.table import Table, read_table, write_table
from lightning_nas.errors import BenchmarkDataError, NASError, SpaceError
from lightning_nas.files import ensure_writable, opened_npz, write_atomically
from lightning_nas.nn import proxies
from lightning_nas.nn.complexity import count_flops, count_parameters
from lightning_nas.nn.proxies import Twins
from lightning_nas.spaces.base import FiniteSpace, SearchSpace
from lightning_nas.workers.base import Job, Workers
from lightning_nas.workers.tasks import results_of

NAMES = (*proxies.OF_IMAGES, "linear_regions")
"""All proxies there are, in the order in which they are computed."""

SHARD = 32
"""Architectures in one file, and so in one task of a worker."""

VERSION = 1
"""Part of the identity of scores: changes with whatever changes the numbers."""


class ProxyTask(NamedTuple):
    """A few architectures.

    Attributes:
        number: Of the shard.
        members: Their indices in the space.
    """

    number: int
    members: tuple[int, ...]


@dataclass(frozen=True)
class ProxyJob(Job):
    """Everything a worker needs to score any architecture of a space.

    Args:
        space: Space that builds the networks.
        sizes: Arguments of its ``build``, ``in_channels`` and ``num_classes`` among them.
        images: What all networks are shown, ready for them, ``(N, C, H, W)`` float32.
        labels: Their classes, ``(N,)``.
        crops: What those that count linear regions are shown, ``(M, 1, 3, 3)`` float32.
        names: Proxies to compute, some of :data:`NAMES`.
        num_initialisations: Initialisations of every architecture, I.
        seed: Weights depend on (seed, index of the architecture, initialisation) alone.
        ntk_images: Of the images the first so many for ``ntk``, which takes a backward pass for each.
    """

    space: FiniteSpace[Any]
    sizes: dict[str, Any]
    images: Tensor
    labels: Tensor
    crops: Tensor
    names: tuple[str, ...]
    num_initialisations: int
    seed: int = 0
    ntk_images: int = 16

    def run(self, task: ProxyTask) -> dict[str, np.ndarray]:
        """Scores ``proxy/<name>`` ``(n, I)``, ``seconds/<name>`` of one initialisation, ``params``, ``flops`` ``(n,)``.

        Raises:
            SpaceError: A network cannot be built, or does not take the images.
        """
        with torch.random.fork_rng(devices=[]):
            rows = [self._one(member) for member in task.members]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def _one(self, member: int) -> dict[str, np.ndarray]:
        try:
            return self._scores(member)
        except NASError:
            raise
        except Exception as error:
            raise SpaceError(
                f"{self.space.format(self.space[member])}: no scores for images of shape "
                f"{tuple(self.images.shape[1:])} and the sizes {self.sizes} ({type(error).__name__}: {error}); "
                "expected a network that takes these images"
            ) from error

    def _scores(self, member: int) -> dict[str, np.ndarray]:
        networks = self._networks(member, **self.sizes)
        channels, height, width = self.images.shape[1:]
        row = {
            "params": np.array(count_parameters(networks[0])),
            "flops": np.array(count_flops(networks[0], (channels, height, width))),
        }
        twins = Twins.of(networks, (channels, height, width))
        for name in self.names:
            start = time.perf_counter()
            if name == "linear_regions":
                small = self._networks(member, **self.sizes | {"in_channels": 1})
                found = [proxies.linear_regions(part, self.crops) for part in Twins.of(small, (1, 3, 3))]
            else:
                seen = slice(self.ntk_images if name == "ntk" else None)
                found = [proxies.OF_IMAGES[name](part, self.images[seen], self.labels[seen]) for part in twins]
            row[f"proxy/{name}"] = torch.cat(found).numpy()
            row[f"seconds/{name}"] = np.array((time.perf_counter() - start) / self.num_initialisations)
        return row

    def _networks(self, member: int, **sizes: Any) -> list[nn.Module]:
        made = []
        for initialisation in range(self.num_initialisations):
            (word,) = np.random.SeedSequence((self.seed, member, initialisation)).generate_state(1, np.uint64)
            torch.manual_seed(int(word) >> 1)
            made.append(self.space.build(self.space[member], **sizes))
        return made


@dataclass(frozen=True)
class ProxyScores:
    """Scores of architectures in shards beside the table that they become.

    Args:
        output: The table to be, an ``.npz``.
        members: Indices of the architectures in their space, ``(n,)``.
        identity: What fixes every number, as primitives.
    """

    output: Path
    members: Tensor
    identity: dict[str, Any]

    @property
    def folder(self) -> Path:
        """Folder of the shards."""
        return self.output.with_suffix(".shards")

    def tasks(self) -> list[ProxyTask]:
        """What is still to be computed; refuses to go on where others were made differently."""
        shards = torch.split(self.members, SHARD)
        tasks = [ProxyTask(number, tuple(part.tolist())) for number, part in enumerate(shards)]
        return [task for task in tasks if not self._is_there(task)]

    @property
    def finished(self) -> bool:
        """Whether the table is there; refuses another one of the same name."""
        if not self.output.is_file():
            return False
        if read_table(self.output).meta.get("made_by") != self.identity:
            raise BenchmarkDataError(
                f"{self.output}: holds other scores (space, images, sizes, proxies or seed differ); choose another "
                "--output, or move it away"
            )
        return True

    def fill(self, job: ProxyJob, workers: Workers, track: Callable[[Sequence[int]], Iterable[int]] = iter) -> None:
        """Compute what is missing; every finished shard stays, whatever happens to the others.

        Raises:
            EvaluationError: No worker can be had, or one died twice of the same architectures.
            RunFolderError: The folder cannot be written.
        """
        tasks = self.tasks()
        if not tasks:
            return
        ensure_writable(self.folder)
        workers.prepare()
        workers.start(job)
        try:
            results = results_of(
                workers,
                tasks,
                self._is_there,
                lambda task: f"the architectures {task.members[0]} to {task.members[-1]}",
            )
            for _ in track(range(len(tasks))):
                task, found = next(results)
                if found is None:  # another run, which wants the same, was faster
                    continue
                with write_atomically(self._path(task.number), "wb") as file:
                    np.savez(file, identity=self._identity_of(task), **found)
        finally:
            workers.stop()

    def assemble(self, space: SearchSpace[Any], about: dict[str, Any]) -> Table:
        """Join all shards to a table of a part of the space, and remove them."""
        parts = []
        for number in range(-(-len(self.members) // SHARD)):
            with opened_npz(self._path(number)) as file:
                parts.append({name: file[name] for name in file.files if name != "identity"})
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        meta = {"space": space.name, **about, "made_by": self.identity}
        table = write_table(self.output, meta, {"member": self.members.numpy(), **columns})
        shutil.rmtree(self.folder, ignore_errors=True)
        return table

    def _identity_of(self, task: ProxyTask) -> np.ndarray:
        return np.array(json.dumps([self.identity, list(task.members)], sort_keys=True))

    def _is_there(self, task: ProxyTask) -> bool:
        path = self._path(task.number)
        if not path.is_file():
            return False
        with opened_npz(path) as file:
            same = "identity" in file.files and str(file["identity"]) == str(self._identity_of(task))
        if not same:
            raise BenchmarkDataError(
                f"{path}: holds other scores (space, images, sizes, proxies or seed differ); choose another "
                "--output, or delete this folder"
            )
        return True

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:05d}.npz"
