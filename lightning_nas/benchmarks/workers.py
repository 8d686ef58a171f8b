"""Where a live benchmark's trainings take place: the contract, and workers behind any executor of PEP 3148."""

from __future__ import annotations

import os
import pickle
import tempfile
import threading
from abc import ABC, abstractmethod
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from lightning_nas.benchmarks.job import TrainingJob
from lightning_nas.benchmarks.store import Result, ResultKey
from lightning_nas.errors import EvaluationError, UsageError
from lightning_nas.files import ensure_writable
from lightning_nas.nn.images import LabelledImages

_alone = threading.Lock()


class WorkerLostError(EvaluationError):
    """A worker ended before its training did: killed, out of memory, out of time."""


class Workers(ABC):
    """Trains architectures somewhere else, several at a time.

    Attributes:
        device: Where trainings take place: ``cpu``, or a GPU such as ``cuda`` or ``cuda:0``.
        keeps_results: Whether the workers write to the store; otherwise results travel back and the caller writes them.
        deaths: What a training's future raises when its worker is lost. Any other error is no fault of the
            architecture.
    """

    device: str = "cpu"
    keeps_results: bool = False
    deaths: tuple[type[BaseException], ...] = (WorkerLostError,)

    @property
    @abstractmethod
    def parallelism(self) -> int:
        """Trainings that can run at a time."""

    def prepare(self) -> None:
        """Check whatever can fail before anything is trained (default: nothing)."""

    @abstractmethod
    def start(self, job: TrainingJob) -> None:
        """Get ready to train.

        Args:
            job: What is to be done with every architecture.

        Raises:
            EvaluationError: No worker can be had.
        """

    @abstractmethod
    def submit(self, key: ResultKey) -> Future[list[Result]]:
        """Train one architecture; never waits."""

    def stop(self) -> None:
        """End all trainings and release the workers; :meth:`start` may follow (default: nothing)."""


class ExecutorWorkers(Workers):
    """Workers behind an executor from Python: MPI, Ray, Parsl, or a pool of one's own.

    Results travel back to this process, which keeps them. The executor stays its owner's: it is not shut down here.

    Args:
        executor: Anything with the ``submit`` of :class:`concurrent.futures.Executor`.
        num_workers: Trainings at a time. In one process they go one after the other, since they seed torch's global
            generator: give every worker a process, or as many as there are.
        device: Where a worker trains, for example ``cuda``.
        folder: A folder that all workers reach. The images are written there once, instead of being sent with every
            architecture, and trainings of fewer than the recipe's epochs are kept there to be continued; without it
            they start again.
    """

    deaths = (WorkerLostError, BrokenExecutor, CancelledError)

    def __init__(
        self, executor: Executor, num_workers: int = 1, device: str = "cpu", folder: str | None = None
    ) -> None:
        if num_workers < 1:
            raise UsageError(f"ExecutorWorkers: got num_workers={num_workers}, expected at least 1")
        self.executor, self.num_workers, self.device, self.folder = executor, num_workers, device, folder
        self._job: TrainingJob | Path | None = None

    @property
    def parallelism(self) -> int:
        """``num_workers``."""
        return self.num_workers

    def start(self, job: TrainingJob) -> None:
        """Write the job to the folder, if there is one."""
        folder = Path(self.folder).expanduser().absolute() if self.folder else None
        remote = remote_job(job, self.device, folder)
        self._job = remote if folder is None else write_job(remote, folder)

    def submit(self, key: ResultKey) -> Future[list[Result]]:
        """Hand an architecture to the executor."""
        assert self._job is not None
        return self.executor.submit(train, self._job, key)

    def stop(self) -> None:
        """Remove the job from the folder."""
        if isinstance(self._job, Path):
            self._job.unlink(missing_ok=True)
        self._job = None


def train(job: TrainingJob | Path, key: ResultKey) -> list[Result]:
    """Train in this process, alone and on one thread, so that the outcome is the same wherever it takes place.

    Args:
        job: What to do, or the file it lies in.
        key: What to train.
    """
    if isinstance(job, Path):
        job = read_job(job)
    with _alone:
        threads, cudnn = torch.get_num_threads(), torch.backends.cudnn
        deterministic = cudnn.deterministic
        torch.set_num_threads(1)
        cudnn.deterministic = True
        try:
            return job.run(key)
        finally:
            torch.set_num_threads(threads)
            cudnn.deterministic = deterministic


@lru_cache(maxsize=1)
def read_job(path: Path) -> TrainingJob:
    """The job in a file; a process reads it once."""
    job: TrainingJob = pickle.loads(path.read_bytes())
    return job


def write_job(job: TrainingJob, folder: Path) -> Path:
    """Write a job to a new file, so that it is not sent with every architecture."""
    ensure_writable(folder)
    handle, path = tempfile.mkstemp(dir=folder, prefix="job-", suffix=".pickle")
    with os.fdopen(handle, "wb") as file:
        pickle.dump(job, file)
    return Path(path)


def remote_job(job: TrainingJob, device: str, folder: Path | None) -> TrainingJob:
    """A job for another machine, which cannot open this one's files.

    Args:
        job: The job for this machine.
        device: Where to train there.
        folder: A folder that both reach, for unfinished trainings; None to keep none.
    """
    train, valid, test = map(_in_memory, (job.data.train, job.data.valid, job.data.test))
    data = replace(job.data, train=train, valid=valid, test=test)
    return replace(job, data=data, store=None, unfinished=folder and folder / "unfinished", device=device)


def _in_memory(split: LabelledImages) -> LabelledImages:
    def loaded(tensor: Tensor) -> Tensor:
        return tensor if tensor.untyped_storage().filename is None else tensor.clone()

    return LabelledImages(*map(loaded, split))
