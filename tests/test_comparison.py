from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_nas import comparison
from lightning_nas.errors import RunFolderError, UsageError
from lightning_nas.report import RunResult
from lightning_nas.search.history import SearchHistory

LEDGER = {key: key for key in ("name", "title", "source", "reference_protocol", "our_protocol", "scale")}


def result(folder, *strategies, seed=0, optimum=94.0, dataset="digits", ledger=LEDGER):
    histories = {}
    for place, name in enumerate(strategies):
        history = SearchHistory.empty(3, 4, seed)
        columns = history.begin(torch.arange(4).repeat(3, 1), epochs=3)
        scores = np.random.default_rng((seed, place)).uniform(80, 94, (3, 3, 4))
        history.complete(columns, *torch.from_numpy(scores))
        histories[name] = history
    return RunResult(
        Path(folder), "cells", {"dataset": dataset}, optimum, 3, 4, 3, seed, {}, "lightning-nas search", None, {},
        ledger, "2026-11-22", histories,
    )  # fmt: skip


def test_columns_that_some_runs_lack_are_dashes():
    header, rows = comparison.comparison_table([result("a", "random", "gp"), result("b", "gp", optimum=None)])
    cells = [dict(zip(header, row, strict=True)) for row in rows]
    assert header[:4] == ["strategy", "space", "benchmark", "folder"]
    assert [(row["strategy"], row["folder"]) for row in cells] == [("random", "a"), ("gp", "a"), ("gp", "b")]
    assert cells[0]["test regret (points)"] != "-"
    assert cells[2]["test regret (points)"] == "-"


def test_joint_figure_has_every_history(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        comparison, "search_figures", lambda histories, _, path, title: drawn.append(list(histories)) or [path]
    )
    runs = [result("runs/a", "random", "gp"), result("more/a", "random", "gp"), result("c", "dngo")]
    assert comparison.comparison_figures(runs, tmp_path) == [tmp_path / "regret"]
    assert drawn == [["runs/a: random", "runs/a: gp", "more/a: random", "more/a: gp", "dngo"]]
    drawn.clear()
    comparison.comparison_figures([result("runs/x/quick", "gp"), result("runs/x/slow", "gp")], tmp_path)
    assert drawn == [["quick: gp", "slow: gp"]]


def test_regrets_of_two_benchmarks_do_not_share_a_figure(tmp_path):
    written = comparison.comparison_figures([result("a", "gp"), result("b", "gp", dataset="cifar10")], tmp_path)
    kinds = ("", "_ecdf", "_seconds")
    expected = [f"regret-{n}{kind}.{suffix}" for n in (1, 2) for kind in kinds for suffix in ("png", "pdf")]
    assert [path.name for path in written] == expected


def test_runs_cut_at_a_budget():
    run = result("a", "gp", "random")
    cut, also = comparison.within_budget([run, run], queries=2)
    assert cut.histories["gp"].count.tolist() == also.histories["gp"].count.tolist() == [2, 2, 2]
    assert cut.folder == run.folder
    run.histories["random"].cost[:] = float("nan")
    with pytest.raises(UsageError, match=r"^a, random: budget in seconds: the benchmark does not say"):
        comparison.within_budget([run], seconds=5)


def test_seeds_of_one_experiment_are_recorded_as_one(tmp_path):
    runs = [result("a", "gp"), result("b", "gp", seed=1), result("c", "gp", ledger=LEDGER | {"name": "other"})]
    results = [comparison.summarise_search(run) for run in runs]
    assert comparison.record_results(results, tmp_path) == [tmp_path / "name.json", tmp_path / "other.json"]
    test = np.concatenate([run.outcomes["gp"].test for run in runs[:2]])
    row = comparison.merge([comparison.summarise_search(run) for run in runs[:2]]).rows[0]
    assert (row.n, row.mean, row.std) == (6, pytest.approx(test.mean()), pytest.approx(test.std(ddof=1)))


def test_nothing_is_recorded_when_results_do_not_belong_together(tmp_path):
    results = [comparison.summarise_search(run) for run in (result("a", "gp"), result("b", "gp"))]
    with pytest.raises(UsageError, match="seeds"):
        comparison.record_results(results, tmp_path)
    assert not list(tmp_path.iterdir())


def test_trainings_are_collected_from_their_run_folders(tmp_path):
    training = comparison.summarise_search(result("a", "gp"))
    for seed in (0, 1):
        comparison.write_result(tmp_path / f"run{seed}" / "result", training)
    found = comparison.collect_results([tmp_path / "run0", tmp_path / "run1"])
    assert [entry.name for entry in found] == [training.name] * 2
    assert [row.mean for row in found[1].rows] == pytest.approx([row.mean for row in training.rows])
    with pytest.raises(RunFolderError):
        comparison.collect_results([tmp_path / "empty"])


def test_strategies_are_chosen_by_name():
    runs = [result("a", "gp", "random"), result("b", "dngo", "random"), result("c", "evolution")]
    chosen = comparison.chosen_strategies(runs, ["random", "gp"])
    assert [(str(run.folder), list(run.histories)) for run in chosen] == [("a", ["random", "gp"]), ("b", ["random"])]
    assert comparison.chosen_strategies(runs, None) == runs
    with pytest.raises(UsageError, match=r"got the strategies \['bohb'\], expected some of \['gp', 'random', 'dngo'"):
        comparison.chosen_strategies(runs, ["bohb"])
