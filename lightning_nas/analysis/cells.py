"""Figure 3 of the Synthetic Petri Dish: perplexity of the best recurrent cell over evaluations (arXiv 2005.13092)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.console import Console

from lightning_nas.analysis.tables_of_runs import Study, keep_study
from lightning_nas.benchmarks.base import Benchmark
from lightning_nas.errors import RunFolderError, SearchStateError, UsageError
from lightning_nas.files import fingerprint, write_atomically
from lightning_nas.ledger import Row
from lightning_nas.outcomes import outcome, paired_difference
from lightning_nas.plots import DASHES, PALETTE, STYLE, incumbent_curves
from lightning_nas.search.history import SearchHistory
from lightning_nas.search.loop import search_rounds
from lightning_nas.search.pool import CandidatePool
from lightning_nas.search.strategy import SearchStrategy, describe
from lightning_nas.spaces.base import FiniteSpace
from lightning_nas.terminal import say

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def cells(
    benchmark: Benchmark,  # type: ignore[type-arg]  # jsonargparse cannot read Benchmark[A]
    strategies: dict[str, SearchStrategy],
    num_runs: int = 20,
    num_queries: int = 100,
    queries: dict[str, int] = {},  # noqa: B006  # a CLI default
    batch_size: int = 20,
    seed: int = 0,
    name: str = "petri_dish/cells",
    title: str = "Search for recurrent cells",
    source: str = "none",
    reference_protocol: str = "none",
    protocol: str = "see the configuration",
    scale: str = "see the configuration",
    published: dict[str, str] = {},  # noqa: B006
    output: Path | None = None,
    record: Path | None = None,
) -> None:
    """Search for the cell of least perplexity with several strategies, from the same random cells.

    Cells are chosen by validation perplexity and reported by test perplexity. Every round is kept: an interrupted
    command goes on when it is repeated. Leaves a table and the paper's figure 3.

    Args:
        benchmark: Negative perplexities, of a table of 'lightning-nas tabulate', or trained live.
        strategies: Who searches, by name.
        num_runs: Runs of every strategy.
        num_queries: Evaluations of a run.
        queries: Other numbers of evaluations by strategy, for those that train some cells for a part of the epochs.
        batch_size: Evaluations of a round.
        seed: Of all draws.
        name: File name in the ledger.
        title: Heading in the ledger.
        source: Paper, arXiv id and figure of published numbers.
        reference_protocol: How the source measured.
        protocol: How this is measured.
        scale: How much is run.
        published: Published test perplexities by strategy.
        output: Folder of everything; default: runs/NAME.
        record: Folder of the ledger, usually docs/results; writes the numbers there.
    """
    started = time.perf_counter()
    strangers = sorted({*queries, *published} - set(strategies))
    if not strategies or min(num_runs, num_queries, batch_size, *queries.values()) < 1 or strangers:
        raise UsageError(
            f"analyze cells: got num_runs={num_runs}, num_queries={num_queries}, queries={queries}, batch_size="
            f"{batch_size}, strategies {list(strategies)}; expected positive numbers and at least one strategy"
            + (f"; {strangers} are none of them" if strangers else "")
        )
    if not isinstance(benchmark.space, FiniteSpace):
        raise UsageError(
            f"analyze cells: the space {benchmark.space.name!r} is not numbered, expected a RandomSubset of it"
        )
    folder, console = output or Path("runs") / name, Console()
    pool: CandidatePool[Any] = CandidatePool(benchmark.space, benchmark.members)
    histories: dict[str, SearchHistory] = {}
    seconds = 0.0
    try:
        benchmark.prepare()
        for label, strategy in strategies.items():
            say(console, f"{label}: searching")
            path = folder / "search" / f"{fingerprint({'label': label})}.pt"
            capacity = queries.get(label, num_queries)
            kept = _Kept(path, label, strategy, benchmark, batch_size, seed)
            history, before = kept.read(num_runs, capacity)
            begun = time.perf_counter()
            for _ in search_rounds(strategy, history, pool, benchmark, batch_size):
                kept.write(history, before + time.perf_counter() - begun)
            seconds += before
            histories[label] = history
    finally:
        benchmark.close()
    study = Study(
        name=name, title=title, source=source, reference_protocol=reference_protocol, protocol=protocol, scale=scale,
        rows=rows_of(histories, benchmark.epochs, published, seed), figures={"perplexity": figure(histories)},
        details={"best": best_cells(histories, pool), "curves": {k: v.tolist() for k, v in curves(histories).items()}},
        seconds=seconds, started=started,
    )  # fmt: skip
    keep_study(study, folder, record)


class _Kept:
    """A strategy's history on disk, whole after every round."""

    def __init__(
        self, path: Path, label: str, strategy: SearchStrategy, benchmark: Benchmark[Any], batch_size: int, seed: int
    ) -> None:
        self.path, self.seed = path, seed
        self.identity = {
            "label": label, "strategy": describe(strategy), "benchmark": benchmark.identity(),
            "batch_size": batch_size, "seed": seed,
        }  # fmt: skip

    def read(self, num_runs: int, capacity: int) -> tuple[SearchHistory, float]:
        """The history, lengthened where more queries are wanted, and the seconds it took so far."""
        history = SearchHistory.empty(num_runs, capacity, self.seed)
        if not self.path.is_file():
            return history, 0.0
        try:
            saved = torch.load(self.path, weights_only=True)
            identity, old = saved["identity"], SearchHistory.from_state_dict(saved["history"])
            seconds = float(saved["seconds"])
        except Exception as error:  # a damaged file can fail in many ways
            raise RunFolderError(f"{self.path}: cannot be read ({error}); delete it to search again") from error
        if identity != fingerprint(self.identity) or len(old.runs) != num_runs or old.capacity > capacity:
            raise SearchStateError(
                f"{self.path}: is of another strategy, benchmark, batch_size, seed or number of runs or queries; "
                "choose another --output, or delete it"
            )
        for column, values in history._columns().items():
            values[:, : old.capacity] = getattr(old, column)
        return history, seconds

    def write(self, history: SearchHistory, seconds: float) -> None:
        """Keep a round."""
        content = {"identity": fingerprint(self.identity), "history": history.state_dict(), "seconds": seconds}
        with write_atomically(self.path, "wb") as file:
            torch.save(content, file)


def rows_of(histories: Mapping[str, SearchHistory], epochs: int, published: Mapping[str, str], seed: int) -> list[Row]:
    """Test perplexity of the best cell at the end of each run, evaluations spent, differences to the first strategy."""
    rows = []
    first = next(iter(histories))
    for label, history in histories.items():
        end = outcome(history)
        seeds = f"seed {seed}, runs 0-{len(history.runs) - 1}"
        spent = float(history.epochs.sum(dim=1).double().mean()) / epochs
        text: dict[str, Any] = {"label": label, "seeds": seeds}
        note = f"{spent:g} evaluations of {epochs} epochs"
        paper = published.get(label, "")
        rows.append(Row.of((-end.test).tolist(), metric="test perplexity", unit="", paper=paper, note=note, **text))
        rows.append(Row.of((-end.valid).tolist(), metric="validation perplexity", unit="", paper="", **text))
        if label != first:
            mean, half, _ = paired_difference(end, outcome(histories[first]))
            single = (outcome(histories[first]).test - end.test).tolist()
            rows.append(Row.of(
                single, metric=f"test perplexity less that of {first}, same runs", unit="", paper="",
                note=f"95 % interval ± {half:.3f}" if half == half else f"{-mean:.3f}", **text,
            ))  # fmt: skip
    return rows


def curves(histories: Mapping[str, SearchHistory]) -> dict[str, np.ndarray]:
    """Test perplexity of the best cell so far after every evaluation, ``(R, T)`` by strategy."""
    return {label: -incumbent_curves(history).test for label, history in histories.items()}


def best_cells(histories: Mapping[str, SearchHistory], pool: CandidatePool[Any]) -> dict[str, dict[str, Any]]:
    """Of each strategy, the cell of least validation perplexity of all runs."""
    found = {}
    for label, history in histories.items():
        end = outcome(history)
        run = int(np.nanargmax(end.valid))
        index = history.indices[run, int(end.column[run])]
        (arch,) = pool.architectures(index[None])  # type: ignore[arg-type]
        found[label] = {
            "cell": pool.space.format(arch), "validation": -float(end.valid[run]), "test": -float(end.test[run])
        }  # fmt: skip
    return found


def figure(histories: Mapping[str, SearchHistory]) -> Figure:
    """Best perplexity over evaluations (in trainings of all epochs), mean and standard error over runs."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    most = max(int(history.epochs.max()) for history in histories.values())
    with rc_context(STYLE):
        drawn = Figure(figsize=(5.6, 3.6), layout="constrained")
        ax = drawn.subplots()
        reached: list[float] = []
        for number, (label, values) in enumerate(curves(histories).items()):
            spent = histories[label].epochs.double().cumsum(dim=1).mean(dim=0).numpy() / most
            full = (histories[label].epochs == most).all(dim=0).numpy()[: values.shape[1]]
            mean = values.mean(axis=0)[full]
            error = _error(values)[full]
            at = spent[: values.shape[1]][full]
            color, dash = PALETTE[number % len(PALETTE)], DASHES[number // len(PALETTE) % len(DASHES)]
            ax.plot(at, mean, color=color, linestyle=dash, label=label, zorder=3)
            ax.fill_between(at, mean - error, mean + error, color=color, alpha=0.15, linewidth=0)
            reached += mean[at >= 0.1 * at[-1]].tolist()
        margin = 0.08 * (max(reached) - min(reached)) or 1.0
        ax.set_ylim(min(reached) - margin, max(reached) + margin)
        ax.set_xlabel("evaluations (trainings of all epochs)")
        ax.set_ylabel("test perplexity of the best cell")
        ax.legend(loc="upper right")
    return drawn


def _error(values: np.ndarray) -> np.ndarray:
    runs: Sequence[int] = values.shape
    return values.std(axis=0, ddof=1) / np.sqrt(runs[0]) if runs[0] > 1 else np.zeros(runs[1])
