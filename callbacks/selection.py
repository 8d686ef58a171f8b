"""Reading an architecture off a trained supernet: by its largest weights, or at random."""

from __future__ import annotations

import json
import re
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from rich.console import Console
from torch import Tensor

from lightning_nas.benchmarks.base import Benchmark
from lightning_nas.errors import UsageError
from lightning_nas.files import ensure_writable, write_atomically
from lightning_nas.modules.darts import DARTS
from lightning_nas.provenance import provenance
from lightning_nas.spaces.config import describe_space
from lightning_nas.terminal import say


class Selection(Callback, ABC):
    """Reads an architecture off a supernet when ``fit`` ends, or alone under ``lightning-nas search``.

    Leaves ``selection/<label>.json`` in the run folder: the architecture, what benchmarks say of it, seconds. The first
    selection of a configuration also leaves ``genotype.json``, which ``lightning-nas retrain`` takes.

    Args:
        label: What the method is called in tables; default: the supernet's label with :attr:`suffix`.
        benchmarks: What architectures score, by the name of the data set.
    """

    suffix = ""

    def __init__(self, label: str | None = None, benchmarks: dict[str, Benchmark] | None = None) -> None:  # type: ignore[type-arg]
        if label is not None and not label.strip():
            raise UsageError(f"{type(self).__name__}: got no label, expected a name for tables")
        self.label, self.benchmarks = label or "", benchmarks or {}
        self.trajectory: list[dict[str, Any]] = []
        self.before = 0.0  # seconds of the selection before it was interrupted
        self.began, self._trained = 0.0, None

    _trained: float | None

    def state_dict(self) -> dict[str, Any]:
        """What was selected during the training so far."""
        return {"trajectory": json.dumps(self.trajectory)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with it."""
        self.trajectory = json.loads(state_dict["trajectory"])

    @property
    def state_key(self) -> str:
        """One state for every label."""
        return f"{type(self).__name__}-{self.slug}"

    @property
    def slug(self) -> str:
        """The label as a file name."""
        return re.sub(r"\W+", "_", self.label.lower()).strip("_")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check what can be checked before the work starts."""
        if not isinstance(pl_module, DARTS):
            raise UsageError(f"{type(self).__name__}: got a {type(pl_module).__name__}, expected a DARTS supernet")
        self.label = self.label or pl_module.label + self.suffix
        strangers = [name for name, known in self.benchmarks.items() if known.space != pl_module.space]
        if strangers:
            raise UsageError(
                f"{type(self).__name__}: the benchmarks {strangers} know another space than the supernet's"
            )
        others = [one for one in trainer.callbacks if isinstance(one, Selection) and one.slug == self.slug]  # type: ignore[attr-defined]
        if len(others) > 1:
            raise UsageError(f"{type(self).__name__}: got {len(others)} selections with the label {self.label!r}")
        if trainer.is_global_zero:
            ensure_writable(Path(trainer.default_root_dir, "selection"))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the clock."""
        self.began = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Seconds of this training, since it was started or resumed."""
        self._trained = time.perf_counter() - self.began

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Select, unless the training was stopped."""
        if not trainer.fast_dev_run and not trainer.interrupted:  # type: ignore[attr-defined]
            self.run(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Select under ``lightning-nas search``, which loads a trained supernet and validates it."""
        if getattr(trainer, "searching", False):
            self.run(trainer, pl_module)

    def run(self, trainer: Trainer, module: Any) -> None:
        """Select and write what was found."""
        started = time.perf_counter()
        with torch.inference_mode(False), torch.enable_grad():  # selections train; validation would not let them
            choice = self.select(trainer, module)
        self.write(trainer, module, choice, self.before + time.perf_counter() - started)

    @abstractmethod
    def select(self, trainer: Trainer, module: DARTS) -> Tensor:
        """Operation on every edge, −1 for no edge, ``(G, E)``; the module stays as it is."""

    def note(self, trainer: Trainer, module: DARTS, choice: Tensor) -> None:
        """Keep what is selected after an epoch of the training."""
        accuracy = trainer.callback_metrics.get("val/accuracy")
        point = {"epoch": trainer.current_epoch + 1, **self.describe(module, choice)}
        accurate = None if accuracy is None else float(accuracy)
        self.trajectory.append({**point, "supernet_accuracy": accurate, "skip_gap": module.skip_gap()})

    def describe(self, module: DARTS, choice: Tensor) -> dict[str, Any]:
        """The architecture of a choice, its skip connections, and its scores by data set."""
        arch = module.architecture(choice)
        scores = {name: known.evaluate([arch]) for name, known in self.benchmarks.items()}
        return {
            "architecture": module.space.format(arch),
            "skip_connections": module.num_skips(choice),
            "scores": {
                name: {"valid": float(found.valid[0]), "test": float(found.test[0])} for name, found in scores.items()
            },
        }

    def is_first(self, trainer: Trainer) -> bool:
        """Whether this is the selection whose architecture becomes the genotype."""
        return self is next(one for one in trainer.callbacks if isinstance(one, Selection))  # type: ignore[attr-defined]

    def write(self, trainer: Trainer, module: DARTS, choice: Tensor, seconds: float) -> None:
        """Write the result and how it came about; only the first process does."""
        if not trainer.is_global_zero:
            return
        found = self.describe(module, choice)
        accuracy = trainer.callback_metrics.get("val/accuracy")
        folder = Path(trainer.default_root_dir)
        before = _read_json(folder / "selection" / f"{self.slug}.json")
        origin = provenance()
        content = {
            "label": self.label, **found, "space": module.space.name, "space_class": describe_space(module.space),
            "seed": module.seed, "seconds": round(seconds, 3),
            "training_seconds": None if self._trained is None else round(self._trained, 3),
            "epochs": trainer.current_epoch,
            "supernet_accuracy": None if accuracy is None else float(accuracy), "trajectory": self.trajectory,
            "command": origin["command"], "commit": origin["commit"], "versions": origin["versions"],
        }  # fmt: skip
        if self._trained is None:  # selected anew: what is known of the training stays known
            kept = ("training_seconds", "epochs", "supernet_accuracy", "trajectory")
            content |= {name: before[name] for name in kept if before.get(name)}
        _write_json(folder / "selection" / f"{self.slug}.json", content)
        if self.is_first(trainer):
            genotype = {name: content[name] for name in ("space", "space_class", "architecture")}
            genotype["benchmark"] = {"data": trainer.datamodule.identity()}  # type: ignore[attr-defined]
            _write_json(folder / "genotype.json", genotype)
        scores = ", ".join(f"{name} {score['test']:.2f} %" for name, score in found["scores"].items())
        say(Console(), f"{self.label}: {found['architecture']} {scores}")


class MagnitudeSelection(Selection):
    """The architecture with the largest weights (DARTS, arXiv 1806.09055, section 2.4), after every epoch, too.

    Where nothing is learnt (``UniformMixing``) all weights are equal and the largest says nothing: it selects nothing.

    Args:
        label: What the method is called in tables; default: the supernet's label.
        benchmarks: What architectures score, by the name of the data set.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check what can be checked before the work starts."""
        super().setup(trainer, pl_module, stage)
        assert isinstance(pl_module, DARTS)
        if self.is_first(trainer) and not pl_module.mixing.learns:
            raise UsageError(
                f"MagnitudeSelection: with {type(pl_module.mixing).__name__} all weights are equal; expected another "
                "selection before it, such as PerturbationSelection, whose architecture is the genotype"
            )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep what would be selected now."""
        assert isinstance(pl_module, DARTS)
        if pl_module.mixing.learns:
            self.note(trainer, pl_module, pl_module.choice())

    def run(self, trainer: Trainer, module: Any) -> None:
        """Select and write what was found, where there is something to go by."""
        if module.mixing.learns:
            super().run(trainer, module)

    def select(self, trainer: Trainer, module: DARTS) -> Tensor:
        """What the weights say."""
        return module.choice()


class RandomSelection(Selection):
    """Any architecture, whatever the supernet has learnt: random operations, and random edges where some are kept.

    Args:
        label: What the method is called in tables; default: random.
        benchmarks: What architectures score, by the name of the data set.
    """

    def __init__(self, label: str | None = "random", benchmarks: dict[str, Benchmark] | None = None) -> None:  # type: ignore[type-arg]
        super().__init__(label or "random", benchmarks)

    def select(self, trainer: Trainer, module: DARTS) -> Tensor:
        """The choice of random weights."""
        generator = torch.Generator().manual_seed(module.seed)
        return module.network.choose(torch.rand(module.network.shape, generator=generator))


def _read_json(path: Path) -> dict[str, Any]:
    """What a file holds; nothing where it is missing or damaged."""
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with write_atomically(path) as file:
        json.dump(content, file, indent=2, ensure_ascii=False)
        file.write("\n")
