import json

import numpy as np
import pytest
import torch

from lightning_nas.analysis.cells import _Kept, best_cells, cells, curves, rows_of
from lightning_nas.errors import SearchStateError, UsageError
from lightning_nas.predictors.generated_search import GeneratedSearch, PartialEvaluationSearch
from lightning_nas.search.history import SearchHistory
from lightning_nas.search.pool import CandidatePool
from lightning_nas.search.random import RandomSearch
from tests.predictors.test_generated_search import SPACE, IdentityCount, Knowing

STRATEGIES = {
    "random": RandomSearch(), "knowing": GeneratedSearch(predictor=Knowing(), num_initial=4),
    "partial": PartialEvaluationSearch(num_screened=8),
}  # fmt: skip


def run(folder, **changes):
    given = {"num_runs": 3, "num_queries": 12, "batch_size": 4, "output": folder, "name": "petri_dish/toy"}
    cells(IdentityCount(), **{"strategies": STRATEGIES} | given | changes)


def test_one_command_leaves_table_figure_and_ledger(tmp_path):
    run(tmp_path / "out", record=tmp_path / "ledger", published={"knowing": "57.1"})
    assert (tmp_path / "out" / "perplexity.png").stat().st_size > 5000
    record = json.loads((tmp_path / "ledger" / "petri_dish" / "toy.json").read_text())
    rows = {(row["label"], row["metric"]): row for row in record["rows"]}
    assert rows["knowing", "test perplexity"]["paper"] == "57.1"
    assert rows["knowing", "test perplexity"]["mean"] < rows["random", "test perplexity"]["mean"]
    assert rows["knowing", "test perplexity less that of random, same runs"]["mean"] < 0
    assert "8 evaluations of 2 epochs" in rows["partial", "test perplexity"]["note"]
    details = json.loads((tmp_path / "out" / "toy.json").read_text())
    best = int(IdentityCount().evaluate(list(SPACE)).valid.argmax())
    assert details["best"]["knowing"]["cell"] == SPACE.format(SPACE[best])
    curve = np.array(details["curves"]["knowing"])
    assert curve.shape == (3, 12)
    assert (np.diff(curve, axis=1) <= 1e-9).all()


def test_an_interrupted_search_goes_on(tmp_path, monkeypatch):
    two = {"strategies": {name: STRATEGIES[name] for name in ("random", "partial")}}  # three rounds each
    run(tmp_path / "straight", **two)
    original, calls = IdentityCount.evaluate, []

    def failing(self, archs, epochs=None):
        calls.append(archs)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return original(self, archs, epochs)

    monkeypatch.setattr(IdentityCount, "evaluate", failing)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", **two)
    run(tmp_path / "broken", **two)
    assert len(calls) == 5 + 2
    for path in (tmp_path / "straight" / "search").iterdir():
        ours, theirs = (
            torch.load(folder / "search" / path.name, weights_only=True)["history"]
            for folder in (tmp_path / "straight", tmp_path / "broken")
        )
        assert torch.equal(ours["indices"], theirs["indices"])
        assert torch.equal(ours["valid"], theirs["valid"])


def test_another_search_in_the_same_folder_is_refused(tmp_path):
    kept = _Kept(tmp_path / "a.pt", "random", RandomSearch(), IdentityCount(), 1, 0)
    history = SearchHistory.empty(2, 4, 0)
    kept.write(history, 1.5)
    assert kept.read(2, 6)[1] == 1.5
    with pytest.raises(SearchStateError, match="another strategy"):
        _Kept(tmp_path / "a.pt", "random", RandomSearch(), IdentityCount(), 1, 1).read(2, 4)
    with pytest.raises(SearchStateError, match="another strategy"):
        _Kept(tmp_path / "a.pt", "random", RandomSearch(), IdentityCount(), 2, 0).read(2, 4)
    with pytest.raises(SearchStateError, match="another strategy"):
        kept.read(3, 4)


def test_numbers_are_perplexities():
    history = SearchHistory.empty(2, 3, 0)
    columns = history.begin(torch.tensor([[0, 1, 2], [3, 4, 5]]), 2)
    valid = -torch.tensor([[50.0, 40.0, 45.0], [60.0, 70.0, 55.0]]).double()
    history.complete(columns, valid, valid - 1, torch.ones(2, 3).double())
    found = {"random": history}
    np.testing.assert_allclose(curves(found)["random"], [[51, 41, 41], [61, 61, 56]])
    (row,) = (row for row in rows_of(found, 2, {}, 0) if row.metric == "test perplexity")
    assert row.values == (41.0, 56.0)
    best = best_cells(found, CandidatePool(SPACE))["random"]
    assert (best["cell"], best["validation"], best["test"]) == (SPACE.format(SPACE[1]), 40.0, 41.0)


def test_what_cannot_be_is_said(tmp_path):
    with pytest.raises(UsageError, match="expected positive numbers"):
        run(tmp_path, num_runs=0)
    with pytest.raises(UsageError, match=r"\['stranger'\] are none of them"):
        run(tmp_path, published={"stranger": "1"})
