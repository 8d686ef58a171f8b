"""Where costly work takes place: the contract, and workers behind any executor of PEP 3148."""

from __future__ import annotations

import os
import pickle
import tempfile
import threading
from abc import ABC, abstractmethod
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import torch

from lightning_nas.errors import EvaluationError, UsageError
from lightning_nas.files import ensure_writable

_alone = threading.Lock()


class WorkerLostError(EvaluationError):
    """A worker ended before its work did: killed, out of memory, out of time."""


@dataclass(frozen=True, kw_only=True)
class Job(ABC):
    """All that a worker needs to do any of many tasks; sent to it once.

    Args:
        device: Where the work takes place, for example ``cuda:0``.
    """

    device: str = "cpu"

    @abstractmethod
    def run(self, task: Any) -> Any:
        """Do one task; what it gives must not depend on the worker or on earlier tasks."""

    def elsewhere(self, device: str, folder: Path | None) -> Self:
        """The same for another machine, which cannot open this one's files.

        Args:
            device: Where the work takes place there.
            folder: A folder that both reach; None for none.
        """
        return replace(self, device=device)


class Workers(ABC):
    """Does tasks of one job somewhere else, several at a time.

    Attributes:
        device: Where the work takes place: ``cpu``, or a GPU such as ``cuda`` or ``cuda:0``.
        keeps_results: Whether the workers write to the store; otherwise results travel back and the caller writes them.
        deaths: What a task's future raises when its worker is lost. Any other error is no fault of the task.
    """

    device: str = "cpu"
    keeps_results: bool = False
    deaths: tuple[type[BaseException], ...] = (WorkerLostError,)

    @property
    @abstractmethod
    def parallelism(self) -> int:
        """Tasks that can be done at a time."""

    def prepare(self) -> None:
        """Check whatever can fail before any work (default: nothing)."""

    @abstractmethod
    def start(self, job: Job) -> None:
        """Get ready.

        Args:
            job: What is to be done with every task.

        Raises:
            EvaluationError: No worker can be had.
        """

    @abstractmethod
    def submit(self, task: Any) -> Future[Any]:
        """Do one task; never waits."""

    def stop(self) -> None:
        """End all work and release the workers; :meth:`start` may follow (default: nothing)."""


class ExecutorWorkers(Workers):
    """Workers behind an executor from Python: MPI, Ray, Parsl, or a pool of one's own.

    Results travel back to this process, which keeps them. The executor stays its owner's: it is not shut down here.

    Args:
        executor: Anything with the ``submit`` of :class:`concurrent.futures.Executor`.
        num_workers: Tasks at a time. In one process they go one after the other, since they seed torch's global
            generator: give every worker a process, or as many as there are.
        device: Where a worker works, for example ``cuda``.
        folder: A folder that all workers reach. The images are written there once, instead of being sent with every
            task, and trainings of fewer than the recipe's epochs are kept there to be continued; without it
            they start again.
    """

    deaths = (WorkerLostError, BrokenExecutor, CancelledError)

    def __init__(
        self, executor: Executor, num_workers: int = 1, device: str = "cpu", folder: str | None = None
    ) -> None:
        if num_workers < 1:
            raise UsageError(f"ExecutorWorkers: got num_workers={num_workers}, expected at least 1")
        self.executor, self.num_workers, self.device, self.folder = executor, num_workers, device, folder
        self._job: Job | Path | None = None

    @property
    def parallelism(self) -> int:
        """``num_workers``."""
        return self.num_workers

    def start(self, job: Job) -> None:
        """Write the job to the folder, if there is one."""
        folder = Path(self.folder).expanduser().absolute() if self.folder else None
        remote = job.elsewhere(self.device, folder)
        self._job = remote if folder is None else write_job(remote, folder)

    def submit(self, task: Any) -> Future[Any]:
        """Hand a task to the executor."""
        assert self._job is not None
        return self.executor.submit(run_alone, self._job, task)

    def stop(self) -> None:
        """Remove the job from the folder."""
        if isinstance(self._job, Path):
            self._job.unlink(missing_ok=True)
        self._job = None


def run_alone(job: Job | Path, task: Any) -> Any:
    """Work in this process, alone and on one thread, so that the outcome is the same wherever it takes place.

    Args:
        job: What to do, or the file it lies in.
        task: Which task.
    """
    if isinstance(job, Path):
        job = read_job(job)
    with _alone:
        threads, cudnn = torch.get_num_threads(), torch.backends.cudnn
        deterministic = cudnn.deterministic
        torch.set_num_threads(1)
        cudnn.deterministic = True
        try:
            return job.run(task)
        finally:
            torch.set_num_threads(threads)
            cudnn.deterministic = deterministic


@lru_cache(maxsize=1)
def read_job(path: Path) -> Job:
    """The job in a file; a process reads it once."""
    job: Job = pickle.loads(path.read_bytes())
    return job


def write_job(job: Job, folder: Path) -> Path:
    """Write a job to a new file, so that it is not sent with every task."""
    ensure_writable(folder)
    handle, path = tempfile.mkstemp(dir=folder, prefix="job-", suffix=".pickle")
    with os.fdopen(handle, "wb") as file:
        pickle.dump(job, file)
    return Path(path)
