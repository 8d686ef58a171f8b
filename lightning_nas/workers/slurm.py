"""Jobs of a Slurm cluster."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from lightning_nas.errors import EvaluationError, UsageError
from lightning_nas.workers.base import Job, WorkerLostError, Workers, run_alone, write_job

_POLL_SECONDS = 1.0


class SlurmWorkers(Workers):
    """One Slurm job for every task, through submitit; needs ``pip install 'lightning-nas[slurm]'``.

    The images are written to the folder once. Results travel back to this process, which keeps them. A job that ends
    without a result (out of time or memory, or on a node that failed) is submitted once more. Jobs are cancelled when
    the search stops; after ``kill -9`` they run to their end unheard.

    Args:
        folder: A folder that this machine and all nodes reach: for the images, for submitit's logs, and for trainings
            of fewer than the recipe's epochs, which are continued from there.
        partition: Slurm's partition; default: the cluster's.
        num_workers: Jobs in Slurm's queue at a time.
        timeout_min: Minutes after which Slurm ends a job.
        cpus_per_task: Cores of a job. A task on CPUs uses one.
        gpus_per_node: GPUs of a job, 0 or 1; with one, it works there.
        mem_gb: Memory of a job; default: the cluster's.
        slurm: Further options of ``sbatch``, for example ``{qos: low, account: nas}``.
        cluster: ``local`` runs the jobs as processes of this machine and ``debug`` in this process, to try them out.
            Local jobs are cancelled by an interrupt: started in the background of a script, which ignores it, they
            run to their end.
    """

    def __init__(
        self,
        folder: str,
        partition: str | None = None,
        num_workers: int = 16,
        timeout_min: int = 60,
        cpus_per_task: int = 1,
        gpus_per_node: int = 0,
        mem_gb: float | None = None,
        slurm: dict[str, Any] | None = None,
        cluster: Literal["slurm", "local", "debug"] = "slurm",
    ) -> None:
        if num_workers < 1 or gpus_per_node not in (0, 1):
            raise UsageError(
                f"SlurmWorkers: got num_workers={num_workers} and gpus_per_node={gpus_per_node}, expected at least 1 "
                "and 0 or 1: a task uses one GPU"
            )
        self.folder = Path(folder).expanduser().absolute()
        self.num_workers, self.device, self.cluster = num_workers, "cuda" if gpus_per_node else "cpu", cluster
        options = {"partition": partition, **(slurm or {})}
        self.parameters = {
            "name": "lightning-nas", "timeout_min": timeout_min, "cpus_per_task": cpus_per_task,
            "gpus_per_node": gpus_per_node, "mem_gb": mem_gb, **{f"slurm_{name}": x for name, x in options.items()},
        }  # fmt: skip
        self._executor: SubmititExecutor | None = None
        self._job: Path | None = None

    @property
    def parallelism(self) -> int:
        """``num_workers``."""
        return self.num_workers

    def prepare(self) -> None:
        """Check that jobs can be submitted from here.

        Raises:
            UsageError: Submitit is not installed, or an option is unknown.
            EvaluationError: This machine has no Slurm.
        """
        self._submitit()

    def _submitit(self) -> Any:
        try:
            import submitit
        except ImportError as error:
            raise UsageError("SlurmWorkers need the package 'submitit': pip install 'lightning-nas[slurm]'") from error
        try:
            executor = submitit.AutoExecutor(self.folder / "jobs", cluster=self.cluster)
        except RuntimeError as error:
            raise EvaluationError(
                f"SlurmWorkers: {error}; start the search where 'srun' and 'sbatch' are found, or try it out with "
                "cluster=local"
            ) from error
        try:
            executor.update_parameters(**{name: x for name, x in self.parameters.items() if x is not None})
        except (ValueError, NameError, TypeError) as error:
            raise UsageError(f"SlurmWorkers: {error}") from error
        return executor

    def start(self, job: Job) -> None:
        """Write the job to the folder."""
        self._executor = SubmititExecutor(self._submitit())
        self._job = write_job(job.elsewhere(self.device, self.folder), self.folder)

    def submit(self, task: Any) -> Future[Any]:
        """Submit a job."""
        assert self._executor is not None
        try:
            return self._executor.submit(run_alone, self._job, task)
        except Exception as error:  # sbatch can refuse for as many reasons as there are clusters
            raise EvaluationError(f"SlurmWorkers: no job can be submitted ({error})") from error

    def stop(self) -> None:
        """Cancel the jobs."""
        if self._executor is not None and self._job is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._job.unlink(missing_ok=True)
        self._executor = self._job = None


class SubmititExecutor(Executor):
    """Submitit's jobs as futures that :func:`concurrent.futures.wait` understands; one thread looks after all of them.

    Args:
        executor: Submitit's own.
    """

    def __init__(self, executor: Any) -> None:
        self._executor = executor
        self._jobs: dict[Future[Any], Any] = {}
        self._closed = threading.Event()
        self._watcher = threading.Thread(target=_watch, args=(self._jobs, self._closed), daemon=True)
        self._watcher.start()
        weakref.finalize(self, _abandon, self._jobs, self._closed)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submit a job; cancelling its future cancels it, whether it has begun or not."""
        if self._closed.is_set():
            raise RuntimeError("cannot submit a job after shutdown")
        job = self._executor.submit(fn, *args, **kwargs)
        future: Future[Any] = Future()
        self._jobs[future] = job
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more jobs.

        Args:
            wait: Return when all jobs have ended.
            cancel_futures: Cancel them first.
        """
        if cancel_futures:
            for future in list(self._jobs):
                future.cancel()
        self._closed.set()
        if wait:
            self._watcher.join()


def _watch(jobs: dict[Future[Any], Any], closed: threading.Event) -> None:
    while jobs or not closed.is_set():
        for future, job in list(jobs.items()):
            if future.cancelled():
                _cancel(job)
                future.set_running_or_notify_cancel()
                del jobs[future]
            elif _ended(future, job):
                del jobs[future]
        time.sleep(_POLL_SECONDS)


def _ended(future: Future[Any], job: Any) -> bool:
    """Whether a job has ended and its future with it; one that cannot be asked about ends with the reason."""
    try:
        if not job.done():
            return False
    except Exception as error:  # a disk that is gone, or Slurm itself
        _cancel(job)
        if future.set_running_or_notify_cancel():
            future.set_exception(error)
    else:
        _settle(future, job)
    return True


def _cancel(job: Any) -> None:
    with suppress(Exception):  # without scancel, the job runs to its end unheard
        job.cancel(check=False)


def _settle(future: Future[Any], job: Any) -> None:
    from submitit.core.utils import FailedJobError, UncompletedJobError

    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(job.result())
    except FailedJobError as error:  # the function's own exception
        future.set_exception(error)
    except UncompletedJobError:
        future.set_exception(WorkerLostError(f"job {job.job_id} ended in state {job.state}, see {job.paths.stderr}"))
    except Exception as error:  # a result that cannot be read
        future.set_exception(error)


def _abandon(jobs: dict[Future[Any], Any], closed: threading.Event) -> None:
    closed.set()
    for job in list(jobs.values()):
        _cancel(job)
