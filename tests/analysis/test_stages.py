import json
import shutil

import pytest
import torch
import yaml

from lightning_nas.analysis.runs import load_runs
from lightning_nas.analysis.stages import _vectors, stages
from lightning_nas.analysis.views import data_of
from lightning_nas.cli import main


def type_it(contrastive, out, *args, runs=("one0", "one1")):
    folders = [str(contrastive / run) for run in runs]
    given = ["--data_dir", str(contrastive), "--output", str(out), "--dataset", "toy", "--perplexity", "5"]
    main(["analyze", "stages", "--run", *folders, *given, *args])


def test_from_run_folders_to_files(contrastive, tmp_path):
    type_it(contrastive, tmp_path, "--num_networks", "40")
    numbers = json.loads((tmp_path / "stages.json").read_text())
    stages = ("Jacobians", "untrained encoder", "trained encoder")
    places = ("on the map", "in the vectors")
    found = {(row["label"], row["metric"].rpartition("neighbours ")[2]): row for row in numbers["rows"]}
    assert set(found) == {(stage, place) for stage in stages for place in places}
    assert all(row["n"] == 2 and -1 <= row["mean"] <= 1 for row in found.values())
    # The Jacobians are the same in both runs, what is made of them is not.
    same = found["Jacobians", "in the vectors"]["values"]
    assert same[0] == same[1]
    other = found["untrained encoder", "in the vectors"]["values"]
    assert other[0] != other[1]
    assert {path.name for path in tmp_path.glob("*.pdf")} == {"stages_0.pdf", "stages_1.pdf"}
    assert "40 random canonical networks" in numbers["our_protocol"]
    type_it(contrastive, tmp_path / "again", "--num_networks", "40")
    assert json.loads((tmp_path / "again" / "stages.json").read_text())["rows"] == numbers["rows"]


def test_more_neighbours_than_networks(contrastive, tmp_path, capsys):
    with pytest.raises(SystemExit):
        type_it(contrastive, tmp_path, "--num_neighbors", "45")
    assert "num_neighbors=45 for 45 networks" in capsys.readouterr().err


def test_runs_whose_data_are_in_another_order_are_compared_on_the_same_networks(contrastive, tmp_path, monkeypatch):
    """Seeds of the data shuffle the networks; accuracies must go with them."""
    other = tmp_path / "other"
    shutil.copytree(contrastive / "one0", other)
    config = yaml.safe_load((other / "config.yaml").read_text())
    config["data"]["init_args"]["seed"] = 7
    (other / "config.yaml").write_text(yaml.safe_dump(config))
    asked = []
    see = "lightning_nas.analysis.stages._vectors"
    monkeypatch.setattr(see, lambda run, members, seed: asked.append(members) or {})
    monkeypatch.setattr("lightning_nas.analysis.stages.publish", lambda *given: None)
    monkeypatch.setattr("lightning_nas.analysis.stages.map_panels", lambda *given: None)
    stages([contrastive / "one0", other], "toy", num_networks=20, perplexity=5, data_dir=str(contrastive))
    assert torch.equal(asked[0], asked[1])
    monkeypatch.undo()
    for folder in (contrastive / "one0", other):
        (run,) = load_runs([folder])["Contrastive"]
        (networks,) = data_of(run).jacobian_sets()
        members = asked[0]
        places = torch.tensor([networks.store.order.tolist().index(member) for member in members.tolist()])
        found = _vectors(run, members, 0)["Jacobians"]
        assert torch.equal(found, run.data.scores(networks, places)[:, 0].flatten(1))
