"""A ranking network that begins with the encoder of a trained module."""

from __future__ import annotations

from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer

from lightning_nas.errors import UsageError
from lightning_nas.modules.pairwise_ranker import PairwiseRanker, take_pretrained


class PretrainedEncoder(Callback):
    """Gives a :class:`~lightning_nas.modules.pairwise_ranker.PairwiseRanker` a trained encoder before ``fit``.

    A training that is continued (``--ckpt_path last``) goes on with its own weights.

    Args:
        path: Run folder of ``lightning-nas fit``, or a checkpoint: of Arch2Vec with its GIN, or of another ranker.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Load the encoder; a checkpoint to continue from is restored after this."""
        if stage != "fit":
            return
        if not isinstance(pl_module, PairwiseRanker):
            raise UsageError(f"PretrainedEncoder: got the module {type(pl_module).__name__}, expected PairwiseRanker")
        take_pretrained(pl_module, self.path)
