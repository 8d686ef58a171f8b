"""A benchmark that trains every candidate for real, in other processes, and never trains one twice."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Future, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lightning_nas.benchmarks.base import Benchmark, Evaluation, Evaluations, as_column
from lightning_nas.benchmarks.futures import completed, then
from lightning_nas.benchmarks.job import TrainingJob
from lightning_nas.benchmarks.store import Result, ResultKey, ResultStore
from lightning_nas.benchmarks.training_queue import TrainingQueue
from lightning_nas.errors import SpaceError, UsageError
from lightning_nas.files import data_dir, fingerprint
from lightning_nas.nn.complexity import count_flops
from lightning_nas.nn.training import TRAINING_VERSION, TrainingData, TrainingRecipe
from lightning_nas.spaces.base import A, FiniteSpace, SearchSpace
from lightning_nas.workers.base import Workers
from lightning_nas.workers.local import LocalWorkers

if TYPE_CHECKING:  # workers import this file, and Lightning would cost each of them many seconds
    from lightning_nas.datamodules.vision import VisionDataModule

_log = logging.getLogger(__name__)
_DEFAULT_RECIPE = TrainingRecipe()


class LiveBenchmark(Benchmark[A]):
    """Scores architectures by training their networks, several at a time, on this machine or a cluster.

    Every result is written at once to a SQLite store: a repeat is a look-up and a killed search loses only what was in
    training. A result depends on the architecture, the data, the network size, the recipe and the seed (and in its last
    digits on the kind of processor); on CPUs never on the workers or the order, on GPUs up to the last digits, so that
    their results are kept apart. In a finite space all architectures with the
    same ``space.canonical`` (isomorphic cells) share one training: that of the canonical one, under whose notation it
    is stored. What a network is made of is known by the space's name alone: change ``name`` when ``build`` changes. A
    training that fails scores NaN, and its reason is stored and logged. A worker that dies (killed, out of memory) is
    replaced and its training repeated; a second death is the training's failure. A script that uses this class needs
    ``if __name__ == "__main__":`` around its work, as for every use of worker processes.

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
        workers: Who trains: a number of processes on this machine, or
            ``lightning_nas.workers.dask.DaskWorkers``, ``….slurm.SlurmWorkers`` or, from Python,
            any executor in ``….base.ExecutorWorkers``; default ``….local.LocalWorkers``, with a process for
            every GPU or core of this machine.
        retry_failed: Train again what failed in an earlier run.
        average_last: Validation accuracy is the mean over so many last epochs of a training; arch2vec has 5 in the
            DARTS space. The trainings are the same, so stores are shared.
    """

    resumes = True  # a training is kept when it is paused, and goes on bit for bit

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
        workers: int | Workers | None = None,
        retry_failed: bool = False,
        average_last: int = 1,
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
        self.path = self.path.expanduser().absolute()
        self.workers = workers if isinstance(workers, Workers) else LocalWorkers(workers)
        self.retry_failed = retry_failed
        self.average_last = average_last
        self._store: ResultStore | None = None
        self._queue: TrainingQueue | None = None
        self._seen_failures: set[ResultKey] = set()

    def _details(self) -> dict[str, Any]:
        kind = self.workers.device.partition(":")[0]
        # CPUs go without saying, so that results from before there was a choice stay valid.
        return {
            "data": self.data.identity(), "network": self.network, "recipe": self.recipe.identity(),
            "num_seeds": self.num_seeds, "training_version": TRAINING_VERSION,
            **({} if kind == "cpu" else {"device": kind}),
        }  # fmt: skip

    def identity(self) -> dict[str, Any]:
        """Space, data, network size, recipe, seed, epochs, and GPUs if any; neither the store nor the workers."""
        # The last epoch alone goes without saying, so that searches from before there was a choice stay valid.
        averaged = {} if self.average_last == 1 else {"average_last": self.average_last}
        return {
            "benchmark": "live", "space": self.space.name, "epochs": self.epochs, "seed": self.seed, **self._details(),
            **averaged,
        }  # fmt: skip

    def prepare(self) -> None:
        """Open the store, fetch the data and build one network; workers start when something is to be trained.

        Raises:
            UsageError: A number is out of range, or no images are held out to select by.
            SpaceError: The space cannot build networks of this size for these images.
            BenchmarkDataError: The store is damaged or something else.
            RunFolderError: The store cannot be written.
            EvaluationError: A cluster cannot be reached.
        """
        if self._store is not None:
            return
        if self.data.purpose == "evaluation":  # there is nothing to select by
            raise UsageError(
                "LiveBenchmark: got data with purpose='evaluation', which leaves no images to select by; expected "
                "purpose='search'"
            )
        if not 1 <= self.average_last <= self.epochs:
            raise UsageError(
                f"LiveBenchmark: got average_last={self.average_last}, expected 1 to the recipe's {self.epochs} epochs"
            )
        self.workers.prepare()
        self._check_network()
        self.data.prepare_data()
        store = ResultStore(self.path)
        store.describe(self._details())
        self._store = store

    def _check_network(self) -> None:
        arch = self.space.sample(np.random.default_rng(0))
        try:
            with torch.random.fork_rng(devices=[]):  # the caller's random numbers are not ours to use up
                network = self.space.build(arch, **self.network, **self.recipe.of_build)
                count_flops(network, self.data.image_shape)
        except Exception as error:
            raise SpaceError(
                f"the space {self.space.name!r} cannot build a network of {self.network | self.recipe.of_build} for "
                f"images of shape {self.data.image_shape} ({type(error).__name__}: {error}); expected a 'build' that "
                "takes these arguments, and not more stages than the image can be halved"
            ) from error
        self.recipe.check(network)

    @property
    def parallelism(self) -> int:
        """Trainings that can run at a time."""
        return self.workers.parallelism

    def evaluate(self, archs: Sequence[A], epochs: int | None = None) -> Evaluations:
        """Scores of architectures in the given order, from the store or by training.

        Args:
            archs: N architectures; equal and isomorphic ones are trained once.
            epochs: Only the first of the recipe's epochs; a later call for more of them goes on from there.

        Raises:
            EvaluationError: No worker can be had, or none can train.
        """
        scores = map(self._mean, self.results(archs, epochs))
        columns = list(zip(*scores, strict=True)) or [(), (), ()]
        return Evaluations(*map(as_column, columns))

    def results(self, archs: Sequence[A], epochs: int | None = None) -> list[list[Result]]:
        """All that is known of architectures after training them: what :meth:`evaluate` takes the means of.

        Args:
            archs: N architectures.
            epochs: Only the first of the recipe's epochs.

        Returns:
            For each architecture one result for every seed.
        """
        keys = self._keys(archs, epochs)
        distinct = list(dict.fromkeys(keys))
        results = self._known(distinct)
        for found in results.values():
            self._log_failure(found)
        try:
            self._report(len(results), len(distinct))
            trainings = {self._trainings().submit(key): key for key in distinct if key not in results}
            for training in as_completed(trainings):
                found = results[trainings[training]] = training.result()
                self._log_failure(found)
                self._report(len(results), len(distinct))
        except BaseException:  # Ctrl-C, or an error of the caller's: do not train on behind its back
            self.close()
            raise
        return [results[key] for key in keys]

    def submit(self, arch: A, epochs: int | None = None) -> Future[Evaluation]:
        """Score one architecture some time, from the store or by training; several calls train side by side.

        Args:
            arch: Architecture of the space.
            epochs: Only the first of the recipe's epochs.

        Raises:
            EvaluationError: No worker can be had.
        """
        (key,) = self._keys([arch], epochs)
        known = self._known([key])
        training = completed(known[key]) if known else self._trainings().submit(key)
        return then(training, self._score)

    def _keys(self, archs: Sequence[A], epochs: int | None) -> list[ResultKey]:
        self.prepare()
        at = self.epochs if epochs is None else epochs
        if not 1 <= at <= self.epochs:
            raise UsageError(f"LiveBenchmark: got epochs={at}, expected 1 to the recipe's {self.epochs}")
        recipe = fingerprint(self._details())
        return [ResultKey(self.space.name, self._notation(arch), recipe, self.seed, at) for arch in archs]

    def _report(self, done: int, total: int) -> None:
        if self.on_result is not None:
            self.on_result(done, total)

    def _score(self, results: Sequence[Result]) -> Evaluation:
        self._log_failure(results)
        return self._mean(results)

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

    def _mean(self, results: Sequence[Result]) -> Evaluation:
        """Scores of a training, means over seeds."""
        columns = ([self._valid(r) for r in results], [r.test for r in results], [r.cost for r in results])
        return Evaluation(*(sum(column) / len(column) for column in columns))

    def _valid(self, result: Result) -> float:
        """Validation accuracy of one training, mean over its last epochs."""
        last = result.curve[-self.average_last :]
        return sum(last) / len(last) if self.average_last > 1 and last else result.valid

    def _notation(self, arch: A) -> str:
        return self.space.format(self.space.canonical(arch) if isinstance(self.space, FiniteSpace) else arch)

    def _log_failure(self, results: Sequence[Result]) -> None:
        for result in results:
            if result.error is not None and result.key not in self._seen_failures:
                self._seen_failures.add(result.key)
                _log.warning("%s scores NaN, its training failed: %s", result.key.architecture, result.error)

    def _trainings(self) -> TrainingQueue:
        if self._queue is None:
            assert self._store is not None
            self._queue = TrainingQueue(self.workers, self._job(), self._store)
        return self._queue

    def _job(self) -> TrainingJob:
        data = self.data
        data.setup("fit")
        images = TrainingData(data.train, data.valid, data.test, data.mean, data.std, data.max_pixel, data.augmentation)
        unfinished = self.path.with_suffix(".unfinished")
        return TrainingJob(self.space, self.network, images, self.recipe, self.num_seeds, self._store, unfinished)

    def close(self) -> None:
        """Stop the workers at once; the next evaluation that trains starts new ones."""
        if self._queue is not None:
            self._queue.close()
            self._queue = None
        self.workers.stop()  # they may be at hand though nothing was to be trained
