import math

import pytest
import torch

from lightning_nas.errors import UsageError
from lightning_nas.modules.sequence_autoencoder import SequenceAutoencoder, token_loss
from tests.contract import TinyModuleContract, TinySpace, quiet_trainer


class TestSequenceAutoencoder(TinyModuleContract):
    embedding_dim = 6

    def module(self, seed=0):
        return SequenceAutoencoder(
            5, 6, hidden_dim=6, seed=seed, optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-2)
        )

    def calm(self, module):
        module.encoder.dropout = module.decoder.dropout = 0.0


def test_the_loss_is_the_mean_over_tokens():
    logits, tokens = torch.randn(3, 4, 5), torch.randint(5, (3, 4))
    expected = -sum(
        float(logits[b, t].double().log_softmax(0)[tokens[b, t]]) for b in range(3) for t in range(4)
    ) / 12  # fmt: skip
    assert token_loss(logits, tokens).item() == pytest.approx(expected, rel=1e-5)
    assert token_loss(torch.zeros(3, 4, 9), tokens).item() == pytest.approx(math.log(9))


def test_training_teaches_to_write(tmp_path):
    torch.manual_seed(0)
    contract = TestSequenceAutoencoder()
    module, data = SequenceAutoencoder(5, 6, hidden_dim=32, optimizer=lambda p: torch.optim.Adam(p, lr=2e-2)), None
    data = contract.data()
    (before,) = quiet_trainer(tmp_path).validate(module, data, verbose=False)
    quiet_trainer(tmp_path, max_epochs=30, limit_val_batches=0).fit(module, data)
    (after,) = quiet_trainer(tmp_path).validate(module, data, verbose=False)
    assert after["val/token_accuracy"] > 0.9 > before["val/token_accuracy"]
    assert after["val/loss"] < before["val/loss"]


def test_embeddings_have_length_one():
    space = TinySpace()
    module = TestSequenceAutoencoder().module().eval()
    embedding = module.embed(space.all_graphs())
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(len(space)))


@pytest.mark.parametrize("changes", [{"hidden_dim": 0}, {"dropout": 1.0}, {"num_vertices": 1}], ids=str)
def test_what_cannot_be_is_said(changes):
    with pytest.raises(UsageError, match="expected positive sizes"):
        SequenceAutoencoder(**{"num_ops": 5, "num_vertices": 6} | changes)
