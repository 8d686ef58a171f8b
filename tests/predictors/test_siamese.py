import numpy as np
import pytest
import torch
from scipy.stats import kendalltau

from lightning_nas.errors import UsageError
from lightning_nas.modules.arch2vec import Arch2Vec
from lightning_nas.predictors.siamese import SiameseRanking
from lightning_nas.spaces.encodings import OneHotEncoding
from tests.contract import TinySpace

SMALL = {"latent_dim": 6, "hidden_dim": 16, "num_layers": 2, "head_dim": 16, "learning_rate": 1e-2, "num_epochs": 40}


def problem(seed=0):
    space = TinySpace()
    truth = 50 + 5.0 * space.codes.eq(0).sum(dim=1) + 2.0 * space.codes[:, 0].eq(1)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(81))
    return space, truth.double(), order[:40], order[40:]


@pytest.mark.parametrize(
    "changes", [{}, {"loss": "hinge"}, {"features": OneHotEncoding()}, {"num_members": 2}], ids=str
)
def test_it_ranks_what_it_has_not_seen(changes):
    space, truth, known, others = problem()
    fitted = SiameseRanking(**SMALL | changes).fit(space, known, truth[known])
    guess = fitted.predict(others)
    assert kendalltau(guess, truth[others]).statistic > 0.7
    assert (guess - truth[others]).abs().mean() < 5
    known_guess = fitted.predict(known)
    beyond = fitted.transform.backward(torch.tensor([-1e3, 1e3]))
    assert truth[known].min() - 1.1 < beyond[0] < truth[known].min()
    assert truth[known].max() < beyond[1] < truth[known].max() + 1.1
    assert known_guess.sort().values.sub(truth[known].sort().values).abs().max() < 2.0  # the k-th stands for the k-th


def test_the_seed_fixes_it():
    space, truth, known, others = problem()
    first, again, other = (
        SiameseRanking(**SMALL | {"num_epochs": 3}).fit(space, known, truth[known], seed).predict(others)
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_it_begins_with_a_trained_encoder(tmp_path):
    space, truth, known, others = problem()
    torch.save({"state_dict": Arch2Vec(5, 6, 16, 2).state_dict()}, tmp_path / "encoder.ckpt")
    few = SMALL | {"num_epochs": 1, "learning_rate": 1e-9}
    fitted = SiameseRanking(**few, pretrained=str(tmp_path / "encoder.ckpt")).fit(space, known, truth[known])
    (module,) = fitted.regression.modules
    expected = torch.load(tmp_path / "encoder.ckpt")["state_dict"]["to_mu.weight"]
    torch.testing.assert_close(module.to_mu.weight, expected)
    assert fitted.predict(others).isfinite().all()


def test_known_ones_that_are_all_alike_teach_nothing_and_do_no_harm():
    space, _, known, others = problem()
    guess = SiameseRanking(**SMALL | {"num_epochs": 2}).fit(space, known, torch.full((40,), 70.0)).predict(others)
    torch.testing.assert_close(guess, torch.full_like(guess, 70.0))


@pytest.mark.parametrize("changes", [{"num_epochs": 0}, {"batch_size": 1}, {"noise": -0.1}], ids=str)
def test_what_cannot_be_is_said(changes):
    with pytest.raises(UsageError, match="expected"):
        SiameseRanking(**changes)
