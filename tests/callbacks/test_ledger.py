import pytest
import torch

from lightning_nas.callbacks.ledger import LedgerCallback, LedgerRow
from lightning_nas.datamodules.cells import CellDataModule
from lightning_nas.errors import UsageError
from lightning_nas.ledger import Result
from lightning_nas.modules.arch2vec import Arch2Vec
from tests.contract import TinySpace, quiet_trainer

TEXTS = {
    key: key for key in ("title", "source", "reference_protocol", "our_protocol", "scale", "label")
}  # all that is written as it is given


def train(folder, callback, **trainer):
    torch.manual_seed(0)
    module = Arch2Vec(num_ops=5, latent_dim=3, hidden_dim=8, num_layers=1, seed=7)
    running = quiet_trainer(folder, callbacks=[callback], **trainer)
    running.fit(module, CellDataModule(TinySpace(), batch_size=40))
    return running


def test_last_values_are_kept(tmp_path):
    rows = [
        LedgerRow("val/ops_accuracy", "operations", paper="100", note="as published"),
        LedgerRow("val/loss", "loss", percent=False),
    ]
    trainer = train(tmp_path, LedgerCallback(name="arch2vec/tiny", rows=rows, **TEXTS), max_epochs=2)
    kept = Result.from_json((tmp_path / "result" / "arch2vec" / "tiny.json").read_text())
    accuracy, loss = kept.rows
    assert accuracy.mean == pytest.approx(100 * float(trainer.callback_metrics["val/ops_accuracy"]))
    assert loss.mean == pytest.approx(float(trainer.callback_metrics["val/loss"]), rel=1e-6)
    assert (accuracy.paper, accuracy.unit, accuracy.seeds, accuracy.note) == ("100", "%", "seed 7", "as published")
    assert (loss.unit, loss.n, loss.std) == ("", 1, None)
    assert {key: getattr(kept, key) for key in TEXTS if key != "label"} == {k: k for k in TEXTS if k != "label"}
    assert kept.seconds > 0


def test_an_unknown_metric_is_named_with_those_there_are(tmp_path):
    callback = LedgerCallback(name="tiny", rows=[LedgerRow("val/magic", "magic")], **TEXTS)
    with pytest.raises(UsageError, match=r"val/magic.*val/loss"):
        train(tmp_path, callback, max_epochs=1)


def test_a_trial_run_leaves_nothing(tmp_path):
    train(tmp_path, LedgerCallback(name="tiny", rows=[LedgerRow("val/loss", "loss")], **TEXTS), fast_dev_run=True)
    assert not (tmp_path / "result").exists()
