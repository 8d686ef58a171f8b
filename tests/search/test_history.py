import numpy as np
import pytest
import torch

from lightning_nas.errors import SearchStateError, UsageError
from lightning_nas.search.history import SearchHistory, Status

COLUMNS = ("indices", "epochs", "valid", "test", "cost", "status", "arrival")


def column(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


@pytest.fixture
def mixed(written):
    """Three runs with done, failed, running and empty places."""
    valid = [[None, 50.0, 70.0, 60.0, None, 80.0], [None, None, 40.0], [90.0, ..., 95.0, ...]]
    return written([[1, 2, 3, 4, 5, 6], [7, 8, 9], [3, 2, 1, 0]], valid, capacity=7, seed=5)


def test_empty():
    history = SearchHistory.empty([4, 1], 3, seed=9)
    assert history.runs.tolist() == [4, 1]
    assert history.seed == 9
    assert {name: getattr(history, name).shape for name in COLUMNS} == dict.fromkeys(COLUMNS, (2, 3))
    assert (history.indices == -1).all()
    assert (history.epochs == 0).all()
    assert (history.status == Status.EMPTY).all()
    for scores in (history.valid, history.test, history.cost):
        assert scores.isnan().all()
        assert scores.dtype == torch.float64
    assert (history.length, history.capacity, history.count.tolist()) == (0, 3, [0, 0])
    # No two columns may share memory.
    assert len({getattr(history, name).data_ptr() for name in COLUMNS}) == len(COLUMNS)


def test_begin_and_complete():
    history = SearchHistory.empty(2, 5)
    columns = history.begin(torch.tensor([[3, 1], [0, 2]]), epochs=12)
    assert columns.tolist() == [[0, 1], [0, 1]]
    assert history.status.tolist() == [[1, 1, 0, 0, 0]] * 2
    assert history.epochs.tolist() == [[12, 12, 0, 0, 0]] * 2
    assert not history.done.any()
    valid = torch.tensor([[91.0, torch.nan], [92.0, 93.0]], dtype=torch.float64)
    history.complete(columns, valid, valid + 1, valid + 2)
    assert history.status[:, :2].tolist() == [[Status.DONE, Status.FAILED], [Status.DONE, Status.DONE]]
    later = history.begin(torch.tensor([[4], [4]]), epochs=200)
    assert later.tolist() == [[2], [2]]
    assert history.indices.tolist() == [[3, 1, 4, -1, -1], [0, 2, 4, -1, -1]]
    assert history.epochs[:, 2].tolist() == [200, 200]
    torch.testing.assert_close(history.test[:, :2], valid + 1, equal_nan=True)
    torch.testing.assert_close(history.cost[:, :2], valid + 2, equal_nan=True)
    assert history.valid[:, 2:].isnan().all()
    assert history.count.tolist() == [3, 3]


def test_runs_may_differ_in_length(mixed):
    assert mixed.count.tolist() == [6, 3, 4]
    assert mixed.length == 6
    columns = mixed.begin(torch.tensor([[10], [11], [12]]), epochs=1)
    assert columns[:, 0].tolist() == [6, 3, 4]
    mixed.complete(columns, column(1, 2, 3), column(4, 5, 6), column(7, 8, 9))
    assert [mixed.indices[r, c].item() for r, c in ((0, 6), (1, 3), (2, 4))] == [10, 11, 12]
    assert [mixed.cost[r, c].item() for r, c in ((0, 6), (1, 3), (2, 4))] == [7, 8, 9]


def test_incumbents_by_hand(mixed):
    assert mixed.incumbents()[0, 1:].tolist() == [1, 2, 2, 2, 5, 5]
    assert mixed.incumbents()[1, 2:].tolist() == [2] * 5
    assert mixed.incumbents()[2].tolist() == [0, 0, 2, 2, 2, 2, 2]


def test_incumbents_are_the_running_maximum_and_never_failed():
    rng = np.random.default_rng(0)
    history = SearchHistory.empty(40, 12)
    columns = history.begin(torch.arange(12).expand(40, 12), epochs=1)
    valid = torch.from_numpy(rng.integers(0, 5, (40, 12)).astype(float))  # few values: many ties
    valid[torch.from_numpy(rng.random((40, 12)) < 0.4)] = torch.nan
    history.complete(columns, valid, valid, valid)
    found = history.incumbents()
    for run in range(40):
        for step in range(12):
            seen = [v for v in valid[run, : step + 1].tolist() if not np.isnan(v)]
            assert found[run, step] <= step
            if seen:
                assert history.status[run, found[run, step]] == Status.DONE
                assert found[run, step] == valid[run].tolist().index(max(seen))  # the first of equals


def test_draws_depend_on_seed_run_and_count_alone(mixed):
    everything = SearchHistory.empty(6, 4, seed=3)
    some = SearchHistory.empty([5, 0, 2], 9, seed=3)  # other runs present, another capacity
    assert torch.equal(some.uniforms(4), everything.uniforms(4)[[5, 0, 2]])
    assert torch.equal(everything.uniforms(4), everything.uniforms(4))
    before = mixed.uniforms(3)
    mixed.indices += 1
    mixed.valid[:] = 3.0
    assert torch.equal(mixed.uniforms(3), before)
    mixed.begin(torch.tensor([[0], [1], [2]]), epochs=1)
    assert not (mixed.uniforms(3) == before).any()
    assert not (SearchHistory.empty(6, 4, seed=4).uniforms(4) == everything.uniforms(4)).any()
    # Failed, running and done evaluations count alike.
    mixed.status[mixed.status > 0] = Status.FAILED
    failed = mixed.uniforms(3)
    mixed.status[mixed.status > 0] = Status.RUNNING
    assert torch.equal(mixed.uniforms(3), failed)


def test_draws_are_the_documented_stream():
    history = SearchHistory.empty([7, 3], 4, seed=11)
    history.begin(torch.tensor([[0, 1], [2, 3]]), epochs=1)
    expected = [np.random.default_rng((11, run, 2)).random(5) for run in (7, 3)]
    np.testing.assert_array_equal(history.uniforms(5).numpy(), expected)


def test_draws_are_uniform_and_independent():
    history = SearchHistory.empty(400, 30)
    draws = []
    for step in range(30):
        draws.append(history.uniforms(2))
        history.begin(torch.full((400, 1), step), epochs=1)
    sample = torch.stack(draws)  # (T, R, 2)
    assert (sample >= 0).all()
    assert (sample < 1).all()
    assert len(sample.unique()) == sample.numel()
    counts = np.histogram(sample.numpy(), bins=20, range=(0, 1))[0]
    expected = sample.numel() / 20
    assert ((counts - expected) ** 2 / expected).sum() < 43.8  # chi-squared with 19 degrees of freedom, 99.9%
    for one, other in ((sample[1:], sample[:-1]), (sample[:, 1:], sample[:, :-1]), (sample[..., :1], sample[..., 1:])):
        assert abs(np.corrcoef(one.flatten(), other.flatten())[0, 1]) < 0.035


def test_no_runs():
    history = SearchHistory.empty(0, 5)
    assert history.length == 0
    assert history.uniforms(3).shape == (0, 3)
    assert history.incumbents().shape == (0, 5)


def test_prefix_is_a_view(mixed):
    front = mixed.prefix(2)
    assert {getattr(front, name).shape for name in COLUMNS} == {(3, 2)}
    assert front.capacity == 2
    assert torch.equal(front.indices, mixed.indices[:, :2])
    front.valid[0, 1] = 51.0
    assert mixed.valid[0, 1] == 51.0
    assert (front.seed, front.runs.tolist()) == (mixed.seed, mixed.runs.tolist())


@pytest.mark.parametrize("selected", [torch.tensor([2, 0]), slice(None, None, 2), slice(0, 0)])
def test_rows_are_copies(mixed, selected):
    part = mixed.rows(selected)
    assert part.runs.tolist() == torch.arange(3)[selected].tolist()
    for name in COLUMNS:
        value = getattr(part, name)
        torch.testing.assert_close(value, getattr(mixed, name)[selected], rtol=0, atol=0, equal_nan=True)
        value[:] = 0
    assert mixed.indices[0, 0] == 1
    assert mixed.status[2, 0] == Status.DONE
    part.runs[:] = 77
    assert mixed.runs.tolist() == [0, 1, 2]


def test_round_trip_through_a_file(mixed, tmp_path, same):
    torch.save(mixed.state_dict(), tmp_path / "history.pt")
    again = SearchHistory.from_state_dict(torch.load(tmp_path / "history.pt", weights_only=True))
    same(mixed, again)
    assert again.seed == 5
    assert again.indices.dtype == again.status.dtype == torch.long
    assert torch.equal(again.uniforms(3), mixed.uniforms(3))


@pytest.mark.parametrize("change", [lambda s: s.pop("cost"), lambda s: s.update(best=1)])
def test_foreign_state_is_refused(mixed, change):
    state = mixed.state_dict()
    change(state)
    with pytest.raises(SearchStateError, match=r"search history: got the entries.*expected.*'cost'"):
        SearchHistory.from_state_dict(state)


def test_arrivals_are_counted_in_each_run():
    history = SearchHistory.empty(2, 4)
    history.begin(torch.tensor([[3, 1, 5], [0, 2, 4]]), epochs=1)
    assert (history.arrival == -1).all()
    for run, column in ((0, 2), (1, 0), (0, 0)):
        score = torch.tensor([[90.0 + column]], dtype=torch.float64)
        history.run(run).complete(torch.tensor([[column]]), score, score, score)
    assert history.arrival.tolist() == [[1, -1, 0, -1], [0, -1, -1, -1]]
    assert history.finished.tolist() == [2, 1]
    assert history.count.tolist() == [3, 3]
    assert history.status[0].tolist() == [Status.DONE, Status.RUNNING, Status.DONE, Status.EMPTY]
    assert history.run(1).runs.tolist() == [1]


def test_by_arrival_puts_first_what_came_first():
    history = SearchHistory.empty(1, 5)
    history.begin(torch.tensor([[10, 11, 12, 13]]), epochs=1)
    for column, score in ((3, 80.0), (1, torch.nan), (0, 90.0)):
        value = torch.tensor([[score]], dtype=torch.float64)
        history.complete(torch.tensor([[column]]), value, value, value)
    ordered = history.by_arrival()
    assert ordered.indices.tolist() == [[13, 11, 10, 12, -1]]
    assert ordered.arrival.tolist() == [[0, 1, 2, -1, -1]]
    assert ordered.valid[0, [0, 2]].tolist() == [80.0, 90.0]
    assert ordered.incumbents()[0, :4].tolist() == [0, 0, 2, 2]
    assert history.indices.tolist() == [[10, 11, 12, 13, -1]]


def test_rounds_arrive_in_the_order_of_their_columns(mixed, same):
    history = SearchHistory.empty(2, 5)
    for members in ([[1, 2], [3, 4]], [[5, 6], [7, 8]]):
        columns = history.begin(torch.tensor(members), epochs=1)
        scores = torch.rand(2, 2, dtype=torch.float64)
        history.complete(columns, scores, scores, scores)
    assert history.arrival.tolist() == [[0, 1, 2, 3, -1]] * 2
    same(history.by_arrival(), history)
    same(mixed.by_arrival(), mixed)  # written without arrivals: nothing moves


def test_a_history_from_before_arrivals_were_kept(mixed):
    state = mixed.state_dict()
    del state["arrival"]
    again = SearchHistory.from_state_dict(state)
    assert again.arrival[0].tolist() == [0, 1, 2, 3, 4, 5, -1]
    assert again.arrival[2].tolist() == [0, -1, 2, -1, -1, -1, -1]
    assert "arrival" not in state


def test_what_was_trained_for_less_is_no_incumbent_once_there_is_more(written):
    history = written([[1, 2, 3, 1, 4, 2], [5, 6, 7, 8, 9, 5]], [[70.0, 80.0, 75.0, 60.0, 90.0, 61.0], [50.0] * 6])
    history.epochs[0] = torch.tensor([12, 12, 12, 200, 12, 200])
    assert history.incumbents().tolist() == [[0, 1, 1, 3, 3, 5], [0] * 6]
    history.epochs[1, 2:] = 1  # another run has yet another fidelity
    assert history.incumbents().tolist() == [[0, 1, 1, 3, 3, 5], [0] * 6]


def test_evaluations_begun_at_once_may_differ_in_epochs():
    history = SearchHistory.empty(2, 3)
    history.begin(torch.tensor([[1, 2], [3, 4]]), torch.tensor([[12, 200], [200, 12]]))
    history.begin(torch.tensor([[5], [6]]), 7)
    assert history.epochs.tolist() == [[12, 200, 7], [200, 12, 7]]


@pytest.fixture
def arrived():
    """Five runs whose scores came in a shuffled order, at two fidelities; some failed, a few still run."""
    rng = np.random.default_rng(0)
    history = SearchHistory.empty(5, 12, seed=3)
    history.begin(torch.from_numpy(rng.random((5, 30)).argsort(1)[:, :10].copy()), 12)
    history.epochs[:, ::3] = history.charged[:, ::3] = 108
    for run in range(5):
        for place in rng.permutation(10)[: 10 - run].tolist():
            scores = torch.from_numpy(rng.uniform(10, 90, (3, 1, 1)))
            if rng.random() < 0.2:
                scores[:] = torch.nan
            history.run(run).complete(torch.tensor([[place]]), *scores)
    return history


@pytest.mark.parametrize(
    "budget",
    [{"queries": 4}, {"epochs": 150}, {"seconds": 170.5}, {"epochs": 300, "seconds": 250}, {"queries": 99}, {}],
    ids=str,
)
def test_what_a_budget_reaches(arrived, same, budget):
    before = arrived.rows(slice(None))
    cut = arrived.within(**budget)
    same(arrived, before)
    whole = arrived.by_arrival()
    if not budget:
        same(cut, whole)
        return
    for run in range(5):
        spent = {"queries": 0, "epochs": 0, "seconds": 0.0}
        kept = 0
        for place in range(int(whole.finished[run])):
            spent["queries"] += 1
            spent["epochs"] += int(whole.epochs[run, place])
            spent["seconds"] += float(whole.cost[run, place].nan_to_num())
            if any(spent[name] > limit for name, limit in budget.items()):
                break
            kept += 1
        assert cut.count[run] == cut.finished[run] == kept
        for name in COLUMNS:
            ours, theirs = getattr(cut, name)[run], getattr(whole, name)[run]
            torch.testing.assert_close(ours[:kept], theirs[:kept], equal_nan=True)
            blank = getattr(SearchHistory.empty(1, 12), name)[0]
            torch.testing.assert_close(ours[kept:], blank[kept:], equal_nan=True)


def test_a_budget_met_exactly_is_enough(written):
    history = written([[1, 2, 3]], [[50.0, 60.0, 70.0]])
    history.cost[0] = torch.tensor([10.0, 20.0, 5.0])
    assert [history.within(seconds=limit).count.item() for limit in (9, 10, 29.9, 30, 34, 35)] == [0, 1, 1, 2, 2, 3]
    assert [history.within(epochs=limit).count.item() for limit in (2, 3, 6, 8, 9)] == [0, 1, 2, 2, 3]
    assert history.timed
    assert history.spent("queries").tolist() == [[1, 2, 3]]


def test_budgets_that_cannot_be_kept(written):
    history = written([[1, 2, 3]], [[50.0, None, 70.0]])
    history.cost[0, 0] = 1.0
    assert not history.timed
    with pytest.raises(UsageError, match="does not say what 1 of 2 evaluations cost; count queries or epochs instead"):
        history.within(seconds=5)
    assert history.within(epochs=9).count.item() == 3
    for wrong in ({"queries": 0}, {"seconds": -1.0}, {"epochs": float("nan")}):
        with pytest.raises(UsageError, match=f"{next(iter(wrong))}.*expected positive numbers"):
            history.within(**wrong)
    with pytest.raises(UsageError, match="got 'days'"):
        history.spent("days")
    assert not SearchHistory.empty(1, 2).timed


def test_what_goes_on_pays_for_the_rest_alone():
    history = SearchHistory.empty(2, 6)
    first = history.begin(torch.tensor([[3, 5], [5, 3]]), 4, resumed=True)
    history.complete(first, *(torch.full((2, 2), value).double() for value in (80.0, 79.0, 40.0)))
    second = history.begin(torch.tensor([[5], [7]]), 12, resumed=True)
    history.complete(second, *(torch.full((2, 1), value).double() for value in (90.0, 89.0, 120.0)))
    assert history.charged[:, :3].tolist() == [[4, 4, 8], [4, 4, 12]]
    assert history.spent("epochs")[:, 2].tolist() == [16.0, 20.0]
    assert history.cost[:, 2].tolist() == [80.0, 120.0]
    assert history.spent("seconds")[:, 2].tolist() == [160.0, 200.0]
    again = history.begin(torch.tensor([[5], [7]]), 12, resumed=True)
    assert history.charged.gather(1, again).tolist() == [[0], [0]]
    anew = history.begin(torch.tensor([[5], [5]]), 12)
    assert history.charged.gather(1, anew).tolist() == [[12], [12]]
    kept = history.within(epochs=16)
    assert kept.count.tolist() == [3, 2]
    assert torch.equal(kept.charged, torch.tensor([[4, 4, 8, 0, 0, 0], [4, 4, 0, 0, 0, 0]]))


def test_histories_from_before_trainings_went_on_were_paid_in_full(written):
    state = written([[1, 2]], [[80.0, 81.0]]).state_dict()
    del state["charged"]
    assert torch.equal(SearchHistory.from_state_dict(state).charged, state["epochs"])
    del state["arrival"]
    assert torch.equal(SearchHistory.from_state_dict(state).charged, state["epochs"])
