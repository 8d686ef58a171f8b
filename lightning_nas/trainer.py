"""A Trainer that can search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytorch_lightning import LightningDataModule, LightningModule, Trainer

from lightning_nas.callbacks.search import SearchCallback
from lightning_nas.errors import UsageError


class NASTrainer(Trainer):
    """Lightning's Trainer with one more entry point, :meth:`search`."""

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
                folder, where ``fit`` leaves it.
            weights_only: Load nothing but weights and primitives from the checkpoint (safe for foreign files).
        """
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
