"""Trained supernets, as analyses need them: with the data and the mixing of their run."""

from __future__ import annotations

from pathlib import Path

import torch
import yaml

from lightning_nas.datamodules.bilevel import BilevelDataModule
from lightning_nas.errors import RunFolderError
from lightning_nas.loading import find_checkpoint, home, load_data
from lightning_nas.modules.darts import DARTS
from lightning_nas.modules.supernet_scores import accuracy_without


def load_supernet(folder: Path) -> tuple[DARTS, BilevelDataModule]:
    """The trained supernet of a run folder and its data, set up.

    Raises:
        RunFolderError: The folder does not hold one, or its configuration cannot be read.
    """
    from jsonargparse import ArgumentParser

    data = load_data(folder)
    path = home(folder) / "config.yaml"
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(DARTS, "model", required=True)
    try:
        if not isinstance(data, BilevelDataModule):
            raise TypeError(f"its data are a {type(data).__name__}, no BilevelDataModule")
        described = yaml.safe_load(path.read_text("utf-8"))["model"]
        described["init_args"] |= {"num_classes": data.num_classes, "image_shape": list(data.image_shape)}
        module = parser.instantiate(parser.parse_object({"model": described})).model
        saved = torch.load(find_checkpoint(folder), map_location="cpu", weights_only=True)
        module.on_load_checkpoint(saved)
        module.load_state_dict(saved["state_dict"])
    except RunFolderError:
        raise
    except Exception as error:  # the file may be of another kind, or name what is not there any more
        raise RunFolderError(
            f"{folder}: holds no trained supernet ({type(error).__name__}: {error}); expected the run folder of "
            "'lightning-nas fit' with a DARTS module"
        ) from error
    data.prepare_data()
    data.setup("fit")
    return module, data


def supernet_accuracy(module: DARTS, data: BilevelDataModule) -> float:
    """Validation accuracy in percent, normalised by the statistics of each batch."""
    return 100.0 * accuracy_without(module, data.scoring_batches(), module.mixture().active)
