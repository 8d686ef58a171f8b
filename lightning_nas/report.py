"""What a search leaves in its run folder (every trial, summary, best architecture, figure), and reading it back."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightning_nas.benchmarks.base import Benchmark
from lightning_nas.errors import RunFolderError, SpaceError, UsageError
from lightning_nas.files import write_atomically
from lightning_nas.ledger import Result, Row
from lightning_nas.outcomes import Outcome, outcome, outcome_table, paired_difference, paired_differences
from lightning_nas.plots import repeated, search_figures, timed, uneven
from lightning_nas.search.history import SearchHistory, Status
from lightning_nas.search.pool import CandidatePool
from lightning_nas.spaces.base import SearchSpace
from lightning_nas.spaces.config import describe_space
from lightning_nas.spaces.subset import Subset
from lightning_nas.tables import markdown_table

TRIALS = ("strategy", "run", "query", "architecture", "epochs", "valid", "test", "cost", "status")


def write_search_report(
    folder: Path,
    histories: Mapping[str, SearchHistory],
    pool: CandidatePool[Any],
    benchmark: Benchmark[Any],
    next_steps: str,
    num_epochs: int | None = None,
) -> str:
    """Write ``trials.csv``, ``summary.md``, ``genotype.json``, ``regret.png`` and ``regret.pdf``, each atomically.

    Figures of where the runs ended, and over the benchmark's own seconds where it knows them, lie beside the last.

    Args:
        folder: Run folder.
        histories: Runs of each strategy, finished or not, by name; queries are numbered in order of arrival.
        pool: What the histories' indices mean.
        benchmark: What scored them.
        next_steps: What to type next, for example to train the best architecture from scratch; empty for nothing.
        num_epochs: Training epochs that each run could spend, if they were counted.

    Returns:
        The summary, for the terminal.

    Raises:
        RunFolderError: The folder cannot be written.
    """
    histories = {name: history.by_arrival() for name, history in histories.items()}
    write_trials(folder / "trials.csv", histories, pool)
    outcomes = {name: outcome(history) for name, history in histories.items()}
    best = best_genotype(histories, outcomes, pool, benchmark)
    if best is not None:
        with write_atomically(folder / "genotype.json") as file:
            json.dump(best, file, indent=2, ensure_ascii=False, allow_nan=False)
            file.write("\n")
    text = _summary(histories, outcomes, best, benchmark, next_steps, num_epochs)
    with write_atomically(folder / "summary.md") as file:
        file.write(text)
    search_figures(histories, benchmark.optimum, folder / "regret")
    return text


def write_trials(path: Path, histories: Mapping[str, SearchHistory], pool: CandidatePool[Any]) -> None:
    """Write one line for each evaluation that was asked for; an unknown number is left empty.

    Args:
        path: The CSV file.
        histories: Runs of each strategy, by name.
        pool: What the histories' indices mean.
    """
    space = pool.space
    with write_atomically(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(TRIALS)
        for name, history in histories.items():
            asked = (history.status != Status.EMPTY).numpy()
            run, query = asked.nonzero()
            columns = (
                history.runs.numpy()[run],
                query + 1,
                _texts(pool.members.numpy()[history.indices.numpy()[asked]], lambda i: space.format(space[int(i)])),
                history.epochs.numpy()[asked],
                *(_texts(scores.numpy()[asked], _number) for scores in (history.valid, history.test, history.cost)),
                _texts(history.status.numpy()[asked], lambda status: Status(int(status)).name.lower()),
            )
            rows = zip(*(column.tolist() for column in columns), strict=True)
            writer.writerows((name, *row) for row in rows)


def best_genotype(
    histories: Mapping[str, SearchHistory],
    outcomes: Mapping[str, Outcome],
    pool: CandidatePool[Any],
    benchmark: Benchmark[Any],
) -> dict[str, Any] | None:
    """The best incumbent by validation accuracy of all runs, of those trained longest; None before the first score."""
    found = {name: end for name, end in outcomes.items() if end.scored.any()}
    if not found:
        return None
    epochs = {name: np.where(end.scored, _epochs(histories[name], end), -1) for name, end in found.items()}
    most = max(int(trained.max()) for trained in epochs.values())  # shorter trainings do not compare
    scored = {name: np.where(epochs[name] == most, end.valid, -np.inf) for name, end in found.items()}
    strategy = max(scored, key=lambda name: float(scored[name].max()))
    row, end = int(scored[strategy].argmax()), outcomes[strategy]
    index = int(pool.members[histories[strategy].indices[row, end.column[row]]])  # in the space, not in the pool
    return {
        "space": pool.space.name,
        "space_class": _space_class(pool.space),
        "architecture": pool.space.format(pool.space[index]),
        "index": index,
        "valid": float(end.valid[row]),
        "test": None if math.isnan(end.test[row]) else float(end.test[row]),
        "strategy": strategy,
        "run": int(end.runs[row]),
        "query": int(end.column[row]) + 1,
        "benchmark": benchmark.identity(),
    }


def _epochs(history: SearchHistory, end: Outcome) -> np.ndarray:
    """Epochs behind each run's incumbent, ``(R,)``."""
    return np.take_along_axis(history.epochs.numpy(), end.column[:, None].clip(0), axis=1)[:, 0]


def _space_class(space: SearchSpace[Any]) -> dict[str, Any] | None:
    if isinstance(space, Subset):  # its members are built by the space that they are from
        space = space.space
    try:
        return describe_space(space)
    except SpaceError:  # one's own space that cannot be made from primitives; a search must not fail for it
        return None


@dataclass(frozen=True)
class RunResult:
    """A search run as read back from its folder; the fields are those of ``search/search.json``.

    Attributes:
        folder: The run folder.
        space: Name of the search space.
        benchmark: Identity of the benchmark.
        optimum: Best reachable test accuracy in percent, if known.
        epochs: Fidelity of the evaluations.
        num_queries: Budget of each run.
        num_epochs: Its budget of training epochs, if it has one.
        num_runs: Runs asked for.
        seed: Seed of the search.
        seconds: Wall-clock seconds of each strategy.
        command: What was typed.
        commit: Revision of the code, if known.
        versions: Package versions.
        ledger: What the ledger says about this experiment, if it has a place there.
        date: Day the search began, ``YYYY-MM-DD``.
        histories: The runs of each strategy, in order of arrival.
        strategies: All that were asked for, also those not begun.
        final_valid: Of each strategy, and of each run, the incumbent's validation accuracy after the training that test
            accuracies are of; empty where searches saw that.
    """

    folder: Path
    space: str
    benchmark: dict[str, Any]
    optimum: float | None
    epochs: int
    num_queries: int
    num_runs: int
    seed: int
    seconds: dict[str, float]
    command: str
    commit: str | None
    versions: dict[str, str]
    ledger: dict[str, Any] | None
    date: str
    histories: dict[str, SearchHistory]
    strategies: tuple[str, ...] = ()
    final_valid: dict[str, list[float]] = field(default_factory=dict)
    num_epochs: int | None = None

    @property
    def outcomes(self) -> dict[str, Outcome]:
        """Where the runs of each strategy ended."""
        return {name: outcome(history) for name, history in self.histories.items()}


def load_run(folder: Path) -> RunResult:
    """Read a search run, finished or interrupted.

    Args:
        folder: The run folder, which holds ``search/search.json`` and ``search/<strategy>.pt``.

    Raises:
        RunFolderError: It is no such folder, or a file in it is damaged.
    """
    info = _read_info(folder / "search" / "search.json")
    info["strategies"] = tuple(info["strategies"])
    files = {name: folder / "search" / f"{name}.pt" for name in info["strategies"]}
    histories = {name: _read_history(path) for name, path in files.items() if path.exists()}
    if not histories:
        raise RunFolderError(f"{folder}: holds no search/<strategy>.pt; the search was stopped before its first round")
    if info["num_epochs"] is not None:
        histories = {name: history.within(epochs=info["num_epochs"]) for name, history in histories.items()}
    return RunResult(folder=folder, histories=histories, **info)


_NOT_RUN = {"label", "metric", "unit", "paper", "command"}


def summarise_search(run: RunResult) -> Result:
    """The ledger's entry of a search run: a test and a validation row for each strategy.

    Args:
        run: A run whose ``ledger`` says name, title, source, reference_protocol, our_protocol and scale, and perhaps
            notes, ``published``: ``{strategy: {"test": "94.18 ± 0.24", "valid": …, "final_valid": …}}``, ``paired``:
            pairs of strategies whose difference in test accuracy is worth a row, ``at``: numbers of queries after which
            strategies and pairs have a row, too, ``at_epochs``: the same for training epochs, ``not_run``: further
            published numbers and the commands to measure them, each ``{label, metric, unit, paper, command}``.

    Raises:
        UsageError: The run has no place in the ledger, or its entry is incomplete.
    """
    where = f"{run.folder / 'search' / 'search.json'}: ledger"
    if run.ledger is None:
        raise UsageError(f"{where}: got none; give the SearchCallback a 'ledger' to record its runs")
    ended = run.seconds if run.num_epochs is not None else {}  # written when a search is at its end
    unfinished = [
        name for name, history in run.histories.items()
        if name not in ended and int(history.finished.min()) < run.num_queries
    ]  # fmt: skip
    unfinished += [name for name in run.strategies if name not in run.histories]
    if unfinished:
        raise UsageError(f"{where}: the search is not finished ({', '.join(unfinished)}); run it to its end first")
    entry = dict(run.ledger)
    published, notes = entry.pop("published", None) or {}, entry.pop("notes", None) or ()
    pairs, others = entry.pop("paired", None) or [], entry.pop("not_run", None) or []
    cuts, lengths = entry.pop("at", None) or [], entry.pop("at_epochs", None) or []
    expected = {"name", "title", "source", "reference_protocol", "our_protocol", "scale"}
    if set(entry) != expected:
        raise UsageError(
            f"{where}: got {sorted(entry)}, expected {sorted(expected)} and perhaps at, at_epochs, notes, not_run, "
            "paired, published"
        )
    if not isinstance(cuts, list) or not all(isinstance(cut, int) and 1 <= cut <= run.num_queries for cut in cuts):
        raise UsageError(f"{where}: got at={cuts}, expected numbers of queries from 1 to {run.num_queries}")
    unknown = sorted({*published, *(name for pair in pairs for name in pair)} - set(run.histories))
    if unknown:
        raise UsageError(
            f"{where}: published or paired names the strategies {unknown}, expected some of {list(run.histories)}"
        )
    rows = []
    for strategy, end in run.outcomes.items():
        seeds = f"seed {run.seed}, runs {_ranges(end.runs[end.scored].tolist())}"
        said = published.get(strategy) or {}
        final = np.array(run.final_valid.get(strategy, []))
        for part, metric, values in (
            ("test", "test accuracy", end.test),
            ("valid", "validation accuracy", end.valid),
            ("final_valid", "validation accuracy, fully trained", final),
        ):
            known = values[~np.isnan(values)].tolist()
            if not known:
                continue
            paper = str(said.get(part) or "")
            wall = run.seconds.get(strategy)
            note = f"search took {wall:.0f} s" if part == "test" and wall is not None else ""
            rows.append(Row.of(known, label=strategy, metric=metric, unit="%", paper=paper, seeds=seeds, note=note))
    rows += [_difference_row(run, ours, reference) for ours, reference in pairs]
    for cut in cuts:
        rows += _rows_after(run, pairs, queries=cut)
    for cut in lengths:
        rows += _rows_after(run, pairs, epochs=cut)
    for other in others:
        if not isinstance(other, dict) or not {"label", "metric", "command"} <= set(other) <= _NOT_RUN:
            raise UsageError(f"{where}: not_run has {other!r}, expected label, metric, command, perhaps unit and paper")
        rows.append(Row.not_run(**{key: str(text) for key, text in other.items()}))  # 25.8 is text
    return Result(
        **entry,
        command=run.command,
        commit=run.commit,
        versions=run.versions,
        date=run.date,
        seconds=sum(run.seconds.values()) if run.seconds else None,
        notes=(notes,) if isinstance(notes, str) else tuple(notes),
        rows=tuple(rows),
    )


def _rows_after(run: RunResult, pairs: Sequence[Sequence[str]], **budget: int) -> list[Row]:
    """Test accuracies and differences as if every run had ended after so many queries or epochs."""
    cut = replace(run, histories={name: history.within(**budget) for name, history in run.histories.items()})
    ((unit, number),) = budget.items()
    after = f" after {number:,} {unit}" if unit == "epochs" else f" after {number} {unit}"
    rows = []
    for strategy, end in cut.outcomes.items():
        seeds = f"seed {run.seed}, runs {_ranges(end.runs[end.scored].tolist())}"
        if known := end.test[~np.isnan(end.test)].tolist():
            rows.append(Row.of(known, label=strategy, metric="test accuracy" + after, unit="%", paper="", seeds=seeds))
    return rows + [_difference_row(cut, ours, reference, after) for ours, reference in pairs]


def _difference_row(run: RunResult, ours: str, reference: str, after: str = "") -> Row:
    pair = run.outcomes[ours], run.outcomes[reference]
    mean, half, n = paired_difference(*pair)
    return Row.of(
        paired_differences(*pair).tolist(),
        label=f"{ours} minus {reference}",
        metric=f"test accuracy{after}, paired by run",
        unit="points",
        paper="",
        seeds=f"seed {run.seed}, {n} runs",
        note="" if n < 2 else f"95 % interval {mean - half:+.3f} to {mean + half:+.3f}",
    )


def find_runs(folder: Path) -> list[Path]:
    """The run folders at or below a folder, sorted.

    Raises:
        RunFolderError: There is none.
    """
    found = sorted(path.parent.parent for path in folder.rglob("search/search.json"))
    if not found:
        raise RunFolderError(
            f"{folder}: no search run there; expected a folder with search/search.json, as 'lightning-nas search' "
            "and 'lightning-nas fit' with a SearchCallback leave it"
        )
    return found


def _summary(
    histories: Mapping[str, SearchHistory],
    outcomes: Mapping[str, Outcome],
    best: Mapping[str, Any] | None,
    benchmark: Benchmark[Any],
    next_steps: str,
    num_epochs: int | None,
) -> str:
    optimum = benchmark.optimum
    parts = [f"# Search in {benchmark.space.name}\n", _best_text(best, optimum)]
    if num_epochs is not None:
        parts.append(f"Every run ended before it would have exceeded {num_epochs:,} training epochs.\n")
    unfinished = [_unfinished(name, history, num_epochs is not None) for name, history in histories.items()]
    if any(unfinished):
        parts.append("\n".join(line for line in unfinished if line) + "\n")
    parts.append(
        "Selected on validation, reported on test: each run's incumbent is its best validation accuracy so far, and "
        "its test accuracy was never shown to the strategy. Mean ± standard deviation over runs; the best run is the "
        "one with the best validation accuracy.\n"
    )
    parts.append(markdown_table(*outcome_table(outcomes, optimum)))
    parts += _differences(outcomes)
    found = "genotype.json: the best architecture; " if best is not None else ""
    files = f"{found}trials.csv: every evaluation; regret.png, regret.pdf: progress over queries."
    if uneven(histories):
        files += " regret_epochs: over training epochs."
    if repeated(histories):
        files += " regret_ecdf: where the runs ended."
    if timed(histories):
        files += " regret_seconds: over the benchmark's own seconds."
    parts.append(f"Files: {files}\n")
    if best is not None and next_steps:
        parts.append(f"Next:\n\n    {next_steps}\n")
    return "\n".join(parts)


def _best_text(best: Mapping[str, Any] | None, optimum: float | None) -> str:
    if best is None:
        return "No evaluation has a score yet.\n"
    test = "unknown" if best["test"] is None else f"{best['test']:.2f} %"
    known = "" if optimum is None else f" (best reachable {optimum:.2f} %)"
    return (
        f"Best architecture: `{best['architecture']}`\n\n"
        f"Validation {best['valid']:.2f} %, test {test}{known}; index {best['index']}, found by {best['strategy']} "
        f"in run {best['run']} with query {best['query']}.\n"
    )


def _unfinished(name: str, history: SearchHistory, limited: bool) -> str:
    """A line of Markdown on what is missing or failed, empty when all is well."""
    done, failed = int(history.done.sum()), int((history.status == Status.FAILED).sum())
    total = done + failed if limited else history.status.numel()
    facts = [f"interrupted, {done + failed:,} of {total:,} evaluations finished"] if done + failed < total else []
    facts += [f"{failed:,} evaluations failed"] if failed else []
    return f"- {name}: {'; '.join(facts)}" if facts else ""


def _differences(outcomes: Mapping[str, Outcome]) -> list[str]:
    means = {name: float(end.valid[end.scored].mean()) for name, end in outcomes.items() if end.scored.any()}
    if len(means) < 2:
        return []
    repeated = [name for name in means if outcomes[name].scored.sum() > 1]  # nothing pairs with a single run
    reference = max(repeated or means, key=lambda name: means[name])
    rows = []
    for name in means:
        if name == reference:
            continue
        mean, half, n = paired_difference(outcomes[name], outcomes[reference])
        interval = "-" if math.isnan(half) else f"{mean - half:+.2f} to {mean + half:+.2f}"
        rows.append([name, "-" if math.isnan(mean) else f"{mean:+.2f}", interval, str(n)])
    return [
        f"Test accuracy minus that of {reference} (the best mean validation accuracy), over pairs of runs with equal "
        "numbers, in percentage points; intervals by the paired t distribution:\n",
        markdown_table(["strategy", "difference", "95 % interval", "pairs"], rows),
    ]


def _texts(values: np.ndarray, write: Callable[[Any], str]) -> np.ndarray:
    """Text of each value; only distinct values are formatted, and a search visits few architectures many times."""
    distinct, inverse = np.unique(values, return_inverse=True)
    return np.array([write(value) for value in distinct], dtype=object)[inverse]


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.8g}"


def _read_info(path: Path) -> dict[str, Any]:
    names = [name for name in RunResult.__dataclass_fields__ if name not in ("folder", "histories")]
    try:
        info = {
            "final_valid": {},
            "num_epochs": None,
            **json.loads(path.read_text("utf-8")),
        }  # runs of older versions do not have it
        return {name: info[name] for name in names}
    except OSError:
        raise RunFolderError(
            f"{path.parent.parent}: no run folder of a search, for there is no readable {path.name} in its folder "
            "'search'; give the folder that the search named when it ended"
        ) from None
    except (ValueError, TypeError, KeyError) as error:
        raise RunFolderError(
            f"{path}: damaged ({type(error).__name__}: {error}), expected an object with {', '.join(names)}; "
            "run the search again with --ckpt_path last, which rewrites it"
        ) from None


def _read_history(path: Path) -> SearchHistory:
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")["history"]
        return SearchHistory.from_state_dict(state).by_arrival()
    except Exception as error:  # a damaged pickle raises whatever its first wrong byte means
        raise RunFolderError(
            f"{path}: not a readable search history ({type(error).__name__}: {error}); "
            "move the file away and run the search again"
        ) from error


def _ranges(numbers: Sequence[int]) -> str:
    """``0-4, 7`` for 0, 1, 2, 3, 4, 7."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ", ".join("-".join(map(str, part)) for part in parts)
