"""One training, as a worker process is told to do it: primitives, tensors and the way to the store."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from lightning_nas.benchmarks.store import Result, ResultKey, ResultStore
from lightning_nas.files import write_atomically
from lightning_nas.nn.complexity import count_flops, count_parameters
from lightning_nas.nn.images import LabelledImages
from lightning_nas.nn.training import Training, TrainingData, TrainingRecipe
from lightning_nas.spaces.base import SearchSpace
from lightning_nas.workers.base import Job

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingJob(Job):
    """Everything a worker needs to train any architecture.

    Args:
        space: Search space that builds the networks.
        network: Sizes for its ``build``.
        data: Images.
        recipe: How to train; a key's epochs are the first of the recipe's.
        num_seeds: Networks trained side by side, with consecutive seeds.
        store: Where the worker keeps results; None when it cannot reach the file and the caller keeps them.
        unfinished: Folder of trainings that ended before the recipe's last epoch, to be continued; None for none.
    """

    space: SearchSpace[Any]
    network: dict[str, int]
    data: TrainingData
    recipe: TrainingRecipe
    num_seeds: int = 1
    store: ResultStore | None = None
    unfinished: Path | None = None

    def run(self, task: ResultKey) -> list[Result]:
        """Train an architecture and keep the results, also when training fails.

        Args:
            task: What to train; its seed is the first of the seeds.

        Returns:
            One result for every seed.
        """
        keys = [task._replace(seed=seed) for seed in self._seeds(task)]
        try:
            results = self._train(keys)
        except (Exception, SystemExit) as error:  # whatever a candidate does wrong must not end the search
            results = [Result(k, error=f"{type(error).__name__}: {error}") for k in keys]
        if self.store is not None:
            self.store.put(*results)
        return results

    def elsewhere(self, device: str, folder: Path | None) -> Self:
        """The same with all images in memory; unfinished trainings are kept in the folder, if there is one."""
        train, valid, test = map(_in_memory, (self.data.train, self.data.valid, self.data.test))
        data = replace(self.data, train=train, valid=valid, test=test)
        return replace(self, data=data, store=None, unfinished=folder and folder / "unfinished", device=device)

    def _seeds(self, key: ResultKey) -> range:
        return range(key.seed, key.seed + self.num_seeds)

    def _train(self, keys: Sequence[ResultKey]) -> list[Result]:
        first = keys[0]
        device, file = torch.device(self.device), self._file(first)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            networks = [self._build(key) for key in keys]
            params, flops = count_parameters(networks[0]), count_flops(networks[0], _shape(self.data))
            if self.recipe.auxiliary_weight:  # the head is gone after the training
                params -= count_parameters(networks[0].auxiliary)  # type: ignore[arg-type]
            data = self.data if self.device == "cpu" else _uploaded(self.data, device)
            begin = partial(Training, networks, data, self.recipe, self._seeds(first))
            training = self._continued(begin, file, first.epochs) or begin()
            training.run(first.epochs)
            trained = training.results()
            self._keep(training, file)
        return [
            Result(k, r.curve[-1], r.test, r.seconds, params, flops, r.curve)
            for k, r in zip(keys, trained, strict=True)
        ]

    def _build(self, key: ResultKey) -> nn.Module:
        torch.manual_seed(key.seed)
        return self.space.build(self.space.parse(key.architecture), **self.network, **self.recipe.of_build)

    def _file(self, key: ResultKey) -> Path | None:
        if self.unfinished is None:
            return None
        name = "|".join(map(str, (*key._replace(epochs=0), self.num_seeds)))
        return self.unfinished / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.pt"

    def _continued(self, begin: Callable[[], Training], file: Path | None, epochs: int) -> Training | None:
        if file is None or not file.is_file():
            return None
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
            if len(state["curve"]) > epochs:
                return None
            training = begin()
            training.load_state_dict(state)
        except Exception as error:  # damaged, or another network's: the training starts again
            _log.warning("%s: cannot be read (%s), training starts again", file, error)
            return None
        return training

    def _keep(self, training: Training, file: Path | None) -> None:
        if file is None:
            return
        if training.epoch == self.recipe.epochs:
            file.unlink(missing_ok=True)
            return
        with write_atomically(file, "wb") as target:
            torch.save(training.state_dict(), target)


@lru_cache(maxsize=1)
def _uploaded(data: TrainingData, device: torch.device) -> TrainingData:
    """The images on a GPU: for all trainings of a process, not once for each."""
    return data.to(device)


def _shape(data: TrainingData) -> tuple[int, int, int]:
    channels, height, width = data.train.images.shape[1:]
    return channels, height, width


def _in_memory(split: LabelledImages) -> LabelledImages:
    def loaded(tensor: Tensor) -> Tensor:
        return tensor if tensor.untyped_storage().filename is None else tensor.clone()

    return LabelledImages(*map(loaded, split))
