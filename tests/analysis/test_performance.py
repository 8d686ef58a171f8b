import json

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau, pearsonr, spearmanr

from lightning_nas.analysis.performance import Prediction, _metrics, explained_by_counts, predict
from lightning_nas.predictors.gp import GaussianProcess


def test_measures_are_numpys_over_cells_not_fitted():
    rng = np.random.default_rng(0)
    truth = rng.uniform(60, 95, 50)
    guess = truth + rng.normal(0, 5, (2, 50))
    fitted = torch.tensor([[0, 1, 2], [3, 4, 5]])
    found = _metrics(Prediction(fitted, torch.from_numpy(guess)), 1, torch.from_numpy(truth), 80.0)
    unseen = np.delete(np.arange(50), [3, 4, 5])
    for where, chosen in (("", unseen), (" above 80 %", unseen[truth[unseen] > 80])):
        a, b = truth[chosen] / 100, guess[1, chosen] / 100
        assert found[f"RMSE{where}"] == pytest.approx(np.sqrt(np.mean((a - b) ** 2)))
        assert found[f"Pearson{where}"] == pytest.approx(pearsonr(a, b).statistic)
        assert found[f"Spearman{where}"] == pytest.approx(spearmanr(a, b).statistic, abs=1e-6)
        assert found[f"Kendall{where}"] == pytest.approx(kendalltau(a, b).statistic)


def test_one_number_for_all_cells_ranks_none():
    truth = torch.linspace(70, 95, 30, dtype=torch.float64)
    found = _metrics(Prediction(torch.tensor([[0, 1]]), torch.full((1, 30), 80.0, dtype=torch.float64)), 0, truth, 80.0)
    assert [found[f"{name} above 80 %"] for name in ("Pearson", "Spearman", "Kendall")] == pytest.approx([0, 0, 0])
    assert found["RMSE above 80 %"] > 0


def test_each_fit_predicts_from_its_own_cells():
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(3000, 2, generator=generator)  # more than one chunk
    scores = 80 + 10 * features[:, 0].double()
    fitted = torch.stack([torch.randperm(3000, generator=generator)[:40] for _ in range(2)])
    both = predict(features, scores, GaussianProcess(), fitted, seed=0)
    assert both.values.shape == (2, 3000)
    assert (both.values - scores).abs().mean() < 0.2
    alone = predict(features, scores, GaussianProcess(), fitted[1:], seed=0)
    assert torch.allclose(both.values[1], alone.values[0], atol=1e-3)
    spoilt = scores.clone()
    spoilt[torch.tensor([i for i in range(3000) if i not in set(fitted.flatten().tolist())])] = 0.0
    assert torch.equal(predict(features, spoilt, GaussianProcess(), fitted, seed=0).values, both.values)


def test_what_counts_of_operations_explain():
    generator = torch.Generator().manual_seed(0)
    ops = torch.randint(-1, 3, (200, 5), generator=generator)
    counts = torch.stack([(ops == label).sum(dim=1) for label in (-1, 0, 1, 2)], dim=1).float()
    embeddings = counts @ torch.randn(4, 6, generator=generator) + 7.0
    assert explained_by_counts(embeddings, ops) == pytest.approx(1.0)
    assert explained_by_counts(torch.randn(200, 6, generator=generator), ops) < 0.1
    # The second half by itself explains nothing: half of the variance.
    other = torch.randn(200, 1, generator=generator)
    both = torch.cat([counts[:, :1] / counts[:, :1].std(), other / other.std()], dim=1)
    assert explained_by_counts(both, ops) == pytest.approx(0.5, abs=0.05)


def test_from_run_folders_to_files(analyze, trained, tmp_path, capsys):
    given = ("--table", trained.folder / "tiny.npz", "--dataset", "toy", "--num_samples", 20, "--num_seeds", 2)
    analyze("performance", *given, "--record", tmp_path / "results")
    printed = capsys.readouterr().out
    assert "Predictive performance" in printed
    numbers = json.loads((tmp_path / "out" / "performance.json").read_text())
    found = {(row["label"], row["metric"]): row for row in numbers["rows"]}
    assert {label for label, _ in found} == {
        "Arch2Vec", "arcs and labels", "supervised", "supervised, learning rate 0.001",
    }  # fmt: skip
    assert found["Arch2Vec", "Pearson above 80 %"]["n"] == 4  # two runs, two fits each
    assert found["supervised", "RMSE"]["n"] == 2
    for kind in ("png", "pdf"):
        assert (tmp_path / "out" / f"performance.{kind}").stat().st_size > 1000
    assert (tmp_path / "results" / "arch2vec" / "tiny_performance_toy.json").is_file()


def test_contestants_of_ones_own(analyze, trained, tmp_path):
    analyze(
        "performance", "--table", trained.folder / "tiny.npz", "--dataset", "toy", "--num_samples", "20",
        "--num_seeds", "1", "--predictor", "lightning_nas.predictors.dngo.DNGO",
        "--predictor.num_steps", "5", "--compare",
        json.dumps({"codes": {
            "predictor": {"class_path": "lightning_nas.predictors.dngo.DNGO", "init_args": {"num_steps": 5}},
            "encoding": "OneHotEncoding",
        }}),
        runs=("run0",),
    )  # fmt: skip
    numbers = json.loads((tmp_path / "out" / "performance.json").read_text())
    assert {row["label"] for row in numbers["rows"]} == {"Arch2Vec", "codes"}


NO_ENCODING = '{"x": {"predictor": "lightning_nas.predictors.gp.GaussianProcess"}}'


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--num_samples", 80), "expected 2 to 79 samples of the 81 cells"),
        (("--above", 99, "--num_samples", 20), "which 0 cells exceed on toy; expected a lower threshold"),
        (("--compare", NO_ENCODING, "--num_samples", 20), "'x' has no encoding"),
    ],
    ids=str,
)
def test_what_does_not_fit_together(analyze, trained, given, message, capsys, tmp_path):
    with pytest.raises(SystemExit):
        analyze("performance", "--table", trained.folder / "tiny.npz", "--dataset", "toy", *given)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
