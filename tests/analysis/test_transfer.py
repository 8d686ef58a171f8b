import json
from itertools import product

import pytest

from lightning_nas.cli import main


def type_it(contrastive, out, *args, runs=("both0", "both1")):
    folders = [str(contrastive / run) for run in runs]
    given = ["--data_dir", str(contrastive), "--output", str(out), "--datasets", '["toy", "other"]']
    main(["analyze", "transfer", "--run", *folders, *given, *args])


def test_from_run_folders_to_files(contrastive, tmp_path):
    type_it(contrastive, tmp_path, "--num_train", "25", "--num_test", "15")
    numbers = json.loads((tmp_path / "transfer.json").read_text())
    found = {(row["label"], row["metric"]): row for row in numbers["rows"]}
    assert numbers["space"] == "buildable_second"
    ways = product(("buildable", "second"), ("buildable", "second"), ("toy", "other"))
    pairs = [f"{source} to {target}, {data}" for source, target, data in ways]
    for label in ("Contrastive", "singular values", "parameters"):
        for pair in pairs:
            assert found[label, f"{pair}: Pearson"]["n"] == 2
            assert -1 <= found[label, f"{pair}: Kendall"]["mean"] <= 1
    # The second space has a network without a path, which need not be among those tested in every run.
    first = found["Contrastive", "second to buildable, toy: Pearson"]["mean"]
    assert first == found["Contrastive", "second to buildable, toy: Pearson, connected"]["mean"]
    for pair in product(("buildable", "second"), ("buildable", "second")):  # these accuracies are numbers of weights
        assert found["parameters", f"{pair[0]} to {pair[1]}, other: Kendall"]["mean"] > 0.7
    for space, split in (("buildable", "test"), ("second", "valid")):
        assert f"accuracies of {space}: {split}, 9 epochs" in numbers["our_protocol"]
    again = tmp_path / "again"
    type_it(contrastive, again, "--num_train", "25", "--num_test", "15")
    assert json.loads((again / "transfer.json").read_text())["rows"] == numbers["rows"]


def test_too_many_networks_are_refused(contrastive, tmp_path, capsys):
    with pytest.raises(SystemExit):
        type_it(contrastive, tmp_path, "--num_train", "40", "--num_test", "60")
    assert "of 'buildable' that num_train=40 leaves" in capsys.readouterr().err
