import pytest
import torch

from lightning_nas.benchmarks.job import TrainingJob
from lightning_nas.benchmarks.store import ResultKey, ResultStore
from lightning_nas.nn.training import TrainingData, TrainingRecipe
from lightning_nas.spaces.nasbench201 import NASBench201
from tests.benchmarks.stripes import CONV, Stripes

SPACE = NASBench201()
SIZES = {"channels": 4, "cells_per_stage": 1, "num_stages": 1, "num_classes": 4, "in_channels": 1}
RECIPE = TrainingRecipe(epochs=4, batch_size=16, learning_rate=0.1)


@pytest.fixture
def images():
    data = Stripes()
    data.setup("fit")
    return TrainingData(data.train, data.valid, data.test, data.mean, data.std)


def key(epochs=4, seed=0, arch=CONV):
    return ResultKey("nasbench201", SPACE.format(arch), "recipe", seed, epochs)


def outcomes(results):
    return [(r.key.seed, r.key.epochs, r.curve, r.valid, r.test, r.error) for r in results]


def test_one_result_for_every_seed_kept_in_the_store(images, tmp_path):
    store = ResultStore(tmp_path / "r.sqlite")
    results = TrainingJob(SPACE, SIZES, images, RECIPE, num_seeds=2, store=store).run(key(seed=5))
    assert [r.key.seed for r in results] == [5, 6]
    assert results[0].curve != results[1].curve
    for result in results:
        assert len(result.curve) == 4
        assert result.valid == result.curve[-1]
        assert (result.params, result.flops) == (results[0].params, results[0].flops)
    assert results[0].params > 0
    assert results[0].flops > 0
    assert store.rows() == results


@pytest.mark.parametrize("num_seeds", [1, 2])
def test_some_epochs_and_the_others_later_are_all_at_once(images, tmp_path, num_seeds):
    whole = TrainingJob(SPACE, SIZES, images, RECIPE, num_seeds).run(key(4))
    parts = TrainingJob(SPACE, SIZES, images, RECIPE, num_seeds, unfinished=tmp_path / "unfinished")
    first = parts.run(key(1))
    assert [r.curve for r in first] == [r.curve[:1] for r in whole]
    (file,) = (tmp_path / "unfinished").iterdir()
    rest = parts.run(key(4))
    assert outcomes(rest) == outcomes(whole)
    assert not file.exists()  # nothing is left to be continued


def test_what_is_there_is_not_trained_again(images, tmp_path, monkeypatch):
    job = TrainingJob(SPACE, SIZES, images, RECIPE, unfinished=tmp_path)
    job.run(key(3))
    epochs = []
    monkeypatch.setattr(
        "lightning_nas.benchmarks.job.Training._train_epoch", lambda self: epochs.append(self.epoch), raising=True
    )
    job.run(key(4))
    assert epochs == [3]


def test_fewer_epochs_than_are_there_start_again(images, tmp_path):
    job = TrainingJob(SPACE, SIZES, images, RECIPE, unfinished=tmp_path)
    long, short = job.run(key(3)), job.run(key(2))
    assert [r.curve for r in short] == [r.curve[:2] for r in long]


def test_other_seeds_and_architectures_do_not_continue_each_other(images, tmp_path):
    job = TrainingJob(SPACE, SIZES, images, RECIPE, unfinished=tmp_path)
    job.run(key(1))
    job.run(key(1, seed=1))
    job.run(key(1, arch=(0, 0, 0, 1, 0, 0)))
    assert len(list(tmp_path.iterdir())) == 3


def test_a_damaged_unfinished_training_starts_again(images, tmp_path, caplog):
    job = TrainingJob(SPACE, SIZES, images, RECIPE, unfinished=tmp_path)
    job.run(key(2))
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    assert outcomes(job.run(key(4))) == outcomes(TrainingJob(SPACE, SIZES, images, RECIPE).run(key(4)))
    assert f"{file}: cannot be read" in caplog.text


def test_an_unfinished_training_of_another_network_starts_again(images, tmp_path, caplog):
    job = TrainingJob(SPACE, SIZES, images, RECIPE, unfinished=tmp_path)
    job.run(key(2))
    (file,) = tmp_path.iterdir()
    state = torch.load(file, weights_only=True)
    state["generators"] *= 2  # found out when the weights are loaded already
    torch.save(state, file)
    assert outcomes(job.run(key(4))) == outcomes(TrainingJob(SPACE, SIZES, images, RECIPE).run(key(4)))
    assert f"{file}: cannot be read" in caplog.text


def test_what_is_continued_is_read_to_the_cpu(images, tmp_path, monkeypatch):
    """States of generators may lie nowhere else, also when training takes place on a GPU."""
    job = TrainingJob(SPACE, SIZES, images, RECIPE, unfinished=tmp_path, device="cpu:0")
    job.run(key(1))
    (file,) = tmp_path.iterdir()
    state = torch.load(file, weights_only=True)
    assert {t.device.type for t in (state["global_generator"], *state["generators"], *state["curve"])} == {"cpu"}
    places = []

    def load(*arguments, map_location, **options):
        places.append(map_location)
        return original(*arguments, map_location=map_location, **options)

    original = torch.load
    monkeypatch.setattr(torch, "load", load)
    job.run(key(2))
    assert places == ["cpu"]


def test_images_go_to_a_device_once(images, monkeypatch):
    devices = []

    def to(self, device):
        devices.append(str(device))
        return self

    monkeypatch.setattr(TrainingData, "to", to)
    for device in ("cpu", "cpu:0", "cpu:0"):
        job = TrainingJob(SPACE, SIZES, images, RECIPE, device=device)
        assert job.run(key(1))[0].error is None
    assert devices == ["cpu:0"]


def test_a_candidate_that_exits_has_failed(images):
    class Exits(NASBench201):
        def build(self, arch, **network):
            raise SystemExit(3)

    (result,) = TrainingJob(Exits(), SIZES, images, RECIPE).run(key())
    assert result.error == "SystemExit: 3"


def test_a_failure_is_a_result_of_every_seed(images, tmp_path):
    store = ResultStore(tmp_path / "r.sqlite")
    results = TrainingJob(SPACE, SIZES | {"groups": 3}, images, RECIPE, num_seeds=2, store=store).run(key())
    assert [r.key.seed for r in results] == [0, 1]
    assert all("TypeError" in r.error and "groups" in r.error for r in results)
    assert [r.error for r in store.rows()] == [r.error for r in results]


def test_random_numbers_of_the_caller_are_left_alone(images):
    state = torch.get_rng_state()
    TrainingJob(SPACE, SIZES, images, RECIPE).run(key(1))
    assert torch.equal(torch.get_rng_state(), state)
