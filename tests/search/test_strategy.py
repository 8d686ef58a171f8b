"""What every strategy promises, and the description of objects."""

import pytest
import torch

from lightning_nas.errors import SearchStateError
from lightning_nas.predictors.dngo import DNGO
from lightning_nas.predictors.gp import GaussianProcess
from lightning_nas.search.acquisition import EI, UCB, LogEI, Thompson
from lightning_nas.search.bayesian import BayesianSearch
from lightning_nas.search.bohb import BOHB
from lightning_nas.search.categorical_reinforce import CategoricalReinforce
from lightning_nas.search.evolution import RegularizedEvolution
from lightning_nas.search.history import SearchHistory, Status
from lightning_nas.search.local import LocalSearch
from lightning_nas.search.loop import search_rounds
from lightning_nas.search.pool import CandidatePool
from lightning_nas.search.random import RandomSearch
from lightning_nas.search.reference_bayesian import ReferenceBayesianSearch
from lightning_nas.search.reinforce import Reinforce
from lightning_nas.search.strategy import SearchStrategy, describe
from lightning_nas.spaces.encodings import OneHotEncoding

GP = {"surrogate": lambda: GaussianProcess((0.5, 2.0), (1e-2,)), "encoding": OneHotEncoding}
NET = {"surrogate": lambda: DNGO(hidden_size=8, num_steps=4), "encoding": lambda: None}  # on embeddings
ACQUISITIONS = {
    "logei": LogEI,
    "ei": lambda: EI(incumbent=100.0),
    "ucb": lambda: UCB(1.0, block_size=600),
    "thompson": lambda: Thompson(12),
}


def bayesian(kind, acquisition, **arguments):
    return lambda: BayesianSearch(
        kind["surrogate"](), ACQUISITIONS[acquisition](), kind["encoding"](), num_initial=4, **arguments
    )


STRATEGIES = {
    "random": RandomSearch,
    "evolution": lambda: RegularizedEvolution(4, 2),
    "local": LocalSearch,
    "reinforce": lambda: Reinforce(episode_length=3, hidden_size=8, block_size=100),
    "reinforce-reference": lambda: Reinforce(
        baseline=40, episode_length=2, hidden_size=8, mode="reference", skip_nearest=True
    ),
    "categorical": lambda: CategoricalReinforce(block_size=100),
    "bohb": lambda: BOHB(num_startup=4, num_candidates=8),
    "reference": lambda: ReferenceBayesianSearch(
        GaussianProcess((1.0,), (1e-2,)), 95, OneHotEncoding(), num_initial=4, repeats=False
    ),
    **{f"gp-{name}": bayesian(GP, name) for name in ACQUISITIONS},
    **{f"dngo-{name}": bayesian(NET, name) for name in ACQUISITIONS},
    "gp-shortlist": bayesian(GP, "logei", refit_every=3, shortlist=12),
    "dngo-shortlist": bayesian(NET, "logei", refit_every=3, shortlist=12),
}
# What BoTorch and GPyTorch say about plain EI and about features fewer than candidates is known.
pytestmark = pytest.mark.filterwarnings(
    "ignore:ExpectedImprovement has known",
    "ignore:A not p.d.",
    "ignore:Negative variance values",
)
BATCHES = (1, 3)
FAILING = range(2, 81, 5)


@pytest.fixture(params=STRATEGIES)
def make(request):
    return STRATEGIES[request.param]


@pytest.fixture(scope="module")
def small(pool):
    """Part of the space, 15 members."""
    return CandidatePool(pool.space, torch.arange(10, 25), embeddings=pool.embeddings[10:25])


@pytest.mark.parametrize("q", BATCHES)
def test_no_repeats_and_all_places_filled(make, play, q):
    history = play(make(), capacity=13, q=q, failing=FAILING)
    assert all(len(set(row)) == 13 for row in history.indices.tolist())
    assert ((history.indices >= 0) & (history.indices < 81)).all()
    failed = torch.isin(history.indices, torch.tensor(FAILING))
    assert failed.any()
    assert torch.equal(history.status == Status.FAILED, failed)
    assert torch.equal(history.status == Status.DONE, ~failed)


@pytest.mark.parametrize("q", BATCHES)
@pytest.mark.parametrize("length", [3, 10])
def test_asking_is_a_pure_function_of_the_history(make, play, pool, same, q, length):
    history = SearchHistory.empty(5, length + q, seed=4)
    played = play(RandomSearch(), runs=5, capacity=max(length, 1), seed=4, failing=FAILING).prefix(length)
    for name, value in played.state_dict().items():
        if name not in ("seed", "runs"):
            history.state_dict()[name][:, :length] = value
    before = history.rows(slice(None))
    strategy = make()
    first = strategy.ask(history, pool, q)
    same(before, history)
    assert first.shape == (5, q)
    assert torch.equal(strategy.ask(history, pool, q), first)
    assert torch.equal(make().ask(history, pool, q), first)
    # The test scores, the clock and the room left must not matter …
    blind = SearchHistory.empty(5, length + q + 7, seed=4)
    for name in ("indices", "epochs", "valid", "status"):
        blind.state_dict()[name][:, : length + q] = history.state_dict()[name]
    assert torch.equal(make().ask(blind, pool, q), first)
    # … nor which runs are present.
    for part in (torch.tensor([0, 2, 4]), torch.tensor([3, 1]), torch.tensor([4])):
        assert torch.equal(make().ask(history.rows(part), pool, q), first[part])


@pytest.mark.parametrize("q", BATCHES)
def test_runs_split_over_processes_make_the_same_search(make, play, same, q):
    whole = play(make(), runs=3, capacity=11, q=q, failing=FAILING)
    for rank in range(2):
        same(play(make(), runs=range(rank, 3, 2), capacity=11, q=q, failing=FAILING), whole.rows(slice(rank, None, 2)))


@pytest.mark.parametrize("q", BATCHES)
def test_interrupted_at_any_round(make, play, make_benchmark, pool, same, tmp_path, q):
    whole = play(make(), runs=2, capacity=8, q=q, failing=FAILING)
    history = SearchHistory.empty(2, 8)
    strategy, rounds = make(), 0
    while history.length < 8:
        next(search_rounds(strategy, history, pool, make_benchmark(FAILING), q))
        torch.save({"history": history.state_dict(), "strategy": strategy.state_dict()}, tmp_path / "state.pt")
        state = torch.load(tmp_path / "state.pt", weights_only=True)
        history, strategy = SearchHistory.from_state_dict(state["history"]), make()
        strategy.load_state_dict(state["strategy"])
        rounds += 1
    assert rounds == -(-8 // q)
    same(history, whole)


@pytest.mark.parametrize("q", BATCHES)
def test_to_the_end_of_the_pool_and_not_beyond(make, play, small, q):
    history = play(make(), runs=2, capacity=15, q=q, over=small)
    assert [sorted(row) for row in history.indices.tolist()] == [list(range(15))] * 2
    with pytest.raises(SearchStateError, match="exhausted"):
        make().ask(history, small, 1)


@pytest.mark.parametrize("failing", [range(81), range(1, 81)], ids=["all", "all but one"])
def test_failures_everywhere(make, play, failing):
    history = play(make(), capacity=9, q=2, failing=failing)
    assert all(len(set(row)) == 9 for row in history.indices.tolist())


def test_first_batch_larger_than_the_initial_sample(make, play):
    # Nothing is known yet, so the second half of the batch must be as random as the first.
    history = play(make(), runs=60, capacity=12, q=12)
    assert all(len(set(row)) == 12 for row in history.indices.tolist())
    # Climbing asks for neighbours of what runs, a policy for what lies at the rim.
    if make not in (STRATEGIES["local"], STRATEGIES["reinforce"], STRATEGIES["reinforce-reference"]):
        assert len(history.indices[:, -4:].unique()) > 70


def test_batches_know_their_own_members():
    class Lowest(SearchStrategy):
        def propose(self, history, pool):
            seen.append((history.indices.tolist(), history.status.tolist()))
            free = [min(set(range(9)) - set(row)) for row in history.indices.tolist()]
            return torch.tensor(free)

    seen = []
    history = SearchHistory.empty(2, 5)
    history.begin(torch.tensor([[1], [0]]), epochs=1)
    assert Lowest().ask(history, None, 3).tolist() == [[0, 2, 3], [1, 2, 3]]
    assert seen[2] == ([[1, 0, 2, -1, -1], [0, 1, 2, -1, -1]], [[1, 1, 1, 0, 0]] * 2)
    assert history.count.tolist() == [1, 1]


def test_learning_defaults_to_nothing():
    strategy = RandomSearch()
    assert strategy.tell(SearchHistory.empty(1, 1)) is None
    assert strategy.state_dict() == {}
    assert strategy.load_state_dict({}) is None
    assert not strategy.needs_embeddings


class Thing:
    def __init__(self, **attributes):
        vars(self).update(attributes)


def test_describe():
    assert [describe(v) for v in (None, True, 3, 0.5, "x")] == [None, True, 3, 0.5, "x"]
    assert [describe(v) for v in (float("nan"), float("-inf"))] == ["nan", "-inf"]  # JSON has no such numbers
    assert describe((1, [2, (3,)])) == [1, [2, [3]]]
    assert describe({1: (2,), "a": Thing(b=1)}) == {"1": [2], "a": {"class": f"{__name__}.Thing", "b": 1}}
    assert describe(Thing(z=1, _cache=2, a=Thing())) == {
        "class": f"{__name__}.Thing", "a": {"class": f"{__name__}.Thing"}, "z": 1,
    }  # fmt: skip
    description = describe(BayesianSearch(GaussianProcess(), EI(100.0), OneHotEncoding(), num_initial=5))
    assert description["class"] == "lightning_nas.search.bayesian.BayesianSearch"
    assert description["num_initial"] == 5
    assert description["acquisition"]["incumbent"] == 100.0
    assert description["surrogate"]["noises"] == [1e-4, 1e-3, 1e-2, 1e-1]
    assert description["encoding"] == {"class": "lightning_nas.spaces.encodings.OneHotEncoding"}


def test_descriptions_do_not_change_in_use(make, play):
    strategy = make()
    before = describe(strategy)
    play(strategy, capacity=8)
    assert describe(strategy) == before
