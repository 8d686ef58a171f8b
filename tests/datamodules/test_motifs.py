import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_nas.benchmarks.table import write_table
from lightning_nas.benchmarks.tabular import TabularBenchmark
from lightning_nas.datamodules.motifs import MotifDataModule, draw_motifs
from lightning_nas.errors import UsageError
from lightning_nas.spaces.sigmoid_slope import SigmoidSlope
from tests.contract import TinySpace

SPACE = SigmoidSlope(0.1, 2.0, 20)


def make_benchmark():
    slopes = np.array(SPACE.slopes)
    scores = 95 - 5 * np.abs(slopes - 0.4)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slopes.npz"
        write_table(path, {"space": SPACE.name}, {"toy/valid@2": scores, "toy/test@2": scores})
        return TabularBenchmark(SPACE, str(path), "toy", 2, 2)


def make_data(**changes):
    return MotifDataModule(make_benchmark(), **{"num_train": 8, "interval": (0.5, 1.6)} | changes)


def test_training_is_one_batch_of_the_interval():
    data = make_data()
    data.setup()
    (batch,) = data.train_dataloader()
    index, motifs, scores = batch
    assert motifs.dtype == torch.float64
    assert ((motifs >= 0.5) & (motifs <= 1.6)).all()
    assert motifs.tolist() == [SPACE[i] for i in index.tolist()]
    np.testing.assert_allclose(scores, 95 - 5 * np.abs(motifs - 0.4), rtol=1e-6)
    assert len(set(index.tolist())) == 8


def test_held_out_motifs_and_the_whole_space():
    data = make_data(val_fraction=0.25)
    data.setup()
    assert (len(data.train_index), len(data.val_index)) == (6, 2)
    assert not set(data.train_index.tolist()) & set(data.val_index.tolist())
    (batch,) = data.test_dataloader()
    assert batch[0].tolist() == list(range(20))
    data = make_data(eval_batch_size=8)
    data.setup()
    assert data.val_index.tolist() == list(range(20))
    assert torch.cat([batch[0] for batch in data.predict_dataloader()]).tolist() == list(range(20))


def test_the_seed_draws_the_motifs():
    everyone = torch.arange(20)
    first, again, other = (draw_motifs(SPACE, everyone, 5, None, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_what_cannot_be_is_said():
    with pytest.raises(UsageError, match=r"at most 12, the members from 0\.5 to 1\.6"):
        make_data(num_train=13).setup()
    with pytest.raises(UsageError, match="are no numbers"):
        draw_motifs(TinySpace(), torch.arange(81), 3, (0.0, 1.0), 0)
    with pytest.raises(UsageError, match="at least two motifs"):
        make_data(num_train=1)
