"""LightningCLI with a run folder, shipped configurations and the subcommands ``search`` and ``retrain``."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from difflib import get_close_matches
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ActionConfigFile
from lightning_fabric.plugins import CheckpointIO, TorchCheckpointIO
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import TensorBoardLogger

import lightning_nas.short_names  # noqa: F401
from lightning_nas.callbacks.embeddings import EmbeddingWriter
from lightning_nas.configurations import expand_configs
from lightning_nas.datamodules.vision import VisionDataModule
from lightning_nas.errors import RunFolderError, UsageError
from lightning_nas.files import ensure_writable, write_atomically
from lightning_nas.genotype import read_genotype
from lightning_nas.trainer import NASTrainer

TRAINING = ("fit", "retrain")
VERBS = (*TRAINING, "validate", "test", "predict", "search")
GENOTYPE = {"retrain": " --genotype FILE_OR_RUN_FOLDER_OR_STRING"}
SIZES = ("num_ops", "num_vertices", "num_classes", "image_shape", "num_components", "num_features")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints beside their target and renames them.

    Lightning's own goes by the system's temporary folder, and moving from there to another file system is a copy, which
    a crash can cut short.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Save, whole or not at all."""
        with write_atomically(Path(path), "wb") as file:
            torch.save(checkpoint, file)


class NASArgumentParser(LightningArgumentParser):
    """Adds the closest match to complaints about unknown keys and classes."""

    def error(self, message: str, ex: Exception | None = None) -> None:
        """Print the message and end with status 2."""
        # Parsers are nested: the inner one's complaint, with its match, is part of the outer one's.
        super().error(message if "Did you mean" in message else message + self._closest(message), ex)

    def _closest(self, message: str) -> str:
        unknown = re.search(r"class_path '([\w.]+)':\s+Option '([\w.]+)' is not accepted", message)
        missing = re.search(r"module '([\w.]+)' has no attribute '(\w+)'", message)
        if unknown:
            module, _, name = unknown[1].rpartition(".")
            known, got = list(signature(getattr(import_module(module), name)).parameters), unknown[2]
        elif missing:
            known, got = dir(import_module(missing[1])), missing[2]
        elif option := re.search(r"does not accept option '([\w.]+)'", message):
            got, action = option[1], self._subcommands_action
            parsers = [self, *action.choices.values()] if action else [self]
            known = list({action.dest for parser in parsers for action in parser._actions})
        else:
            return ""
        near = get_close_matches(got, known, n=1) or get_close_matches(got.split(".")[0], known, n=1)
        return f"\nDid you mean {near[0]!r}?" if near else ""


class NASCLI(LightningCLI):
    """Adds ``search``, ``retrain``, and ``--run_dir``: one folder for configuration, checkpoints, TensorBoard, results.

    Args:
        run_dir: Default of ``--run_dir``.
    """

    def __init__(self, run_dir: str) -> None:
        self._default_run_dir = run_dir
        self._last_checkpoint = _last_checkpoint()
        super().__init__(
            trainer_class=NASTrainer,
            trainer_defaults={"callbacks": [self._last_checkpoint]},
            save_config_kwargs={"overwrite": True},  # guarded by _guard_run_folder
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            # The full usage is a screen of option names; --help has it with explanations.
            parser_kwargs={
                verb: {"usage": f"lightning-nas {verb}{GENOTYPE.get(verb, '')} [--config FILE_OR_NAME] [options]"}
                for verb in VERBS
            },
        )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """A parser that knows the closest match."""
        parser = NASArgumentParser(**kwargs)
        parser.add_argument(
            "-c", "--config", action=ActionConfigFile, help="YAML file, or the name of a shipped experiment."
        )
        return parser

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's verbs, ``search`` and ``retrain``."""
        return {**LightningCLI.subcommands(), "search": {"model", "datamodule"}, "retrain": {"model", "datamodule"}}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run folder, and let sizes travel from the data to the model."""
        parser.add_argument(
            "--run_dir",
            type=str,
            default=self._default_run_dir,
            help="Folder of this run: configuration, checkpoints, TensorBoard, results.",
        )
        parser.add_argument(
            "--images",
            type=VisionDataModule | None,
            default=None,
            help="Images in place of the configuration's: of its data, and those its live benchmarks train on.",
        )
        for name in SIZES:  # where the data have it and the model takes it
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")

    @property
    def run_dir(self) -> Path:
        """The run folder."""
        return Path(self._get(self.config, "run_dir"))

    def before_instantiate_classes(self) -> None:
        """Refuse a run folder that cannot be used before anything is built."""
        self._use_images()
        self._check_checkpoint()
        self._use_last_checkpoint()
        ensure_writable(self.run_dir)
        self._guard_run_folder()
        name = "config.yaml" if self.subcommand in TRAINING else f"{self.subcommand}_config.yaml"
        self.save_config_kwargs = {**self.save_config_kwargs, "config_filename": name}

    def _use_images(self) -> None:
        """Move ``--images`` to where they are used, so that the saved configuration says it all."""
        images = self.config[self.subcommand].pop("images", None)
        if images is None:
            return
        callbacks = self._get(self.config, "trainer.callbacks") or []
        arguments = [callback.get("init_args") or {} for callback in callbacks]
        benchmarks = [given["benchmark"].init_args for given in arguments if given.get("benchmark")]
        data = self._get(self.config, "data.init_args") or {}
        shown = [(given, "data") for given in benchmarks if "data" in given]
        shown += [(data, "images")] if "images" in data else []
        if not shown:
            raise UsageError(
                "--images: neither the data nor a search of this configuration shows networks images; expected one "
                "with JacobianDataModule or a LiveBenchmark, such as --config images"
            )
        for given, name in shown:
            given[name] = images

    def _check_checkpoint(self) -> None:
        given = self._get(self.config, "ckpt_path")
        keyword = given in (None, "last", "best", "hpc", "registry") or "://" in str(given)
        if not keyword and not str(given).startswith("registry:") and not Path(given).exists():
            raise UsageError(
                f"{self.subcommand} --ckpt_path {given}: there is no such file; "
                "'last' continues with what fit left in the run folder"
            )
        if not keyword and (last := Path(given) / "checkpoints" / "last.ckpt").exists():
            self.config[self.subcommand].ckpt_path = str(last)  # another run folder stands for what fit left in it

    def _use_last_checkpoint(self) -> None:
        """Measure what ``fit`` left in the run folder rather than random weights, unless told otherwise."""
        last = self.run_dir / "checkpoints" / "last.ckpt"
        measures = self.subcommand in ("validate", "test", "predict")
        if measures and self._get(self.config, "ckpt_path") in (None, "last") and last.exists():
            self.config[self.subcommand].ckpt_path = str(last)

    def _guard_run_folder(self) -> None:
        last = self.run_dir / "checkpoints" / "last.ckpt"
        starts_anew = self.subcommand in TRAINING and self._get(self.config, "ckpt_path") is None
        if starts_anew and last.exists() and not self._get(self.config, "trainer.fast_dev_run"):
            raise RunFolderError(
                f"{self.run_dir} holds a trained model; continue it with '--ckpt_path last', choose another folder "
                f"with '--run_dir FOLDER', or delete it to start again"
            )

    def instantiate_trainer(self, **kwargs: Any) -> NASTrainer:
        """Point logger and checkpoints at the run folder, unless the configuration has a logger of its own."""
        kwargs["default_root_dir"] = str(self.run_dir)
        self._last_checkpoint.dirpath = os.path.realpath(self.run_dir / "checkpoints")  # whatever the logger
        if self._get(self.config_init, "trainer.logger") in (None, True):
            kwargs["logger"] = TensorBoardLogger(str(self.run_dir), name="", version="", default_hp_metric=False)
        given = self._get(self.config_init, "trainer.plugins") or []
        plugins = given if isinstance(given, list) else [given]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            kwargs["plugins"] = [*plugins, AtomicCheckpointIO()]
        trainer: NASTrainer = super().instantiate_trainer(**kwargs)  # type: ignore[assignment]
        if self.subcommand == "predict":
            trainer.callbacks.append(EmbeddingWriter())  # type: ignore[attr-defined]
        return trainer


def _last_checkpoint() -> ModelCheckpoint:
    """The state at the end of every epoch, to continue from: one file, also when the run folder was moved between.

    Lightning's ``save_last`` without a best one (``save_top_k=0``) would write only when training ends.
    """
    return ModelCheckpoint(filename="last", save_top_k=1, save_on_train_epoch_end=True, enable_version_counter=False)


def expand_genotype(args: list[str]) -> list[str]:
    """Replace ``--genotype`` by space and architecture; the shipped recipe and the search's images are the defaults.

    Args:
        args: Arguments behind ``retrain``.

    Example:
        >>> cell = "|none~0|+|none~0|none~1|+|nor_conv_3x3~0|none~1|none~2|"
        >>> expand_genotype(["--genotype", cell, "--seed_everything", "3"])[-2:]
        ['--seed_everything', '3']
    """
    expanded, following = [], iter(args)
    chosen = any(arg.partition("=")[0] in ("--data", "--config", "-c") for arg in args)
    for arg in following:
        if arg != "--genotype" and not arg.startswith("--genotype="):
            expanded.append(arg)
            continue
        found = read_genotype(arg.partition("=")[2] or next(following, ""))
        if not os.environ.get("LOCAL_RANK"):  # the first process alone speaks
            sys.stderr.write(f"{found.origin}: {found.architecture}\n")
        expanded += [f"--model.space={json.dumps(found.space)}", f"--model.architecture={found.architecture}"]
        if found.images and not chosen:
            expanded.insert(0, f"--data={json.dumps(found.images)}")  # what it was searched for
        elif found.trained_on not in (None, "digits") and not chosen:
            raise UsageError(
                f"retrain: the search trained on the images {found.trained_on!r}, and where they lie is not known "
                "without its run folder; say which images to train on with --data"
            )
    given = {arg.partition("=")[0] for arg in expanded}
    if not given & {"--config", "-c", "--model.architecture", "--model.init_args.architecture", "-h", "--help"}:
        raise UsageError("retrain: got no architecture, expected --genotype FILE, --genotype RUN_FOLDER or a --config")
    return expanded if given & {"--config", "-c"} else ["--config", "retrain", *expanded]


def run(verb: str, args: list[str]) -> None:
    """Run a Lightning verb.

    Args:
        verb: ``fit``, ``validate``, ``test``, ``predict``, ``search`` or ``retrain``.
        args: What was typed behind it.
    """
    # A console script looks for modules beside itself; a user's own spaces lie where the command is typed.
    sys.path.insert(0, os.getcwd())
    expanded, run_dir = expand_configs(expand_genotype(args) if verb == "retrain" else args)
    # Advertisements are no news about a run.
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(lambda said: "Tip:" not in said.getMessage())
    # LightningCLI reads sys.argv, and so do the further processes of a distributed run.
    sys.argv[1:] = [verb, *expanded]
    NASCLI(run_dir)
