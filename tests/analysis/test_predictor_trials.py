import json
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau

from lightning_nas.analysis.predictor_trials import (
    Trial,
    TrialJob,
    TrialStore,
    all_trials,
    check_sizes,
    outcomes,
    scores,
)
from lightning_nas.errors import BenchmarkDataError, UsageError
from lightning_nas.predictors.predictor import EstimatorPredictor, Predictor
from lightning_nas.spaces.encodings import OneHotEncoding
from lightning_nas.workers.base import ExecutorWorkers
from tests.contract import TinySpace

SPACE = TinySpace()
ACCURACIES = 75 + SPACE.codes.double() @ torch.tensor([4.0, 2.0, 1.0, 0.5], dtype=torch.float64)


class Broken(Predictor):
    """Fails."""

    def fit(self, space, members, accuracies, seed=0):
        raise ArithmeticError("no way")


class Lost(EstimatorPredictor):
    """Predicts NaN."""

    def fit(self, space, members, accuracies, seed=0):
        fitted = super().fit(space, members, accuracies, seed)
        fitted.predict = lambda members: torch.full((len(members),), torch.nan)
        return fitted


def ridge():
    from sklearn.linear_model import Ridge

    return EstimatorPredictor(Ridge(), OneHotEncoding())


def job(**changes):
    settings = {"predictors": {"ridge": ridge()}, "sizes": (10, 30), "num_test": 20, "seed": 3} | changes
    return TrialJob(SPACE, torch.arange(81), ACCURACIES, **settings)


def workers():
    return ExecutorWorkers(ThreadPoolExecutor(1))


def test_draws_are_nested_paired_and_disjoint():
    one = job(predictors={"a": ridge(), "b": ridge()})
    draws = {(name, n, i): one.split(Trial(name, n, i)) for name, n, i in all_trials("ab", (10, 30), 3)}
    for number in range(3):
        small, large = draws["a", 10, number], draws["a", 30, number]
        assert torch.equal(small[0], large[0][:10])
        assert torch.equal(small[1], large[1])
        assert not set(large[0].tolist()) & set(large[1].tolist())
        assert [len(part) for part in large] == [30, 20]
        assert all(map(torch.equal, draws["b", 30, number], large))
    assert not torch.equal(draws["a", 30, 0][0], draws["a", 30, 1][0])
    assert len(job(num_test=None).split(Trial("ridge", 10, 0))[1]) == 51


def test_scores_are_what_they_say():
    rng = np.random.default_rng(0)
    truth = 70 + 25 * rng.random(40)
    guess = truth + rng.normal(0, 3, 40)
    found = scores(guess, truth)
    assert found["mae"] == pytest.approx(sum(abs(a - b) for a, b in zip(guess, truth, strict=True)) / 40)
    assert found["rmse"] == pytest.approx(math.sqrt(sum((a - b) ** 2 for a, b in zip(guess, truth, strict=True)) / 40))
    good = [(a - b) ** 2 for a, b in zip(guess, truth, strict=True) if b > 80]
    assert found["rmse_trained"] == pytest.approx(math.sqrt(sum(good) / len(good)))
    assert found["pearson"] == pytest.approx(np.corrcoef(guess, truth)[0, 1])
    ranks = [np.argsort(np.argsort(x)) for x in (guess, truth)]
    assert found["spearman"] == pytest.approx(np.corrcoef(*ranks)[0, 1])
    pairs = [(i, j) for i in range(40) for j in range(i)]
    agree = sum(np.sign(guess[i] - guess[j]) * np.sign(truth[i] - truth[j]) for i, j in pairs)
    assert found["kendall"] == pytest.approx(agree / len(pairs))
    best = [set(sorted(range(40), key=lambda i: -x[i])[:10]) for x in (guess, truth)]
    assert found["precision@10"] == len(best[0] & best[1]) / 10
    assert "precision@20" in found
    assert "precision@20" not in scores(guess[:15], truth[:15])


def test_constant_predictions_rank_nothing():
    found = scores(np.full(30, 90.0), np.linspace(60, 95, 30))
    assert (found["pearson"], found["spearman"], found["kendall"]) == (0, 0, 0)
    assert all(math.isfinite(value) for value in found.values())
    assert "rmse_trained" not in scores(np.zeros(5), np.full(5, 10.0) + np.arange(5))


def test_a_trial_is_what_a_loop_finds():
    one = job()
    found = one.run(Trial("ridge", 30, 1))
    train, test = one.split(Trial("ridge", 30, 1))
    guess = ridge().fit(SPACE, train, ACCURACIES[train]).predict(test)
    assert found["kendall"] == pytest.approx(kendalltau(guess, ACCURACIES[test]).statistic)
    assert found["fit"] > 0 < found["query"]
    assert found["tuning"] == 0


def test_failures_are_kept_as_such(tmp_path):
    one = job(predictors={"broken": Broken(), "lost": Lost(ridge().estimator, OneHotEncoding()), "ridge": ridge()})
    store, trials = TrialStore(tmp_path, one), all_trials(one.predictors, (10,), 2)
    store.fill(trials, workers())
    found = outcomes(store, trials)
    assert [trial["error"] for trial in found["broken", 10]] == ["ArithmeticError: no way"] * 2
    assert "20 of 20 predictions are not finite" in found["lost", 10][0]["error"]
    assert all("mae" in trial for trial in found["ridge", 10])
    assert [trial.predictor for trial in store.missing(trials)] == ["broken", "lost"] * 2


def test_finished_trials_are_not_run_again(tmp_path):
    one, trials = job(), all_trials(["ridge"], (10, 30), 3)
    store = TrialStore(tmp_path, one)
    store.fill(trials[:2], workers())
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    assert len(before) == 2
    store.fill(trials, workers())
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json")}
    assert len(after) == 6
    assert before.items() <= after.items()
    assert not store.missing(trials)


@pytest.mark.parametrize("change", [{"seed": 4}, {"num_test": 10}, {"sizes": (10, 31)}], ids=str)
def test_other_trials_are_kept_apart(tmp_path, change):
    trials = all_trials(["ridge"], (10,), 1)
    TrialStore(tmp_path, job()).fill(trials, workers())
    assert TrialStore(tmp_path, job(**change)).missing(trials) == trials


def test_other_settings_of_a_predictor_are_kept_apart(tmp_path):
    from sklearn.linear_model import Ridge

    trials = all_trials(["ridge"], (10,), 1)
    TrialStore(tmp_path, job()).fill(trials, workers())
    other = job(predictors={"ridge": EstimatorPredictor(Ridge(alpha=3), OneHotEncoding())})
    assert TrialStore(tmp_path, other).missing(trials) == trials


def test_a_damaged_file_is_named(tmp_path):
    store, (trial,) = TrialStore(tmp_path, job()), all_trials(["ridge"], (10,), 1)
    store.fill([trial], workers())
    store.path(trial).write_text('{"mae": 1')
    with pytest.raises(BenchmarkDataError, match=r"10-0\.json"):
        store.read(trial)
    store.path(trial).write_text(json.dumps({"mae": 1}))
    assert store.read(trial) == {"mae": 1}


@pytest.mark.parametrize(
    ("changes", "num_trials"),
    [
        ({"sizes": ()}, 1),
        ({"sizes": (1,)}, 1),
        ({"sizes": (70,)}, 1),
        ({"num_test": 1}, 1),
        ({}, 0),
        ({"sizes": (80,), "num_test": None}, 1),
    ],
    ids=str,
)
def test_too_few_architectures_are_refused(changes, num_trials):
    with pytest.raises(UsageError, match="81 that the benchmark has"):
        check_sizes(job(**changes), num_trials)
