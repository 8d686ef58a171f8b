import json

import numpy as np
import pytest
import torch
import yaml
from scipy.stats import kendalltau

from lightning_nas.benchmarks.columns import TableColumns
from lightning_nas.benchmarks.table import read_table, write_table
from lightning_nas.cli import main


@pytest.fixture
def typed(tmp_path, cells, monkeypatch):
    """``lightning-nas score`` on a made-up table of accuracies."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    accuracies = (10.0 + torch.arange(len(cells)) % 71).double().numpy()
    write_table(tmp_path / "truth.npz", {"space": "nasbench201"}, {"toy/test@3": accuracies})
    config = {
        "space": "lightning_nas.spaces.nasbench201.NASBench201",
        "images": {"class_path": "lightning_nas.datamodules.vision.DigitsDataModule"},
        "sizes": {"channels": 2, "cells_per_stage": 1, "num_stages": 1},
        "proxies": ["snip", "synflow", "jacob_cov", "ntk", "linear_regions"], "num_members": 40, "num_images": 6,
        "num_initialisations": 2, "workers": 1, "output": str(tmp_path / "scores.npz"),
        "against": str(tmp_path / "truth.npz"), "columns": ["toy/test@3"],
        "ledger": {
            "name": "test/proxies", "title": "t", "source": "s", "scale": "small", "reference_protocol": "r",
            "our_protocol": "o", "published": {"snip": {"toy/test@3": "0.4"}},
        },
    }  # fmt: skip

    def run(*args, **changes):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config | changes))
        main(["score", "--config", str(tmp_path / "config.yaml"), *args])

    return run


def test_scores_correlations_and_a_place_in_the_ledger(typed, tmp_path, cells, capsys):
    typed("--record", str(tmp_path / "results"))
    table = read_table(tmp_path / "scores.npz")
    members = table["member"]
    assert len(np.unique(cells.representatives[members])) == len(members) == 40
    result = json.loads((tmp_path / "results" / "test" / "proxies.json").read_text())
    rows = {row["label"]: row for row in result["rows"]}
    assert set(rows) == {
        "snip", "synflow", "jacob_cov", "ntk", "linear_regions", "te_nas", "vote", "params", "flops",
    }  # fmt: skip
    truth = read_table(tmp_path / "truth.npz")["toy/test@3"][members]
    expected = [kendalltau(table["proxy/snip"][:, i], truth).statistic for i in range(2)]
    np.testing.assert_allclose(rows["snip"]["values"], expected, rtol=1e-6)
    assert rows["snip"]["paper"] == "0.4"
    assert rows["params"]["n"] == 1
    assert "te_nas" in capsys.readouterr().out
    scores = TableColumns(str(tmp_path / "scores.npz"), ["proxy/snip"]).encode_members(cells, torch.from_numpy(members))
    torch.testing.assert_close(scores[:, 0], torch.from_numpy(table["proxy/snip"].mean(axis=1)).float())


def test_what_is_there_is_not_computed_again(typed, tmp_path, monkeypatch):
    typed()
    before = (tmp_path / "scores.npz").read_bytes()
    monkeypatch.setattr("lightning_nas.benchmarks.proxy_scores.ProxyScores.fill", None)
    typed()
    assert (tmp_path / "scores.npz").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"proxies": ["synflow", "luck"]}, "got the proxies ['luck'], expected some of"),
        ({"num_images": 1}, "expected 2, 1 and 2 or more"),
        ({"columns": []}, "expected both"),
        ({"num_members": 1}, "expected 2 to the 6466 different ones"),
        ({"num_images": 5000}, "expected at most the 900 training images"),
        ({"seed": 1}, "holds other scores"),
    ],
    ids=str,
)
def test_mistakes_are_said_before_any_work(typed, tmp_path, capsys, changes, message):
    if "seed" in changes:
        typed()
    with pytest.raises(SystemExit) as stop:
        typed(**changes)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "scores.shards").exists()


def test_a_record_needs_a_ledger(typed, tmp_path, capsys):
    with pytest.raises(SystemExit):
        typed("--record", str(tmp_path), ledger=None)
    assert "perhaps notes and published" in capsys.readouterr().err
