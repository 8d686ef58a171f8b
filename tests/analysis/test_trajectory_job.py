from itertools import pairwise

import numpy as np
import pytest
import torch

from lightning_nas.analysis.trajectory_job import TrajectoryJob
from lightning_nas.datamodules.jacobian_store import JacobianJob, ShardTask
from lightning_nas.datamodules.vision import DigitsDataModule
from lightning_nas.nn.images import LabelledImages
from lightning_nas.nn.training import TrainingData, TrainingRecipe
from tests.datamodules.networks import BuildableSpace

SPACE, MEMBER = BuildableSpace(), 5


@pytest.fixture(scope="module")
def job():
    images = DigitsDataModule()
    images.prepare_data()
    images.setup("fit")
    train, valid = (LabelledImages(*(part[:60] for part in split)) for split in (images.train, images.valid))
    data = TrainingData(train, valid, valid, images.mean, images.std, images.max_pixel)
    shown = images.normalise(images.train.images[:8])
    recipe = TrainingRecipe(epochs=3, batch_size=20, learning_rate=0.05, test_shift=0)
    return TrajectoryJob(SPACE, {"channels": 4}, data, recipe, shown, 8, seed=3)


def test_it_begins_where_an_untrained_network_is_and_goes_on(job):
    scores, curve = job.run(MEMBER)
    assert (scores.shape, curve.shape) == ((4, 8, 8), (3,))
    fresh = JacobianJob(SPACE, {"channels": 4}, job.shown, 8, seed=3).run(ShardTask(0, 0, (MEMBER,)))[0][0]
    np.testing.assert_allclose(scores[0], fresh, rtol=1e-4, atol=1e-6)
    assert all(not np.allclose(early, late) for early, late in pairwise(scores))
    assert np.isfinite(scores).all()


def test_looking_does_not_disturb_the_training_and_repeats_are_equal(job):
    scores, curve = job.run(MEMBER)
    torch.manual_seed(99)  # the caller's random numbers do not matter, and are left alone
    before = torch.get_rng_state()
    again, same = job.run(MEMBER)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(scores, again)
    assert np.array_equal(curve, same)
