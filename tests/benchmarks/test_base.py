import pytest
import torch

from lightning_nas.benchmarks.base import Benchmark, Evaluation, Evaluations, as_column


class Constant(Benchmark[int]):
    """Only what the contract demands."""

    epochs = 1

    def evaluate(self, archs, epochs=None):
        scores = as_column([float(arch) for arch in archs])
        return Evaluations(scores, scores + 1, torch.full_like(scores, torch.nan))

    def identity(self):
        return {"benchmark": "constant"}


def test_a_benchmark_needs_to_say_scores_and_identity():
    with pytest.raises(TypeError, match=r"abstract.*evaluate.*identity"):
        Benchmark()


def test_preparing_and_closing_are_optional():
    benchmark = Constant()
    assert benchmark.prepare() is benchmark.close() is None
    assert benchmark.optimum is None
    assert benchmark.evaluate([3, 3]).test.tolist() == [4, 4]


def test_a_benchmark_that_answers_at_once_gives_futures_that_are_done():
    future = Constant().submit(3)
    assert future.done()
    assert future.result()[:2] == Evaluation(3.0, 4.0, 0.0)[:2]
    assert isinstance(future.result().valid, float)
    assert Constant().parallelism == 1


@pytest.mark.parametrize("values", [[1, 2.5], (1, 2.5), torch.tensor([1, 2.5]), torch.tensor([1, 2.5]).numpy()])
def test_columns_are_float64(values):
    column = as_column(values)
    assert column.dtype == torch.float64
    assert column.tolist() == [1, 2.5]
