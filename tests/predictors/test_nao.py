import numpy as np
import pytest
import torch

from lightning_nas.errors import UsageError
from lightning_nas.predictors.nao import NAO, NAONetworks, SemiNAS
from lightning_nas.predictors.sequence_training import SequenceTraining
from lightning_nas.spaces.sequences import GraphSequence
from tests.contract import TinySpace

SPACE = TinySpace()
# What the operations are counts, and a little where they stand.
ACCURACIES = 80 + torch.tensor([0.0, 1.0, 4.0])[SPACE.codes].double() @ torch.tensor(
    [1.0, 0.9, 0.8, 0.7], dtype=torch.float64
)
ORDER = torch.from_numpy(np.random.default_rng(0).permutation(len(SPACE)))
KNOWN, OTHERS = ORDER[:40], ORDER[40:]
TRAINING = SequenceTraining(num_epochs=40, batch_size=20, learning_rate=5e-3)


@pytest.mark.parametrize("kind", [NAO, SemiNAS])
def test_it_learns(kind):
    guess = kind(16, 8, TRAINING).fit(SPACE, KNOWN, ACCURACIES[KNOWN]).predict(OTHERS)
    assert float(torch.corrcoef(torch.stack([guess, ACCURACIES[OTHERS]]))[0, 1]) > 0.8


def test_the_value_is_that_of_the_formula():
    torch.manual_seed(0)
    networks = NAONetworks(GraphSequence().sizes(SPACE)[0], 6, 4, 0.1)
    embedding = torch.randn(3, 6)
    weights = {name: p.detach().numpy() for name, p in networks.named_parameters()}
    hidden = embedding.numpy()
    for layer in (0, 1):
        hidden = np.maximum(hidden @ weights[f"layers.{layer}.weight"].T + weights[f"layers.{layer}.bias"], 0)
    mixed = (embedding.numpy() + hidden) * 0.5**0.5
    expected = mixed @ weights["readout.weight"].T + weights["readout.bias"]
    np.testing.assert_allclose(networks.value(embedding).detach(), expected[:, 0], atol=1e-6)


def test_semi_supervised_training_sees_known_architectures_ten_times(monkeypatch):
    seen = []
    monkeypatch.setattr(
        NAO, "_train", lambda self, networks, tokens, targets, generator: seen.append((tokens, targets))
    )
    SemiNAS(8, 4, num_unlabelled=0.5).fit(SPACE, KNOWN, ACCURACIES[KNOWN])
    (first, _), (tokens, targets) = seen
    assert torch.equal(first, GraphSequence().tokens(SPACE, KNOWN))
    assert len(tokens) == len(targets) == 10 * 40 + 20
    assert torch.equal(tokens[:400], first.repeat(10, 1))
    assert len(torch.unique(tokens[400:], dim=0)) == 20


def test_seeds_decide():
    make = SemiNAS(8, 4, SequenceTraining(num_epochs=2))
    first, again, other = (make.fit(SPACE, KNOWN, ACCURACIES[KNOWN], s).predict(OTHERS) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("changes", [{"hidden_dim": 0}, {"trade_off": 1.5}, {"dropout": -0.1}], ids=str)
def test_what_cannot_be_is_said(changes):
    with pytest.raises(UsageError, match="SemiNAS"):
        SemiNAS(**changes)
    with pytest.raises(UsageError, match="expected positive"):
        SemiNAS(repeats=0)
