import warnings

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPRegressor

from lightning_nas.errors import UsageError
from lightning_nas.predictors.gp import GaussianProcess
from lightning_nas.predictors.predictor import EstimatorPredictor, SurrogatePredictor
from lightning_nas.predictors.targets import RankGauss, Raw
from lightning_nas.spaces.encodings import OneHotEncoding
from tests.contract import TinySpace

SPACE = TinySpace()
ACCURACIES = 80 + SPACE.codes.double() @ torch.tensor([4.0, 2.0, 1.0, 0.5], dtype=torch.float64)
ORDER = torch.from_numpy(np.random.default_rng(0).permutation(len(SPACE)))
KNOWN, OTHERS = ORDER[:30], ORDER[30:]


def correlation(guess):
    return float(torch.corrcoef(torch.stack([guess, ACCURACIES[OTHERS]]))[0, 1])


def test_an_estimator_is_given_features_and_standardised_targets():
    fitted = EstimatorPredictor(Ridge(alpha=2.0), OneHotEncoding()).fit(SPACE, KNOWN, ACCURACIES[KNOWN])
    X, y = OneHotEncoding().encode(SPACE).numpy(), ACCURACIES.numpy()
    known = y[KNOWN]
    ridge = Ridge(alpha=2.0).fit(X[KNOWN], (known - known.mean()) / known.std())
    expected = ridge.predict(X[OTHERS]) * known.std() + known.mean()
    np.testing.assert_allclose(fitted.predict(OTHERS), expected, rtol=1e-5)
    assert fitted.tuning_seconds == 0


def test_seeds_decide_and_the_given_estimator_stays_as_it_was():
    forest = RandomForestRegressor(5)
    predictor = EstimatorPredictor(forest, OneHotEncoding())
    first, again, other = (predictor.fit(SPACE, KNOWN, ACCURACIES[KNOWN], s).predict(OTHERS) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not hasattr(forest, "estimators_")
    assert forest.random_state is None


def test_an_estimator_that_did_not_converge_says_so_once():
    predictor = EstimatorPredictor(MLPRegressor(hidden_layer_sizes=(2,), max_iter=3), OneHotEncoding())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for seed in range(3):
            predictor.fit(SPACE, KNOWN, ACCURACIES[KNOWN], seed)
    assert [warning.category for warning in caught] == [ConvergenceWarning]


@pytest.mark.parametrize("target", [None, Raw(), RankGauss()], ids=lambda t: type(t).__name__)
@pytest.mark.parametrize(
    "make",
    [
        lambda target: SurrogatePredictor(GaussianProcess(), OneHotEncoding(), target),
        lambda target: EstimatorPredictor(KNeighborsRegressor(5, weights="distance"), OneHotEncoding(), target),
    ],
    ids=["gp", "knn"],
)
def test_predictors_learn_and_answer_in_percent(make, target):
    guess = make(target).fit(SPACE, KNOWN, ACCURACIES[KNOWN]).predict(OTHERS)
    assert guess.dtype == torch.float64
    assert correlation(guess) > 0.85
    assert float((guess - ACCURACIES[OTHERS]).abs().mean()) < 3


def test_a_surrogate_gets_features_that_are_scaled_by_what_it_knows():
    class Seen:
        def fit(self, X, y, observed, seeds):
            self.X, self.y, self.observed = X, y, observed
            return GaussianProcess().fit(X, y, observed, seeds)

    seen = Seen()
    SurrogatePredictor(seen, OneHotEncoding()).fit(SPACE, KNOWN, ACCURACIES[KNOWN])
    assert seen.X.shape == (1, 30, 12)
    torch.testing.assert_close(seen.X[0].mean(dim=0), torch.zeros(12), atol=1e-6, rtol=0)
    assert float(seen.X[0].var(dim=0, correction=0).mean()) == pytest.approx(1)
    assert seen.observed.all()
    assert float(seen.y.std(correction=0)) == pytest.approx(1)


@pytest.mark.parametrize("estimator", ["sklearn.linear_model.Ridge", Ridge, 3], ids=str)
def test_what_is_no_estimator_is_refused(estimator):
    with pytest.raises(UsageError, match="class_path"):
        EstimatorPredictor(estimator, OneHotEncoding())
