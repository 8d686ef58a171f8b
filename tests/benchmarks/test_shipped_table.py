"""The table that comes with the package: whole, small, like the real one, and what its recipe gives."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from scipy.stats import spearmanr

from lightning_nas.benchmarks.job import TrainingJob
from lightning_nas.benchmarks.store import ResultKey
from lightning_nas.benchmarks.table import SHIPPED, read_table
from lightning_nas.benchmarks.tabular import TabularBenchmark
from lightning_nas.configurations import shipped_configs
from lightning_nas.datamodules.vision import DigitsDataModule
from lightning_nas.nn.training import TrainingData, TrainingRecipe

CONFIG = yaml.safe_load(shipped_configs()["tabulate/nasbench201_digits"].read_text())["benchmark"]["init_args"]


@pytest.fixture(scope="module")
def table():
    return read_table(SHIPPED / "nasbench201-digits.npz")


def test_it_is_whole_and_small(table, cells):
    assert table.path.stat().st_size < 4e6
    assert len(table) == len(cells)
    for epoch in range(1, 13):
        valid = table[f"digits/valid@{epoch}"]
        assert valid.shape == (15625, 3)
        assert ((valid >= 0) & (valid <= 100)).all()
    test = table["digits/test@12"]
    assert ((test >= 0) & (test <= 100)).all()
    with np.load(table.path) as file:
        assert len(file["digits/test@12"]) == len(np.unique(file["row"])) == 6466  # each isomorphism class once
    assert {"licence", "date", "commit", "versions", "made_by"} <= table.meta.keys()


def test_isomorphic_cells_share_their_results(table, cells):
    test, classes = table["digits/test@12"], cells.canonical_classes.numpy()
    first = np.unique(classes, return_index=True)[1]
    np.testing.assert_array_equal(test, test[first][classes])


def test_it_behaves_like_a_real_benchmark(table, cells):
    connected = cells.connected.numpy()
    first = np.unique(cells.canonical_classes.numpy(), return_index=True)[1]
    test = table["digits/test@12"][first[connected[first]]]
    for a, b in itertools.combinations(test.T, 2):
        assert spearmanr(a, b).statistic > 0.8
    assert table["digits/test@12"][~connected].max() < 30  # ten classes, no signal
    skips = table["digits/test@12"][cells.index((1,) * 6)].mean()
    assert test.mean(axis=1).max() > skips + 20
    assert np.quantile(test.mean(axis=1), 0.95) < test.mean(axis=1).max() - 1  # something is left to be found


def test_it_agrees_with_the_real_one(table, cells, real_table):
    first = np.unique(cells.canonical_classes.numpy(), return_index=True)[1]
    chosen = first[cells.connected.numpy()[first]]
    ours = table["digits/test@12"][chosen].mean(axis=1)
    assert spearmanr(ours, real_table["cifar10/test@200"][chosen]).statistic > 0.65


def test_a_search_reads_it_by_name(cells, monkeypatch, tmp_path):
    monkeypatch.setenv("LIGHTNING_NAS_DATA", str(tmp_path))
    benchmark = TabularBenchmark(cells, "nasbench201-digits", "digits", epochs=12, test_epochs=12, seed=0)
    assert benchmark.optimum > 94
    scores = benchmark.evaluate([cells[0], cells[1]])
    assert scores.cost.isfinite().all()


def test_its_recipe_gives_its_numbers(table, cells):
    """Two of its trainings again; another processor rounds differently, and a short training forgets nothing of it."""
    assert table.meta["made_by"]["recipe"] == CONFIG["recipe"] | {
        key: value for key, value in TrainingRecipe().identity().items() if key not in CONFIG["recipe"]
    }
    data = DigitsDataModule(**CONFIG["data"]["init_args"])
    data.setup("fit")
    images = TrainingData(data.train, data.valid, data.test, data.mean, data.std, data.max_pixel)
    sizes = {name: CONFIG[name] for name in ("channels", "cells_per_stage", "num_stages")}
    job = TrainingJob(cells, sizes | {"num_classes": 10, "in_channels": 1}, images, TrainingRecipe(**CONFIG["recipe"]))
    job = replace(job, num_seeds=CONFIG["num_seeds"])
    for index in (int(table["digits/test@12"].mean(axis=1).argmax()), cells.index((1,) * 6)):
        arch = cells.canonical(cells[index])
        results = job.run(ResultKey("nasbench201", cells.format(arch), "recipe", 0, 12))
        assert [result.params for result in results] == [table["params"][index]] * 3
        assert results[0].flops == table["flops"][index]
        ours = [result.test for result in results]
        np.testing.assert_allclose(ours, table["digits/test@12"][index], atol=6)
        np.testing.assert_allclose(np.mean(ours), table["digits/test@12"][index].mean(), atol=3)


def test_its_proxies_are_whole_and_what_their_configuration_gives(cells):
    """One cell is scored again, with the images that the command draws."""
    from lightning_nas.benchmarks.proxy_scores import ProxyJob, ProxyTask
    from lightning_nas.score_cli import _shown

    found = read_table(SHIPPED / "nasbench201-digits-proxies.npz")
    assert found.path.stat().st_size < 1e6
    members = found["member"]
    assert np.array_equal(np.sort(members), cells.representatives.unique().numpy())
    config = yaml.safe_load(shipped_configs()["score/nasbench201_digits"].read_text())
    data = DigitsDataModule(**config["images"]["init_args"])
    sizes = {"in_channels": 1, "num_classes": 10, **config["sizes"]}
    names = ("synflow", "naswot", "snip")
    job = ProxyJob(cells, sizes, *_shown(data, config["num_images"], 0), names, config["num_initialisations"])
    again = job.run(ProxyTask(0, (int(members[7]),)))
    for name in names:
        np.testing.assert_allclose(again[f"proxy/{name}"][0], found[f"proxy/{name}"][7], rtol=1e-3)
    accuracy = TabularBenchmark(cells, "nasbench201-digits", "digits", 12, 12).lookup(torch.from_numpy(members)).test
    assert spearmanr(found["proxy/synflow"][:, 0], accuracy).statistic > 0.8
