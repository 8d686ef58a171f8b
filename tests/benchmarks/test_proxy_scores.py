import numpy as np
import pytest
import torch

from lightning_nas.benchmarks.proxy_scores import NAMES, ProxyJob, ProxyScores
from lightning_nas.benchmarks.table import read_table
from lightning_nas.errors import BenchmarkDataError, SpaceError
from lightning_nas.nn.complexity import count_parameters
from lightning_nas.spaces.nasbench201 import NASBench201
from lightning_nas.workers.local import LocalWorkers

SPACE = NASBench201()


def job(names=("snip", "linear_regions"), **changes):
    generator = torch.Generator().manual_seed(0)
    shown = {
        "images": torch.randn(6, 1, 8, 8, generator=generator), "labels": torch.arange(6) % 3,
        "crops": torch.randn(20, 1, 3, 3, generator=generator),
    }  # fmt: skip
    sizes = {"in_channels": 1, "num_classes": 3, "channels": 2, "cells_per_stage": 1, "num_stages": 1}
    return ProxyJob(SPACE, sizes, **shown | {"names": tuple(names), "num_initialisations": 2} | changes)


def scores(folder, members=range(40), **identity):
    return ProxyScores(folder / "scores.npz", torch.tensor(list(members)), {"made": "here", **identity})


def test_the_table_holds_what_was_asked_for(tmp_path):
    work = scores(tmp_path)
    assert [len(task.members) for task in work.tasks()] == [32, 8]
    work.fill(job(), LocalWorkers(1, "cpu"))
    assert not work.finished
    work.assemble(SPACE, {"licence": "CC0-1.0"})
    assert work.finished
    assert not work.folder.exists()
    table = read_table(work.output)
    assert table["proxy/snip"].shape == table["proxy/linear_regions"].shape == (40, 2)
    assert table["seconds/snip"].shape == (40,)
    assert np.array_equal(table["member"], np.arange(40))
    assert table["params"][7] == count_parameters(SPACE.build(SPACE[7], **job().sizes))


def test_scores_depend_on_the_architecture_and_the_seed_alone(tmp_path):
    (whole,) = ({name: job().run(task)[name] for name in ("proxy/snip",)} for task in scores(tmp_path, [5, 9]).tasks())
    (alone,) = (job().run(task)["proxy/snip"] for task in scores(tmp_path, [9]).tasks())
    (other,) = (job(seed=1).run(task)["proxy/snip"] for task in scores(tmp_path, [9]).tasks())
    assert np.array_equal(whole["proxy/snip"][1:], alone)
    assert not np.array_equal(other, alone)


def test_an_interrupted_scoring_goes_on(tmp_path):
    work = scores(tmp_path)
    before = torch.get_rng_state()

    def stop(tasks):
        yield tasks[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work.fill(job(), LocalWorkers(1, "cpu"), stop)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(work.tasks()) == 1
    work.fill(job(), LocalWorkers(1, "cpu"))
    assert work.tasks() == []


def test_other_scores_of_the_same_name_are_refused(tmp_path):
    work = scores(tmp_path, range(4))
    work.fill(job(), LocalWorkers(1, "cpu"))
    with pytest.raises(BenchmarkDataError, match="holds other scores"):
        scores(tmp_path, range(4), seed=2).tasks()
    work.assemble(SPACE, {})
    with pytest.raises(BenchmarkDataError, match="holds other scores"):
        _ = scores(tmp_path, range(4), seed=2).finished


def test_a_network_that_does_not_take_the_images_is_named(tmp_path):
    (task,) = scores(tmp_path, [3]).tasks()
    with pytest.raises(SpaceError, match="no scores for images of shape"):
        job(images=torch.randn(6, 2, 8, 8)).run(task)


def test_all_proxies_run(tmp_path):
    (task,) = scores(tmp_path, [3, 4]).tasks()
    found = job(NAMES).run(task)
    assert {f"proxy/{name}" for name in NAMES} <= found.keys()
    assert all(values.shape == (2, 2) for name, values in found.items() if name.startswith("proxy/"))
