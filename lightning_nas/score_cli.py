"""The verb ``lightning-nas score``: training-free proxies of the architectures of a space.

A plain function for ``jsonargparse.auto_cli``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

import lightning_nas.short_names  # noqa: F401
from lightning_nas.benchmarks.proxy_scores import NAMES, VERSION, ProxyJob, ProxyScores
from lightning_nas.benchmarks.table import Table, find_table, read_table
from lightning_nas.configurations import expand_configs
from lightning_nas.datamodules.vision import VisionDataModule
from lightning_nas.errors import UsageError
from lightning_nas.ledger import Result, Row, write_result
from lightning_nas.nn.proxies import te_nas, vote
from lightning_nas.provenance import provenance
from lightning_nas.spaces.base import FiniteSpace
from lightning_nas.spaces.config import describe_space
from lightning_nas.tables import markdown_table, mean_std
from lightning_nas.terminal import say
from lightning_nas.workers.base import Workers
from lightning_nas.workers.local import LocalWorkers

_ENTRY = {"name", "title", "source", "reference_protocol", "our_protocol", "scale"}
_NUM_CROPS = 3000
_BALLOTS = ("synflow", "jacob_cov", "snip")


def score(
    *,
    space: FiniteSpace,  # type: ignore[type-arg]  # jsonargparse cannot read FiniteSpace[A]
    images: VisionDataModule,
    output: Path,
    sizes: dict[str, Any] = {},  # noqa: B006  # a CLI default
    proxies: list[str] = list(NAMES),  # noqa: B006
    num_members: int | None = None,
    num_images: int = 64,
    num_initialisations: int = 3,
    ntk_images: int = 16,
    seed: int = 0,
    workers: int | Workers | None = None,
    against: str | None = None,
    columns: list[str] = [],  # noqa: B006
    data_dir: str | None = None,
    ledger: dict[str, Any] | None = None,
    record: Path | None = None,
) -> None:
    """Score architectures by training-free proxies, a minibatch and untrained networks, and write them as one table.

    ``lightning-nas score --config FILE_OR_NAME``. An interrupted command continues when it is repeated. All scores are
    higher for what should be better; isomorphic architectures are scored once. With ``--against`` the correlations with
    another table's accuracies are shown beside those of parameters and multiply-adds.

    Args:
        space: The search space.
        images: Data set whose training images the networks see.
        output: The table, an ``.npz``: ``proxy/NAME`` of every initialisation, seconds, parameters, multiply-adds.
        sizes: Arguments of the space's ``build`` besides the image's channels and the number of classes.
        proxies: l2_norm, grad_norm, plain, snip, grasp, fisher, synflow, jacob_cov, naswot, epe_nas, zen, ntk (the
            condition number of the neural tangent kernel), linear_regions; default: all.
        num_members: Different architectures to score, drawn by the seed; default: all.
        num_images: Images in the minibatch, drawn by the seed.
        num_initialisations: Initialisations of every architecture; all go through a proxy together.
        ntk_images: Of the minibatch the first so many for ntk, which takes a backward pass for each.
        seed: Seed of weights, images and of the choice of architectures.
        workers: Who computes: a number of processes on this machine, or ``DaskWorkers``, ``SlurmWorkers``; default: a
            process for every core.
        against: Name or path of a table with accuracies of the same space.
        columns: Columns of that table, for example cifar10/test@200.
        data_dir: Folder of prepared tables; default ``$LIGHTNING_NAS_DATA`` or ``~/.cache/lightning_nas``.
        ledger: What the ledger says about it: name, title, source, reference_protocol, our_protocol, scale, and perhaps
            notes and published, ``{proxy: {column: value}}``.
        record: Folder of the ledger, usually docs/results; writes the correlations there.
    """
    started, console = time.perf_counter(), Console()
    entry = _checked(proxies, num_images, min(num_initialisations, ntk_images - 1), ledger, record, against, columns)
    truth = None if against is None else _accuracies(space, against, columns, data_dir)
    distinct = torch.unique(space.representatives)
    if truth is not None:
        distinct = distinct[torch.from_numpy(np.isfinite(np.stack(list(truth.values()))).all(axis=0))[distinct]]
    size = len(distinct) if num_members is None else num_members
    if not 2 <= size <= len(distinct):
        raise UsageError(f"score: got num_members={num_members}, expected 2 to the {len(distinct)} different ones")
    members = distinct[torch.randperm(len(distinct), generator=torch.Generator().manual_seed(seed))[:size]]
    sizes = {"in_channels": images.image_shape[0], "num_classes": images.num_classes, **sizes}
    identity = {
        "space": describe_space(space), "images": images.identity(), "sizes": sizes, "proxies": list(proxies),
        "num_members": size, "num_images": num_images, "num_initialisations": num_initialisations,
        "ntk_images": ntk_images, "seed": seed, "version": VERSION,
    }  # fmt: skip
    work = ProxyScores(output, members, json.loads(json.dumps(identity)))  # as it is read back
    origin = provenance()
    if not work.finished:
        left = work.tasks()
        if left:
            say(console, f"{len(members):,} architectures, {sum(len(task.members) for task in left):,} to be scored")
            shown = _shown(images, num_images, seed)
            job = ProxyJob(space, sizes, *shown, tuple(proxies), num_initialisations, seed, ntk_images)
            crew = workers if isinstance(workers, Workers) else LocalWorkers(workers, "cpu")
            work.fill(job, crew, partial(track, description="scoring", console=console))
        about = {"source": "lightning-nas score", "licence": "CC0-1.0", "citation": "", "command": origin["command"]}
        date = {"date": datetime.now(UTC).date().isoformat(), "commit": origin["commit"]}
        work.assemble(space, {**about, **date, "versions": origin["versions"]})
    table = read_table(output)
    say(console, f"Written: {output}")
    if truth is None:
        return
    rows = correlations(table, members, truth, entry.pop("published", None) or {})
    say(console, markdown_table(*_grid(rows)).rstrip("\n"))
    if record is not None:
        notes = entry.pop("notes", None) or ()
        result = Result(
            **entry, command=origin["command"], commit=origin["commit"], versions=origin["versions"],
            date=datetime.now(UTC).date().isoformat(), seconds=time.perf_counter() - started,
            notes=(notes,) if isinstance(notes, str) else tuple(notes), rows=tuple(rows),
        )  # fmt: skip
        say(console, f"Recorded: {write_result(record, result)}")


def arguments(verb: str, args: Sequence[str]) -> list[str]:
    """Let ``--config`` take the name of a shipped configuration, and derive the output from it.

    Args:
        verb: ``score``.
        args: What was typed behind it.
    """
    sys.path.insert(0, os.getcwd())  # a user's own spaces lie where the command is typed
    return expand_configs(list(args))[0]


def correlations(
    table: Table, members: Tensor, truth: dict[str, np.ndarray], published: dict[str, dict[str, str]]
) -> list[Row]:
    """Kendall's tau of every proxy, of TE-NAS, of the vote and of size with accuracies, one row for each.

    Args:
        table: Scores of the members, in their order.
        members: Their indices in the space, ``(n,)``.
        truth: Accuracies of the whole space by their column's name, ``(N,)`` each.
        published: Numbers of others, by proxy and column.
    """
    scores = {name.partition("/")[2]: table[name] for name in table.columns if name.startswith("proxy/")}
    each = range(next(iter(scores.values())).shape[1]) if scores else range(0)
    known = {name: [torch.from_numpy(values[:, i]) for i in each] for name, values in scores.items()}
    if {"ntk", "linear_regions"} <= scores.keys():
        known["te_nas"] = [te_nas(known["ntk"][i], known["linear_regions"][i]) for i in each]
    if set(_BALLOTS) <= scores.keys():
        known["vote"] = [vote([known[name][i] for name in _BALLOTS]) for i in each]
    known |= {name: [torch.from_numpy(table[name])] for name in ("params", "flops")}
    rows = []
    for column, accuracies in truth.items():
        for name, values in known.items():
            found = [_kendall(value.numpy(), accuracies[members.numpy()]) for value in values]
            seconds = f"seconds/{name}"
            note = f"{1e3 * table[seconds].mean():.0f} ms a network" if seconds in table.columns else ""
            made = f"{len(found)} initialisations" if len(found) > 1 else "once"
            row = Row.of(
                found, label=name, metric=f"Kendall's τ with {column}", unit="",
                paper=str(published.get(name, {}).get(column, "")), seeds=f"{len(members):,} architectures, {made}",
            )  # fmt: skip
            rows.append(replace(row, note=note))
    return rows


def _kendall(score: np.ndarray, accuracy: np.ndarray) -> float:
    from scipy.stats import kendalltau

    known = np.where(np.isnan(score), -np.inf, score.astype(np.float64))
    tau = float(kendalltau(np.unique(known, return_inverse=True)[1], accuracy).statistic)
    return 0.0 if np.isnan(tau) else tau  # the same score for all ranks nothing


def _grid(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    metrics = list(dict.fromkeys(row.metric for row in rows))
    cells = {(row.label, row.metric): mean_std(row.mean, row.std, 3) for row in rows}
    labels = list(dict.fromkeys(row.label for row in rows))
    notes = {row.label: row.note for row in rows}
    return ["proxy", *metrics, ""], [[n, *(cells[n, m] for m in metrics), notes[n]] for n in labels]


def _accuracies(
    space: FiniteSpace[Any], name: str, columns: Sequence[str], data_dir: str | None
) -> dict[str, np.ndarray]:
    """Of the whole space, NaN for what the table does not hold, ``(N,)`` by column."""
    path = find_table(name, data_dir)
    table = read_table(path)
    if table.meta["space"] != space.name:
        raise UsageError(f"{path}: is a table of {table.meta['space']!r}, expected one of {space.name!r}")
    members = table.members(len(space))
    found = {}
    for column in columns:
        found[column] = np.full(len(space), np.nan)
        found[column][slice(None) if members is None else members] = table.mean_over_seeds(column)
    return found


def _shown(images: VisionDataModule, count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images as networks see them, their labels, and crops of 3 x 3 grey pixels."""
    images.prepare_data()
    images.setup("fit")
    there = len(images.train.labels)
    if count > there:
        raise UsageError(f"score: got num_images={count}, expected at most the {there} training images")
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(there, generator=generator)[:count]
    shown = images.normalise(images.train.images[drawn])
    which = torch.randint(there, (_NUM_CROPS,), generator=generator)
    grey = images.normalise(images.train.images[which]).mean(dim=1, keepdim=True)
    _, height, width = images.image_shape
    down, right = (torch.randint(side - 2, (_NUM_CROPS,), generator=generator) for side in (height, width))
    windows = grey.unfold(2, 3, 1).unfold(3, 3, 1)
    crops = windows[torch.arange(_NUM_CROPS), 0, down, right][:, None].contiguous()
    return shown, images.train.labels[drawn], crops


def _checked(
    proxies: Sequence[str],
    num_images: int,
    num_initialisations: int,
    ledger: dict[str, Any] | None,
    record: Path | None,
    against: str | None,
    columns: Sequence[str],
) -> dict[str, Any]:
    """The ledger's entry; whatever is wrong is said before any work."""
    unknown = [name for name in proxies if name not in NAMES]
    if unknown or not proxies:
        raise UsageError(f"score: got the proxies {unknown or list(proxies)}, expected some of {', '.join(NAMES)}")
    if num_images < 2 or num_initialisations < 1:
        raise UsageError(
            f"score: got num_images={num_images}; num_initialisations or ntk_images too small, "
            "expected 2, 1 and 2 or more"
        )
    if (against is None) != (not columns):
        raise UsageError(
            f"score: got against={against} and columns={list(columns)}; expected both, for example "
            "--against nasbench201 --columns '[cifar10/test@200]', or none of them"
        )
    entry = dict(ledger or {})
    rest = set(entry) - {"notes", "published"}
    if record is not None and (against is None or rest != _ENTRY):
        raise UsageError(
            f"score --record: got a ledger with {sorted(entry)}, expected --against and a ledger with "
            f"{sorted(_ENTRY)}, perhaps notes and published"
        )
    return entry
