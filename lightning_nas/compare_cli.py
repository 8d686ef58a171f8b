"""The verb ``lightning-nas compare``: performance predictors on the same trials.

A plain function for ``jsonargparse.auto_cli``.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import track

import lightning_nas.short_names  # noqa: F401
from lightning_nas.analysis import predictor_report
from lightning_nas.analysis.predictor_trials import TrialJob, TrialStore, all_trials, check_sizes, outcomes
from lightning_nas.benchmarks.tabular import TabularBenchmark
from lightning_nas.configurations import expand_configs
from lightning_nas.errors import UsageError
from lightning_nas.files import write_atomically
from lightning_nas.ledger import Result, write_result
from lightning_nas.plots import save_figure
from lightning_nas.predictors.predictor import Predictor
from lightning_nas.provenance import provenance
from lightning_nas.tables import csv_table, latex_table, markdown_table
from lightning_nas.terminal import say
from lightning_nas.workers.base import Workers
from lightning_nas.workers.local import LocalWorkers

_ENTRY = {"name", "title", "source", "reference_protocol", "our_protocol", "scale"}


def compare(
    *,
    benchmark: TabularBenchmark,  # type: ignore[type-arg]  # jsonargparse cannot read TabularBenchmark[A]
    predictors: dict[str, Predictor],
    num_train: list[int] = [121],  # noqa: B006  # a CLI default
    num_test: int | None = 100,
    num_trials: int = 20,
    seed: int = 0,
    workers: int | Workers = 1,
    output: Path = Path("runs/compare"),
    paired: list[list[str]] = [],  # noqa: B006
    ledger: dict[str, Any] | None = None,
    record: Path | None = None,
) -> None:
    """Compare performance predictors: how well accuracies of a few architectures tell those of others.

    ``lightning-nas compare --config FILE_OR_NAME``. In every trial all predictors get the same random architectures,
    and predict the same others; with several sizes, the larger training sets contain the smaller ones. Predicted and
    scored are the benchmark's validation accuracies. Finished trials are kept: an interrupted command goes on when it
    is repeated, and failed trials are tried again. Leaves ``comparison.md``, ``.csv``, ``.tex`` and figures.

    Args:
        benchmark: Whose accuracies.
        predictors: What is compared, by the names in tables and figures.
        num_train: Numbers of architectures with known accuracies.
        num_test: Architectures that are predicted; null for all that the largest training set leaves.
        num_trials: Random draws of architectures.
        seed: Seed of the draws and of whatever is random in predictors.
        workers: Who runs the trials: a number of processes here, or DaskWorkers, SlurmWorkers. Seconds are fair only
            where every process has a core to itself.
        output: Folder for all of it.
        paired: Pairs of predictors whose differences in Kendall's tau, trial by trial, are worth a line.
        ledger: What the published numbers are: name, title, source, reference_protocol, our_protocol, scale, perhaps
            notes and published, scores by predictor.
        record: Folder of the ledger, usually docs/results; writes the numbers there.
    """
    console = Console()
    started = time.perf_counter()
    job = _job(benchmark, predictors, num_train, num_test, seed)
    check_sizes(job, num_trials)
    entry = _checked(ledger, predictors, record)
    unknown = sorted({name for pair in paired for name in pair} - set(predictors))
    if unknown or any(len(pair) != 2 for pair in paired):
        raise UsageError(f"compare: got paired={paired}, expected pairs of {list(predictors)}")
    trials = all_trials(predictors, job.sizes, num_trials)
    store = TrialStore(output / "trials", job)
    crew = workers if isinstance(workers, Workers) else LocalWorkers(workers, "cpu")
    store.fill(trials, crew, partial(track, description="trials", console=console))
    found = outcomes(store, trials)
    seeds = f"seed {seed}, {num_trials} trials"
    differences = predictor_report.difference_rows(found, paired, seeds)
    written = _write(found, job.sizes, output, console)
    for row in differences:
        say(console, f"{row.label}, {row.metric}: {row.mean:+.3f}, {row.note}")
    if record is not None:
        published = entry.pop("published", None) or {}
        rows = (*predictor_report.rows(found, published, seeds), *differences)
        written.append(write_result(record, _result(entry, rows, time.perf_counter() - started)))
    for path in written:
        say(console, f"Written: {path}")


def arguments(verb: str, args: Sequence[str]) -> list[str]:
    """Let ``--config`` take the name of a shipped configuration, and derive the output folder from it.

    Args:
        verb: ``compare``.
        args: What was typed behind it.
    """
    sys.path.insert(0, os.getcwd())  # a user's own predictors lie where the command is typed
    expanded, folder = expand_configs(list(args))
    named = any(arg == "--output" or arg.startswith("--output=") for arg in expanded)
    asks = {"--help", "-h", "--print_config"} & {arg.partition("=")[0] for arg in expanded}
    return expanded if named or asks or folder == "runs/default" else [*expanded, f"--output={folder}"]


def _job(
    benchmark: TabularBenchmark[Any],
    predictors: dict[str, Predictor],
    num_train: Sequence[int],
    num_test: int | None,
    seed: int,
) -> TrialJob:
    if not predictors:
        raise UsageError("compare: got no predictors, expected at least one: --config emprox/nasbench201_cifar10")
    members = torch.arange(len(benchmark.space)) if benchmark.members is None else benchmark.members
    accuracies = benchmark.lookup(members).valid  # type: ignore[arg-type]
    known = accuracies.isfinite()
    sizes = tuple(sorted(set(num_train)))
    return TrialJob(benchmark.space, members[known], accuracies[known], predictors, sizes, num_test, seed)  # type: ignore[arg-type]


def _checked(ledger: dict[str, Any] | None, predictors: dict[str, Predictor], record: Path | None) -> dict[str, Any]:
    """The ledger's entry; whatever is wrong with it is said before any trial."""
    entry = dict(ledger or {})
    rest = set(entry) - {"notes", "published"}
    if record is not None and rest != _ENTRY:
        raise UsageError(
            f"compare --record: got a ledger with {sorted(entry)}, expected {sorted(_ENTRY)} and perhaps notes and "
            "published"
        )
    strangers = sorted({name.partition(", ")[0] for name in entry.get("published") or {}} - set(predictors))
    if strangers:
        raise UsageError(f"compare: published names {strangers}, expected some of {list(predictors)}")
    return entry


def _write(found: predictor_report.Found, sizes: Sequence[int], output: Path, console: Console) -> list[Path]:
    parts = {size: predictor_report.table(found, size) for size in sizes}
    heading = "## {} architectures with known accuracy\n\n"
    texts = {
        "md": "\n".join(heading.format(size) + markdown_table(*part) for size, part in parts.items()),
        "csv": csv_table(
            ["n", *_header(parts)],
            [[str(n), *line] for n, part in parts.items() for line in _lines(part, _header(parts))],
        ),
        "tex": "\n".join(f"% n = {size}\n{latex_table(*part)}" for size, part in parts.items()),
    }
    written = []
    for ending, text in texts.items():
        written.append(output / f"comparison.{ending}")
        with write_atomically(written[-1]) as file:
            file.write(text)
    console.print(Markdown(texts["md"]))
    if len(sizes) > 1:
        written += save_figure(predictor_report.size_figure(found), output / "kendall_sizes")
    return written + save_figure(predictor_report.time_figure(found, max(sizes)), output / "kendall_seconds")


def _header(parts: dict[int, tuple[list[str], list[list[str]]]]) -> list[str]:
    return list(dict.fromkeys(name for header, _ in parts.values() for name in header))


def _lines(part: tuple[list[str], list[list[str]]], header: list[str]) -> list[list[str]]:
    """Rows of one size under the columns of all."""
    own, lines = part
    return [[dict(zip(own, line, strict=True)).get(name, "") for name in header] for line in lines]


def _result(entry: dict[str, Any], rows: Sequence[Any], seconds: float) -> Result:
    notes = entry.pop("notes", None) or ()
    origin = provenance()
    return Result(
        **entry,
        command=origin["command"],
        commit=origin["commit"],
        versions=origin["versions"],
        date=datetime.now(UTC).date().isoformat(),
        seconds=seconds,
        notes=(notes,) if isinstance(notes, str) else tuple(notes),
        rows=tuple(rows),
    )
