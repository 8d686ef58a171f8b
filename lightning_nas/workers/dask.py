"""Workers of a Dask cluster."""

from __future__ import annotations

import logging
import pickle
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

from lightning_nas.errors import EvaluationError, UsageError
from lightning_nas.workers.base import Job, WorkerLostError, Workers, run_alone


class DaskWorkers(Workers):
    """Workers of a Dask cluster (https://distributed.dask.org); needs ``pip install 'lightning-nas[dask]'``.

    The images are sent to every worker once. Results travel back to this process, which keeps them. The work of a
    worker that dies is given to another one by Dask itself, three times (``distributed.scheduler.allowed-failures``).
    Work that is no longer wanted goes on to its end: Dask cannot stop what runs.

    Args:
        address: The scheduler's, for example ``tcp://10.0.0.1:8786``; default: a cluster of one process for every core
            of this machine. Workers should have one thread each (``dask worker --nthreads 1``), since a process does
            one task at a time.
        device: Where a worker works; ``cuda`` for workers that see one GPU each, as those of ``dask-cuda`` do.
        folder: A folder that all workers reach, where trainings of fewer than the recipe's epochs are kept to be
            continued; without it they start again.
        timeout: Seconds to wait for the scheduler and the first worker.
    """

    def __init__(
        self, address: str | None = None, device: str = "cpu", folder: str | None = None, timeout: float = 60.0
    ) -> None:
        self.address, self.device, self.folder, self.timeout = address, device, folder, timeout
        self._client: Any = None
        self._executor: Any = None
        self._job: Any = None

    @property
    def parallelism(self) -> int:
        """Workers there are now; a cluster may grow and shrink."""
        self.prepare()
        return max(1, len(self._client.nthreads()))

    def prepare(self) -> None:
        """Connect to the scheduler, and wait for a worker.

        Raises:
            UsageError: Dask is not installed.
            EvaluationError: There is no scheduler, or no worker.
        """
        if self._client is not None:
            return
        try:
            from distributed import Client, KilledWorker
        except ImportError as error:
            raise UsageError("DaskWorkers need the package 'distributed': pip install 'lightning-nas[dask]'") from error
        own = {"threads_per_worker": 1, "dashboard_address": ":0", "silence_logs": logging.ERROR}
        self.deaths = (WorkerLostError, KilledWorker, CancelledError)
        try:
            client = Client(self.address, timeout=self.timeout, set_as_default=False, **({} if self.address else own))
        except (OSError, ValueError) as error:
            raise EvaluationError(
                f"DaskWorkers: no scheduler answers at {self.address} ({error}); start 'dask scheduler' there and "
                "'dask worker' with its address, or mend the address"
            ) from error
        try:
            client.wait_for_workers(1, self.timeout)
        except TimeoutError as error:
            client.close()
            raise EvaluationError(
                f"DaskWorkers: the scheduler at {self.address} has no worker; start some with "
                f"'dask worker {self.address} --nthreads 1'"
            ) from error
        self._client, self._executor = client, client.get_executor(pure=False)

    def start(self, job: Job) -> None:
        """Send the job to the workers."""
        self.prepare()
        import dask

        folder = Path(self.folder).expanduser().absolute() if self.folder else None
        # As the outcome of a task, and not scattered: Dask repeats a task when the last worker that held it is gone.
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TiB"}):
            content = pickle.dumps(job.elsewhere(self.device, folder))
            self._job = self._client.submit(pickle.loads, content, pure=False)

    def submit(self, task: Any) -> Future[Any]:
        """Give a task to the cluster."""
        future: Future[Any] = self._executor.submit(run_alone, self._job, task)
        return future

    def stop(self) -> None:
        """Withdraw what waits, and leave the cluster; one that was started here ends."""
        if self._client is not None:
            self._executor.shutdown(wait=False)
            self._client.close()
        self._client = self._executor = self._job = None
