import json

import numpy as np
import pytest
import torch

from lightning_nas.analysis.runs import load_runs
from lightning_nas.cli import main

RECIPE = ("--recipe.epochs", "3", "--recipe.learning_rate", "0.05", "--num_train", "100", "--num_valid", "50")


def type_it(contrastive, out, *args, runs=("one0",)):
    folders = [str(contrastive / run) for run in runs]
    given = ["--data_dir", str(contrastive), "--output", str(out), "--dataset", "toy", "--num_networks", "8"]
    main(["analyze", "trajectories", "--run", *folders, *given, "--perplexity", "3", *RECIPE, *args])


@pytest.fixture(scope="module")
def watched(contrastive, tmp_path_factory):
    out = tmp_path_factory.mktemp("trajectories")
    type_it(contrastive, out)
    return out


def test_from_a_run_folder_to_files(contrastive, watched):
    numbers = json.loads((watched / "trajectories.json").read_text())
    found = {row["metric"]: row["mean"] for row in numbers["rows"]}
    assert found["way from first to last, in mean distances between untrained networks"] > 0
    assert 0 <= found["trained networks nearest to where they began"] <= 1
    assert np.shape(numbers["details"]["curves"]) == (8, 3)
    assert (watched / "trajectories.pdf").is_file()
    (folder,) = watched.glob("networks-*")
    (run,) = load_runs([contrastive / "one0"])["Contrastive"]
    (networks,) = run.data.jacobian_sets()
    for member in numbers["details"]["members"]:
        with np.load(folder / f"{member}.npz") as saved:
            scores = torch.from_numpy(saved["scores"])
        assert scores.shape == (4, 8, 8)
        place = (networks.store.order == member).nonzero()[0]
        # Before training it is the first of the initialisations that the encoder saw.
        torch.testing.assert_close(scores[0], networks.store.scores(place, 1)[0, 0], rtol=1e-4, atol=1e-6)
        assert not torch.equal(scores[3], scores[0])


def test_what_is_done_is_kept_and_what_is_lost_comes_again(contrastive, watched):
    first = (watched / "trajectories.json").read_bytes()
    (folder,) = watched.glob("networks-*")
    files = sorted(folder.glob("*.npz"))
    times = {path: path.stat().st_mtime_ns for path in files}
    before = files[0].read_bytes()
    files[0].unlink()
    type_it(contrastive, watched)
    with np.load(files[0]) as new:
        assert len(new["curve"]) == 3
    assert files[0].stat().st_size == len(before)
    assert all(path.stat().st_mtime_ns == times[path] for path in files[1:])
    ours, theirs = (json.loads(text) for text in ((watched / "trajectories.json").read_bytes(), first))
    assert (ours["rows"], ours["details"]) == (theirs["rows"], theirs["details"])
    files[1].write_bytes(b"damaged")
    with pytest.raises(SystemExit):
        type_it(contrastive, watched)


def test_what_cannot_be_is_said(contrastive, tmp_path, capsys):
    for args, message in (
        (("--num_neighbors", "8"), "num_neighbors=8"),
        (("--num_train", "0"), "num_train=0"),
        (("--perplexity", "32"), "below the 32 points"),
    ):
        with pytest.raises(SystemExit):
            type_it(contrastive, tmp_path, *args)
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        type_it(contrastive, tmp_path, runs=("one0", "one1"))
    assert "got 2 run folders, expected one" in capsys.readouterr().err
