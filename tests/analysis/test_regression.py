import json

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr

from lightning_nas.analysis.regression import _split, gradient_boosting
from lightning_nas.analysis.views import NetworkViews
from lightning_nas.cli import main


def type_it(contrastive, out, *args, runs=("one0", "one1")):
    folders = [str(contrastive / run) for run in runs]
    main(["analyze", "regression", "--run", *folders, "--data_dir", str(contrastive), "--output", str(out), *args])


def test_from_run_folders_to_files(contrastive, tmp_path):
    type_it(contrastive, tmp_path, "--dataset", "toy", "--num_train", "30", "--num_draws", "2")
    numbers = json.loads((tmp_path / "regression.json").read_text())
    found = {(row["label"], row["metric"]): row for row in numbers["rows"]}
    labels = ("ContrastiveEncoder", "singular values", "largest singular value", "parameters", "multiply-adds")
    metrics = ("Pearson", "Kendall", "Pearson, connected", "Kendall, connected")
    assert set(found) == {(label, metric) for label in labels for metric in metrics}
    assert all(row["n"] == 4 and -1 <= row["mean"] <= 1 for row in found.values())
    assert found["parameters", "Pearson"]["mean"] == found["parameters", "Pearson, connected"]["mean"]
    assert "test accuracy (toy, 9 epochs" in numbers["our_protocol"]
    assert (tmp_path / "regression.pdf").is_file()


def test_nothing_that_was_fitted_is_predicted():
    networks = torch.arange(50) // 2  # pairs of isomorphic architectures
    views = NetworkViews(networks, torch.rand(50), torch.ones(50, dtype=torch.bool), {})
    train, unseen = _split(views, 10, (0, 0, 0))
    assert len(train) == 10
    assert not set(networks[train].tolist()) & set(networks[unseen].tolist())
    assert len(unseen) == 50 - 2 * len(set(networks[train].tolist()))
    assert torch.equal(train, _split(views, 10, (0, 0, 0))[0])
    assert not torch.equal(train, _split(views, 10, (0, 0, 1))[0])


def test_trees_learn():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(600, 3))
    scores = features[:, 0] + features[:, 1] ** 2
    guess = gradient_boosting().fit(features[:500], scores[:500]).predict(features[500:])
    assert pearsonr(guess, scores[500:]).statistic > 0.8


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--dataset", "toy", "--num_train", "80"), "expected 2 to 79"),
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
