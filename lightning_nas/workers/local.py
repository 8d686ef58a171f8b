"""Workers on this machine: processes that end with the one that started them."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from queue import LifoQueue
from typing import Any, Literal

import torch

from lightning_nas.errors import EvaluationError, UsageError
from lightning_nas.workers.base import Job, WorkerLostError, Workers, read_job, run_alone, write_job


class LocalWorkers(Workers):
    """Processes on this machine, each of which does one task at a time, on one thread or one GPU.

    They write results to the store themselves. They end at once when told, and when this process dies, by ``kill -9``
    too; one that dies is replaced.

    Args:
        num_workers: Number of processes; default: the number of GPUs, or of cores where there is none.
        device: ``cpu``, or ``cuda`` for one GPU to every worker (shared when there are more workers); default: GPUs
            where there are any.
    """

    keeps_results = True

    def __init__(self, num_workers: int | None = None, device: Literal["cpu", "cuda"] | None = None) -> None:
        gpus = 0 if device == "cpu" else torch.cuda.device_count()
        self.devices: Sequence[str] = [f"cuda:{i}" for i in range(gpus)] or ["cpu"]
        self.num_workers = (gpus or _num_cores()) if num_workers is None else num_workers
        self.device = self.devices[0]
        self._asked = device
        self._threads: ThreadPoolExecutor | None = None
        self._idle: LifoQueue[_Worker] | None = None
        self._stop: Callable[[], object] | None = None

    @property
    def parallelism(self) -> int:
        """``num_workers``."""
        return self.num_workers

    def prepare(self) -> None:
        """Check the arguments."""
        if self.num_workers < 1:
            raise UsageError(f"LocalWorkers: got num_workers={self.num_workers}, expected at least 1")
        if self._asked == "cuda" and self.device == "cpu":
            raise UsageError("LocalWorkers: got device=cuda, but torch finds no GPU here; leave it out, or mend CUDA")

    def start(self, job: Job) -> None:
        """Start the first worker; the others start when they are needed."""
        folder = Path(tempfile.mkdtemp(prefix="lightning-nas-"))
        try:
            path = write_job(job, folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        # A fork server imports torch once for all workers; a plain fork would copy locks that threads of ours hold.
        method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        context = multiprocessing.get_context(method)
        context.set_forkserver_preload([__name__])
        listener, lifeline = context.Pipe(duplex=False)
        begin = partial(
            ProcessPoolExecutor, 1, mp_context=context, initializer=_start_worker, initargs=(listener, folder)
        )
        crew = [_Worker(begin, path, self.devices[i % len(self.devices)]) for i in range(self.num_workers)]
        self._idle = LifoQueue()  # who was busy last is next: those who are not needed never start
        for worker in reversed(crew):
            self._idle.put(worker)
        # A thread waits for each worker's process: whose process died is known, and the other trainings go on.
        self._threads = ThreadPoolExecutor(self.num_workers, thread_name_prefix="local-worker")
        self._stop = weakref.finalize(self, _stop_workers, lifeline, self._threads, crew, folder)
        try:
            crew[0].load()
        except WorkerLostError as error:
            self.stop()
            raise EvaluationError(
                "the worker processes end before they begin; a script needs 'if __name__ == \"__main__\":' around its "
                "work, and what the workers wrote to the terminal says more"
            ) from error
        except BaseException:
            self.stop()
            raise

    def submit(self, task: Any) -> Future[Any]:
        """Give a task to the next idle worker."""
        assert self._threads is not None
        assert self._idle is not None
        return self._threads.submit(_run, self._idle, task)

    def stop(self) -> None:
        """Stop all processes at once."""
        if self._stop is not None:
            self._stop()
        self._threads = self._idle = self._stop = None


class _Worker:
    """One process, started when first needed and again after its death."""

    def __init__(self, begin: Callable[[], ProcessPoolExecutor], job: Path, device: str) -> None:
        self._begin, self._job, self._device = begin, job, device
        self._executor: ProcessPoolExecutor | None = None

    def load(self) -> None:
        """Read the job, to see whether the process starts at all."""
        self._call(_load)

    def run(self, task: Any) -> Any:
        """Do a task in the process."""
        return self._call(_run_job, self._device, task)

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        if self._executor is None:
            self._executor = self._begin()
        try:
            return self._executor.submit(function, self._job, *args).result()
        except BrokenProcessPool as error:
            self.stop()
            raise WorkerLostError("killed, or out of memory?") from error

    def stop(self) -> None:
        """Wait for the end of the process."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=True, cancel_futures=True)


def _run(idle: LifoQueue[_Worker], task: Any) -> Any:
    worker = idle.get()  # never waits: there are as many threads as workers
    try:
        return worker.run(task)
    finally:
        idle.put(worker)


def _stop_workers(lifeline: Connection, threads: ThreadPoolExecutor, crew: Sequence[_Worker], folder: Path) -> None:
    lifeline.close()
    threads.shutdown(wait=False, cancel_futures=True)  # not waiting: this may run in one of the threads
    for worker in crew:
        worker.stop()
    shutil.rmtree(folder, ignore_errors=True)


def _start_worker(listener: Connection, folder: Path) -> None:
    """Listen to a pipe whose other end the parent alone holds.

    Nothing is ever sent: the end of the pipe, by closing or by the parent's death, is the signal.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides what happens
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, args=(listener, folder), daemon=True).start()


def _end_with_parent(listener: Connection, folder: Path) -> None:
    with suppress(EOFError, OSError):
        listener.recv_bytes()
    shutil.rmtree(folder, ignore_errors=True)  # the parent may no longer be there to do it
    os._exit(1)


def _load(path: Path) -> None:
    read_job(path)


def _run_job(path: Path, device: str, task: Any) -> Any:
    return run_alone(replace(read_job(path), device=device), task)


def _num_cores() -> int:
    """Cores this process may use, which containers and batch systems make fewer than the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
