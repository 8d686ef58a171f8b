import numpy as np
import pytest
import torch

from lightning_nas.errors import UsageError
from lightning_nas.predictors.generators import NAOGenerator, RandomGenerator, _nearest
from lightning_nas.predictors.nao import NAO
from lightning_nas.predictors.sequence_training import SequenceTraining
from lightning_nas.search.pool import CandidatePool
from lightning_nas.spaces.recurrent_cell import RecurrentSequence
from tests.predictors.test_generated_search import SPACE, GeneratedSearch, search

POOL = CandidatePool(SPACE)


def nao(**training):
    return NAO(
        16, 8, SequenceTraining(**{"num_epochs": 60, "learning_rate": 1e-2} | training), encoding=RecurrentSequence()
    )


def a_run():
    return search(GeneratedSearch(), runs=1, capacity=12)


def test_random_candidates_are_untried_and_differ():
    run = a_run()
    found = RandomGenerator().propose(run, POOL, 100, np.random.default_rng(0)).tolist()
    assert len(found) == len(set(found)) == 48
    assert not set(found) & set(run.indices[0].tolist())


def test_cells_uphill_are_untried_and_the_seed_fixes_them():
    run, generator = a_run(), NAOGenerator(nao(), num_parents=5)
    found, again = (generator.propose(run, POOL, 8, np.random.default_rng(0)) for _ in range(2))
    assert torch.equal(found, again)
    assert len(set(found.tolist())) == 8
    assert not set(found.tolist()) & set(run.indices[0].tolist())
    assert len(generator.propose(run, POOL, 100, np.random.default_rng(0))) == 15  # five parents, three steps


def test_what_is_written_is_a_cell():
    generator = NAOGenerator(nao(num_epochs=1))
    tokens = generator._tokens(POOL, torch.arange(6))
    fitted = generator.predictor.fit(SPACE, torch.arange(6), torch.arange(6).double(), 0)
    written = generator._climb(fitted.regression, tokens, 11)
    assert written.shape == (18, 22)
    for cell in RecurrentSequence.cells_of(written):
        SPACE.space.format(cell)


def test_the_nearest_row_stands_in_once():
    there = torch.tensor([[1, 1, 1], [1, 1, 2], [2, 2, 2]])
    wanted = torch.tensor([[1, 1, 1], [1, 1, 1], [2, 2, 1], [1, 1, 1]])
    assert _nearest(wanted, there, 5).tolist() == [0, 1, 2]
    assert _nearest(wanted, there, 2).tolist() == [0, 1]


def test_what_cannot_be_is_said():
    with pytest.raises(UsageError, match="expected RecurrentSequence"):
        NAOGenerator(NAO())
    with pytest.raises(UsageError, match="positive numbers"):
        NAOGenerator(nao(), steps=())
