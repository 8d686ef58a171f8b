import json

import pytest

from lightning_nas.analysis.selections import gap_figure, rows_of, selections, trajectory_figure
from lightning_nas.errors import RunFolderError, UsageError
from lightning_nas.ledger import read_results


def write(folder, label, seed, test, **more):
    path = folder / f"{label}-{seed}" / "selection" / "one.json"
    path.parent.mkdir(parents=True)
    scores = {"digits": {"valid": test + 1, "test": test}}
    found = {"label": label, "seed": seed, "architecture": str(test), "scores": scores, "skip_connections": 2}
    path.write_text(json.dumps(found | {"seconds": 1.5} | more))


@pytest.fixture
def folder(tmp_path):
    for seed, (plain, perturbed) in enumerate([(10.0, 90.0), (12.0, 91.0)]):
        path = [{"epoch": epoch, "scores": {"digits": {"test": plain + 10 / epoch}}} for epoch in (1, 2)]
        write(tmp_path, "DARTS", seed, plain, trajectory=path, training_seconds=20.0)
        write(tmp_path, "DARTS-PT", seed, perturbed)
    return tmp_path


def test_the_table_has_means_and_what_perturbation_gains(folder, tmp_path, capsys):
    missing = {"label": "DARTS", "metric": "error", "unit": "%", "paper": "3.00", "command": "lightning-nas fit"}
    selections([folder], "darts/mine", published={"DARTS, digits": "11"}, not_run=[missing], record=tmp_path / "ledger")
    (result,) = read_results(tmp_path / "ledger")
    rows = {(row.label, row.metric): row for row in result.rows}
    assert rows["DARTS", "digits: test accuracy"].mean == 11.0
    assert rows["DARTS", "digits: test accuracy"].paper == "11"
    gain = rows["DARTS-PT", "digits: gain by perturbation, same supernets"]
    assert (gain.mean, gain.values) == (79.5, (80.0, 79.0))
    assert rows["DARTS", "training"].mean == 20.0
    assert (rows["DARTS", "error"].n, rows["DARTS", "error"].note) == (0, "not run: lightning-nas fit")
    assert ("DARTS-PT", "training") not in rows
    assert rows["DARTS", "skip connections"].mean == 2.0
    assert (folder / "analysis" / "selections" / "trajectory.png").exists()
    assert "11.000" in capsys.readouterr().out


def test_gaps_of_skip_connections_are_correlated_with_accuracy(tmp_path):
    points = [(0.1, 50.0), (0.2, 60.0), (0.3, 80.0)]
    path = [
        {"epoch": epoch, "scores": {"digits": {"test": 1.0}}, "skip_gap": gap, "supernet_accuracy": accuracy}
        for epoch, (gap, accuracy) in enumerate(points)
    ]
    write(tmp_path, "DARTS", 0, 10.0, trajectory=path)
    selections([tmp_path])
    found = json.loads((tmp_path / "analysis" / "selections" / "selections.json").read_text())
    (row,) = [row for row in rows_of(found, {}) if row.metric.startswith("Spearman over epochs")]
    assert row.mean == 1.0
    assert gap_figure(found).axes[0].lines[0].get_xydata().tolist() == [[50.0, 0.1], [60.0, 0.2], [80.0, 0.3]]
    assert (tmp_path / "analysis" / "selections" / "skip_gap.png").exists()


def test_what_was_selected_on_the_way_stands_beside_the_largest_weights(folder):
    for seed in range(2):
        point = {"epoch": 1, "scores": {"digits": {"test": 50.0 + seed}}}
        (path,) = folder.glob(f"DARTS-PT-{seed}/selection/*.json")
        path.write_text(json.dumps(json.loads(path.read_text()) | {"trajectory": [point]}))
    selections([folder])
    found = json.loads((folder / "analysis" / "selections" / "selections.json").read_text())
    after = [row for row in rows_of(found, {}) if row.metric == "digits: test accuracy after 1 epochs"]
    assert [(row.label, row.mean) for row in after] == [("DARTS", 21.0), ("DARTS-PT", 50.5)]
    ax = trajectory_figure(found).axes[0]
    assert [len(line.get_xdata()) for line in ax.lines] == [2, 2]  # the line; a cross on the way, one at the end


def test_the_same_random_cell_of_several_supernets_counts_once(tmp_path):
    for number in range(3):
        write(tmp_path / f"{number}", "random", 0, 50.0)
    selections([tmp_path])
    found = json.loads((tmp_path / "analysis" / "selections" / "selections.json").read_text())
    assert len(found["random"]) == 1


def test_supernets_with_other_seeds_are_not_compared(folder):
    write(folder, "blank-PT", 0, 50.0)
    write(folder, "blank", 1, 50.0)
    selections([folder])
    found = json.loads((folder / "analysis" / "selections" / "selections.json").read_text())
    assert not any("gain" in row.metric for row in rows_of({k: found[k] for k in ("blank", "blank-PT")}, {}))


def test_what_cannot_be_is_said(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunFolderError, match=r"hold no selection/\*.json"):
        selections([tmp_path / "empty"])
    write(folder / "again", "DARTS", 0, 1.0)
    with pytest.raises(UsageError, match="with the same seed"):
        selections([folder])


def test_a_damaged_file_is_named(folder):
    (folder / "DARTS-0" / "selection" / "one.json").write_text("{")
    with pytest.raises(RunFolderError, match="DARTS-0"):
        selections([folder])
