"""Reading back what a run has trained."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import yaml
from pytorch_lightning import LightningDataModule, LightningModule

from lightning_nas.errors import RunFolderError


def load(run_dir: str | Path) -> LightningModule:
    """The trained module of a run, in evaluation mode, on the CPU.

    Nothing but weights and primitives is read from the checkpoint; the data are not needed.

    Args:
        run_dir: A run folder as ``lightning-nas fit`` or ``retrain`` leaves it, or a checkpoint file.

    Raises:
        RunFolderError: There is no checkpoint, or it is damaged.
    """
    path = find_checkpoint(Path(run_dir))
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        saved["state_dict"], saved["hyper_parameters"]
    except Exception as error:  # a damaged file can fail in many ways
        raise RunFolderError(
            f"{path}: not a readable checkpoint ({str(error).splitlines()[0]}); expected one that 'lightning-nas fit' "
            "or 'retrain' wrote"
        ) from error
    kind = _class_of(path, saved["hyper_parameters"])
    return kind.load_from_checkpoint(path, map_location="cpu", weights_only=True).eval()


def load_data(run_dir: str | Path) -> LightningDataModule:
    """The data that a run was trained on, made anew from its configuration and not yet set up.

    Args:
        run_dir: A run folder as ``lightning-nas fit`` leaves it, or a checkpoint in one.

    Raises:
        RunFolderError: The configuration is missing or damaged, or the data cannot be made from it.
    """
    from jsonargparse import ArgumentParser

    path = home(Path(run_dir)) / "config.yaml"
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data", required=True)
    try:
        described = yaml.safe_load(path.read_text("utf-8"))["data"]
        made = parser.instantiate(parser.parse_object({"data": described}))
    except Exception as error:  # the file may be missing, of another kind, or name what is not there any more
        raise RunFolderError(
            f"{path}: does not say on which data the module was trained ({type(error).__name__}: {error}); expected "
            "the configuration of 'lightning-nas fit', and its classes importable: run in the same folder"
        ) from error
    data: LightningDataModule = made.data
    return data


def home(run_dir: Path) -> Path:
    """The run folder, also when one of its checkpoints is given."""
    return run_dir.parent.parent if run_dir.is_file() else run_dir


def find_checkpoint(run_dir: Path) -> Path:
    """The last checkpoint of a run folder; a file is one itself.

    Raises:
        RunFolderError: There is none; the message lists what was found.
    """
    path = run_dir if run_dir.is_file() else run_dir / "checkpoints" / "last.ckpt"
    if path.is_file():
        return path
    if not run_dir.is_dir():
        raise RunFolderError(f"{run_dir}: there is no such folder; expected one that 'lightning-nas fit' leaves")
    entries = sorted(entry.relative_to(run_dir).as_posix() for entry in run_dir.iterdir())
    checkpoints = sorted(entry.relative_to(run_dir).as_posix() for entry in run_dir.rglob("*.ckpt"))
    hint = f"; give one of its checkpoints instead: {', '.join(checkpoints)}" if checkpoints else ""
    raise RunFolderError(
        f"{run_dir}: holds no trained model, for there is no checkpoints/last.ckpt but "
        f"{', '.join(entries) or 'nothing'}; expected a folder that 'lightning-nas fit' or 'retrain' leaves{hint}"
    )


def _class_of(checkpoint: Path, hyperparameters: dict[str, Any]) -> type[LightningModule]:
    """The module's class: the checkpoint names it, or else the configuration beside it."""
    config = checkpoint.parent.parent / "config.yaml"
    path = hyperparameters.get("_class_path")
    if path is None and config.is_file():
        path = yaml.safe_load(config.read_text("utf-8"))["model"]["class_path"]
    if path is None:
        raise RunFolderError(
            f"{checkpoint}: does not say which class it is of, and there is no {config}; expected a run of the command "
            "line, or use the class's own load_from_checkpoint"
        )
    module, _, name = str(path).rpartition(".")
    try:
        return getattr(import_module(module), name)  # type: ignore[no-any-return]
    except (ImportError, AttributeError) as error:
        raise RunFolderError(
            f"{checkpoint}: is of the class {path}, which cannot be imported ({error}); run where its module lies"
        ) from error
