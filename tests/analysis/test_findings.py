import json
import shutil

import pytest
from rich.console import Console

from lightning_nas.analysis.findings import Findings, publish, table_of
from lightning_nas.analysis.runs import load_runs
from lightning_nas.ledger import Result, Row
from lightning_nas.plots import styled


@pytest.fixture
def findings():
    rows = [
        Row.of([0.5, 0.7], label="a", metric="Pearson", unit="", paper="0.67", seeds="two"),
        Row.of([2.0], label="b", metric="edits", unit="", paper="", seeds="one"),
    ]
    return Findings("mine", "An analysis", rows, "as it is", "all", {"mine": styled(2, 2)}, notes=("a warning",))


def test_everything_is_left_in_the_run_folder(findings, trained, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(trained.folder / "run0", folder)
    runs = load_runs([folder])["Arch2Vec"]
    before = set(folder.glob("events*"))
    written = publish(findings, runs, None, tmp_path / "results")
    names = {path.relative_to(tmp_path).as_posix() for path in written}
    assert names == {
        "run/analysis/mine/mine.png", "run/analysis/mine/mine.pdf", "run/analysis/mine/mine.json",
        "results/arch2vec/tiny_mine.json",
    }  # fmt: skip
    assert set(folder.glob("events*")) - before
    printed = capsys.readouterr().out
    assert "Note: a warning" in printed
    assert all(str(path) in printed for path in written)
    result = Result.from_json((tmp_path / "results" / "arch2vec" / "tiny_mine.json").read_text())
    assert result.rows[0].mean == pytest.approx(0.6)
    numbers = json.loads((folder / "analysis" / "mine" / "mine.json").read_text())
    assert numbers["space"] == "tiny"
    assert numbers["rows"][1]["label"] == "b"


def test_the_table_has_a_column_for_each_label(findings):
    console = Console(width=100, record=True)
    console.print(table_of("title", findings.rows))
    text = console.export_text()
    assert "0.600 ± 0.141 (paper: 0.67)" in text
    assert "2.000" in text
