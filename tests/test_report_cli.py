import csv
import io
import json
import subprocess
import sys

import jsonargparse
import pytest
import torch

from lightning_nas.errors import NASError, RunFolderError, UsageError
from lightning_nas.report_cli import arguments, report
from lightning_nas.search.history import SearchHistory


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Types a command in an empty folder and returns what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*args):
        jsonargparse.auto_cli(report, args=arguments("report", [str(arg) for arg in args]), prog="lightning-nas report")
        return capsys.readouterr().out

    return run


@pytest.fixture
def leave_run(tmp_path):
    """Leaves a run folder as a search does."""

    def leave_run(name, seed=0, strategies=("random", "gp"), dataset="digits", optimum=94.0):
        folder = tmp_path / name / "search"
        folder.mkdir(parents=True)
        for place, strategy in enumerate(strategies):
            history = SearchHistory.empty(4, 10, seed)
            columns = history.begin(torch.arange(10).repeat(4, 1), epochs=3)
            generator = torch.Generator().manual_seed(seed + place)
            scores = torch.rand(3, 4, 10, generator=generator, dtype=torch.float64) * 10 + 80
            history.complete(columns, *scores)
            torch.save({"history": history.state_dict(), "strategy": {}, "identity": {}}, folder / f"{strategy}.pt")
        info = {
            "space": "cells", "benchmark": {"benchmark": "tabular", "dataset": dataset}, "optimum": optimum,
            "epochs": 3, "num_queries": 10, "num_runs": 4, "seed": seed, "seconds": dict.fromkeys(strategies, 2.0),
            "command": "lightning-nas search", "commit": "abc", "versions": {"torch": "2"},
            "strategies": list(strategies), "date": "2026-11-22",
            "ledger": {
                "name": "cells/search", "title": "Search in cells", "source": "nobody", "reference_protocol": "none",
                "our_protocol": "ten queries", "scale": "4 runs", "notes": [], "published": {"gp": {"test": "90.1"}},
            },
        }  # fmt: skip
        (folder / "search.json").write_text(json.dumps(info))
        return folder.parent

    return leave_run


def test_table_of_several_runs(run, leave_run):
    leave_run("runs/a")
    leave_run("runs/b", seed=1, optimum=None)
    printed = run("runs/a", "runs/b")
    lines = [line for line in printed.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 4
    for expected in (
        "strategy",
        "space",
        "benchmark",
        "folder",
        "test (%)",
        "test of best run (%)",
        "test regret (points)",
    ):
        assert expected in lines[0]
    assert "Selected on validation, reported on test" in printed
    assert run("runs") == printed, "a folder of run folders will do"
    assert run("--runs", "runs/a", "runs/b") == printed


def test_other_formats_hold_the_same_cells(run, leave_run):
    leave_run("runs/a")
    rows = list(csv.DictReader(io.StringIO(run("runs", "--format", "csv"))))
    assert [row["strategy"] for row in rows] == ["random", "gp"]
    assert {row["benchmark"] for row in rows} == {"digits"}
    latex = run("runs", "--format=latex")
    assert latex.startswith(r"\begin{tabular}")
    assert rows[0]["test (%)"].replace("±", r"$\pm$") in latex


def test_output_gets_table_and_figure(run, leave_run, tmp_path):
    leave_run("runs/a")
    leave_run("more/a", seed=1)  # same last name, same strategies: nothing may be lost from the figure
    printed = run("runs", "more", "--output", "out")
    names = ("regret", "regret_ecdf", "regret_seconds")
    figures = [f"{name}.{kind}" for name in names for kind in ("pdf", "png")]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [*figures, "report.md"]
    assert (tmp_path / "out" / "report.md").read_text().rstrip() in printed
    assert "Written: out/regret.pdf" in printed


def test_figures_of_two_benchmarks_stay_apart(run, leave_run, tmp_path):
    leave_run("runs/a")
    leave_run("runs/b", dataset="cifar10")
    run("runs", "--output", "out", "--format", "csv")
    names = {f"regret-{number}{kind}.{suffix}" for number in (1, 2) for kind in ("", "_seconds", "_ecdf")
             for suffix in ("pdf", "png")}  # fmt: skip
    assert {path.name for path in (tmp_path / "out").iterdir()} == names | {"report.csv"}


def test_budgets_cut_what_is_printed(run, leave_run):
    leave_run("runs/a")
    whole = list(csv.DictReader(io.StringIO(run("runs", "--format", "csv"))))
    assert {row["queries"] for row in whole} == {"10"}
    for typed, expected in (("--queries=4", "4"), ("--epochs=13", "4"), ("--seconds=2000", "10")):
        rows = list(csv.DictReader(io.StringIO(run("runs/a", "--format", "csv", typed))))
        assert {row["queries"] for row in rows} == {expected}
    short = list(csv.DictReader(io.StringIO(run("runs/a", "--format", "csv", "--seconds", "300"))))
    assert all(float(row["benchmark seconds per run"]) <= 300 for row in short)
    assert all(int(row["queries"].split("-")[-1]) < 10 for row in short)
    assert "Each run cut at 4 queries and 1,000,000 seconds." in run("runs/a", "--queries", "4", "--seconds", "1e6")


def test_budgets_that_cannot_be_kept(run, leave_run):
    folder = leave_run("runs/a")
    for more in (["--record", "docs/results"], ["--record", "docs/results", "--ledger"]):
        with pytest.raises(UsageError, match="got --queries with --record or --ledger"):
            run("runs/a", "--queries", "4", *more)
    with pytest.raises(UsageError, match="got --seconds with no run folders"):
        run("--ledger", "--seconds", "4")
    with pytest.raises(UsageError, match=r"runs/a, random: budget: got {'queries': 0}, expected positive"):
        run("runs/a", "--queries", "0")
    state = torch.load(folder / "search" / "gp.pt", weights_only=True)
    state["history"]["cost"][:] = torch.nan
    torch.save(state, folder / "search" / "gp.pt")
    with pytest.raises(UsageError, match=r"runs/a, gp: .* what 40 of 40 evaluations cost; count queries or epochs"):
        run("runs/a", "--seconds", "4")
    assert "| gp" in run("runs/a", "--epochs", "9")


def test_record_render_and_check(run, leave_run, tmp_path):
    leave_run("runs/a")
    leave_run("runs/b", seed=1)
    assert run("runs", "--record", "docs/results") == "Recorded: docs/results/cells/search.json\n"
    recorded = json.loads((tmp_path / "docs/results/cells/search.json").read_text())
    assert {row["n"] for row in recorded["rows"]} == {8}
    assert recorded["rows"][0]["seeds"] == "seed 0, runs 0-3; seed 1, runs 0-3"

    with pytest.raises(
        NASError, match=r"RESULTS.md: is not what docs/results renders to; run 'lightning-nas report --led"
    ):
        run("--check")
    assert not (tmp_path / "RESULTS.md").exists()
    assert "Written: RESULTS.md" in run("--ledger")
    assert "| gp" in (tmp_path / "RESULTS.md").read_text()
    assert "up to date" in run("--check")
    with open(tmp_path / "RESULTS.md", "a") as file:
        file.write("by hand")
    with pytest.raises(NASError, match="commit it"):
        run("--ledger", "--check")
    assert "by hand" in (tmp_path / "RESULTS.md").read_text()


def test_record_and_render_in_one_go(run, leave_run, tmp_path):
    leave_run("runs/a")
    run("runs/a", "--ledger", "true", "--record", "ledger", "--results=ledger", "--output", "pages/R.md")
    assert "Search in cells" in (tmp_path / "pages" / "R.md").read_text()


def test_the_same_seeds_twice_are_refused(run, leave_run, tmp_path):
    leave_run("runs/a")
    leave_run("runs/b")
    with pytest.raises(UsageError, match="expected each once"):
        run("runs", "--record", "docs/results")
    assert not (tmp_path / "docs").exists()


def test_what_does_not_fit_together(run, leave_run, capsys):
    leave_run("runs/a")
    with pytest.raises(UsageError, match="nothing to do"):
        run()
    with pytest.raises(UsageError, match="without run folders"):
        run("--ledger", "--record", "docs/results")
    with pytest.raises(UsageError, match="add --record"):
        run("runs/a", "--ledger")
    with pytest.raises(RunFolderError, match="no search run there"):
        run("nowhere")
    with pytest.raises(UsageError, match="no such folder"):
        run("--ledger")
    with pytest.raises(SystemExit):
        run("runs/a", "--format", "word")
    assert "markdown" in capsys.readouterr().err


def test_help_explains_every_argument(run, capsys):
    with pytest.raises(SystemExit):
        run("--help")
    printed = " ".join(capsys.readouterr().out.split())
    for expected in ("Run folders, or folders that hold some", "joint figure", "fail when the ledger's page"):
        assert expected in printed


def test_the_ledger_renders_without_torch(tmp_path):
    program = (
        "import sys, jsonargparse; from lightning_nas.report_cli import report, arguments;"
        "typed = ['--ledger', '--results', sys.argv[1], '--output', sys.argv[2]];"
        "jsonargparse.auto_cli(report, args=arguments('report', typed));"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path), str(tmp_path / "R.md")], check=False)
    assert done.returncode == 0
    assert (tmp_path / "R.md").is_file()
