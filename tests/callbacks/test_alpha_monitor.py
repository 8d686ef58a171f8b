import pytest
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_nas.callbacks.alpha_monitor import AlphaMonitor, heat_map
from lightning_nas.errors import UsageError
from lightning_nas.nn.darts_supernet import groups_of
from tests.contract import quiet_trainer
from tests.modules.test_darts import make_data, make_module


def test_pictures_come_at_intervals(tmp_path):
    logger = TensorBoardLogger(str(tmp_path), name="", version="")
    quiet_trainer(tmp_path, max_epochs=4, limit_val_batches=0, logger=logger, callbacks=[AlphaMonitor(2)]).fit(
        make_module(), make_data()
    )
    events = EventAccumulator(str(tmp_path)).Reload()
    for picture in ("alpha/cell", "alpha/largest_weights"):
        assert [event.step for event in events.Images(picture)] == [1, 3]
    assert {"alpha/entropy", "alpha/skip_connections", "train/loss"} <= set(events.Tags()["scalars"])


def test_a_heat_map_names_the_operations():
    normal = groups_of("s1")[0]
    figure = heat_map(normal, torch.rand(14, 2))
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts[0].startswith("skip_connect")
    same = heat_map(groups_of("s2")[0], torch.rand(14, 2))
    assert [label.get_text() for label in same.axes[0].get_xticklabels()] == ["skip_connect", "sep_conv_3x3"]


def test_what_cannot_be_is_said():
    with pytest.raises(UsageError, match="every=0"):
        AlphaMonitor(0)
