import json

import numpy as np
import pytest

from lightning_nas.analysis.slopes import DISH, NETWORK, Curves, rows_of, slopes, standardised
from lightning_nas.errors import UsageError
from lightning_nas.nn.inner_loop import InnerAdam, InnerLoop
from lightning_nas.nn.motif_network import SlopeNetwork
from lightning_nas.predictors.mlp import MLPEnsemble
from lightning_nas.predictors.petri_dish import PetriDishPredictor
from lightning_nas.spaces.sigmoid_slope import SlopeEncoding
from tests.datamodules.test_motifs import make_benchmark


def make_dish(**changes):
    given = {
        "network": SlopeNetwork(4, 3, 5), "loop": InnerLoop(InnerAdam(0.1), 20), "stages": [(6, 0.05)],
        "num_dishes": 1,
    }  # fmt: skip
    return PetriDishPredictor(**given | changes)


def by_metric(rows):
    return {(row.label, row.metric): row for row in rows}


def test_one_command_leaves_table_figures_and_ledger(tmp_path, capsys):
    slopes(
        make_benchmark(), make_dish(), MLPEnsemble(SlopeEncoding(), num_layers=1, num_epochs=3), num_train=8,
        interval=(0.5, 1.6), num_seeds=3, name="petri_dish/toy", output=tmp_path / "out", record=tmp_path / "ledger",
        protocol="toy",
    )  # fmt: skip
    for name in ("curves", "data", "calibration"):
        for kind in ("png", "pdf"):
            assert (tmp_path / "out" / f"{name}.{kind}").stat().st_size > 2000
    details = json.loads((tmp_path / "out" / "toy.json").read_text())
    assert np.array(details[DISH]).shape == np.array(details[NETWORK]).shape == (3, 20)
    record = json.loads((tmp_path / "ledger" / "petri_dish" / "toy.json").read_text())
    labels = {row["label"] for row in record["rows"]}
    assert labels == {"truth", DISH, NETWORK}
    assert "Written" in capsys.readouterr().out


def test_rows_are_rank_correlations_and_peaks():
    space = np.linspace(0.1, 1.0, 10)
    truth = -np.abs(space - 0.3)
    falling, risen = -space, truth + 0.001 * space
    predicted = {DISH: np.stack([risen, falling, risen]), NETWORK: np.stack([falling] * 3)}
    found = Curves(space, truth, np.zeros((3, 10), bool), predicted, (0.45, 0.9))
    rows = by_metric(rows_of(found, "seeds 0 to 2"))
    assert rows["truth", "slope of the peak"].mean == pytest.approx(0.3)
    assert rows[DISH, "median over seeds: slope of the peak"].mean == pytest.approx(0.3)
    assert rows[DISH, "median over seeds: Spearman, all slopes"].mean > 0.9
    assert rows[NETWORK, "mean over seeds: slope of the peak"].mean == pytest.approx(0.1)
    assert rows[NETWORK, "a seed falls all the way"].mean == 1
    assert rows[DISH, "a seed falls all the way"].mean == pytest.approx(1 / 3)
    assert rows[DISH, "a seed: slope of the peak"].values == (
        pytest.approx(0.3), pytest.approx(0.1), pytest.approx(0.3)
    )  # fmt: skip


def test_one_wild_seed_does_not_decide_the_mean():
    space = np.linspace(0.1, 1.0, 10)
    truth = -np.abs(space - 0.3)
    wild = np.zeros(10)
    wild[0] = 1000.0
    found = Curves(space, truth, np.zeros((10, 10), bool), {DISH: np.stack([truth] * 9 + [wild])}, (0.45, 0.9))
    rows = by_metric(rows_of(found, "seeds 0 to 2"))
    assert rows[DISH, "median over seeds: Spearman, all slopes"].mean == pytest.approx(1.0)
    assert rows[DISH, "mean over seeds: slope of the peak"].mean == pytest.approx(0.3)
    np.testing.assert_allclose(standardised(wild[None]).std(), 1.0)
    assert (standardised(np.ones((1, 4))) == 0).all()


def test_a_flat_curve_ranks_nothing():
    space = np.linspace(0.1, 1.0, 10)
    flat = np.where(space < 0.5, 1.0, -space)
    found = Curves(space, -space, np.zeros((2, 10), bool), {NETWORK: np.stack([flat, -space])}, (0.5, 0.9))
    rows = by_metric(rows_of(found, "seeds 0 to 1"))
    assert rows[NETWORK, "a seed: Spearman, left of the interval"].values == (0.0, pytest.approx(1.0))


def test_what_cannot_be_is_said():
    with pytest.raises(UsageError, match="num_seeds=0"):
        slopes(make_benchmark(), make_dish(), MLPEnsemble(SlopeEncoding()), num_seeds=0)
