import numpy as np
import pytest
import torch

from lightning_nas.errors import UsageError
from lightning_nas.predictors.predictor import FittedPredictor, Predictor, Regression
from lightning_nas.predictors.targets import Raw
from lightning_nas.predictors.tuned import TunedPredictor
from tests.contract import TinySpace

SPACE = TinySpace()
ACCURACIES = torch.from_numpy(np.random.default_rng(0).random(81)) * 10 + 80
KNOWN = torch.arange(0, 81, 3)


class LookUp(Regression):
    """A table of values."""

    def __init__(self, values):
        self.values = values

    def __call__(self, members):
        return self.values[members]


class Fixed(Predictor):
    """Predicts from the index alone; notes what it was fitted to."""

    def __init__(self, values):
        self.values, self.fits = values, []

    def fit(self, space, members, accuracies, seed=0):
        self.fits.append(members.tolist())

        return FittedPredictor(LookUp(self.values), Raw().fit(accuracies))


class Cheat(Predictor):
    """Right where it was fitted, constant elsewhere: what an error on training folds would choose."""

    def fit(self, space, members, accuracies, seed=0):
        known = torch.full((81,), 85.0, dtype=torch.float64)
        known[members] = accuracies.double()
        return Fixed(known).fit(space, members, accuracies)


def test_the_one_that_ranks_held_out_architectures_best_is_chosen():
    good, bad = Fixed(2 * ACCURACIES), Fixed(-ACCURACIES)
    fitted = TunedPredictor([bad, Cheat(), good]).fit(SPACE, KNOWN, ACCURACIES[KNOWN])
    assert torch.equal(fitted.predict(torch.arange(81)), 2 * ACCURACIES)
    assert fitted.tuning_seconds > 0


def test_every_architecture_is_held_out_once():
    one = Fixed(ACCURACIES)
    TunedPredictor([one], num_folds=4).fit(SPACE, KNOWN, ACCURACIES[KNOWN])
    *folds, last = one.fits
    held_out = [sorted(set(KNOWN.tolist()) - set(fold)) for fold in folds]
    assert sorted(member for part in held_out for member in part) == KNOWN.tolist()
    assert {len(part) for part in held_out} <= {6, 7}
    assert last == KNOWN.tolist()


def test_constant_predictions_are_the_worst():
    flat, bad = Fixed(torch.full((81,), 85.0)), Fixed(-ACCURACIES)
    slightly = Fixed(ACCURACIES * torch.where(torch.arange(81) % 2 == 0, 1.0, -1.0))
    fitted = TunedPredictor([flat, bad, slightly]).fit(SPACE, KNOWN, ACCURACIES[KNOWN])
    assert torch.equal(fitted.predict(KNOWN), slightly.values[KNOWN])


def test_what_cannot_be_is_said():
    with pytest.raises(UsageError, match="at least one"):
        TunedPredictor([])
