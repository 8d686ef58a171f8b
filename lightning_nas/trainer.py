"""A Trainer that can search, and train what was found."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer

from lightning_nas.callbacks.search import SearchCallback
from lightning_nas.callbacks.selection import Selection
from lightning_nas.errors import UsageError
from lightning_nas.modules.classifier import ImageClassifier
from lightning_nas.modules.darts import DARTS
from lightning_nas.retraining import write_retrain_report


class NASTrainer(Trainer):
    """Lightning's Trainer with two more entry points, :meth:`search` and :meth:`retrain`."""

    searching = False

    def search(
        self,
        model: LightningModule,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | None = None,
        weights_only: bool | None = None,
    ) -> None:
        """Search with the embeddings of a trained module, by the callbacks of the configuration.

        It is a ``predict`` over the whole space, so checkpoints, devices and strategies work as everywhere; the
        search itself starts when all embeddings are there, and resumes from the run folder by itself.

        Args:
            model: The trained module.
            datamodule: The space to embed and search.
            ckpt_path: Checkpoint of the trained module; ``last`` or nothing for ``checkpoints/last.ckpt`` in the run
                folder, where ``fit`` leaves it. On the command line another run folder stands for the one in it.
            weights_only: Load nothing but weights and primitives from the checkpoint (safe for foreign files).
        """
        if isinstance(model, DARTS):
            self._select(model, datamodule, ckpt_path, weights_only)
            return
        searches: list[Any] = [callback for callback in self.callbacks if isinstance(callback, SearchCallback)]  # type: ignore[attr-defined]
        if not searches:
            raise UsageError(
                "search: the configuration has no search callback; add lightning_nas.callbacks.search.SearchCallback "
                "to trainer.callbacks, or start from --config arch2vec/nasbench201_cifar10"
            )
        latest = Path(self.default_root_dir) / "checkpoints" / "last.ckpt"
        if ckpt_path in (None, "last"):
            ckpt_path = str(latest) if latest.exists() else None
        elif not Path(ckpt_path).exists():
            raise UsageError(f"search --ckpt_path {ckpt_path}: there is no such file")
        if ckpt_path is None and any(callback.needs_embeddings for callback in searches):
            raise UsageError(
                f"search: some strategies use the embeddings of a trained module, and {latest} does not exist; "
                "train one first ('lightning-nas fit' with the same --config) or pass --ckpt_path FILE"
            )
        self.searching = True
        try:
            self.predict(
                model,
                datamodule=datamodule,
                ckpt_path=ckpt_path,
                return_predictions=False,
                weights_only=weights_only,
            )
        finally:
            self.searching = False

    def _select(
        self,
        model: DARTS,
        datamodule: LightningDataModule | None,
        ckpt_path: str | None,
        weights_only: bool | None,
    ) -> None:
        """Validate a trained supernet, and let the configuration's selections read architectures off it."""
        if not any(isinstance(callback, Selection) for callback in self.callbacks):  # type: ignore[attr-defined]
            raise UsageError(
                "search: the configuration has no selection; add lightning_nas.callbacks.selection.MagnitudeSelection "
                "or PerturbationSelection to trainer.callbacks, or start from --config darts/nasbench201_digits"
            )
        latest = Path(self.default_root_dir) / "checkpoints" / "last.ckpt"
        path = latest if ckpt_path in (None, "last") else Path(str(ckpt_path))
        if not path.exists():
            raise UsageError(
                f"search: there is no trained supernet in {path}; train one first ('lightning-nas fit' with the same "
                "--config) or pass --ckpt_path FILE"
            )
        self.searching = True
        try:
            self.validate(model, datamodule=datamodule, ckpt_path=str(path), verbose=False, weights_only=weights_only)
        finally:
            self.searching = False

    def retrain(
        self,
        model: LightningModule,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | None = None,
        weights_only: bool | None = None,
    ) -> None:
        """Train a found architecture from scratch, then test it.

        Leaves ``retrain.json`` and ``summary.md`` in the run folder.

        Args:
            model: What to train, an :class:`~lightning_nas.modules.classifier.ImageClassifier`.
            datamodule: The images.
            ckpt_path: ``last`` continues with what an interrupted training left in the run folder.
            weights_only: Load nothing but weights and primitives from the checkpoint (safe for foreign files).
        """
        if not isinstance(model, ImageClassifier):
            raise UsageError(
                f"retrain: got the model {type(model).__name__}, expected lightning_nas.modules.classifier."
                "ImageClassifier, which trains one architecture"
            )
        stopwatch = _Stopwatch()
        self.callbacks.insert(0, stopwatch)  # type: ignore[attr-defined]
        self.fit(model, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=weights_only)
        self.callbacks.remove(stopwatch)  # type: ignore[attr-defined]
        seconds = float(self.callback_metrics["training_seconds"])
        valid = self.callback_metrics.get("val/accuracy")
        (metrics,) = self.test(model, datamodule=datamodule, verbose=False)
        if self.fast_dev_run or not self.is_global_zero:  # type: ignore[attr-defined]
            return
        from rich.console import Console
        from rich.markdown import Markdown

        text = write_retrain_report(
            Path(self.default_root_dir),
            model,
            data=getattr(datamodule, "identity", dict)(),
            valid=None if valid is None else float(valid),
            test=metrics["test/accuracy"],
            epochs=self.current_epoch,
            seconds=round(seconds, 2),
        )
        Console().print(Markdown(text))


class _Stopwatch(Callback):
    """Seconds of a training, those before an interruption included.

    They are no ``state_dict`` of a callback, which Lightning would miss whenever the checkpoint is used without it.
    """

    before = 0.0
    started: float | None = None

    def read(self) -> float:
        return self.before + (0.0 if self.started is None else time.monotonic() - self.started)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started = time.monotonic()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["training_seconds"] = self.read()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.before = checkpoint.get("training_seconds", 0.0)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Metrics alone come back from forked processes.
        trainer.callback_metrics["training_seconds"] = torch.tensor(self.read(), dtype=torch.float64)
