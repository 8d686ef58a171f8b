"""Search for architectures with a trained module's embeddings, after ``fit`` or under ``lightning-nas search``."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

from lightning_nas.benchmarks.base import Benchmark
from lightning_nas.callbacks.embeddings import assemble
from lightning_nas.callbacks.progress import SearchProgress
from lightning_nas.errors import SearchStateError, UsageError
from lightning_nas.files import ensure_writable, write_atomically
from lightning_nas.provenance import provenance
from lightning_nas.search.history import SearchHistory
from lightning_nas.search.loop import best_so_far, search_asynchronously, search_rounds
from lightning_nas.search.pool import CandidatePool
from lightning_nas.search.strategy import SearchStrategy, describe
from lightning_nas.workers.local import LocalWorkers


class SearchCallback(Callback):
    """Runs search strategies over the module's embeddings of all that the benchmark can score, and reports.

    Works when ``fit`` ends, and alone under ``lightning-nas search``. Every strategy's history is written to the run
    folder after each round (or each score of an asynchronous search); ``search`` continues from there, as does
    ``fit --ckpt_path last``, and a finished search is only reported again.
    With several processes the runs are split among them; the result is the one a single process finds.

    Leaves in the run folder: ``search/<strategy>.pt`` (histories), ``trials.csv``, ``summary.md``, ``genotype.json``,
    ``regret.png`` and ``.pdf`` (where costs are known also ``regret_seconds`` and ``regret_ecdf``), and TensorBoard
    scalars ``search/incumbent``, ``search/test``, ``search/regret``, ``search/num_queries`` (means over runs).

    Args:
        benchmark: Scores the candidates; selection is on validation, reporting on test accuracy.
        strategies: Strategies to run one after the other, by the name they have in tables and files.
        num_queries: Evaluations per run, at most.
        num_epochs: Training epochs per run, at most: a run ends before the first evaluation that would exceed them.
            Where paused trainings go on, only what is trained anew counts.
        num_runs: Independent runs of every strategy, side by side.
        batch_size: Candidates asked for at a time in each run, q.
        asynchronous: Ask for the next candidate as soon as an evaluation is done, instead of in rounds: keeps all
            workers of a live benchmark busy when trainings differ in length. Queries are then counted in the order of
            arrival, which is kept: a search that goes on does so from the same scores. Several processes wait for each
            other after every score, so a live benchmark belongs in one: its workers are what runs side by side.
        seed: Seed of the search; run r draws from (seed, r, query), so strategies share their random starts. None for
            that of the trained module: then modules that differ in their seed are searched with different draws, and
            the ledger takes them together.
        ledger: What the published numbers are, for ``lightning-nas report --record``: name, title, source,
            reference_protocol, our_protocol, scale, notes, published, paired, at, not_run.
        folder: Folder within the run folder for all that the search leaves, where a configuration has several
            searches; None for the run folder itself.
    """

    def __init__(
        self,
        benchmark: Benchmark,  # type: ignore[type-arg]  # jsonargparse cannot read Benchmark[A]
        strategies: dict[str, SearchStrategy],
        num_queries: int = 100,
        num_runs: int = 1,
        batch_size: int = 1,
        asynchronous: bool = False,
        seed: int | None = 0,
        ledger: dict[str, Any] | None = None,
        folder: str | None = None,
        num_epochs: int | None = None,
    ) -> None:
        numbers = (num_queries, num_runs, batch_size, 1 if num_epochs is None else num_epochs)
        if min(numbers) < 1 or not strategies:
            raise UsageError(
                f"SearchCallback(num_queries={num_queries}, num_runs={num_runs}, batch_size={batch_size}, "
                f"num_epochs={num_epochs}, strategies={list(strategies)}): expected positive numbers and at least one "
                "strategy"
            )
        if asynchronous and num_epochs is not None:
            raise UsageError(
                "SearchCallback(asynchronous=True, num_epochs=…): epochs are counted in rounds; count queries instead"
            )
        if asynchronous and batch_size > 1:
            raise UsageError(
                f"SearchCallback(asynchronous=True, batch_size={batch_size}): an asynchronous search asks for one "
                "candidate at a time, for as many as there are workers; leave batch_size out"
            )
        if asynchronous and any(strategy.round_size(0) is not None for strategy in strategies.values()):
            raise UsageError(
                "SearchCallback(asynchronous=True): got a strategy that searches in rounds of its own, such as NOSH; "
                "leave 'asynchronous' out"
            )
        odd = [name for name in [*strategies, *([folder] if folder else [])] if not re.fullmatch(r"\w[\w.-]*", name)]
        if odd:
            raise UsageError(
                f"SearchCallback(strategies=…, folder=…): got the names {odd}, expected letters, digits, '_', '-', '.'"
            )
        self.benchmark = benchmark
        self.strategies = strategies
        self.num_queries, self.num_runs, self.batch_size = num_queries, num_runs, batch_size
        self.seed: int = -1 if seed is None else seed  # -1 until the module is known
        self.num_epochs = num_epochs
        self.asynchronous = asynchronous
        self.ledger = ledger
        self.folder = folder
        self._embeddings: Tensor | None = None
        self._weights: str | None = None  # fingerprint of the module that made them
        self._folder = Path()

    @property
    def needs_embeddings(self) -> bool:
        """Whether any strategy works on the trained module's embeddings."""
        return any(strategy.needs_embeddings for strategy in self.strategies.values())

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check everything that can be checked before the work starts."""
        searches = stage == "fit" or getattr(trainer, "searching", False)
        if trainer.fast_dev_run or not searches:  # type: ignore[attr-defined]
            return
        if self.seed < 0:
            self.seed = _module_seed(pl_module)
        space = getattr(getattr(trainer, "datamodule", None), "space", None)
        if space != self.benchmark.space:
            raise UsageError(
                f"SearchCallback: the data are of the space {getattr(space, 'name', None)!r}, the benchmark of "
                f"{self.benchmark.space.name!r}; expected the same"
            )
        members = self.benchmark.members
        if self.num_queries > (size := len(space if members is None else members)):
            among = "the space has" if members is None else f"of the space's {len(space)} members the benchmark knows"
            raise UsageError(f"SearchCallback(num_queries={self.num_queries}): {among} only {size}")
        if trainer.world_size > 1 and isinstance(getattr(self.benchmark, "workers", None), LocalWorkers):
            raise UsageError(
                f"SearchCallback: got {trainer.world_size} processes, each of which would take this machine's cores or "
                "GPUs for workers of its own; expected one process for live searches: --trainer.devices 1 (and "
                "--trainer.num_nodes 1); more machines by Dask or Slurm workers"
            )
        self._folder = Path(trainer.default_root_dir, self.folder or "")
        twins = [c for c in trainer.callbacks if isinstance(c, SearchCallback) and c.folder == self.folder]  # type: ignore[attr-defined]
        if len(twins) > 1:
            raise UsageError(
                f"SearchCallback: got {len(twins)} searches that write into {self._folder}; expected a "
                "'folder' of its own for each, for example folder: cifar10"
            )
        if trainer.is_global_zero:
            ensure_writable(self._folder / "search")
        for name in self.strategies:
            self._check_identity(self._load(name), name)
        self.benchmark.prepare()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Embed the whole space and search."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        outputs = []
        was_training = pl_module.training
        pl_module.eval()
        with torch.no_grad():
            for number, batch in enumerate(trainer.datamodule.predict_dataloader()):  # type: ignore[attr-defined]
                outputs.append(pl_module.predict_step(trainer.strategy.batch_to_device(batch), number))
        pl_module.train(was_training)
        self._search(trainer, pl_module, *assemble(outputs, len(self.benchmark.space)))  # type: ignore[arg-type]

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget what an earlier call collected."""
        self._outputs: list[tuple[Tensor, Tensor]] = []

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect this process's share of the embeddings."""
        self._outputs.append(outputs)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the embeddings of all processes together and search, when called by ``search``."""
        if trainer.fast_dev_run or not getattr(trainer, "searching", False):  # type: ignore[attr-defined]
            return
        # Every cell is embedded by one process and zero elsewhere, so the sum is the whole table.
        shares = assemble(self._outputs, len(self.benchmark.space))  # type: ignore[arg-type]
        whole = (trainer.strategy.reduce(share, reduce_op="sum") for share in shares)
        self._search(trainer, pl_module, *whole)

    @torch.inference_mode(False)  # a prediction runs without gradients, by which some surrogates and policies learn
    @torch.enable_grad()
    def _search(self, trainer: Trainer, pl_module: LightningModule, embeddings: Tensor, embedded: Tensor) -> None:
        # Statistics of batch normalisation can differ between processes: the first one's embeddings are everybody's.
        # What was made in inference mode stays without gradients, unless it is copied.
        self._embeddings = embeddings = trainer.strategy.broadcast(embeddings.cpu().clone(), 0)
        self._weights = trainer.strategy.broadcast(_fingerprint(pl_module), 0)
        members = self.benchmark.members
        if members is not None:
            embeddings, embedded = embeddings[members], embedded[members.to(embedded.device)]
        if self.needs_embeddings and not bool(embedded.all()):
            raise UsageError(
                f"SearchCallback: the data hold {int((embedded > 0).sum())} of the {len(embedded)} architectures that "
                "the benchmark can score, expected all to be embedded: leave 'num_members' out"
            )
        pool: CandidatePool[Any] = CandidatePool(self.benchmark.space, members, embeddings)  # type: ignore[arg-type]
        if trainer.is_global_zero:
            self._write_record({})
        histories, seconds = {}, {}
        for name, strategy in self.strategies.items():
            histories[name], seconds[name] = self._run_strategy(trainer, name, strategy, pool)
        if trainer.is_global_zero:
            self._report(histories, pool, seconds)
        trainer.strategy.barrier("search")

    def _run_strategy(
        self, trainer: Trainer, name: str, strategy: SearchStrategy, pool: CandidatePool[Any]
    ) -> tuple[SearchHistory, float]:
        """All rounds of one strategy, and the seconds they took; each process works on its own runs."""
        saved = trainer.strategy.broadcast(self._load(name), 0)  # one reader, one answer
        everything = SearchHistory.empty(self.num_runs, self.num_queries, self.seed)
        if saved is not None:
            self._check_identity(saved, name)
            _copy_into(everything, SearchHistory.from_state_dict(saved["history"]))
        mine = slice(trainer.global_rank, None, trainer.world_size)
        if saved is not None:
            strategy.load_state_dict({key: value[mine] for key, value in saved["strategy"].items()})
        local = everything.rows(mine)
        batch_size = None if self.asynchronous else self.batch_size
        progress = SearchProgress(
            name, self.num_queries, self.benchmark, enabled=trainer.is_global_zero, batch_size=batch_size
        )
        writer = _summary_writer(trainer, self.folder, name)
        seconds = earlier = 0.0 if saved is None else saved["seconds"]
        logged, count = int(everything.finished.min()), everything.count
        started = time.perf_counter()
        with progress:
            progress.update(everything)
            for current in self._steps(trainer, strategy, pool, everything, local):
                everything = _gather(trainer, current, self.num_runs)
                before, count = count, everything.count  # of this moment: the history itself is changed in place
                if self.num_epochs is not None and torch.equal(before, count):
                    break  # in no run is there anything left to pay the next evaluation with
                learned = {
                    key: _gather_rows(trainer, value, self.num_runs) for key, value in strategy.state_dict().items()
                }
                seconds = earlier + time.perf_counter() - started
                if trainer.is_global_zero:
                    self._save(name, everything, learned, seconds)
                    logged = self._log(writer, everything, logged)
                progress.update(everything)
        if writer is not None:
            writer.close()
        return everything, seconds

    def _steps(
        self,
        trainer: Trainer,
        strategy: SearchStrategy,
        pool: CandidatePool[Any],
        everything: SearchHistory,
        local: SearchHistory,
    ) -> Iterator[SearchHistory]:
        """The history of this process's runs, each time there is something new; equally often in all processes."""
        if not self.asynchronous:
            return search_rounds(
                strategy, local, pool, self.benchmark, self.batch_size, everything.length, self.num_epochs
            )
        missing = self.num_queries - everything.finished
        shares = [int(missing[rank :: trainer.world_size].sum()) for rank in range(trainer.world_size)]
        return search_asynchronously(strategy, local, pool, self.benchmark, steps=max(shares))

    def _log(self, writer: Any, history: SearchHistory, logged: int) -> int:
        """Write scalars when every run has another score; returns how many scores all have."""
        step = int(history.finished.min())
        if writer is None or step == logged:
            return step
        valid, test = best_so_far(history.by_arrival().prefix(step))
        writer.add_scalar("search/incumbent", valid, step)
        writer.add_scalar("search/test", test, step)
        writer.add_scalar("search/num_queries", step, step)
        if self.benchmark.optimum is not None:
            writer.add_scalar("search/regret", self.benchmark.optimum - test, step)
        return step

    def _identity(self, name: str) -> dict[str, Any]:
        """Everything that shapes a history except its length; JSON turns tuples into lists as reading back does."""
        identity = {
            "strategy": describe(self.strategies[name]),
            "benchmark": self.benchmark.identity(),
            "seed": self.seed,
            "num_runs": self.num_runs,
            "batch_size": self.batch_size,
            "asynchronous": self.asynchronous,
        }
        return json.loads(json.dumps(identity))  # type: ignore[no-any-return]

    def _check_identity(self, saved: dict[str, Any] | None, name: str) -> None:
        if saved is None:
            return
        # An older search does not say that it was done in rounds.
        now, then = self._identity(name), {"asynchronous": False, **saved["identity"]}
        changed = [key for key in now if now[key] != then.get(key)]
        if self.strategies[name].needs_embeddings and self._weights not in (None, saved["weights"]):
            changed.append("module (its weights differ)")
        longest = saved["history"]["indices"].shape[1]
        if longest > self.num_queries:
            changed.append(f"num_queries (was {longest})")
        if changed:
            raise SearchStateError(
                f"{self._path(name)}: this search was made with another {', '.join(changed)}; "
                "choose another --run_dir, or delete this folder's 'search' to start again"
            )

    def _path(self, name: str) -> Path:
        return self._folder / "search" / f"{name}.pt"

    def _load(self, name: str) -> dict[str, Any] | None:
        path = self._path(name)
        if not path.exists():
            return None
        try:
            state = torch.load(path, weights_only=True)
            SearchHistory.from_state_dict(state["history"])
            missing = {"identity", "strategy", "weights", "seconds"} - state.keys()
            if missing:
                raise KeyError(*missing)
        except Exception as error:  # a damaged file can fail in many ways
            reason = str(error).split("\n")[0] or type(error).__name__
            raise SearchStateError(
                f"{path}: not the history of a search ({reason}); delete it to search again"
            ) from error
        return state  # type: ignore[no-any-return]

    def _save(self, name: str, history: SearchHistory, learned: dict[str, Tensor], seconds: float) -> None:
        state = {
            "history": history.state_dict(),
            "strategy": learned,
            "identity": self._identity(name),
            "weights": self._weights,
            "seconds": seconds,
        }
        with write_atomically(self._path(name), "wb") as file:
            torch.save(state, file)

    def _report(self, histories: dict[str, SearchHistory], pool: CandidatePool[Any], seconds: dict[str, float]) -> None:
        from rich.console import Console
        from rich.markdown import Markdown

        from lightning_nas.report import write_search_report  # matplotlib, so only when there is something to draw

        if self.num_epochs is not None:
            histories = {name: history.within(epochs=self.num_epochs) for name, history in histories.items()}
        self._write_record(seconds, self._final_valid(histories, pool))
        verbs = "lightning-nas retrain --genotype", "lightning-nas report", "tensorboard --logdir"
        steps = [f"{verb} {self._folder}" for verb in verbs]
        text = write_search_report(self._folder, histories, pool, self.benchmark, "\n    ".join(steps), self.num_epochs)
        console = Console()
        console.print(Markdown(text))
        console.print(f"Figure: {self._folder / 'regret.png'}", highlight=False, soft_wrap=True)

    def _final_valid(self, histories: dict[str, SearchHistory], pool: CandidatePool[Any]) -> dict[str, list[float]]:
        """Of the runs that ended with an incumbent, its validation accuracy after the benchmark's full training."""
        values = {}
        for name, history in ((name, history.by_arrival()) for name, history in histories.items()):
            best = history.indices.gather(1, history.incumbents()[:, -1:])[:, 0][history.done.any(dim=1)]
            final = self.benchmark.final_valid(pool.members[best])  # type: ignore[arg-type]
            if final is not None:
                values[name] = final.tolist()
        return values

    def _write_record(self, seconds: dict[str, float], final_valid: dict[str, list[float]] | None = None) -> None:
        """What the histories are of; written before the first round, so that an interrupted search can be reported.

        Command, commit and date stay those of the first time: a finished search that is reported again was not run
        again.
        """
        path = self._folder / "search" / "search.json"
        try:
            earlier = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):  # none yet, or damaged: it is only a description
            earlier = {}
        origin = {**provenance(), "date": datetime.now(UTC).date().isoformat()}
        record = {
            "space": self.benchmark.space.name,
            "benchmark": self.benchmark.identity(),
            "optimum": self.benchmark.optimum,
            "epochs": self.benchmark.epochs,
            "num_queries": self.num_queries,
            "num_epochs": self.num_epochs,
            "num_runs": self.num_runs,
            "seed": self.seed,
            "strategies": list(self.strategies),
            "seconds": {name: round(value, 2) for name, value in seconds.items()},
            "final_valid": final_valid or {},
            **{name: earlier.get(name, value) for name, value in origin.items()},
            "ledger": self.ledger,
        }
        with write_atomically(path) as file:
            json.dump(record, file, indent=2)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stop the benchmark's workers."""
        self.benchmark.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop the benchmark's workers, also after Ctrl-C."""
        self.benchmark.close()


def _module_seed(module: LightningModule) -> int:
    seed = module.hparams.get("seed")
    if not isinstance(seed, int) or seed < 0:
        raise UsageError(
            f"SearchCallback(seed=None): {type(module).__name__} has the seed {seed!r}, expected a number from 0 on; "
            "give the search a seed of its own"
        )
    return seed


def _fingerprint(module: LightningModule) -> str:
    """Hash of a module's weights and statistics; embeddings may differ in the last bit between devices, these not."""
    total = hashlib.sha256()
    for name, value in module.state_dict().items():
        total.update(name.encode())
        total.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]


def _copy_into(target: SearchHistory, source: SearchHistory) -> None:
    """Continue a shorter history in a longer one."""
    state, given = target.state_dict(), source.state_dict()
    for name in state.keys() - {"seed", "runs"}:
        state[name][:, : source.capacity] = given[name]


def _gather_rows(trainer: Trainer, rows: Tensor, total: int) -> Tensor:
    """Rows r, r + W, … of every process r of W, put together in order: ``(ceil or floor(R / W), …)`` -> ``(R, …)``."""
    world = trainer.world_size
    if world == 1:
        return rows
    most = -(-total // world)
    padded = torch.cat([rows, rows.new_zeros(most - len(rows), *rows.shape[1:])])
    gathered = trainer.strategy.all_gather(padded.to(trainer.strategy.root_device))  # (W, most, …)
    return gathered.transpose(0, 1).flatten(0, 1)[:total].cpu()


def _gather(trainer: Trainer, local: SearchHistory, total: int) -> SearchHistory:
    state = local.state_dict()
    gathered = {name: _gather_rows(trainer, value, total) for name, value in state.items() if name != "seed"}
    return SearchHistory.from_state_dict({"seed": local.seed, **gathered})


def _summary_writer(trainer: Trainer, folder: str | None, name: str) -> Any:
    """One TensorBoard run per strategy, so that their curves share a chart; None for other loggers."""
    loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
    if not loggers or not trainer.is_global_zero:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(Path(loggers[0].log_dir, folder or "", "search", "tensorboard", name)))
