"""Reading off a trained supernet the architecture whose operations it misses most (DARTS-PT, arXiv 2108.04392)."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from lightning_nas.benchmarks.base import Benchmark
from lightning_nas.callbacks.selection import Selection
from lightning_nas.errors import SearchStateError, UsageError
from lightning_nas.files import write_atomically
from lightning_nas.modules.darts import DARTS, Images
from lightning_nas.modules.supernet_scores import accuracy_without, copied, missed_most
from lightning_nas.nn.described import described

_TUNING = 1_000_000  # epochs of a selection draw other batches than those of the training


class PerturbationSelection(Selection):
    """The operations that a supernet misses most, edge by edge, tuned in between (DARTS-PT, arXiv 2108.04392).

    On a random undecided edge of every kind of cell, each operation in turn is taken out; the one without which the
    supernet's validation accuracy is lowest is kept, alone; then the supernet is trained for some epochs. Where nodes
    keep some edges only, those whose loss hurts least are taken out after that, node by node.

    All operations are scored on the same images in the same order, as they are, and normalised by the statistics of
    each batch, which leaves running statistics alone. The released code's scores have noise of their own:
    ``mode: reference`` has its augmented images in another order for every score, and lets running statistics change.

    A selection that is interrupted goes on where it was: ``selection/<label>.pt`` holds its state after each decision.

    Args:
        label: What the method is called in tables; default: the supernet's label and -PT.
        benchmarks: What architectures score, by the name of the data set.
        tune_epochs: Epochs of training between two decisions.
        lr: Learning rate of the weights meanwhile; their momentum and alpha's optimiser start anew.
        min_lr: Where a cosine takes it over all tuning (DARTS space: 0.001); default: it stays.
        mode: ``paper`` or ``reference`` (see above).
        seed: Of the order of edges and of noise; None for the module's.
        every: Select after every so many epochs of the training, too, which leaves it as it is (thesis, Fig. 3.1).
    """

    suffix = "-PT"

    def __init__(
        self,
        label: str | None = None,
        benchmarks: dict[str, Benchmark] | None = None,  # type: ignore[type-arg]
        tune_epochs: int = 5,
        lr: float = 0.0025,
        min_lr: float | None = None,
        mode: Literal["paper", "reference"] = "paper",
        seed: int | None = None,
        every: int | None = None,
    ) -> None:
        super().__init__(label, benchmarks)
        wrong = tune_epochs < 0 or lr <= 0.0 or mode not in ("paper", "reference")
        if wrong or (every is not None and every < 1) or not 0.0 <= (min_lr or 0.0) <= lr:
            raise UsageError(
                f"PerturbationSelection(tune_epochs={tune_epochs}, lr={lr}, min_lr={min_lr}, mode={mode!r}, "
                f"every={every}): expected tune_epochs of 0 or more, a positive lr, min_lr of 0 to lr or null, mode "
                "'paper' or 'reference', every of 1 or more or null"
            )
        self.tune_epochs, self.lr, self.min_lr, self.mode, self.seed = tune_epochs, lr, min_lr, mode, seed
        self.every = every

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Select where it is time; what the training ends with comes later."""
        epoch = trainer.current_epoch + 1
        if self.every and epoch % self.every == 0 and epoch != trainer.max_epochs and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            assert isinstance(pl_module, DARTS)
            started = time.perf_counter()
            self.note(trainer, pl_module, self.select(trainer, pl_module))
            for one in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(one, Selection):  # whose clocks are those of the training
                    one.began += time.perf_counter() - started

    def select(self, trainer: Trainer, module: DARTS) -> Tensor:
        """Decide all edges, then which edges stay."""
        run = _Perturbation(self, trainer, copied(module), module.seed if self.seed is None else self.seed)
        return run.finish()


class _Perturbation:
    """A selection under way."""

    def __init__(self, settings: PerturbationSelection, trainer: Trainer, module: DARTS, seed: int) -> None:
        self.settings, self.trainer, self.module, self.seed = settings, trainer, module, seed
        module.seed = seed  # of what its steps draw
        self.data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self.path = Path(trainer.default_root_dir, "selection", f"{settings.slug}.pt")
        self.weights, self.alpha = module.make_optimizers()
        self.removed = torch.zeros(module.decided.shape, dtype=torch.bool)
        self.rounds, self.scores = 0, 0
        self.scored: Sequence[Images] | None = None
        self.plan = self._plan()

    def _plan(self) -> list[list[tuple[str, int, int]]]:
        """What each round decides: ``("edge", kind, edge)`` or ``("node", kind, place of the node)``."""
        network, rng = self.module.network, np.random.default_rng((self.seed, 7))
        kinds, edges, _ = network.shape
        orders = [rng.permutation(edges).tolist() for _ in range(kinds)]
        plan = [[("edge", kind, order[turn]) for kind, order in enumerate(orders)] for turn in range(edges)]
        if network.kept is None:
            return plan
        crowded = [
            [node for node, arriving in enumerate(network.arriving(kind)) if len(arriving) > network.kept]
            for kind in range(kinds)
        ]
        nodes = [rng.permutation(places).tolist() for places in crowded]
        return plan + [
            [("node", kind, order[turn]) for kind, order in enumerate(nodes)] for turn in range(len(nodes[0]))
        ]

    def finish(self) -> Tensor:
        """Go through all rounds that are left; the choice."""
        self._resume()
        self.began = time.perf_counter() - self.settings.before
        while self.rounds < len(self.plan):
            self.scores = 0
            for what, kind, place in self.plan[self.rounds]:
                if what == "edge":
                    self._decide(kind, place)
                else:
                    self._thin(kind, place)
            self.rounds += 1
            if self.rounds < len(self.plan):
                self._tune()
            self._save()
        return self.module.decided.cpu().masked_fill(self.removed, -1)

    def _decide(self, kind: int, edge: int) -> None:
        network = self.module.network
        candidates = self.module.mixture().active[kind, edge].nonzero().flatten().tolist()
        if network.kept is not None:  # there 'none' is no operation
            names = network.groups[kind].operations[edge]
            candidates = [code for code in candidates if names[code] != "none"]
        if candidates:
            code = missed_most(self.module, self._batches, kind, edge, candidates, self._quiet)
            self.module.decided[kind, edge] = self.trainer.strategy.broadcast(code)

    def _thin(self, kind: int, node: int) -> None:
        """Take edges into a node out until it has as many as an architecture."""
        network = self.module.network
        assert network.kept is not None
        left = [edge for edge in network.arriving(kind)[node] if not self.removed[kind, edge]]
        while len(left) > network.kept:
            accuracies = {}
            for edge in left:
                active = self.module.mixture().active.clone()
                active[kind, edge] = False
                accuracies[edge] = accuracy_without(self.module, self._batches(), active, self._quiet)
            worst = self.trainer.strategy.broadcast(max(left, key=lambda edge: accuracies[edge]))
            self.removed[kind, worst] = True
            self.module.active[kind, worst] = False
            left.remove(worst)

    @property
    def _quiet(self) -> bool:
        return self.settings.mode == "paper"

    def _batches(self) -> Sequence[Images]:
        """What to score on: always the same, or as the released code has it."""
        device = self.module.device
        if self.settings.mode == "reference":
            self.scores += 1
            epoch = 2 * _TUNING + 10_000 * self.rounds + self.scores
            return [valid for _, valid in self.data.batches(epoch, device=device)]
        if self.scored is None:
            self.scored = self.data.scoring_batches(device)
        return self.scored

    def _tune(self) -> None:
        trainer = self.trainer
        for number in range(self.settings.tune_epochs):
            epoch = _TUNING + self.rounds * self.settings.tune_epochs + number
            self.module.train()
            for group in self.weights.param_groups:
                group["lr"] = self._rate(self.rounds * self.settings.tune_epochs - self.settings.tune_epochs + number)
            batches = self.data.batches(epoch, trainer.global_rank, trainer.world_size, self.module.device)
            for step, (train, valid) in enumerate(batches):
                self.module.search_step(train, valid, (self.weights, self.alpha), (epoch, step), 1.0)

    def _rate(self, epoch: int) -> float:
        """Learning rate of a tuning epoch."""
        high, low = self.settings.lr, self.settings.min_lr
        if low is None:
            return high
        total = self.settings.tune_epochs * (len(self.plan) - 1)
        return low + (high - low) * (1.0 + math.cos(math.pi * epoch / total)) / 2.0

    def _state(self) -> dict[str, Any]:
        return {
            "rounds": self.rounds, "seconds": time.perf_counter() - self.began, "removed": self.removed,
            "module": self.module.state_dict(), "weights": self.weights.state_dict(), "alpha": self.alpha.state_dict(),
            "identity": self.identity,
        }  # fmt: skip

    def _identity(self) -> dict[str, Any]:
        """What fixes the selection, as primitives: settings, data, the module, where it began."""
        settings, module = self.settings, self.module
        return {
            "tune_epochs": settings.tune_epochs, "lr": settings.lr, "min_lr": settings.min_lr, "mode": settings.mode,
            "seed": self.seed, "data": json.dumps(self.data.identity(), default=str), "order": module.order,
            "epsilon": module.epsilon,
            "mixing": json.dumps(described(module.mixing)), "clip": module.clip, "start": self._start,
            "optimizers": str([_settings_of(self.weights), _settings_of(self.alpha)]),
            "processes": self.trainer.world_size,
        }  # fmt: skip

    def _save(self) -> None:
        if self.trainer.is_global_zero:
            with write_atomically(self.path, "wb") as file:
                torch.save(self._state(), file)

    def _resume(self) -> None:
        """Go on from the state of an interrupted selection of the same supernet, which the first process reads."""
        weights = self.module.state_dict().values()
        self.settings.before = 0.0
        digest = hashlib.sha256(b"".join(value.detach().cpu().contiguous().numpy().tobytes() for value in weights))
        self._start = digest.hexdigest()[:16]
        state = self.trainer.strategy.broadcast(self._read() if self.trainer.is_global_zero else None)
        self.identity = self._identity()  # now: tuning changes learning rates
        identity = {**self.identity, "start": ""}  # running statistics differ between processes
        if state is None or {**state["identity"], "start": ""} != identity:
            return  # there is none, or it is of another selection: what is selected now takes its place
        self.module.load_state_dict(state["module"])
        self.weights.load_state_dict(state["weights"])
        self.alpha.load_state_dict(state["alpha"])
        self.rounds, self.removed = state["rounds"], state["removed"]
        self.settings.before = state["seconds"]

    def _read(self) -> dict[str, Any] | None:
        if not self.path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise SearchStateError(f"{self.path}: cannot be read ({error}); delete it to select anew") from error
        return state if state["identity"]["start"] == self._start else None


def _settings_of(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    return [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
