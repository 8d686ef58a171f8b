"""A benchmark that trains every candidate for real, in worker processes, and never trains one twice."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import shutil
import signal
import tempfile
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import asdict
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lightning_nas.benchmarks.base import Benchmark, Evaluations, as_column
from lightning_nas.benchmarks.job import TrainingJob
from lightning_nas.benchmarks.store import Result, ResultKey, ResultStore, fingerprint
from lightning_nas.benchmarks.table import data_dir
from lightning_nas.errors import EvaluationError, SpaceError, UsageError
from lightning_nas.nn.complexity import count_flops
from lightning_nas.nn.training import TRAINING_VERSION, TrainingData, TrainingRecipe
from lightning_nas.spaces.base import A, FiniteSpace, SearchSpace

if TYPE_CHECKING:  # workers import this file, and Lightning would cost each of them many seconds
    from lightning_nas.datamodules.vision import VisionDataModule

_log = logging.getLogger(__name__)
_DEFAULT_RECIPE = TrainingRecipe()


class LiveBenchmark(Benchmark[A]):
    """Scores architectures by training their networks, several at a time, each on one thread of a worker process.

    Every result is written at once, by the worker that made it, to a SQLite store: a repeat is a look-up and a killed
    search loses only what was in training. A result depends on the architecture, the data, the network size, the
    recipe and the seed, never on the number of workers or the order. In a finite space all architectures with the
    same ``space.canonical`` (isomorphic cells) share one training: that of the canonical one, under whose notation it
    is stored. What a network is made of is known by the space's name alone: change ``name`` when ``build`` changes. A
    training that fails scores NaN, and its reason is stored and logged. A script that uses this class
    needs ``if __name__ == "__main__":`` around its work, as for every use of worker processes.

    Args:
        space: Search space; its ``build`` must take the network sizes below.
        data: Images to train, select and report on.
        channels: Width of the network's first stage.
        cells_per_stage: Cells in each stage.
        num_stages: Stages; each one after the first halves the image and doubles the width.
        recipe: How a network is trained; its epochs are the default of :meth:`evaluate`.
        seed: Seed of weights, order and augmentation of the first training of every architecture.
        num_seeds: Trainings of every architecture, side by side, with seeds from ``seed`` on; scores are their means.
        store: SQLite file that keeps the results; default ``<data>.sqlite`` (``digits.sqlite`` for the digits) in
            ``$LIGHTNING_NAS_DATA`` or a cache folder in the home.
        num_workers: Trainings at a time; default: the number of cores.
        retry_failed: Train again what failed in an earlier run.

    Attributes:
        on_result: Called as ``on_result(done, total)`` at the start of an evaluation and after every training, with
            counts of the distinct architectures asked for; set it to show progress.
    """

    def __init__(
        self,
        space: SearchSpace,  # type: ignore[type-arg]  # jsonargparse would instantiate SearchSpace[A] itself
        data: VisionDataModule,
        channels: int = 8,
        cells_per_stage: int = 1,
        num_stages: int = 2,
        recipe: TrainingRecipe = _DEFAULT_RECIPE,
        seed: int = 0,
        num_seeds: int = 1,
        store: str | None = None,
        num_workers: int | None = None,
        retry_failed: bool = False,
    ) -> None:
        self.space: SearchSpace[A] = space
        self.data = data
        self.recipe = recipe
        self.epochs = recipe.epochs
        self.seed, self.num_seeds = seed, num_seeds
        self.network = {
            "channels": channels, "cells_per_stage": cells_per_stage, "num_stages": num_stages,
            "num_classes": data.num_classes, "in_channels": data.image_shape[0],
        }  # fmt: skip
        self.path = Path(store) if store else data_dir() / f"{data.identity()['data']}.sqlite"
        self.num_workers = _num_cores() if num_workers is None else num_workers
        self.retry_failed = retry_failed
        self.on_result: Callable[[int, int], None] | None = None
        self._store: ResultStore | None = None
        self._pool: WorkerPool | None = None
        self._seen_failures: set[ResultKey] = set()

    def _details(self) -> dict[str, Any]:
        return {
            "data": self.data.identity(), "network": self.network, "recipe": asdict(self.recipe),
            "num_seeds": self.num_seeds, "training_version": TRAINING_VERSION,
        }  # fmt: skip

    def identity(self) -> dict[str, Any]:
        """Space, data, network size, recipe, seed and epochs; neither the store nor the number of workers."""
        return {
            "benchmark": "live", "space": self.space.name, "epochs": self.epochs, "seed": self.seed, **self._details()
        }  # fmt: skip

    def prepare(self) -> None:
        """Open the store, fetch the data and build one network; workers start when something is to be trained.

        Raises:
            UsageError: A number is out of range.
            SpaceError: The space cannot build networks of this size for these images.
            BenchmarkDataError: The store is damaged or something else.
            RunFolderError: The store cannot be written.
        """
        if self._store is not None:
            return
        if self.num_workers < 1:
            raise UsageError(f"LiveBenchmark: got num_workers={self.num_workers}, expected at least 1")
        self._check_network()
        self.data.prepare_data()
        store = ResultStore(self.path)
        store.describe(self._details())
        self._store = store

    def _check_network(self) -> None:
        arch = self.space.sample(np.random.default_rng(0))
        try:
            with torch.random.fork_rng(devices=[]):  # the caller's random numbers are not ours to use up
                count_flops(self.space.build(arch, **self.network), self.data.image_shape)  # type: ignore[call-arg]
        except Exception as error:
            raise SpaceError(
                f"the space {self.space.name!r} cannot build a network of {self.network} for images of shape "
                f"{self.data.image_shape} ({type(error).__name__}: {error}); expected a 'build' that takes these "
                "arguments, and not more stages than the image can be halved"
            ) from error

    def evaluate(self, archs: Sequence[A], epochs: int | None = None) -> Evaluations:
        """Scores of architectures in the given order, from the store or by training.

        Args:
            archs: N architectures; equal and isomorphic ones are trained once.
            epochs: Only the first of the recipe's epochs; a later call for more of them goes on from there.

        Raises:
            EvaluationError: The worker processes cannot start.
        """
        self.prepare()
        assert self._store is not None
        at = self.epochs if epochs is None else epochs
        if not 1 <= at <= self.epochs:
            raise UsageError(f"LiveBenchmark: got epochs={at}, expected 1 to the recipe's {self.epochs}")
        recipe = fingerprint(self._details())
        keys = [ResultKey(self.space.name, self._notation(arch), recipe, self.seed, at) for arch in archs]
        distinct = list(dict.fromkeys(keys))
        results = self._known(distinct)

        def report(key: ResultKey, found: list[Result]) -> None:
            results[key] = found
            self._log_failure(found)
            if self.on_result is not None:
                self.on_result(len(results), len(distinct))

        if self.on_result is not None:
            self.on_result(len(results), len(distinct))
        for found in results.values():
            self._log_failure(found)
        self._train([key for key in distinct if key not in results], self._store, report)
        scores = {key: self._mean(found) for key, found in results.items()}
        return Evaluations(*(as_column(column) for column in zip(*(scores[key] for key in keys), strict=True)))

    def _known(self, keys: Sequence[ResultKey]) -> dict[ResultKey, list[Result]]:
        """Results in the store of every seed; a key is that of the first seed."""
        assert self._store is not None
        seeds = {key: [key._replace(seed=key.seed + i) for i in range(self.num_seeds)] for key in keys}
        stored = self._store.get(seed for several in seeds.values() for seed in several)
        if self.retry_failed:
            stored = {k: r for k, r in stored.items() if r.error is None or k in self._seen_failures}
        return {
            key: [stored[k] for k in several] for key, several in seeds.items() if all(k in stored for k in several)
        }

    @staticmethod
    def _mean(results: Sequence[Result]) -> tuple[float, float, float]:
        """Validation and test accuracy and seconds of a training, means over seeds."""
        columns = ([r.valid for r in results], [r.test for r in results], [r.cost for r in results])
        return tuple(sum(column) / len(column) for column in columns)  # type: ignore[return-value]

    def _notation(self, arch: A) -> str:
        return self.space.format(self.space.canonical(arch) if isinstance(self.space, FiniteSpace) else arch)

    def _log_failure(self, results: Sequence[Result]) -> None:
        for result in results:
            if result.error is not None and result.key not in self._seen_failures:
                self._seen_failures.add(result.key)
                _log.warning("%s scores NaN, its training failed: %s", result.key.architecture, result.error)

    def _train(
        self, missing: Sequence[ResultKey], store: ResultStore, report: Callable[[ResultKey, list[Result]], None]
    ) -> None:
        waiting = deque(missing)
        while waiting:
            suspects = self._work_through(waiting, self.num_workers, store, report)
            for key in suspects:  # one at a time, so that a second death is nobody else's fault
                if known := self._known([key]):
                    report(key, known[key])
                elif self._work_through(deque([key]), 1, store, report):
                    reason = "its worker process died twice (killed, or out of memory?)"
                    failures = [Result(key._replace(seed=key.seed + i), error=reason) for i in range(self.num_seeds)]
                    store.put(*failures)
                    report(key, failures)

    def _work_through(
        self,
        waiting: deque[ResultKey],
        at_once: int,
        store: ResultStore,
        report: Callable[[ResultKey, list[Result]], None],
    ) -> list[ResultKey]:
        """Train until nothing is waiting or a worker died; returns what was in training when it died."""
        running: dict[Future[list[Result]], ResultKey] = {}
        try:
            pool = self._workers()
            while waiting or running:
                while waiting and len(running) < at_once:
                    running[pool.submit(waiting[0])] = waiting[0]
                    waiting.popleft()
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    report(running[future], future.result())
                    del running[future]
        except BrokenProcessPool:
            self.close()
            return list(running.values())
        except BaseException:  # Ctrl-C, or an error of the caller's: do not train on behind its back
            self.close()
            raise
        return []

    def _workers(self) -> WorkerPool:
        if self._pool is None:
            self._pool = WorkerPool(self._job(), self.num_workers)
        return self._pool

    def _job(self) -> TrainingJob:
        data = self.data
        data.setup("fit")
        images = TrainingData(data.train, data.valid, data.test, data.mean, data.std, data.max_pixel, data.augmentation)
        unfinished = self.path.with_suffix(".unfinished")
        return TrainingJob(self.space, self.network, images, self.recipe, self.num_seeds, self._store, unfinished)

    def close(self) -> None:
        """Stop the workers at once; the next evaluation that trains starts new ones."""
        if self._pool is not None:
            self._pool.stop()
            self._pool = None


class WorkerPool:
    """Processes that run one job; they end at once when told, and when this process dies, by ``kill -9`` too.

    Every worker listens to a pipe whose other end is held here alone. Nothing is ever sent: the end of the pipe, by
    closing or by death, is the signal. The job lies in a temporary file, so that it is written once and not with
    every architecture.

    Args:
        job: What the workers do.
        num_workers: Number of processes.

    Raises:
        EvaluationError: The processes cannot start.
    """

    def __init__(self, job: TrainingJob, num_workers: int) -> None:
        folder = tempfile.mkdtemp(prefix="lightning-nas-")
        self._job = os.path.join(folder, "job.pickle")
        Path(self._job).write_bytes(pickle.dumps(job))
        # A fork server imports torch once for all workers; a plain fork would copy locks that threads of ours hold.
        method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        context = multiprocessing.get_context(method)
        context.set_forkserver_preload([__name__])
        self._listener, lifeline = context.Pipe(duplex=False)
        self._executor = ProcessPoolExecutor(
            num_workers, mp_context=context, initializer=_start_worker, initargs=(self._listener, folder)
        )
        self.stop = weakref.finalize(self, _stop_workers, lifeline, self._executor, folder)
        try:
            self._executor.submit(_load_job, self._job).result()
        except BrokenProcessPool as error:
            self.stop()
            raise EvaluationError(
                "the worker processes end before they begin; a script needs 'if __name__ == \"__main__\":' around its "
                "work, and what the workers wrote to the terminal says more"
            ) from error
        except BaseException:
            self.stop()
            raise

    def submit(self, key: ResultKey) -> Future[list[Result]]:
        """Train one architecture some time."""
        return self._executor.submit(_run_job, self._job, key)


def _stop_workers(lifeline: Connection, executor: ProcessPoolExecutor, folder: str) -> None:
    lifeline.close()
    executor.shutdown(wait=True, cancel_futures=True)
    shutil.rmtree(folder, ignore_errors=True)


def _start_worker(listener: Connection, folder: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides what happens
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, args=(listener, folder), daemon=True).start()


def _end_with_parent(listener: Connection, folder: str) -> None:
    with suppress(EOFError, OSError):
        listener.recv_bytes()
    shutil.rmtree(folder, ignore_errors=True)  # the parent may no longer be there to do it
    os._exit(1)


@lru_cache(maxsize=1)
def _read_job(path: str) -> TrainingJob:
    job: TrainingJob = pickle.loads(Path(path).read_bytes())
    return job


def _load_job(path: str) -> None:
    _read_job(path)


def _run_job(path: str, key: ResultKey) -> list[Result]:
    return _read_job(path).run(key)


def _num_cores() -> int:
    """Cores this process may use, which containers and batch systems make fewer than the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
