"""What README.md promises: its commands are understood, its code runs."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_nas.cli import LIGHTNING, main
from lightning_nas.configurations import shipped_configs
from lightning_nas.ledger import render_ledger
from lightning_nas.spaces.nasbench201 import NASBench201

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
COMMANDS = [
    shlex.split(line, comments=True)[1:]
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("lightning-nas ")
]


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning-nas"])


def test_there_are_commands_and_their_links_exist():
    assert len(COMMANDS) > 8
    links = re.findall(r"\]\(((?!http)[^)#]+)\)", README)
    assert {"RESULTS.md", "CONTRIBUTING.md", "docs/demo.png"} <= set(links)
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("args", [c for c in COMMANDS if c[0] in LIGHTNING], ids=" ".join)
def test_configurations_of_the_commands_parse(args, capsys, tmp_path):
    for run in ("images", "darts/nasbench201_digits"):
        found = tmp_path / "runs" / run / "genotype.json"  # as the first of the commands leaves it
        found.parent.mkdir(parents=True)
        found.write_text(json.dumps({"space": "nasbench201", "architecture": NASBench201().format((2,) * 6)}))
    encoder = tmp_path / "runs" / "contrastive" / "nasbench201_small"
    encoder.mkdir(parents=True)
    shutil.copy(shipped_configs()["contrastive/nasbench201_small"], encoder / "config.yaml")
    (tmp_path / "my_file.py").write_text("def MyNetwork(): ...\n\n\ndef MyOtherNetwork(): ...")
    with pytest.raises(SystemExit) as stop:
        main([*args, "--print_config"])
    assert stop.value.code == 0
    model = "contrastive.ContrastiveEncoder" if "contrastive" in " ".join(args) else "arch2vec.Arch2Vec"
    model = "darts.DARTS" if "darts/nasbench201_digits" in args else model
    model = "petri_dish.PetriDish" if "petri_dish" in " ".join(args) else model
    model = "classifier.ImageClassifier" if args[0] == "retrain" else model
    assert f"class_path: lightning_nas.modules.{model}" in capsys.readouterr().out


@pytest.mark.parametrize("args", [c for c in COMMANDS if c[0] == "spaces" or c == ["data", "list"]], ids=" ".join)
def test_commands_that_need_no_data_run(args, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("LIGHTNING_NAS_DATA", str(tmp_path))
    main(args)
    assert re.search("nasbench201|nor_conv_3x3", capsys.readouterr().out)


def test_every_target_of_make_exists():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in set(re.findall(r"\bmake ([a-z0-9]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_own_space_in_fifty_lines_runs(tmp_path):
    (code,) = (code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "class Chain" in code)
    assert len([line for line in code.splitlines() if line.strip()]) <= 50
    (tmp_path / "own_space.py").write_text(code)
    environment = {**os.environ, "LIGHTNING_NAS_DATA": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "own_space.py"], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    queries = re.findall(r"query (\d): validation ([\d.]+) %, test ([\d.]+) %", done.stdout)
    assert [int(query) for query, _, _ in queries] == list(range(1, 9))
    accuracies = [float(valid) for _, valid, _ in queries]
    assert accuracies == sorted(accuracies)
    assert accuracies[-1] > 50


def test_the_ledger_is_rendered_from_its_files():
    assert (ROOT / "RESULTS.md").read_text("utf-8") == render_ledger(ROOT / "docs" / "results")
