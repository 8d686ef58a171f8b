import pytest
import torch

from lightning_nas.errors import UsageError
from lightning_nas.predictors.emprox import EmProx
from lightning_nas.predictors.latent_search import LatentSearch, allowed_tokens, members_of
from lightning_nas.predictors.nao import NAO
from lightning_nas.predictors.sequence_training import SequenceTraining
from lightning_nas.search.history import SearchHistory
from lightning_nas.search.pool import CandidatePool
from lightning_nas.spaces.nasbench201 import NASBench201
from lightning_nas.spaces.sequences import GraphSequence
from tests.contract import TinySpace

SPACE = TinySpace()
# What the operations are counts, and a little where they stand.
SCORES = 80 + torch.tensor([0.0, 1.0, 4.0])[SPACE.codes].double() @ torch.tensor(
    [1.0, 0.9, 0.8, 0.7], dtype=torch.float64
)
TRAINING = SequenceTraining(num_epochs=300, batch_size=20, learning_rate=1e-2)  # a decoder that can write


def search(strategy, rounds, q=4, runs=2, capacity=40):
    history, pool = SearchHistory.empty(runs, capacity, seed=5), CandidatePool(SPACE)
    for _ in range(rounds):
        chosen = strategy.ask(history, pool, q)
        history.complete(history.begin(chosen, 1), *[SCORES[chosen]] * 3)
    return history


@pytest.mark.parametrize("predictor", [NAO(16, 8, TRAINING), EmProx(16, 5, TRAINING)], ids=["nao", "emprox"])
def test_it_goes_uphill(predictor):
    known = torch.arange(0, 80, 4)
    history, pool = SearchHistory.empty(1, 30, seed=5), CandidatePool(SPACE)
    history.complete(history.begin(known[None], 1), *[SCORES[known][None]] * 3)
    (chosen,) = LatentSearch(predictor, num_initial=16, num_seeds=8).ask(history, pool, 1)[0].tolist()
    assert chosen not in known.tolist()
    assert SCORES[chosen] > SCORES[known].mean() + 1


def test_runs_do_not_depend_on_each_other():
    make = lambda: LatentSearch(NAO(8, 4, SequenceTraining(5)), num_initial=8)  # noqa: E731
    both = search(make(), 3)
    alone, pool = SearchHistory.empty([1], 40, seed=5), CandidatePool(SPACE)
    strategy = make()
    for _ in range(3):
        chosen = strategy.ask(alone, pool, 4)
        alone.complete(alone.begin(chosen, 1), *[SCORES[chosen]] * 3)
    assert torch.equal(alone.indices[0], both.indices[1])


def test_the_last_candidates_are_found_too():
    history = search(LatentSearch(NAO(8, 4, SequenceTraining(1)), 8, num_seeds=2, max_step=1), 27, 3, 1, 81)
    assert sorted(history.indices[0].tolist()) == list(range(81))


def test_the_budget_may_end_where_the_decoder_finds_nothing():
    history = search(LatentSearch(NAO(8, 4, SequenceTraining(1)), 8, num_seeds=2, max_step=1), 10, 4, 1, 40)
    assert len(set(history.indices[0].tolist())) == 40


def test_tokens_are_those_of_members():
    space = NASBench201()
    allowed = allowed_tokens(space)
    assert allowed.shape == (35, 9)
    assert allowed.sum(dim=1).tolist().count(5) == 6  # the operations; all else is always the same
    assert allowed.sum() == 29 + 30


def test_sequences_become_members_once_and_others_are_left_out():
    some = torch.tensor([7, 3, 7, 80])
    tokens = GraphSequence().tokens(SPACE, some)
    broken = tokens[:1].clone()
    broken[0, 1] = 2  # an arc for a label
    other = tokens[1:2].clone()
    other[0, 0] = 1  # no arc from the input
    assert members_of(SPACE, torch.cat([tokens, broken, other])).tolist() == [7, 3, 80]


def test_what_cannot_be_is_said():
    with pytest.raises(UsageError, match="positive numbers"):
        LatentSearch(NAO(), max_step=0)
