import numpy as np
import torch

from lightning_nas.benchmarks.cells import CellBenchmark
from lightning_nas.datamodules.language import LanguageModelDataModule
from lightning_nas.nn.language_training import LanguageRecipe
from lightning_nas.spaces.recurrent_cell import NAO_PTB, RecurrentCell
from lightning_nas.spaces.subset import RandomSubset

RECIPE = LanguageRecipe(
    epochs=2, batch_size=5, eval_batch_size=5, bptt=10, width=8, learning_rate=5.0, averaging_after=0
)  # fmt: skip


def make_benchmark(**changes):
    data = LanguageModelDataModule(vocabulary_size=50, num_train=600, num_valid=200, num_test=200)
    return CellBenchmark(data, **{"recipe": RECIPE, "group_size": 3} | changes)


def test_cells_have_negative_perplexities_whatever_their_group():
    cells = list(RandomSubset(RecurrentCell(), 4))
    scores = make_benchmark().evaluate(cells)
    assert ((scores.valid > -50) & (scores.valid < -2)).all()
    assert scores.valid.std() > 1e-3
    alone = make_benchmark(group_size=1).evaluate(cells)
    np.testing.assert_allclose(alone.valid, scores.valid, rtol=1e-3)
    np.testing.assert_allclose(alone.test, scores.test, rtol=1e-3)
    assert not torch.equal(make_benchmark(seed=1).evaluate(cells).valid, scores.valid)


def test_parameters_and_identity():
    benchmark = make_benchmark()
    network = RecurrentCell().build(NAO_PTB, vocabulary_size=50, width=8)
    assert benchmark.num_parameters(NAO_PTB) == sum(p.numel() for p in network.parameters())
    identity = benchmark.identity()
    assert identity["data"]["data"] == "pydoc"
    assert identity["recipe"]["width"] == 8
    assert make_benchmark(recipe=LanguageRecipe()).identity() != identity
