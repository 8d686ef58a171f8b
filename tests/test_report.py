import csv
import json
import os
from itertools import product

import numpy as np
import pytest
import torch

from lightning_nas.benchmarks.base import Benchmark
from lightning_nas.errors import RunFolderError, UsageError
from lightning_nas.ledger import Row
from lightning_nas.outcomes import outcome, paired_difference
from lightning_nas.report import TRIALS, find_runs, load_run, summarise_search, write_search_report, write_trials
from lightning_nas.search.history import SearchHistory
from lightning_nas.search.pool import CandidatePool
from lightning_nas.spaces.categorical import CategoricalSpace
from lightning_nas.spaces.nasbench201 import NASBench201
from lightning_nas.spaces.subset import Subset


class Pairs(CategoricalSpace):
    """A hundred pairs, whose notation needs quoting in a CSV."""

    name = "pairs"
    choices = (tuple("abcdefghij"), tuple("abcdefghij"))
    vertex_labels = ()
    num_vertices = 0

    def format(self, arch):
        return '"{}",{}'.format(*(names[code] for names, code in zip(self.choices, arch, strict=True)))

    def graph(self, arch): ...
    def from_graph(self, graph): ...
    def build(self, arch): ...


class Oracle(Benchmark):
    space = Pairs()
    epochs = 12

    def __init__(self, optimum=None):
        self.optimum = optimum

    def evaluate(self, archs, epochs=None): ...

    def identity(self):
        return {"benchmark": "oracle", "dataset": "digits"}


def searched(num_runs, num_queries, seed=0, capacity=None, failures=0.2, runs=None):
    rng = np.random.default_rng(seed)
    history = SearchHistory.empty(runs or num_runs, capacity or num_queries, seed)
    indices = torch.from_numpy(rng.random((num_runs, 100)).argsort(axis=1)[:, :num_queries].copy())
    columns = history.begin(indices, epochs=12)
    valid, test, cost = torch.from_numpy(rng.uniform(50, 94, (3, num_runs, num_queries)))
    failed = torch.from_numpy(rng.random((num_runs, num_queries)) < failures)
    history.complete(columns, *(scores.masked_fill(failed, torch.nan) for scores in (valid, test, cost)))
    return history


def table_below(text, heading):
    """Rows of the Markdown table whose header begins with ``heading``, as dicts."""
    lines = text[text.index(f"| {heading} ") :].split("\n\n")[0].splitlines()
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return [dict(zip(header, row, strict=True)) for row in rows]


@pytest.fixture
def pool():
    return CandidatePool(Pairs())


@pytest.fixture
def histories():
    return {"random": searched(5, 20, 1), "gp": searched(3, 15, 2)}


def test_everything_is_in_the_folder(tmp_path, histories, pool):
    text = write_search_report(tmp_path / "run", histories, pool, Oracle(94.0), "lightning-nas fit --retrain")
    assert sorted(os.listdir(tmp_path / "run")) == [
        "genotype.json",
        "regret.pdf",
        "regret.png",
        "regret_ecdf.pdf",
        "regret_ecdf.png",
        "regret_seconds.pdf",
        "regret_seconds.png",
        "summary.md",
        "trials.csv",
    ]
    assert "regret_seconds: over the benchmark's own seconds" in text
    assert (tmp_path / "run" / "summary.md").read_text("utf-8") == text
    assert "Selected on validation, reported on test" in text
    assert "    lightning-nas fit --retrain\n" in text


def test_without_costs_there_is_no_figure_over_seconds(tmp_path, histories, pool):
    histories["gp"].cost[:] = torch.nan
    text = write_search_report(tmp_path / "many", histories, pool, Oracle(94.0), "")
    assert {path.stem for path in (tmp_path / "many").glob("regret*")} == {"regret", "regret_ecdf"}
    assert "regret_seconds" not in text
    single = {name: history.rows([0]) for name, history in histories.items()}
    text = write_search_report(tmp_path / "one", single, pool, Oracle(94.0), "")
    assert {path.stem for path in (tmp_path / "one").glob("regret*")} == {"regret"}
    assert "regret_ecdf" not in text


def test_trials_agree_with_the_histories(tmp_path, histories, pool):
    histories["random"].cost[0, 0] = torch.nan
    histories["gp"] = searched(3, 15, 2, capacity=30)
    histories["gp"].begin(torch.full((3, 1), 99), epochs=3)
    write_trials(tmp_path / "trials.csv", histories, pool)
    with open(tmp_path / "trials.csv", encoding="utf-8", newline="") as file:
        header, *lines = csv.reader(file)
    assert tuple(header) == TRIALS
    expected = [
        (name, run, column)
        for name, history in histories.items()
        for run, column in product(range(len(history.runs)), range(history.length))
    ]
    assert len(lines) == len(expected) == 5 * 20 + 3 * 16
    for (name, run, column), line in zip(expected, lines, strict=True):
        history = histories[name]
        state = int(history.status[run, column])
        assert line[:3] == [name, str(run), str(column + 1)]
        assert line[3] == Pairs().format(Pairs()[int(history.indices[run, column])])
        assert line[4] == ("3" if state == 1 else "12")
        assert line[8] == ("", "running", "done", "failed")[state]
        for text, scores in zip(line[5:8], (history.valid, history.test, history.cost), strict=True):
            value = float(scores[run, column])
            assert (text == "") if np.isnan(value) else float(text) == pytest.approx(value, rel=1e-7)


def test_trials_use_the_global_run_numbers_and_the_pools_members(tmp_path):
    members = torch.tensor([50, 7])
    history = SearchHistory.empty([4], 2)
    history.begin(torch.tensor([[1, 0]]), epochs=1)
    write_trials(tmp_path / "t.csv", {"a": history}, CandidatePool(Pairs(), members))
    with open(tmp_path / "t.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["architecture"] for row in rows] == [Pairs().format(Pairs()[7]), Pairs().format(Pairs()[50])]
    assert {row["run"] for row in rows} == {"4"}


def test_the_genotypes_index_is_the_spaces(tmp_path):
    history = SearchHistory.empty(1, 2)
    columns = history.begin(torch.tensor([[1, 0]]), epochs=1)
    history.complete(columns, *torch.tensor([[[90.0, 80.0]]] * 3, dtype=torch.float64))
    write_search_report(tmp_path, {"a": history}, CandidatePool(Pairs(), torch.tensor([50, 7])), Oracle(), "")
    best = json.loads((tmp_path / "genotype.json").read_text("utf-8"))
    assert (best["index"], best["architecture"]) == (7, Pairs().format(Pairs()[7]))


def test_genotype_is_the_best_by_validation_of_all(tmp_path, pool):
    histories = {"random": searched(5, 20, 1), "gp": searched(3, 15, 2, runs=[7, 8, 9])}
    write_search_report(tmp_path, histories, pool, Oracle(), "")
    best = json.loads((tmp_path / "genotype.json").read_text("utf-8"))
    score, name, run, column = max(
        (float(history.valid[run, column]), name, run, column)
        for name, history in histories.items()
        for run, column in product(range(len(history.runs)), range(history.length))
        if not history.valid[run, column].isnan()
    )
    index = int(histories[name].indices[run, column])
    assert best == {
        "space": "pairs",
        "space_class": {"class_path": f"{Pairs.__module__}.Pairs", "init_args": {}},
        "architecture": Pairs().format(Pairs()[index]),
        "index": index,
        "valid": score,
        "test": float(histories[name].test[run, column]),
        "strategy": name,
        "run": int(histories[name].runs[run]),
        "query": column + 1,
        "benchmark": {"benchmark": "oracle", "dataset": "digits"},
    }


def test_genotype_is_of_those_trained_longest(tmp_path, pool):
    short, long = searched(2, 5, 1, failures=0), searched(2, 5, 2, failures=0)
    short.valid[1, 3] = 99.0
    short.epochs[:] = 3
    write_search_report(tmp_path, {"short": short, "long": long}, pool, Oracle(), "")
    best = json.loads((tmp_path / "genotype.json").read_text("utf-8"))
    assert (best["strategy"], best["valid"]) == ("long", float(long.valid.max()))


def test_genotype_says_null_for_an_unknown_test_accuracy(tmp_path, pool):
    history = searched(1, 3, failures=0)
    history.test[:] = torch.nan
    text = write_search_report(tmp_path, {"a": history}, pool, Oracle(95.0), "")
    assert json.loads((tmp_path / "genotype.json").read_text())["test"] is None
    assert "test unknown" in text
    assert "nan" not in text


def test_summary_numbers(tmp_path, histories, pool):
    text = write_search_report(tmp_path, histories, pool, Oracle(94.0), "")
    final = {}
    for name, history in histories.items():
        best = np.nanargmax(history.valid.numpy(), axis=1)
        final[name] = history.valid.numpy().max(axis=1, where=~history.valid.isnan().numpy(), initial=0)
        final[name, "test"] = np.take_along_axis(history.test.numpy(), best[:, None], 1)[:, 0]
    for row in table_below(text, "strategy"):
        name = row["strategy"].strip()
        valid, test = final[name], final[name, "test"]
        assert row["validation (%)"] == f"{valid.mean():.2f} ± {valid.std(ddof=1):.2f}"
        assert row["test (%)"] == f"{test.mean():.2f} ± {test.std(ddof=1):.2f}"
        assert row["test regret (points)"] == f"{94 - test.mean():.2f} ± {test.std(ddof=1):.2f}"
        assert row["test of best run (%)"] == f"{test[valid.argmax()]:.2f}"
    assert "paired t" in text
    reference = max(("random", "gp"), key=lambda name: final[name].mean())
    other = {"random": "gp", "gp": "random"}[reference]
    difference = (final[other, "test"][:3] - final[reference, "test"][:3]).mean()
    assert f"| {other} " in text.split("paired t")[1]
    assert f"{difference:+.2f}" in text.split("paired t")[1]


def test_unknown_optimum_and_cost_leave_no_column(tmp_path, pool):
    history = searched(2, 4)
    history.cost[:] = torch.nan
    text = write_search_report(tmp_path, {"random": history}, pool, Oracle(None), "")
    assert "regret (points)" not in text
    assert "seconds" not in text
    assert "minus that of" not in text


def test_interrupted_and_failed_runs_are_told(tmp_path, pool):
    text = write_search_report(tmp_path, {"random": searched(2, 10, capacity=25)}, pool, Oracle(94.0), "")
    assert "- random: interrupted, 20 of 50 evaluations finished; " in text
    assert " evaluations failed" in text
    calm = write_search_report(tmp_path, {"random": searched(2, 10, failures=0)}, pool, Oracle(94.0), "")
    assert "interrupted" not in calm
    assert "failed" not in calm


def test_before_the_first_score_there_is_no_genotype(tmp_path, pool):
    text = write_search_report(tmp_path, {"random": SearchHistory.empty(2, 5)}, pool, Oracle(94.0), "retrain it")
    assert "No evaluation has a score yet" in text
    assert "retrain it" not in text
    assert not (tmp_path / "genotype.json").exists()
    assert (tmp_path / "trials.csv").read_text().splitlines() == [",".join(TRIALS)]


def test_a_crash_while_writing_leaves_the_old_trials(tmp_path, pool):
    write_trials(tmp_path / "trials.csv", {"random": searched(2, 3)}, pool)
    before = (tmp_path / "trials.csv").read_bytes()
    broken = searched(2, 3, seed=5)
    broken.indices[1, 2] = 10_000  # no such candidate
    with pytest.raises(IndexError):
        write_trials(tmp_path / "trials.csv", {"random": searched(2, 3), "gp": broken}, pool)
    assert (tmp_path / "trials.csv").read_bytes() == before
    assert os.listdir(tmp_path) == ["trials.csv"]


def test_five_hundred_runs_of_six_strategies(tmp_path, pool, monkeypatch):
    formatted = []
    monkeypatch.setattr(Pairs, "format", lambda self, arch: formatted.append(arch) or "x")
    write_trials(tmp_path / "trials.csv", {f"s{i}": searched(500, 100, i) for i in range(6)}, pool)
    with open(tmp_path / "trials.csv", "rb") as file:
        assert sum(1 for _ in file) == 1 + 6 * 500 * 100
    assert len(formatted) == 6 * 100, "each distinct architecture is formatted once for each strategy"


LEDGER = {
    "name": "pairs/search",
    "title": "Search",
    "source": "nobody",
    "reference_protocol": "theirs",
    "our_protocol": "ours",
    "scale": "small",
    "published": {"gp": {"test": "94.18 ± 0.24"}},
}


def leave_run(folder, histories, **changes):
    """What the search callback leaves behind."""
    (folder / "search").mkdir(parents=True)
    for name, history in histories.items():
        torch.save({"history": history.state_dict(), "strategy": {}, "identity": {}}, folder / "search" / f"{name}.pt")
    info = {
        "space": "pairs", "benchmark": Oracle().identity(), "optimum": 94.0, "epochs": 12, "num_queries": 20,
        "num_runs": 5, "seed": 3, "seconds": dict.fromkeys(histories, 1.5), "command": "lightning-nas search",
        "commit": None, "versions": {"torch": "2"}, "ledger": LEDGER, "strategies": list(histories),
        "date": "2026-11-22",
    }  # fmt: skip
    (folder / "search" / "search.json").write_text(json.dumps(info | changes))
    return folder


def test_run_reads_back(tmp_path, histories):
    run = load_run(leave_run(tmp_path / "a", histories))
    assert list(run.histories) == ["random", "gp"]
    assert (run.space, run.optimum, run.num_queries, run.seed) == ("pairs", 94.0, 20, 3)
    for name, history in histories.items():
        torch.testing.assert_close(run.histories[name].valid, history.valid, equal_nan=True, rtol=0, atol=0)
    assert find_runs(tmp_path) == find_runs(tmp_path / "a") == [tmp_path / "a"]


def test_no_run_folder(tmp_path, histories):
    with pytest.raises(RunFolderError, match="no run folder of a search"):
        load_run(tmp_path)
    with pytest.raises(RunFolderError, match="no search run there"):
        find_runs(tmp_path / "nowhere")
    with pytest.raises(RunFolderError, match="stopped before its first round"):
        load_run(leave_run(tmp_path / "early", {}))


@pytest.mark.parametrize("text", ["{", "[]", "{}", "null"])
def test_damaged_search_json(tmp_path, histories, text):
    folder = leave_run(tmp_path, histories)
    (folder / "search" / "search.json").write_text(text)
    with pytest.raises(RunFolderError, match=r"search\.json: damaged"):
        load_run(folder)


@pytest.mark.parametrize("content", [b"", b"junk", None, [1], {"history": {}}, {"history": 3}])
def test_damaged_history(tmp_path, histories, content):
    folder = leave_run(tmp_path, histories)
    path = folder / "search" / "gp.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(RunFolderError, match=r"gp\.pt: not a readable search history"):
        load_run(folder)


def test_ledger_entry_of_a_run(tmp_path, histories):
    histories["gp"].status[1] = 3  # one run without any score
    histories["gp"].valid[1] = torch.nan
    result = summarise_search(
        load_run(leave_run(tmp_path, histories, num_queries=15, ledger=LEDGER | {"notes": "careful"}))
    )
    rows = {(row.label, row.metric): row for row in result.rows}
    assert set(rows) == set(product(["random", "gp"], ["test accuracy", "validation accuracy"]))
    row = rows["gp", "test accuracy"]
    assert (row.paper, row.n, row.seeds) == ("94.18 ± 0.24", 2, "seed 3, runs 0, 2")
    assert rows["gp", "validation accuracy"].paper == ""
    assert rows["random", "test accuracy"].seeds == "seed 3, runs 0-4"
    best = np.nanmax(histories["random"].valid.numpy(), axis=1)
    assert rows["random", "validation accuracy"].mean == pytest.approx(best.mean())
    assert rows["random", "validation accuracy"].std == pytest.approx(best.std(ddof=1))
    assert (result.name, result.seconds, result.notes) == ("pairs/search", 3.0, ("careful",))


def test_ledger_entry_with_the_validation_of_the_full_training(tmp_path, histories):
    said = LEDGER | {"published": {"gp": {"final_valid": "91.41 ± 0.22"}}}
    final = {"gp": [90.0, 91.0, 92.0]}
    result = summarise_search(load_run(leave_run(tmp_path, histories, num_queries=15, ledger=said, final_valid=final)))
    (row,) = (row for row in result.rows if row.metric == "validation accuracy, fully trained")
    assert (row.label, row.paper, row.mean, row.std, row.n) == ("gp", "91.41 ± 0.22", 91.0, 1.0, 3)


def test_ledger_entry_with_what_was_not_run(tmp_path, histories):
    other = {"label": "gp", "metric": "error", "unit": "%", "paper": "2.56 ± 0.05", "command": "lightning-nas fit"}
    result = summarise_search(
        load_run(leave_run(tmp_path, histories, num_queries=15, ledger=LEDGER | {"not_run": [other]}))
    )
    assert result.rows[-1] == Row("gp", "error", "%", "2.56 ± 0.05", None, None, 0, "-", "not run: lightning-nas fit")


def test_ledger_entry_after_fewer_queries(tmp_path, histories):
    said = LEDGER | {"at": [6, 10], "paired": [["gp", "random"]]}
    run = load_run(leave_run(tmp_path, histories, num_queries=15, ledger=said))
    rows = {(row.label, row.metric): row for row in summarise_search(run).rows}
    for cut in (6, 10):
        ends = {name: outcome(history.within(queries=cut)) for name, history in histories.items()}
        for name, end in ends.items():
            row = rows[name, f"test accuracy after {cut} queries"]
            assert (row.mean, row.n) == (pytest.approx(np.nanmean(end.test)), int(end.scored.sum()))
        row = rows["gp minus random", f"test accuracy after {cut} queries, paired by run"]
        assert row.mean == pytest.approx(paired_difference(ends["gp"], ends["random"])[0])
    assert rows["gp minus random", "test accuracy, paired by run"].n > 0


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (LEDGER | {"at": [16]}, r"got at=\[16\], expected numbers of queries from 1 to 15"),
        (LEDGER | {"at": ["many"]}, "expected numbers of queries"),
        (LEDGER | {"at": 5}, "got at=5, expected numbers of queries"),
        (None, "give the SearchCallback a 'ledger'"),
        ({"name": "x"}, r"got \['name'\], expected"),
        (LEDGER | {"published": {"dngo": {}}}, r"strategies \['dngo'\], expected some of \['random', 'gp'\]"),
        (LEDGER | {"scale": ""}, "got scale = ''"),
        (LEDGER | {"not_run": [{"label": "x"}]}, r"not_run has \{'label': 'x'\}, expected label, metric, command"),
        (LEDGER | {"not_run": ["full"]}, "not_run has 'full', expected label"),
        (LEDGER | {"not_run": [{"label": "x", "metric": "m", "command": ""}]}, "got command = ''"),
    ],
)
def test_wrong_ledger_entries(tmp_path, histories, entry, message):
    run = load_run(leave_run(tmp_path, histories, num_queries=15, ledger=entry))
    with pytest.raises(UsageError, match=message):
        summarise_search(run)


def test_evaluations_that_still_run_are_not_finished(tmp_path, histories):
    del histories["random"]
    histories["gp"].status[0, -1] = 1
    run = load_run(leave_run(tmp_path, histories, num_queries=15))
    with pytest.raises(UsageError, match=r"not finished \(gp\)"):
        summarise_search(run)


@pytest.mark.parametrize("changes", [{"num_queries": 16}, {"strategies": ["random", "gp", "dngo"]}])
def test_an_unfinished_search_has_no_place_in_the_ledger(tmp_path, histories, changes):
    run = load_run(leave_run(tmp_path, histories, **{"num_queries": 15, **changes}))
    with pytest.raises(UsageError, match=r"not finished \((gp|dngo)\)"):
        summarise_search(run)


def test_a_genotype_among_some_members_names_the_space_that_they_are_from(tmp_path):
    space = Subset(NASBench201(), [(1,) * 6, (2,) * 6])
    pool = CandidatePool(space)
    history = SearchHistory.empty(1, 1)
    columns = history.begin(torch.tensor([[1]]), epochs=3)
    history.complete(columns, *torch.full((3, 1, 1), 80.0).double())

    class Two(Benchmark):
        def evaluate(self, archs, epochs=None):
            raise NotImplementedError

        def identity(self):
            return {"benchmark": "two"}

    benchmark = Two()
    benchmark.space = space
    write_search_report(tmp_path, {"random": history}, pool, benchmark, "")
    found = json.loads((tmp_path / "genotype.json").read_text())
    assert found["space_class"]["class_path"] == "lightning_nas.spaces.nasbench201.NASBench201"
    assert found["architecture"] == space.format((2,) * 6)
