"""Trained modules and their embeddings, as analyses need them: from run folders, whole spaces at once."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from pytorch_lightning import LightningDataModule, LightningModule
from torch import LongTensor, Tensor

from lightning_nas.benchmarks.table import find_table, read_table
from lightning_nas.errors import RunFolderError, UsageError
from lightning_nas.loading import home, load, load_data
from lightning_nas.spaces.base import FiniteSpace
from lightning_nas.spaces.encodings import Encoding


@dataclass(frozen=True)
class TrainedRun:
    """One run folder: a trained module and the data that it was trained on.

    Args:
        folder: The run folder.
        module: The trained module, in evaluation mode.
        data: Its data, of whose space it embeds all cells.
        variant: What the module is apart from its seed, to tell seeds of one experiment from other experiments.
    """

    folder: Path
    module: LightningModule
    data: LightningDataModule
    variant: str

    @property
    def space(self) -> FiniteSpace[Any]:
        """The space whose cells the module embeds."""
        space: FiniteSpace[Any] = self.data.space  # type: ignore[attr-defined]
        return space

    @property
    def method(self) -> str:
        """Name of the method: what the module calls itself, otherwise its class."""
        return str(getattr(self.module, "method", type(self.module).__name__))

    @property
    def spaces(self) -> str:
        """Names of the spaces of its data, joined by underscores."""
        sets = [self.data] if self.space is not None else self.data.networks
        return "_".join(each.space.name for each in sets)  # type: ignore[attr-defined]

    @cached_property
    def embeddings(self) -> Tensor:
        """Embedding of every cell of the space, ``(N, D)`` float32."""
        return self.embed(self.module)

    @torch.no_grad()
    def embed(self, module: LightningModule) -> Tensor:
        """What a module makes of this run's data in evaluation mode, ``(N, D)`` float32 on the CPU.

        Raises:
            UsageError: The module embeds nothing, or the data hold but a part of the space.
        """
        if not hasattr(module, "predict_step"):
            raise UsageError(f"{type(module).__name__}: has no predict_step, expected a module that embeds cells")
        self.data.prepare_data()
        self.data.setup("predict")
        with torch.random.fork_rng(devices=[]):  # a loader draws a number that it does not need
            loader = enumerate(self.data.predict_dataloader())
            batches = [module.predict_step(batch, number) for number, batch in loader]
        index, values = (torch.cat(parts) for parts in zip(*batches, strict=True))
        values = values.view(len(values), -1, values.shape[-1]).mean(dim=1)  # over views, where there are several
        if len(torch.unique(index)) < len(self.space):
            raise UsageError(
                f"analyze: the data of {self.folder} hold {len(index)} of the {len(self.space)} architectures of "
                f"{self.space.name!r}, expected all"
            )
        table = values.new_empty(values.shape).float()
        table[index] = values.float()
        return table.cpu()


def load_runs(folders: Sequence[Path], several_spaces: bool = False) -> dict[str, list[TrainedRun]]:
    """Trained runs by method: runs that differ in their seed alone share a name, others get one of their own.

    Args:
        folders: Run folders as ``lightning-nas fit`` leaves them, all of one space.
        several_spaces: Whether their data may be of several spaces at once.

    Raises:
        RunFolderError: A folder holds no trained module, does not name its space, or the space is not finite.
        UsageError: The runs are of different spaces, or there are none.
    """
    runs = [_load(folder, several_spaces) for folder in dict.fromkeys(folders)]
    if not runs:
        raise UsageError("analyze: got no run folders, expected at least one: --run runs/arch2vec/nasbench201")
    for run in runs:
        if (run.space, run.spaces) != (runs[0].space, runs[0].spaces):
            raise UsageError(
                f"analyze: {runs[0].folder} is of the space {runs[0].spaces!r} and {run.folder} of "
                f"{run.spaces!r}; expected runs of one space with the same arguments"
            )
    variants: dict[str, list[TrainedRun]] = {}
    for run in runs:
        variants.setdefault(run.variant, []).append(run)
    kinds = [group[0].method for group in variants.values()]
    return {
        kind if kinds.count(kind) == 1 else f"{kind} ({group[0].folder.name})": group
        for kind, group in zip(kinds, variants.values(), strict=True)
    }


def _load(folder: Path, several_spaces: bool) -> TrainedRun:
    module, data = load(folder), load_data(folder)
    path = home(folder) / "config.yaml"
    space = getattr(data, "space", None)
    if not isinstance(space, FiniteSpace) and not (space is None and several_spaces and hasattr(data, "networks")):
        of = f"the space {space.name!r}, which is not numbered" if space else "no one space"
        raise RunFolderError(f"{path}: the data are of {of}; expected those of one finite space")
    config = yaml.safe_load(path.read_text("utf-8"))
    parts = [[config[part]["class_path"], _lasting(config[part].get("init_args") or {})] for part in ("model", "data")]
    return TrainedRun(folder, module, data, json.dumps(parts, sort_keys=True, default=str))


def _lasting(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments without those that differ between seeds, or say only where and how fast."""
    passing = ("seed", "shuffle_seed", "eval_batch_size", "workers", "folder")
    return {name: value for name, value in arguments.items() if name not in passing}


def untrained(module: LightningModule, seed: int) -> LightningModule:
    """The same network with fresh weights: what the architecture alone does.

    Args:
        module: Any module whose layers know how to reset themselves, as those of torch do.
        seed: Seed of the weights.
    """
    fresh = copy.deepcopy(module)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in fresh.modules():
            reset = getattr(layer, "reset_parameters", None)
            if callable(reset):
                reset()
    return fresh.eval()


@dataclass(frozen=True)
class Accuracies:
    """Test accuracies of a table; validation accuracies where it has no others.

    Args:
        dataset: Data set, for example ``cifar10``.
        epochs: Training epochs behind them.
        table: Name of the table.
        members: Which members of the space have one, ``(n,)``.
        values: Mean over training seeds in percent, ``(n,)`` float64.
        split: ``test`` or ``valid``.
        costs: Trainable weights and multiply-adds, ``(n, 2)`` float64; None where the table does not know them.
    """

    dataset: str
    epochs: int
    table: str
    members: LongTensor
    values: Tensor
    split: str = "test"
    costs: Tensor | None = None


def read_accuracies(
    space: FiniteSpace[Any], table: str | None, dataset: str | None, epochs: int | None, data_dir: str | None
) -> Accuracies:
    """Accuracies of a space's members from a table, which may hold a part of the space only.

    They are test accuracies, or validation accuracies where the table has no others.

    Args:
        space: Whose members.
        table: Name or path of the table; None for the space's name.
        dataset: Data set; None for the table's only one.
        epochs: Training epochs; None for the most there are.
        data_dir: Folder of tables, None for the default.

    Raises:
        BenchmarkDataError: There is no such table or column.
        UsageError: The table is of another space, or the choice is not clear.
    """
    found = read_table(find_table(table or space.name, data_dir))
    if found.meta["space"] != space.name:
        raise UsageError(f"{found.path}: is a table of {found.meta['space']!r}, expected one of {space.name!r}")
    split = "test" if any("/test@" in name for name in found.columns) else "valid"
    columns = [name.rpartition(f"/{split}@") for name in found.columns if f"/{split}@" in name]
    known = sorted((name, int(length)) for name, _, length in columns if length.isdigit())
    chosen = [pair for pair in known if dataset in (None, pair[0]) and epochs in (None, pair[1])]
    if len({name for name, _ in chosen}) != 1:
        raise UsageError(
            f"{found.path}: got --dataset {dataset} --epochs {epochs}, expected one of "
            f"{', '.join(f'{name} {length}' for name, length in known)}"
        )
    name, length = max(chosen)
    values = torch.from_numpy(found.mean_over_seeds(f"{name}/{split}@{length}").astype(np.float64))
    held = found.members(len(space))
    members = torch.arange(len(space)) if held is None else torch.from_numpy(held)
    costs = None
    if {"params", "flops"} <= set(found.columns):
        costs = torch.from_numpy(np.stack([found["params"], found["flops"]], axis=1).astype(np.float64))
    return Accuracies(name, length, found.path.stem, members, values, split, costs)  # type: ignore[arg-type]


def every_run(groups: Mapping[str, Sequence[TrainedRun]]) -> list[TrainedRun]:
    """All runs of all methods, in order."""
    return [run for group in groups.values() for run in group]


def draw(size: int, count: int, seed: int) -> LongTensor:
    """Different numbers below ``size``, at most ``count``, in random order."""
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    return order[:count]  # type: ignore[return-value]


def representations(
    groups: Mapping[str, Sequence[TrainedRun]],
    encodings: Mapping[str, Encoding],
    supervised: Mapping[str, list[Tensor]],
    seed: int,
) -> dict[str, list[Tensor]]:
    """Vectors of all cells: of every method, of its network untrained, and of encodings, several for several seeds.

    Args:
        groups: Trained runs by method.
        encodings: Further representations by name.
        supervised: Tables of encoders trained on accuracies, by name.
        seed: Seed of the first untrained network; every trained run has an untrained one beside it.

    Raises:
        UsageError: A name occurs twice.
    """
    found = {label: [run.embeddings for run in group] for label, group in groups.items()}
    for label, group in groups.items():
        found[f"{label}, untrained"] = [
            run.embed(untrained(run.module, seed + number)) for number, run in enumerate(group)
        ]
    found |= supervised
    for label, encoding in encodings.items():
        if label in found:
            raise UsageError(f"analyze: got an encoding named {label!r}, which is taken; rename it")
        found[label] = [encoding.encode(every_run(groups)[0].space)]
    return found
