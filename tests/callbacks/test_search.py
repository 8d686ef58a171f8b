import csv
import json

import numpy as np
import pytest
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.data import DataLoader

from lightning_nas.benchmarks.table import write_table
from lightning_nas.benchmarks.tabular import TabularBenchmark
from lightning_nas.callbacks.search import SearchCallback
from lightning_nas.datamodules.cells import CellDataModule
from lightning_nas.errors import SearchStateError, UsageError
from lightning_nas.modules.arch2vec import Arch2Vec
from lightning_nas.predictors.dngo import DNGO
from lightning_nas.predictors.gp import GaussianProcess
from lightning_nas.predictors.ranking import RankingMLP
from lightning_nas.predictors.supervised_gin import SupervisedGIN
from lightning_nas.report import load_run, summarise_search
from lightning_nas.search.bayesian import BayesianSearch
from lightning_nas.search.evolution import RegularizedEvolution
from lightning_nas.search.history import SearchHistory, Status
from lightning_nas.search.local import LocalSearch
from lightning_nas.search.loop import best_so_far, search_rounds
from lightning_nas.search.nosh import NOSH
from lightning_nas.search.pool import CandidatePool
from lightning_nas.search.random import RandomSearch
from lightning_nas.search.reinforce import Reinforce
from lightning_nas.search.strategy import SearchStrategy
from lightning_nas.search.supervised_reinforce import SupervisedReinforce
from lightning_nas.spaces.encodings import GraphEncoding, OneHotEncoding
from lightning_nas.trainer import NASTrainer
from lightning_nas.workers.local import LocalWorkers
from tests.contract import (
    OtherSpace,
    TinySpace,
    assert_identical,
    assert_same_searches,
    histories_in,
    quiet_trainer,
    write_tiny_table,
)
from tests.scripted import Scripted

pytestmark = pytest.mark.usefixtures("blank_figures")

SPACE = TinySpace()


class Learner(SearchStrategy):
    """Walks through the space from where the sum of the scores it was told points: state that no history holds."""

    def __init__(self):
        self.total = torch.zeros(0, dtype=torch.float64)

    def propose(self, history, pool):
        if len(self.total) != len(history.runs):
            self.total = torch.zeros(len(history.runs), dtype=torch.float64)
        start = (self.total * 1000).long() + history.runs
        tried = [set(row) for row in history.indices.tolist()]
        return torch.tensor([
            next(i % 81 for i in range(s, s + 81) if i % 81 not in seen)
            for s, seen in zip(start.tolist(), tried, strict=True)
        ])  # fmt: skip

    def tell(self, history):
        self.total = self.total + history.valid[:, history.length - 1]

    def state_dict(self):
        return {"total": self.total}

    def load_state_dict(self, state):
        self.total = state["total"]


@pytest.fixture
def benchmark(tmp_path):
    write_tiny_table(tmp_path / "tiny.npz")
    return TabularBenchmark(SPACE, str(tmp_path / "tiny.npz"), "toy", epochs=3, test_epochs=9)


def all_strategies():
    return {
        "random": RandomSearch(),
        "evolution": RegularizedEvolution(population_size=3),
        "gp": BayesianSearch(GaussianProcess(), num_initial=3),
    }


def learning_strategies():
    gin = SupervisedGIN(SPACE.num_vertices, latent_dim=2, hidden_dim=4, num_layers=1, num_epochs=2)
    return {
        "gin": BayesianSearch(gin, encoding=GraphEncoding(), num_initial=3),
        "dngo": BayesianSearch(DNGO(num_steps=2), num_initial=3),
        "reinforce": Reinforce(episode_length=2),
        "through_gin": SupervisedReinforce(latent_dim=2, hidden_dim=4, num_layers=1, episode_length=2),
    }


def free_strategies():
    return {"random": RandomSearch(), "hot": BayesianSearch(GaussianProcess(), encoding=OneHotEncoding())}


def trainer(folder, callback, **arguments):
    return quiet_trainer(folder, NASTrainer, **{"max_epochs": 1, "callbacks": [callback], **arguments})


def module(seed=0):
    torch.manual_seed(seed)
    return Arch2Vec(num_ops=5, latent_dim=3, hidden_dim=8, num_layers=1)


def data(space=SPACE):
    return CellDataModule(space, batch_size=27, eval_batch_size=30)


def search(folder, benchmark, strategies=None, weights=0, **arguments):
    """Search without training, with strategies that need none unless a checkpoint of random weights is made."""
    strategies = strategies if strategies is not None else free_strategies()
    callback = SearchCallback(benchmark, strategies, **{"num_queries": 6, "num_runs": 3, **arguments})
    checkpoint = None
    if callback.needs_embeddings:
        checkpoint = folder / f"random{weights}.ckpt"
        folder.mkdir(exist_ok=True)
        if not checkpoint.exists():
            save_checkpoint(checkpoint, module(weights))
    trainer(folder, callback).search(module(weights), data(), ckpt_path=checkpoint and str(checkpoint))
    return callback


def save_checkpoint(path, weights):
    saver = quiet_trainer(path.parent)
    saver.strategy.connect(weights)
    saver.save_checkpoint(path)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_search_may_take_the_seed_of_its_module(tmp_path, benchmark):
    weights = Arch2Vec(num_ops=5, latent_dim=3, hidden_dim=8, num_layers=1, seed=7)
    callback = SearchCallback(benchmark, {"random": RandomSearch()}, num_queries=6, num_runs=3, seed=None)
    trainer(tmp_path / "own", callback).search(weights, data())
    search(tmp_path / "given", benchmark, {"random": RandomSearch()}, seed=7)
    search(tmp_path / "other", benchmark, {"random": RandomSearch()}, seed=0)
    own, given, other = (histories_in(tmp_path / name)["random"] for name in ("own", "given", "other"))
    assert own["seed"] == 7
    assert torch.equal(own["indices"], given["indices"])
    assert not torch.equal(own["indices"], other["indices"])


def test_a_module_without_a_seed_gives_none(tmp_path, benchmark):
    weights = module()
    del weights.hparams["seed"]
    callback = SearchCallback(benchmark, {"random": RandomSearch()}, num_queries=6, seed=None)
    with pytest.raises(UsageError, match="give the search a seed of its own"):
        trainer(tmp_path, callback).search(weights, data())


def test_strategies_learn_by_gradients_in_fit_and_search(tmp_path, benchmark):
    fitted = trainer(tmp_path / "fit", SearchCallback(benchmark, learning_strategies(), num_queries=5, num_runs=2))
    fitted.fit(module(), data())
    fitted.save_checkpoint(tmp_path / "trained.ckpt")
    again = SearchCallback(benchmark, learning_strategies(), num_queries=5, num_runs=2)
    trainer(tmp_path / "search", again).search(module(5), data(), str(tmp_path / "trained.ckpt"), weights_only=True)
    assert_same_searches(tmp_path / "fit", tmp_path / "search")


def test_fit_and_search_find_the_same(tmp_path, benchmark):
    callback = SearchCallback(benchmark, all_strategies(), num_queries=8, num_runs=3)
    fitted = trainer(tmp_path / "fit", callback)
    fitted.fit(module(), data())
    fitted.save_checkpoint(tmp_path / "trained.ckpt")
    again = SearchCallback(benchmark, all_strategies(), num_queries=8, num_runs=3)
    trainer(tmp_path / "search", again).search(module(5), data(), str(tmp_path / "trained.ckpt"), weights_only=True)
    assert_same_searches(tmp_path / "fit", tmp_path / "search")
    prints = [torch.load(tmp_path / verb / "search" / "gp.pt")["weights"] for verb in ("fit", "search")]
    assert prints[0] == prints[1] is not None
    # The embeddings matter: those of other weights lead elsewhere.
    search(tmp_path / "other", benchmark, all_strategies(), weights=9, num_queries=8)
    ours, theirs = (histories_in(tmp_path / name) for name in ("fit", "other"))
    assert torch.equal(ours["random"]["indices"], theirs["random"]["indices"])
    assert not torch.equal(ours["gp"]["indices"], theirs["gp"]["indices"])


def test_the_histories_are_those_of_the_bare_loop_and_the_table(tmp_path, benchmark):
    search(tmp_path / "run", benchmark, {"random": RandomSearch()}, batch_size=4)
    bare = SearchHistory.empty(3, 6, 0)
    list(search_rounds(RandomSearch(), bare, CandidatePool(SPACE), benchmark, 4))
    found = SearchHistory.from_state_dict(histories_in(tmp_path / "run")["random"])
    assert_identical(found._columns(), bare._columns())
    assert torch.equal(found.valid, benchmark.lookup(found.indices).valid)
    assert [len(set(row)) for row in found.indices.tolist()] == [6, 6, 6]


def test_files_left_in_the_run_folder(tmp_path, benchmark):
    folder = tmp_path / "run"
    callback = SearchCallback(benchmark, all_strategies(), num_queries=5, num_runs=2)
    trainer(folder, callback, logger=TensorBoardLogger(str(folder), name="", version="")).fit(module(), data())
    left = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    results = {"trials.csv", "summary.md", "genotype.json", "regret.png", "regret.pdf"}
    results |= {f"regret_{kind}.{suffix}" for kind in ("seconds", "ecdf") for suffix in ("png", "pdf")}
    histories = {"search/random.pt", "search/evolution.pt", "search/gp.pt"}
    assert {name for name in left if "tfevents" not in name} == results | histories | {
        "search/search.json", "hparams.yaml",
    }  # fmt: skip
    with open(folder / "trials.csv", newline="") as file:
        trials = list(csv.DictReader(file))
    assert len(trials) == 3 * 2 * 5
    assert {row["architecture"] for row in trials} <= {SPACE.format(arch) for arch in SPACE}
    record = json.loads((folder / "search" / "search.json").read_text())
    assert (record["space"], record["num_runs"], record["num_queries"]) == ("tiny", 2, 5)
    assert record["benchmark"] == benchmark.identity()
    assert record["seconds"].keys() == all_strategies().keys()


def test_tensorboard_gets_means_over_runs(tmp_path, benchmark):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "run"
    callback = SearchCallback(benchmark, {"random": RandomSearch()}, num_queries=5, num_runs=2)
    trainer(folder, callback, logger=TensorBoardLogger(str(folder), name="", version="")).fit(module(), data())
    events = EventAccumulator(str(folder / "search" / "tensorboard" / "random"))
    events.Reload()
    values = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert values.keys() == {"search/incumbent", "search/test", "search/regret", "search/num_queries"}
    history = SearchHistory.from_state_dict(histories_in(folder)["random"])
    for step in range(1, 6):
        valid, test = best_so_far(history.prefix(step))
        assert values["search/incumbent"][step - 1] == (step, pytest.approx(valid))
        assert values["search/test"][step - 1] == (step, pytest.approx(test))
        assert values["search/regret"][step - 1] == (step, pytest.approx(benchmark.optimum - test, abs=1e-4))
    assert values["search/num_queries"][-1] == (5, 5.0)


def test_fast_dev_run_leaves_nothing(tmp_path, benchmark):
    folder = tmp_path / "run"
    callback = SearchCallback(benchmark, all_strategies(), num_queries=5)
    quick = trainer(folder, callback, fast_dev_run=True)
    quick.fit(module(), data())
    save_checkpoint(tmp_path / "made.ckpt", module())
    quick.search(module(), data(), ckpt_path=str(tmp_path / "made.ckpt"))
    assert not folder.exists()


CHANGES = {
    "seed": {"seed": 1},
    "benchmark": {},
    "strategy": {"strategies": {"random": RandomSearch(), "evolution": RegularizedEvolution(population_size=4)}},
    "batch_size": {"batch_size": 2},
    "num_runs": {"num_runs": 4},
    "num_queries": {"num_queries": 5},
}


@pytest.mark.parametrize("what", CHANGES)
def test_another_search_is_refused_and_nothing_is_lost(tmp_path, benchmark, what):
    strategies = {"random": RandomSearch(), "evolution": RegularizedEvolution(population_size=3)}
    search(tmp_path / "run", benchmark, strategies)
    before = contents(tmp_path / "run")
    arguments = {"strategies": strategies, **CHANGES[what]}
    other = TabularBenchmark(SPACE, str(tmp_path / "tiny.npz"), "second", epochs=3, test_epochs=9)
    with pytest.raises(SearchStateError, match=f"another {what}.*--run_dir"):
        search(tmp_path / "run", other if what == "benchmark" else benchmark, **arguments)
    assert contents(tmp_path / "run") == before
    search(tmp_path / "run", benchmark, strategies)  # and the old one still stands


def test_other_embeddings_are_refused(tmp_path, benchmark):
    search(tmp_path / "run", benchmark, all_strategies())
    history = (tmp_path / "run" / "search" / "gp.pt").read_bytes()
    with pytest.raises(SearchStateError, match="another module"):
        search(tmp_path / "run", benchmark, all_strategies(), weights=1)
    assert (tmp_path / "run" / "search" / "gp.pt").read_bytes() == history


def test_more_queries_continue(tmp_path, benchmark, monkeypatch):
    strategies = {**all_strategies(), "learner": Learner()}
    search(tmp_path / "straight", benchmark, strategies, num_queries=9)
    search(tmp_path / "run", benchmark, {**all_strategies(), "learner": Learner()}, num_queries=4)
    asked = count_evaluations(monkeypatch)
    search(tmp_path / "run", benchmark, {**all_strategies(), "learner": Learner()}, num_queries=9)
    assert sum(asked) == 4 * 3 * 5
    assert_same_searches(tmp_path / "run", tmp_path / "straight")


def count_evaluations(monkeypatch):
    asked, evaluate = [], TabularBenchmark.evaluate
    monkeypatch.setattr(
        TabularBenchmark, "evaluate", lambda self, archs, epochs=None: asked.append(len(archs)) or evaluate(self, archs)
    )
    return asked


def test_a_finished_search_is_only_reported(tmp_path, benchmark, monkeypatch):
    folder = tmp_path / "run"
    search(folder, benchmark)
    histories = {path: path.read_bytes() for path in (folder / "search").glob("*.pt")}
    table = (folder / "trials.csv").read_bytes()
    (folder / "trials.csv").unlink()
    asked = count_evaluations(monkeypatch)
    search(folder, benchmark)
    assert asked == []
    assert {path: path.read_bytes() for path in (folder / "search").glob("*.pt")} == histories
    assert (folder / "trials.csv").read_bytes() == table


def test_a_search_stopped_by_an_error_continues_where_it_was(tmp_path, benchmark, monkeypatch):
    search(tmp_path / "straight", benchmark, {"learner": Learner()})
    calls, closed, evaluate = [], [], TabularBenchmark.evaluate

    def fail_at_fourth(self, archs, epochs=None):
        calls.append(archs)
        if len(calls) == 4:
            raise KeyError("the oracle is ill")
        return evaluate(self, archs, epochs)

    with monkeypatch.context() as patch:
        patch.setattr(TabularBenchmark, "evaluate", fail_at_fourth)
        patch.setattr(TabularBenchmark, "close", lambda self: closed.append(True))
        with pytest.raises(KeyError):
            search(tmp_path / "run", benchmark, {"learner": Learner()})
    assert closed
    assert (histories_in(tmp_path / "run")["learner"]["status"] > 0).sum(dim=1).tolist() == [3, 3, 3]
    asked = count_evaluations(monkeypatch)
    search(tmp_path / "run", benchmark, {"learner": Learner()})
    assert len(asked) == 3
    assert_same_searches(tmp_path / "run", tmp_path / "straight")


DAMAGES = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-500]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not a history"),
    "another torch file": lambda path: torch.save({"weights": torch.zeros(3)}, path),
    "a tensor": lambda path: torch.save(torch.zeros(3), path),
    "a history without a column": lambda path: torch.save(
        {**torch.load(path), "history": {k: v for k, v in torch.load(path)["history"].items() if k != "cost"}}, path
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_history_is_a_clear_error(tmp_path, benchmark, damage):
    search(tmp_path / "run", benchmark)
    path = tmp_path / "run" / "search" / "random.pt"
    DAMAGES[damage](path)
    before = contents(tmp_path / "run")
    with pytest.raises(SearchStateError, match=r"random\.pt.*delete it"):
        search(tmp_path / "run", benchmark)
    assert contents(tmp_path / "run") == before


def test_without_a_checkpoint(tmp_path, benchmark):
    with_none = SearchCallback(benchmark, free_strategies(), num_queries=5)
    trainer(tmp_path / "free", with_none).search(module(), data())
    assert histories_in(tmp_path / "free").keys() == free_strategies().keys()
    needy = SearchCallback(benchmark, all_strategies(), num_queries=5)
    with pytest.raises(UsageError, match=r"last\.ckpt does not exist.*--ckpt_path"):
        trainer(tmp_path / "needy", needy).search(module(), data())
    assert not (tmp_path / "needy").exists()


def test_predicting_does_not_search(tmp_path, benchmark):
    callback = SearchCallback(benchmark, free_strategies(), num_queries=5)
    trainer(tmp_path / "run", callback).predict(module(), data())
    assert histories_in(tmp_path / "run") == {}


def test_more_queries_than_members(tmp_path, benchmark):
    with pytest.raises(UsageError, match=r"num_queries=82.*only 81"):
        search(tmp_path / "run", benchmark, num_queries=82)
    search(tmp_path / "run", benchmark, {"random": RandomSearch()}, num_queries=81, num_runs=1, batch_size=27)
    assert histories_in(tmp_path / "run")["random"]["indices"].sort().values.tolist() == [list(range(81))]


def half(folder):
    """A benchmark that knows every second architecture, in reverse order, and what it reaches at the end."""
    members = np.arange(0, 81, 2)[::-1]

    def keep(columns):
        columns["toy/valid@9"] = np.arange(81.0)
        columns.update({name: values[members] for name, values in columns.items()})
        columns["member"] = members

    write_tiny_table(folder / "half.npz", keep)
    return TabularBenchmark(SPACE, str(folder / "half.npz"), "toy", epochs=3, test_epochs=9)


def test_a_benchmark_that_knows_a_part_of_the_space(tmp_path, benchmark):
    part, folder = half(tmp_path), tmp_path / "run"
    search(folder, part, {**all_strategies(), "local": LocalSearch()}, num_queries=20)
    for name, state in histories_in(folder).items():
        found = SearchHistory.from_state_dict(state)
        assert all(len(set(row)) == 20 for row in found.indices.tolist())
        assert ((found.indices >= 0) & (found.indices < 41)).all()
        assert torch.equal(found.valid, benchmark.lookup(part.members[found.indices]).valid), name
    with open(folder / "trials.csv", newline="") as file:
        trials = list(csv.DictReader(file))
    assert {row["architecture"] for row in trials} <= {SPACE.format(SPACE[i]) for i in range(0, 81, 2)}
    best = json.loads((folder / "genotype.json").read_text())
    assert best["index"] == SPACE.index(SPACE.parse(best["architecture"]))
    assert best["valid"] == benchmark.evaluate([SPACE[best["index"]]]).valid
    assert part.optimum == benchmark.lookup(part.members).test.max()


def test_embeddings_of_a_part_of_the_space_go_with_its_members(tmp_path, monkeypatch):
    pools = []
    monkeypatch.setattr(SearchCallback, "_report", lambda self, histories, pool, seconds: pools.append(pool))
    part = half(tmp_path)
    callback = search(tmp_path / "run", part, all_strategies())
    assert torch.equal(pools[0].embeddings, callback._embeddings[part.members])
    assert len(callback._embeddings) == 81


class FirstBatch(CellDataModule):
    """Embeds a part of the space only."""

    def predict_dataloader(self):
        self.setup("predict")
        return DataLoader([next(iter(super().predict_dataloader()))], batch_size=None)


@pytest.mark.parametrize("verb", ["search", "fit"])
def test_candidates_without_embeddings_are_refused(tmp_path, benchmark, verb):
    tmp_path.joinpath("run").mkdir()
    checkpoint = tmp_path / "weights.ckpt"
    save_checkpoint(checkpoint, module())
    found = SearchCallback(benchmark, all_strategies(), num_queries=4, num_runs=2)
    begin = getattr(trainer(tmp_path / "run", found), verb)
    given = {"ckpt_path": str(checkpoint)} if verb == "search" else {}
    with pytest.raises(UsageError, match="the data hold 30 of the 81 architectures that the benchmark can score"):
        begin(module(), FirstBatch(SPACE, eval_batch_size=30), **given)


class Views(Arch2Vec):
    """Gives two views of every cell: its embedding, and twice that."""

    def predict_step(self, batch, batch_idx):
        index, embedding = super().predict_step(batch, batch_idx)
        return index, torch.stack([embedding, 2 * embedding], dim=1)


def test_views_reach_the_pool_and_their_mean_is_the_candidates_feature(tmp_path, benchmark, monkeypatch):
    pools = []
    monkeypatch.setattr(SearchCallback, "_report", lambda self, histories, pool, seconds: pools.append(pool))
    torch.manual_seed(0)
    network = Views(num_ops=5, latent_dim=3, hidden_dim=8, num_layers=1)
    found = SearchCallback(benchmark, all_strategies(), num_queries=4, num_runs=2)
    trainer(tmp_path, found).fit(network, data())
    (pool,) = pools
    assert pool.views.shape == (81, 2, 3)
    torch.testing.assert_close(pool.views[:, 1], 2 * pool.views[:, 0])
    alone = CandidatePool(SPACE, embeddings=pool.views[:, 0])
    torch.testing.assert_close(pool.features(None), alone.features(None))


def test_incumbents_have_the_validation_accuracy_of_their_full_training(tmp_path, benchmark):
    run = half(tmp_path)
    search(tmp_path / "part", run, {"random": RandomSearch()})
    found = load_run(tmp_path / "part")
    end = found.outcomes["random"]
    best = found.histories["random"].indices[torch.arange(3), torch.from_numpy(end.column)]
    assert found.final_valid == {"random": (80.0 - 2.0 * best).tolist()}  # column valid@9 of the members 80, 78, …
    search(tmp_path / "none", benchmark)  # this table does not have the column
    assert load_run(tmp_path / "none").final_valid == {}


def test_more_queries_than_the_benchmark_knows(tmp_path):
    with pytest.raises(UsageError, match=r"num_queries=42.*of the space's 81 members the benchmark knows only 41"):
        search(tmp_path / "run", half(tmp_path), num_queries=42)


def test_the_data_must_be_of_the_benchmarks_space(tmp_path, benchmark):
    callback = SearchCallback(benchmark, free_strategies(), num_queries=5)
    for verb in ("fit", "search"):
        with pytest.raises(UsageError, match=r"'other'.*'tiny'"):
            getattr(trainer(tmp_path / "run", callback), verb)(module(), datamodule=data(OtherSpace()))


@pytest.mark.parametrize(
    "arguments", [{"num_queries": 0}, {"num_runs": 0}, {"batch_size": 0}, {"strategies": {}}], ids=str
)
def test_nonsense_is_refused(benchmark, arguments):
    with pytest.raises(UsageError, match=f"{next(iter(arguments))}=.*expected"):
        SearchCallback(**{"benchmark": benchmark, "strategies": free_strategies(), **arguments})


def test_training_goes_on_in_its_own_mode(tmp_path, benchmark):
    fitted = module()
    trainer(tmp_path, SearchCallback(benchmark, free_strategies(), num_queries=3)).fit(fitted, data())
    assert fitted.training


@pytest.mark.parametrize("text", ["", "{", "half of {"])
def test_a_damaged_description_is_written_anew(tmp_path, benchmark, text):
    search(tmp_path, benchmark)
    described = tmp_path / "search" / "search.json"
    before = json.loads(described.read_text())
    described.write_text(text)
    search(tmp_path, benchmark)
    assert json.loads(described.read_text()).keys() == before.keys()


def test_origin_and_seconds_stay_those_of_the_first_time(tmp_path, benchmark, monkeypatch):
    search(tmp_path, benchmark)
    before = json.loads((tmp_path / "search" / "search.json").read_text())
    monkeypatch.setattr(
        "lightning_nas.callbacks.search.provenance", lambda: dict.fromkeys(("command", "commit", "versions"), "other")
    )
    search(tmp_path, benchmark)
    assert json.loads((tmp_path / "search" / "search.json").read_text()) == before


def test_names_of_strategies_and_folders_are_names_of_files(benchmark):
    with pytest.raises(UsageError, match="a/b"):
        SearchCallback(benchmark, {"a/b": next(iter(free_strategies().values()))})
    with pytest.raises(UsageError, match=r"'\.\./up'"):
        SearchCallback(benchmark, free_strategies(), folder="../up")


def test_two_searches_in_folders_of_their_own(tmp_path, benchmark):
    arguments = {"num_queries": 5, "num_runs": 2}
    both = [SearchCallback(benchmark, free_strategies(), **arguments, seed=s, folder=f"seed{s}") for s in (0, 1)]
    trainer(tmp_path / "both", None, callbacks=both).search(module(), data())
    for s in (0, 1):
        search(tmp_path / f"alone{s}", benchmark, **arguments, seed=s)
        together, alone = (
            (folder / "trials.csv").read_text() for folder in (tmp_path / f"both/seed{s}", tmp_path / f"alone{s}")
        )
        assert together == alone
    assert not (tmp_path / "both" / "search").exists()
    twins = [SearchCallback(benchmark, free_strategies(), **arguments) for _ in range(2)]
    with pytest.raises(UsageError, match=r"got 2 searches that write into .*expected a 'folder'"):
        trainer(tmp_path / "twins", None, callbacks=twins).search(module(), data())


class OutOfOrder(Scripted, TabularBenchmark):
    """Three at a time; the one that was asked for last is the first to be done."""


def out_of_order(folder, total):
    write_tiny_table(folder / "tiny.npz")
    made = OutOfOrder(SPACE, str(folder / "tiny.npz"), "toy", epochs=3, test_epochs=9)
    return made.script(total, 3, lambda pending: len(pending) - 1)


def test_an_asynchronous_search_is_kept_after_every_arrival_and_continued(tmp_path, monkeypatch):
    strategies = {"random": RandomSearch(), "evolution": RegularizedEvolution(population_size=3)}
    arguments = {"num_queries": 6, "num_runs": 2, "asynchronous": True}
    saved = []
    save = SearchCallback._save

    def stop_at_seventh(self, name, history, learned, seconds):
        save(self, name, history, learned, seconds)
        saved.append(histories_in(tmp_path / "run")[name])
        if len(saved) == 7:
            raise KeyError("struck by lightning")

    with monkeypatch.context() as patch:
        patch.setattr(SearchCallback, "_save", stop_at_seventh)
        with pytest.raises(KeyError):
            search(tmp_path / "run", out_of_order(tmp_path, 12), strategies, **arguments)
    assert [int((state["arrival"] >= 0).sum()) for state in saved] == [1, 2, 3, 4, 5, 6, 7]
    assert [int((state["status"] == Status.RUNNING).sum()) for state in saved] == [3] * 7
    rest = out_of_order(tmp_path, 5)
    was_running = saved[-1]["indices"][saved[-1]["status"] == Status.RUNNING]
    search(tmp_path / "run", rest, {"random": RandomSearch()}, **arguments)
    assert rest.submitted[:3] == [SPACE[i] for i in was_running.tolist()]
    assert len(rest.submitted) == 5
    found = SearchHistory.from_state_dict(histories_in(tmp_path / "run")["random"])
    asked = SearchHistory.empty(2, 6)
    list(search_rounds(RandomSearch(), asked, CandidatePool(SPACE), rest.script(0, 1, None)))
    assert torch.equal(found.indices, asked.indices)  # random search asks for the same whatever comes first
    assert torch.equal(found.valid, asked.valid)


def test_reports_of_an_asynchronous_search_count_queries_as_they_came(tmp_path):
    search(tmp_path / "run", out_of_order(tmp_path, 6), {"random": RandomSearch()}, asynchronous=True, num_runs=1)
    history = SearchHistory.from_state_dict(histories_in(tmp_path / "run")["random"])
    assert history.arrival[0].tolist() != list(range(6))
    with open(tmp_path / "run" / "trials.csv", newline="") as file:
        trials = list(csv.DictReader(file))
    order = history.arrival[0].argsort().tolist()
    assert [row["architecture"] for row in trials] == [SPACE.format(SPACE[history.indices[0, c]]) for c in order]
    assert [row["query"] for row in trials] == list("123456")
    best = json.loads((tmp_path / "run" / "genotype.json").read_text())
    assert best["query"] == int(history.arrival[0, history.valid[0].argmax()]) + 1
    assert torch.equal(load_run(tmp_path / "run").histories["random"].indices, history.by_arrival().indices)


@pytest.mark.parametrize("first", [True, False])
def test_rounds_and_asynchronous_searches_do_not_continue_each_other(tmp_path, benchmark, first):
    search(tmp_path / "run", benchmark, asynchronous=first)
    with pytest.raises(SearchStateError, match="another asynchronous"):
        search(tmp_path / "run", benchmark, asynchronous=not first)


def test_a_search_from_before_there_were_asynchronous_ones_is_continued(tmp_path, benchmark):
    search(tmp_path / "run", benchmark, num_queries=4)
    for path in (tmp_path / "run" / "search").glob("*.pt"):
        state = torch.load(path, weights_only=True)
        del state["identity"]["asynchronous"], state["history"]["arrival"]
        torch.save(state, path)
    search(tmp_path / "run", benchmark)
    search(tmp_path / "straight", benchmark)
    assert_same_searches(tmp_path / "run", tmp_path / "straight")


def test_a_live_search_takes_one_process(tmp_path, benchmark, monkeypatch):
    monkeypatch.setattr(NASTrainer, "world_size", 2)
    monkeypatch.setattr(benchmark, "workers", LocalWorkers(1), raising=False)
    monkeypatch.setattr(benchmark, "prepare", lambda: pytest.fail("work was begun"))
    with pytest.raises(UsageError, match=r"got 2 processes.*--trainer\.devices 1.*Dask or Slurm"):
        search(tmp_path, benchmark)


def test_asynchronous_searches_have_no_rounds(benchmark):
    with pytest.raises(UsageError, match="one candidate at a time"):
        SearchCallback(benchmark, free_strategies(), batch_size=2, asynchronous=True)


@pytest.fixture
def curves(tmp_path):
    """A table with a column for every epoch, so that trainings can be paused."""
    rng = np.random.default_rng(0)
    columns = {f"toy/valid@{epoch}": 50 + 5 * epoch + 10 * rng.random(81) for epoch in (1, 2, 3)}
    write_table(tmp_path / "curves.npz", {"space": "tiny"}, columns | {"toy/test@3": columns["toy/valid@3"]})
    return TabularBenchmark(SPACE, str(tmp_path / "curves.npz"), "toy", epochs=3, test_epochs=3)


def halving():
    ranker = RankingMLP(hidden_dim=8, num_steps=5)
    return NOSH((1, 3), ranker, OneHotEncoding(), num_initial=8, num_proposals=4)


def test_every_strategy_ends_where_its_epochs_are_spent(tmp_path, curves):
    strategies = {"random": RandomSearch(), "nosh": halving()}
    search(tmp_path / "run", curves, strategies, num_queries=50, num_epochs=30)
    run = load_run(tmp_path / "run")
    assert run.num_epochs == 30
    spent = {name: history.charged.sum(dim=1).tolist() for name, history in run.histories.items()}
    assert spent["random"] == [30] * 3  # ten trainings of three epochs
    assert spent["nosh"] == [halving().budget(run.histories["nosh"].length)] * 3
    assert 28 <= spent["nosh"][0] <= 30
    summary = (tmp_path / "run" / "summary.md").read_text()
    assert "30 training epochs" in summary
    assert "interrupted" not in summary
    assert "regret_epochs" in summary
    before = contents(tmp_path / "run" / "search")
    search(tmp_path / "run", curves, strategies, num_queries=50, num_epochs=30)  # finished: reported again
    assert histories_in(tmp_path / "run").keys() == {"random", "nosh"}
    assert {path.name for path in before} == {"nosh.pt", "random.pt", "search.json"}
    longer = search(tmp_path / "run", curves, strategies, num_queries=50, num_epochs=60)
    assert longer.num_epochs == 60
    search(tmp_path / "whole", curves, strategies, num_queries=50, num_epochs=60)
    assert_same_searches(tmp_path / "run", tmp_path / "whole")


def test_the_ledger_has_rows_after_numbers_of_epochs(tmp_path, curves):
    entry = dict.fromkeys(("name", "title", "source", "reference_protocol", "our_protocol", "scale"), "x")
    entry |= {"name": "x/y", "at_epochs": [15], "paired": [["nosh", "random"]]}
    strategies = {"random": RandomSearch(), "nosh": halving()}
    search(tmp_path / "run", curves, strategies, num_queries=50, num_epochs=30, ledger=entry)
    rows = summarise_search(load_run(tmp_path / "run")).rows
    assert [row.label for row in rows if row.metric == "test accuracy after 15 epochs"] == ["random", "nosh"]
    assert any(row.metric.startswith("test accuracy after 15 epochs, paired") for row in rows)
    history = load_run(tmp_path / "run").histories["random"].within(epochs=15)
    assert history.count.tolist() == [5] * 3


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_killed_halving_goes_on_exactly(tmp_path, curves, monkeypatch, stop):
    strategies = {"nosh": halving()}
    search(tmp_path / "whole", curves, strategies, num_queries=50, num_epochs=40)
    save, count = SearchCallback._save, iter(range(100))

    def killed(self, *arguments):
        save(self, *arguments)
        if next(count) == stop:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SearchCallback, "_save", killed)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            search(tmp_path / "killed", curves, strategies, num_queries=50, num_epochs=40)
    part = histories_in(tmp_path / "killed")["nosh"]["status"].count_nonzero()
    assert 0 < part < histories_in(tmp_path / "whole")["nosh"]["status"].count_nonzero()
    search(tmp_path / "killed", curves, {"nosh": halving()}, num_queries=50, num_epochs=40)
    assert_same_searches(tmp_path / "killed", tmp_path / "whole")


def test_what_searches_in_rounds_is_not_asked_asynchronously(benchmark):
    with pytest.raises(UsageError, match="leave 'asynchronous' out"):
        SearchCallback(benchmark, {"nosh": halving()}, asynchronous=True)
    with pytest.raises(UsageError, match="epochs are counted in rounds"):
        SearchCallback(benchmark, {"random": RandomSearch()}, asynchronous=True, num_epochs=5)
    with pytest.raises(UsageError, match="num_epochs=0"):
        SearchCallback(benchmark, {"random": RandomSearch()}, num_epochs=0)
