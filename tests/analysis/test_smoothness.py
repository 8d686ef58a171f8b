import json

import numpy as np
import pytest
import torch

from lightning_nas.analysis.smoothness import _rising, walk_pairs
from lightning_nas.errors import UsageError
from tests.contract import TinySpace


def test_pairs_are_steps_of_one_walk():
    space = TinySpace()
    pairs = walk_pairs(space, num_steps=20, max_gap=3, seed=0)
    assert len(pairs.left) == len(pairs.right) == 20 + 19 + 18
    codes = space.codes
    changed = (codes[pairs.left] != codes[pairs.right]).sum(dim=1)
    assert (changed[:20] == 1).all()  # neighbours
    assert (changed[20:39] <= 2).all()
    assert torch.equal(walk_pairs(space, 20, 3, seed=0).left, pairs.left)
    assert not torch.equal(walk_pairs(space, 20, 3, seed=1).left, pairs.left)


def test_a_walk_to_and_fro_is_refused():
    class Pair(TinySpace):
        def mutate(self, arch, rng):
            return (1, *arch[1:]) if arch[0] == 0 else (0, *arch[1:])

    with pytest.raises(UsageError, match=r"100 steps lead to . different cells"):
        walk_pairs(Pair(), 100, 3, seed=0)


def test_rising_medians():
    edits = torch.tensor([1, 1, 1, 2, 2, 2, 4, 4, 4])
    assert _rising(torch.tensor([1.0, 2, 9, 2, 3, 4, 5, 6, 0]), edits) == 1.0
    assert _rising(torch.tensor([1.0, 2, 9, 0, 0, 4, 5, 6, 0]), edits) == 0.5


def test_from_run_folders_to_files(analyze, tmp_path, trained):
    given = ("--num_steps", 40, "--max_gap", 3, "--encodings", '{"codes": "OneHotEncoding"}')
    table = ("--table", trained.folder / "tiny.npz", "--dataset", "toy", "--num_samples", 20)
    analyze("smoothness", *given, *table)
    numbers = json.loads((tmp_path / "out" / "smoothness.json").read_text())
    found = {row["label"]: row for row in numbers["rows"] if row["metric"].startswith("Spearman")}
    assert found.keys() == {"Arch2Vec", "Arch2Vec, untrained", "supervised", "codes"}
    assert found["Arch2Vec"]["n"] == 2
    assert all(-1 <= row["mean"] <= 1 for row in found.values())
    assert sum(numbers["details"]["histogram"].values()) + numbers["details"]["left_out"] == 40 + 39 + 38
    quartiles = numbers["details"]["codes"]["1"]["quartiles"]
    assert np.allclose(quartiles, np.sqrt(2))  # one changed operation, arcs as before
    assert (tmp_path / "out" / "smoothness.pdf").is_file()


def test_a_walk_too_short(analyze, capsys):
    with pytest.raises(SystemExit):
        analyze("smoothness", "--num_steps", 3, "--max_gap", 3)
    assert "more steps than that" in capsys.readouterr().err
