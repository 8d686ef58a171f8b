import json

import pytest
import yaml

from lightning_nas.cli import main
from tests.contract import write_tiny_table

RIDGE = {
    "class_path": "lightning_nas.predictors.predictor.EstimatorPredictor",
    "init_args": {
        "estimator": {"class_path": "sklearn.linear_model.Ridge"},
        "encoding": "lightning_nas.spaces.encodings.OneHotEncoding",
    },
}
NEAREST = {
    "class_path": "lightning_nas.predictors.predictor.EstimatorPredictor",
    "init_args": {
        "estimator": {"class_path": "sklearn.neighbors.KNeighborsRegressor", "init_args": {"n_neighbors": 3}},
        "encoding": "lightning_nas.spaces.encodings.OneHotEncoding",
    },
}
LEDGER = {
    "name": "tiny/compare", "title": "t", "source": "s", "reference_protocol": "r", "our_protocol": "o", "scale": "c",
    "published": {"ridge": {"kendall": ".5"}},
}  # fmt: skip


@pytest.fixture
def write(tmp_path):
    write_tiny_table(tmp_path / "tiny.npz")

    def write(**changes):
        config = {
            "benchmark": {
                "class_path": "lightning_nas.benchmarks.tabular.TabularBenchmark",
                "init_args": {"space": "tests.contract.TinySpace", "table": str(tmp_path / "tiny.npz"),
                              "dataset": "toy", "epochs": 3, "test_epochs": 9},
            },
            "predictors": {"ridge": RIDGE, "nearest": NEAREST},
            "num_train": [10, 20], "num_test": 30, "num_trials": 3,
        } | changes  # fmt: skip
        path = tmp_path / "compare.yaml"
        path.write_text(yaml.safe_dump(config))
        return str(path)

    return write


def test_a_comparison_leaves_tables_and_figures_and_goes_on(tmp_path, write, capsys):
    path, output = write(paired=[["ridge", "nearest"]], ledger=LEDGER), tmp_path / "out"
    command = ["compare", "--config", path, "--output", str(output), "--record", str(tmp_path / "docs")]
    main(command)
    written = {file.name for file in output.iterdir()}
    tables = {f"comparison.{end}" for end in ("md", "csv", "tex")}
    figures = {f"kendall_{kind}.{end}" for kind in ("sizes", "seconds") for end in ("png", "pdf")}
    assert written == {"trials", *tables, *figures}
    assert (output / "comparison.csv").read_text().splitlines()[0].startswith("n,predictor,MAE (points)")
    assert len((output / "comparison.csv").read_text().splitlines()) == 5
    assert "ridge minus nearest" in capsys.readouterr().out
    record = json.loads((tmp_path / "docs" / "tiny" / "compare.json").read_text())
    assert {row["label"] for row in record["rows"]} == {"ridge", "nearest", "ridge minus nearest"}
    assert {row["paper"] for row in record["rows"] if row["metric"].startswith("Kendall, n")} == {".5", ""}
    times = {file: file.stat().st_mtime_ns for file in (output / "trials").rglob("*.json")}
    assert len(times) == 12
    main(command)
    assert times == {file: file.stat().st_mtime_ns for file in (output / "trials").rglob("*.json")}


@pytest.mark.parametrize(
    ("changes", "args", "said"),
    [
        ({"predictors": {}}, [], "no predictors"),
        ({"num_train": [80]}, [], "81 that the benchmark has"),
        ({"paired": [["ridge", "other"]]}, [], "pairs of"),
        ({"ledger": {**LEDGER, "published": {"other": {}}}}, [], "published names"),
        ({"ledger": {"name": "x"}}, ["--record", "docs"], "expected"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_mistakes_are_said_before_any_trial(tmp_path, write, capsys, changes, args, said):
    with pytest.raises(SystemExit) as ended:
        main(["compare", "--config", write(**changes), "--output", str(tmp_path / "out"), *args])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
