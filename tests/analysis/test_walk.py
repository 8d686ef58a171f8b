import json

import numpy as np
import pytest
import torch

from lightning_nas.analysis.walk import latent_walks


def test_walks_take_the_nearest_cell_not_visited():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(40, 3))
    found = latent_walks(torch.from_numpy(table), torch.tensor([5, 17]), num_moves=10)
    assert found.shape == (2, 11)
    for path in found.tolist():
        visited = path[:1]
        for cell in path[1:]:
            distances = np.linalg.norm(table - table[visited[-1]], axis=1)
            distances[visited] = np.inf
            assert cell == distances.argmin()
            visited.append(cell)


def test_walks_side_by_side_are_walks_alone(monkeypatch):
    table = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    together = latent_walks(table, torch.arange(8), 6)
    monkeypatch.setattr("lightning_nas.analysis.walk._BLOCK", 60)
    assert torch.equal(latent_walks(table, torch.arange(8), 6), together)


def test_from_run_folders_to_files(analyze, tmp_path, trained, monkeypatch):
    analyze("walk", "--num_moves", 4, "--num_starts", 5, "--encodings", '{"codes": "OneHotEncoding"}',
            "--record", tmp_path / "results")  # fmt: skip
    numbers = json.loads((tmp_path / "out" / "walk.json").read_text())
    found = {(row["label"], row["metric"]): row["mean"] for row in numbers["rows"]}
    assert found["codes", "edit distance of adjacent cells"] <= 3  # one operation, and the arc that goes with it
    assert found["codes", "edit distance of adjacent cells"] < found["random pairs", "edit distance of adjacent cells"]
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {
        "walk_arch2vec.png", "walk_arch2vec__untrained.png", "walk_codes.png",
    }  # fmt: skip
    assert (tmp_path / "results" / "arch2vec" / "tiny_walk.json").is_file()
    assert list((trained.folder / "run0").glob("events.out.tfevents*"))


@pytest.mark.parametrize("given", [("--num_moves", 81), ("--num_starts", 0)], ids=str)
def test_walks_that_cannot_be(analyze, given, capsys):
    with pytest.raises(SystemExit):
        analyze("walk", *given)
    assert "analyze walk: got" in capsys.readouterr().err
