import re
import shutil
import sys

import pytest
import yaml

from lightning_nas.benchmarks.table import read_table
from lightning_nas.cli import main
from lightning_nas.configurations import shipped_configs
from lightning_nas.nn.training import TrainingRecipe
from lightning_nas.tabulate_cli import arguments
from tests.benchmarks import widths

CONFIG = {
    "benchmark": {
        "class_path": "lightning_nas.benchmarks.live.LiveBenchmark",
        "init_args": {
            "space": "my_space.Widths",
            "data": {"class_path": "DigitsDataModule", "init_args": {"num_train": 100, "num_valid": 50}},
            "recipe": {"epochs": 1},
            "workers": 1,
        },
    },
    "output": "widths.npz",
    "num_shards": 3,
}


@pytest.fixture
def tabulate(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIGHTNING_NAS_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(CONFIG))
    shutil.copy(widths.__file__, tmp_path / "my_space.py")  # where the command is typed

    def tabulate(*args):
        main(["tabulate", "--config", "mine.yaml", *args])
        return capsys.readouterr().out

    return tabulate


def test_parts_and_the_one_that_assembles(tabulate, tmp_path):
    first = tabulate("--part", "2/2")
    assert "9 architectures, 6 of them distinct, 1 seeds each; 0 of 3 shards are there" in first
    assert "1 of 1 shards, 2 of 2 architectures, ETA 0:00:00" in first
    assert "2 shards are left to other parts" in first
    assert [path.name for path in (tmp_path / "widths.shards").iterdir()] == ["1.npz"]
    second = tabulate("--licence", "mine")
    assert "1 of 3 shards are there" in second
    assert re.search(r"widths\.npz: 9 architectures", second)
    assert not (tmp_path / "widths.shards").exists()
    assert "widths.npz: is there already" in tabulate()
    assert not (tmp_path / "widths.shards").exists()
    table = read_table(tmp_path / "widths.npz")
    assert table.meta["licence"] == "mine"
    assert table.meta["versions"]["torch"]
    assert table["digits/test@1"].shape == (9, 1)


def test_flags_win_over_the_file(tabulate, tmp_path):
    said = tabulate(
        "--output", "other.npz", "--benchmark.init_args.num_seeds", "2", "--num_shards", "1", "--keep_shards", "true"
    )
    assert "2 seeds each" in said
    assert read_table(tmp_path / "other.npz")["digits/test@1"].shape == (9, 2)
    assert [path.name for path in (tmp_path / "other.shards").iterdir()] == ["0.npz"]


def test_mistakes_end_in_one_line(tabulate, capsys):
    with pytest.raises(SystemExit) as stop:
        tabulate("--part", "3/2")
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: tabulate: got part='3/2'")


def test_shipped_configurations_have_names():
    assert arguments("tabulate", ["--config", "tabulate/nasbench201_digits", "--part", "1/2"]) == [
        "--config", str(shipped_configs()["tabulate/nasbench201_digits"]), "--part", "1/2",
    ]  # fmt: skip


def test_the_shipped_recipe_is_the_default():
    """The demo and a user's own live search train as the shipped table was made."""
    config = yaml.safe_load(shipped_configs()["tabulate/nasbench201_digits"].read_text())
    arguments = config["benchmark"]["init_args"]
    assert TrainingRecipe(**arguments["recipe"]) == TrainingRecipe()
