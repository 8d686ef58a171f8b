import numpy as np
import pytest
import torch

from lightning_nas.errors import UsageError
from lightning_nas.predictors.emprox import EmProx, neighbors_mean
from lightning_nas.predictors.sequence_training import SequenceTraining
from lightning_nas.predictors.targets import Raw
from lightning_nas.spaces.functional import PathSequence
from tests.contract import TinySpace

SPACE = TinySpace()
# What the operations are counts, and a little where they stand.
ACCURACIES = 80 + torch.tensor([0.0, 1.0, 4.0])[SPACE.codes].double() @ torch.tensor(
    [1.0, 0.9, 0.8, 0.7], dtype=torch.float64
)
ORDER = torch.from_numpy(np.random.default_rng(0).permutation(len(SPACE)))
KNOWN, OTHERS = ORDER[:40], ORDER[40:]
SHORT = SequenceTraining(num_epochs=3, batch_size=16)


@pytest.mark.parametrize("k", [1, 3, 7, 50])
def test_the_mean_is_that_of_a_loop(k):
    rng = np.random.default_rng(1)
    distances, values = rng.random((5, 7)) + 0.1, rng.random(7)
    expected = []
    for row in distances:
        nearest = sorted(range(7), key=lambda i: row[i])[:k]
        weights = [1 / row[i] for i in nearest]
        expected.append(sum(w * values[i] for w, i in zip(weights, nearest, strict=True)) / sum(weights))
    found = neighbors_mean(torch.from_numpy(distances), torch.from_numpy(values), k)
    np.testing.assert_allclose(found, expected)


def test_exact_matches_count_alone_and_all_of_them():
    distances = torch.tensor([[0.0, 0.0, 0.0, 0.5], [0.2, 0.2, 0.4, 0.4]])
    found = neighbors_mean(distances, torch.tensor([1.0, 2.0, 6.0, 100.0]), 2)
    assert found.tolist() == pytest.approx([3.0, 1.5])


@pytest.mark.parametrize("mode", ["paper", "reference"])
def test_it_learns(mode):
    fitted = EmProx(32, 5, SHORT, mode=mode).fit(SPACE, KNOWN, ACCURACIES[KNOWN])
    guess = fitted.predict(OTHERS)
    assert float(torch.corrcoef(torch.stack([guess, ACCURACIES[OTHERS]]))[0, 1]) > 0.7
    assert ACCURACIES[KNOWN].min() <= guess.min() <= guess.max() <= ACCURACIES[KNOWN].max()


def test_known_architectures_come_back_exactly():
    fitted = EmProx(8, 5, SHORT, encoding=PathSequence(2), target=Raw()).fit(SPACE, KNOWN, ACCURACIES[KNOWN])
    torch.testing.assert_close(fitted.predict(KNOWN), ACCURACIES[KNOWN])


def test_the_reference_pool_has_every_architecture_once_for_every_epoch():
    fitted = EmProx(8, 5, SHORT, mode="reference", target=Raw()).fit(SPACE, KNOWN, ACCURACIES[KNOWN])
    assert fitted.regression.known.shape == (3 * 40, 8)
    assert torch.equal(fitted.regression.values.sort().values, ACCURACIES[KNOWN].repeat(3).sort().values)
    fresh = EmProx(8, 5, SHORT).fit(SPACE, KNOWN, ACCURACIES[KNOWN])
    assert fresh.regression.known.shape == (40, 8)


def test_seeds_decide_and_leave_torch_alone():
    before = torch.get_rng_state()
    first, again, other = (
        EmProx(8, 5, SHORT).fit(SPACE, KNOWN, ACCURACIES[KNOWN], seed).predict(OTHERS) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "changes", [{"num_neighbors": 0}, {"hidden_dim": 0}, {"dropout": 1.0}, {"mode": "both"}], ids=str
)
def test_what_cannot_be_is_said(changes):
    with pytest.raises(UsageError, match="expected positive numbers"):
        EmProx(**changes)


def test_a_pool_of_training_needs_training():
    with pytest.raises(UsageError, match="1 or more"):
        EmProx(mode="reference", training=SequenceTraining(num_epochs=0))
    with pytest.raises(UsageError, match="expected positive"):
        SequenceTraining(batch_size=0)
