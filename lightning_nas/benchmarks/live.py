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
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from lightning_nas.benchmarks.base import Benchmark, Evaluations, as_column
from lightning_nas.benchmarks.store import Result, ResultKey, ResultStore, fingerprint
from lightning_nas.benchmarks.table import data_dir
from lightning_nas.errors import EvaluationError, SpaceError, UsageError
from lightning_nas.nn.complexity import count_flops, count_parameters
from lightning_nas.nn.training import TRAINING_VERSION, LabelledImages, TrainingRecipe, train_classifier
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
        seed: Seed of weights, order and augmentation of every training.
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
        store: str | None = None,
        num_workers: int | None = None,
        retry_failed: bool = False,
    ) -> None:
        self.space: SearchSpace[A] = space
        self.data = data
        self.recipe = recipe
        self.epochs = recipe.epochs
        self.seed = seed
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
        recipe = {name: value for name, value in asdict(self.recipe).items() if name != "epochs"}
        return {
            "data": self.data.identity(), "network": self.network,
            "recipe": recipe, "training_version": TRAINING_VERSION,
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
                count_flops(_build(self.space, arch, self.network), self.data.image_shape)
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
            epochs: Length of the training (each length is a training of its own, with its own one-cycle schedule).

        Raises:
            EvaluationError: The worker processes cannot start.
        """
        self.prepare()
        assert self._store is not None
        at = self.epochs if epochs is None else epochs
        if at < 1:
            raise UsageError(f"LiveBenchmark: got epochs={at}, expected at least 1")
        recipe = fingerprint(self._details())
        keys = [ResultKey(self.space.name, self._notation(arch), recipe, self.seed, at) for arch in archs]
        distinct = list(dict.fromkeys(keys))
        known = self._store.get(distinct)
        if self.retry_failed:
            known = {k: r for k, r in known.items() if r.error is None or k in self._seen_failures}
        results = dict(known)

        def report(result: Result) -> None:
            results[result.key] = result
            self._log_failure(result)
            if self.on_result is not None:
                self.on_result(len(results), len(distinct))

        if self.on_result is not None:
            self.on_result(len(results), len(distinct))
        for result in known.values():
            self._log_failure(result)
        self._train([key for key in distinct if key not in known], self._store, report)
        return Evaluations(*(as_column([getattr(results[k], name) for k in keys]) for name in Evaluations._fields))

    def _notation(self, arch: A) -> str:
        return self.space.format(self.space.canonical(arch) if isinstance(self.space, FiniteSpace) else arch)

    def _log_failure(self, result: Result) -> None:
        if result.error is not None and result.key not in self._seen_failures:
            self._seen_failures.add(result.key)
            _log.warning("%s scores NaN, its training failed: %s", result.key.architecture, result.error)

    def _train(self, missing: Sequence[ResultKey], store: ResultStore, report: Callable[[Result], None]) -> None:
        waiting = deque(missing)
        while waiting:
            suspects = self._work_through(waiting, self.num_workers, store, report)
            for key in suspects:  # one at a time, so that a second death is nobody else's fault
                finished = store.get([key])
                if key in finished and (finished[key].error is None or not self.retry_failed):
                    report(finished[key])
                elif self._work_through(deque([key]), 1, store, report):
                    failure = Result(key, error="its worker process died twice (killed, or out of memory?)")
                    store.put(failure)
                    report(failure)

    def _work_through(
        self, waiting: deque[ResultKey], at_once: int, store: ResultStore, report: Callable[[Result], None]
    ) -> list[ResultKey]:
        """Train until nothing is waiting or a worker died; returns what was in training when it died."""
        running: dict[Future[Result], ResultKey] = {}
        try:
            pool = self._workers(store)
            while waiting or running:
                while waiting and len(running) < at_once:
                    running[pool.submit(waiting[0])] = waiting[0]
                    waiting.popleft()
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    report(future.result())
                    del running[future]
        except BrokenProcessPool:
            self.close()
            return list(running.values())
        except BaseException:  # Ctrl-C, or an error of the caller's: do not train on behind its back
            self.close()
            raise
        return []

    def _workers(self, store: ResultStore) -> WorkerPool:
        if self._pool is None:
            self.data.setup("fit")
            splits = (self.data.train, self.data.valid, self.data.test)
            job = TrainingJob(self.space, self.network, self.data.image_shape, self.recipe, splits, store)
            self._pool = WorkerPool(job, self.num_workers)
        return self._pool

    def close(self) -> None:
        """Stop the workers at once; the next evaluation that trains starts new ones."""
        if self._pool is not None:
            self._pool.stop()
            self._pool = None


@dataclass(frozen=True)
class TrainingJob:
    """Everything a worker needs to train any architecture: primitives, tensors and the way to the store."""

    space: SearchSpace[Any]
    network: dict[str, int]
    image_shape: tuple[int, int, int]
    recipe: TrainingRecipe
    splits: tuple[LabelledImages, LabelledImages, LabelledImages]
    store: ResultStore

    def run(self, key: ResultKey) -> Result:
        """Train one architecture and keep the result, also when training fails."""
        params = flops = None
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(key.seed)
                network = _build(self.space, self.space.parse(key.architecture), self.network)
                params = count_parameters(network)
                flops = count_flops(network, self.image_shape)
                recipe = replace(self.recipe, epochs=key.epochs)
                trained = train_classifier(network, *self.splits, recipe, torch.Generator().manual_seed(key.seed))
            result = Result(key, trained.valid, trained.test, trained.seconds, params, flops, trained.curve)
        except Exception as error:  # whatever a candidate does wrong must not end the search
            result = Result(key, params=params, flops=flops, error=f"{type(error).__name__}: {error}")
        self.store.put(result)
        return result


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

    def submit(self, key: ResultKey) -> Future[Result]:
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


def _run_job(path: str, key: ResultKey) -> Result:
    return _read_job(path).run(key)


def _build(space: SearchSpace[Any], arch: Any, network: dict[str, int]) -> nn.Module:
    return space.build(arch, **network)


def _num_cores() -> int:
    """Cores this process may use, which containers and batch systems make fewer than the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
