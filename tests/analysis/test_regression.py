import json

import numpy as np
import pytest
from scipy.stats import pearsonr

from lightning_nas.analysis.regression import gradient_boosting
from lightning_nas.cli import main


def type_it(contrastive, out, *args, runs=("one0", "one1")):
    folders = [str(contrastive / run) for run in runs]
    main(["analyze", "regression", "--run", *folders, "--data_dir", str(contrastive), "--output", str(out), *args])


def test_from_run_folders_to_files(contrastive, tmp_path):
    type_it(contrastive, tmp_path, "--dataset", "toy", "--num_train", "30", "--num_draws", "2")
    numbers = json.loads((tmp_path / "regression.json").read_text())
    found = {(row["label"], row["metric"]): row for row in numbers["rows"]}
    labels = ("Contrastive", "singular values", "largest singular value", "parameters", "multiply-adds")
    metrics = ("Pearson", "Kendall", "Pearson, connected", "Kendall, connected")
    assert set(found) == {(label, metric) for label in labels for metric in metrics}
    assert all(row["n"] == 4 and -1 <= row["mean"] <= 1 for row in found.values())
    assert found["parameters", "Pearson"]["mean"] == found["parameters", "Pearson, connected"]["mean"]
    assert "test accuracy (toy, 9 epochs" in numbers["our_protocol"]
    # Accuracies of "other" are the numbers of weights, which the trees on those must find again.
    type_it(contrastive, tmp_path / "other", "--dataset", "other", "--num_train", "60", "--num_draws", "2")
    numbers = json.loads((tmp_path / "other" / "regression.json").read_text())
    found = {(row["label"], row["metric"]): row["mean"] for row in numbers["rows"]}
    assert found["parameters", "Kendall"] > 0.8 > found["largest singular value", "Kendall"]
    assert (tmp_path / "regression.pdf").is_file()


def test_trees_learn():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(600, 3))
    scores = features[:, 0] + features[:, 1] ** 2
    guess = gradient_boosting().fit(features[:500], scores[:500]).predict(features[500:])
    assert pearsonr(guess, scores[500:]).statistic > 0.8


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--dataset", "toy", "--num_train", "80"), "expected at least 2 of both"),
        (("--dataset", "toy", "--num_train", "1"), "expected at least 2 of both"),
        (("--dataset", "toy", "--num_train", "9", "--num_draws", "0"), "expected at least 1"),
        (("--dataset", "gone"), "expected one of other 9, toy 9"),
    ],
)
def test_what_cannot_be_is_said(contrastive, tmp_path, capsys, args, message):
    with pytest.raises(SystemExit):
        type_it(contrastive, tmp_path, *args)
    assert message in capsys.readouterr().err


def test_runs_of_two_spaces_at_once_are_for_transfer(contrastive, tmp_path, capsys):
    with pytest.raises(SystemExit):
        type_it(contrastive, tmp_path, "--dataset", "toy", runs=("both0",))
    assert "expected those of one finite space" in capsys.readouterr().err
