"""What the callback does to a module is tested with the module: ``tests/modules/test_pairwise_ranker.py``."""

import torch

from lightning_nas.callbacks.pretrained import PretrainedEncoder
from lightning_nas.modules.arch2vec import Arch2Vec
from lightning_nas.modules.pairwise_ranker import PairwiseRanker
from tests.contract import quiet_trainer, weights, write_tiny_table
from tests.modules.test_pairwise_ranker import pairs_of


def test_a_training_begins_there_and_is_continued_with_its_own_weights(tmp_path):
    write_tiny_table(tmp_path / "tiny.npz")
    encoder = Arch2Vec(5, latent_dim=6, hidden_dim=8, num_layers=2)
    torch.save({"state_dict": encoder.state_dict()}, tmp_path / "encoder.ckpt")

    def trained(epochs, ckpt_path=None):
        torch.manual_seed(5)
        module = PairwiseRanker(5, latent_dim=6, hidden_dim=8, num_layers=2, num_features=12)
        callback = PretrainedEncoder(str(tmp_path / "encoder.ckpt"))
        trainer = quiet_trainer(tmp_path, max_epochs=epochs, callbacks=[callback], limit_val_batches=0)
        trainer.fit(module, pairs_of(tmp_path / "tiny.npz"), ckpt_path=ckpt_path)
        return module, trainer

    start, _ = trained(0)
    assert torch.equal(start.encoder.norms[0].weight, encoder.encoder.norms[0].weight)
    half, trainer = trained(1)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    rest, _ = trained(2, tmp_path / "half.ckpt")
    whole, _ = trained(2)
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(rest).items())
    assert any(not torch.equal(value, weights(whole)[name]) for name, value in weights(half).items())
