"""Jacobians of many networks on disk: computed once, by many workers, and mapped into memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lightning_nas.errors import BenchmarkDataError, EvaluationError, NASError, SpaceError
from lightning_nas.files import ensure_writable, write_atomically
from lightning_nas.nn.complexity import count_flops, count_parameters
from lightning_nas.nn.jacobian import Output, input_jacobian, principal_scores
from lightning_nas.spaces.base import FiniteSpace
from lightning_nas.workers.base import Job, Workers
from lightning_nas.workers.tasks import results_of

SHARD = 32
"""Networks in one file, and so in one task of a worker."""

JACOBIAN_VERSION = 1
"""Part of a store's identity: changes with whatever changes the numbers."""


class ShardTask(NamedTuple):
    """One initialisation of a few networks.

    Attributes:
        number: Of the shard.
        initialisation: Which one, from 0.
        members: The networks' indices in their space.
    """

    number: int
    initialisation: int
    members: tuple[int, ...]


@dataclass(frozen=True)
class JacobianJob(Job):
    """Everything a worker needs to compute the Jacobians of any network of a space.

    Args:
        space: Space that builds the networks.
        sizes: Further arguments of its ``build``.
        images: What all networks are shown, ready for them.
        num_components: Leading components that are kept.
        output: What is differentiated (see :func:`~lightning_nas.nn.jacobian.input_jacobian`).
        seed: Weights depend on (seed, index of the network, initialisation) alone.

    Shapes:
        images ``(N, C, H, W)`` float32.
    """

    space: FiniteSpace[Any]
    sizes: dict[str, Any]
    images: Tensor
    num_components: int
    output: Output = "sum"
    seed: int = 0

    def run(self, task: ShardTask) -> tuple[np.ndarray, np.ndarray]:
        """Principal scores ``(n, N, K)`` float32, and trainable weights and multiply-adds ``(n, 2)`` int64.

        Raises:
            SpaceError: A network cannot be built, or does not take the images.
            EvaluationError: A Jacobian holds numbers that are not finite.
        """
        device = torch.device(self.device)
        images = self.images.to(device)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            parts = [self._one(member, task.initialisation, images) for member in task.members]
        scores, costs = zip(*parts, strict=True)
        return np.stack(scores), np.array(costs, dtype=np.int64)

    def _one(self, member: int, initialisation: int, images: Tensor) -> tuple[np.ndarray, tuple[int, int]]:
        arch = self.space[member]
        try:
            network = initialised(self.space, member, initialisation, self.seed, self.sizes)
            _, channels, height, width = images.shape
            costs = count_parameters(network), count_flops(network, (channels, height, width))
            network = network.to(images.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            jacobian = input_jacobian(network, images, self.output)
        except NASError:
            raise
        except Exception as error:
            raise SpaceError(
                f"{self.space.format(arch)}: no Jacobian for images of shape {tuple(images.shape[1:])} and the sizes "
                f"{self.sizes} ({type(error).__name__}: {error}); expected a network that takes these images"
            ) from error
        if not jacobian.isfinite().all():
            raise EvaluationError(
                f"{self.space.format(arch)}: its Jacobian holds numbers that are not finite, expected a network whose "
                "gradients neither explode nor divide by zero in training mode"
            )
        return principal_scores(jacobian, self.num_components).cpu().numpy(), costs


class JacobianStore:
    """Principal scores of a space's networks in files of 32 networks and one initialisation each.

    The networks are in a fixed order, of which any first part may be there: to want more of them, or more
    initialisations, adds files to those there are.

    Args:
        folder: Where the files are; made when missing.
        identity: What fixes every number, as primitives.
        order: Index in the space of every network, ``(M,)``.
        shape: ``(N, K)``: images and components.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], order: Tensor, shape: tuple[int, int]) -> None:
        self.folder, self.identity, self.order, self.shape = folder, identity, order, shape

    def tasks(self, num_members: int, num_initialisations: int) -> list[ShardTask]:
        """What is still to be computed for the first so many networks; whole shards."""
        shards = torch.split(self.order, SHARD)[: -(-num_members // SHARD)]
        return [
            ShardTask(number, initialisation, tuple(members.tolist()))
            for number, members in enumerate(shards)
            for initialisation in range(num_initialisations)
            if not self._has(number, initialisation)
        ]

    def fill(
        self,
        job: JacobianJob,
        workers: Workers,
        num_members: int,
        num_initialisations: int,
        track: Callable[[Sequence[int]], Iterable[int]] = iter,
    ) -> None:
        """Compute what is missing; every finished file stays, whatever happens to the others.

        Args:
            job: How to compute.
            workers: Who does it.
            num_members: Networks wanted, from the first.
            num_initialisations: Initialisations of each.
            track: Shows progress over the files.

        Raises:
            EvaluationError: No worker can be had, or one died twice of the same networks.
            RunFolderError: The folder cannot be written.
        """
        tasks = self.tasks(num_members, num_initialisations)
        if not tasks:
            return
        ensure_writable(self.folder)
        with write_atomically(self.folder / "identity.json") as file:
            json.dump(self.identity, file, indent=1)
        workers.prepare()
        workers.start(job)
        try:
            results = results_of(
                workers, tasks, lambda task: self._has(task.number, task.initialisation),
                lambda task: f"the networks {task.members[0]} to {task.members[-1]}",
            )  # fmt: skip
            for _ in track(range(len(tasks))):
                task, found = next(results)
                if found is None:  # another run, which wants the same, was faster
                    continue
                scores, costs = found
                with write_atomically(self._costs(task.number), "wb") as file:
                    np.save(file, costs)
                with write_atomically(self._scores(task.number, task.initialisation), "wb") as file:
                    np.save(file, scores)
        finally:
            workers.stop()

    def scores(self, positions: Tensor, num_initialisations: int) -> Tensor:
        """Principal scores of networks by their place in the order, ``(b,)`` -> ``(b, I, N, K)`` float32."""
        result = np.empty((len(positions), num_initialisations, *self.shape), np.float32)
        places = positions.numpy()
        for number in np.unique(places // SHARD):
            rows = np.flatnonzero(places // SHARD == number)
            for initialisation in range(num_initialisations):
                shard = self._map(self._scores(int(number), initialisation), self.shape)
                result[rows, initialisation] = shard[places[rows] % SHARD]
        return torch.from_numpy(result)

    def costs(self, num_members: int) -> Tensor:
        """Trainable weights and multiply-adds of the first so many networks, ``(m, 2)`` int64."""
        shards = range(-(-num_members // SHARD))
        parts = [self._map(self._costs(number), (2,)) for number in shards]
        return torch.from_numpy(np.concatenate(parts)[:num_members])

    def _has(self, number: int, initialisation: int) -> bool:
        return self._scores(number, initialisation).is_file() and self._costs(number).is_file()

    def _scores(self, number: int, initialisation: int) -> Path:
        return self.folder / f"scores-{number:05d}-{initialisation}.npy"

    def _costs(self, number: int) -> Path:
        return self.folder / f"costs-{number:05d}.npy"

    def _map(self, path: Path, shape: tuple[int, ...]) -> np.ndarray:
        """An array in a file; not kept open, for there may be more files than a process may open."""
        mend = "delete it and start again, which computes it anew"
        try:
            values: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError, FileNotFoundError) as error:
            raise BenchmarkDataError(f"{path}: cannot be read ({error}); {mend}") from error
        except OSError as error:
            raise BenchmarkDataError(f"{path}: cannot be read ({error})") from error
        if values.shape[1:] != shape:
            raise BenchmarkDataError(
                f"{path}: holds an array of shape {values.shape}, expected {('n', *shape)}; {mend}"
            )
        return values


def initialised(
    space: FiniteSpace[Any], member: int, initialisation: int, seed: int, sizes: Mapping[str, Any]
) -> nn.Module:
    """A network whose weights depend on (seed, index of the network, initialisation) alone; seeds torch's generator."""
    (word,) = np.random.SeedSequence((seed, member, initialisation)).generate_state(1, np.uint64)
    torch.manual_seed(int(word) >> 1)
    return space.build(space[member], **sizes)
