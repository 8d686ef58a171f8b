import subprocess
import sys

import pytest

from lightning_nas.analyze_cli import NAMES, _find, _joined, arguments
from lightning_nas.cli import main
from lightning_nas.errors import UsageError


def test_help_names_all_analyses_without_torch():
    code = (
        "import sys\nfrom lightning_nas.cli import main\n"
        "try:\n    main(['analyze', '--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'matplotlib', 'sklearn', 'scipy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f"{name}:" in " ".join(done.stdout.split()) for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_analysis_explains_its_options(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["analyze", name, "--help"])
    assert stop.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    origin = "of 'lightning-nas fit'" if "--run " in printed else "of 'lightning-nas tabulate'"
    for expected in (f"lightning-nas analyze {name}", origin, "Folder of the ledger"):
        assert expected in printed


def test_run_folders_may_be_typed_in_a_row():
    assert _joined(["--seed", "3", "--run", "a", "b"]) == ['--run=["a", "b"]', "--seed", "3"]
    assert _joined(["--seed", "3"]) == ["--seed", "3"]
    assert arguments("analyze", []) == []


def test_names_nobody_knows():
    with pytest.raises(UsageError, match=r"got the analysis 'wlak', expected one of .*did you mean 'walk'\?"):
        _find("wlak")
    with pytest.raises(UsageError, match=r"'gone\.away' cannot be imported"):
        _find("gone.away")


def test_an_analysis_of_ones_own(tmp_path, monkeypatch, capsys):
    (tmp_path / "own_analyses.py").write_text(
        "from pathlib import Path\n\n\ndef count(run: list[Path], seed: int = 0) -> None:\n    print(len(run), seed)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    main(["analyze", "own_analyses.count", "--run", "a", "b", "--seed", "4"])
    assert capsys.readouterr().out == "2 4\n"
