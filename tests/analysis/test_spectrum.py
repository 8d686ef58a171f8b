import json

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau, spearmanr

from lightning_nas.analysis.runs import load_runs
from lightning_nas.benchmarks.table import read_table
from lightning_nas.cli import main


def type_it(contrastive, out, *args, runs=("both0",)):
    folders = [str(contrastive / run) for run in runs]
    main(["analyze", "spectrum", "--run", *folders, "--data_dir", str(contrastive), "--output", str(out), *args])


def test_from_a_run_folder_to_files(contrastive, tmp_path):
    type_it(contrastive, tmp_path, "--datasets", '["toy", "other"]')
    rows = json.loads((tmp_path / "spectrum.json").read_text())["rows"]
    found = {(row["label"], row["metric"]): row for row in rows}
    assert len(found) == 2 * 2 * 2 * 2  # spaces, data sets, correlations, with and without those that are not connected
    (run,) = load_runs([contrastive / "both0"], several_spaces=True)["Contrastive"]
    for networks in run.data.jacobian_sets():
        members, places = networks.members
        largest = networks.store.scores(torch.arange(networks.size), 2).norm(dim=-2)[..., 0].mean(dim=1)[places]
        table = read_table(contrastive / f"{networks.space.name}.npz")
        (column,) = (name for name in table.columns if name.startswith("toy/"))
        truth = table.mean_over_seeds(column)[members]
        linked = np.asarray(getattr(networks.space, "connected", torch.ones(81, dtype=torch.bool)))[members]
        for where, chosen in (("", slice(None)), (", connected", linked)):
            for name, correlation in (("Spearman", spearmanr), ("Kendall", kendalltau)):
                expected = correlation(largest[chosen], truth[chosen]).statistic
                assert found[networks.space.name, f"{name}, toy{where}"]["mean"] == pytest.approx(expected, abs=1e-6)
    assert (tmp_path / "spectrum.png").is_file()


def test_one_run_is_enough(contrastive, tmp_path, capsys):
    with pytest.raises(SystemExit):
        type_it(contrastive, tmp_path, runs=("both0", "both1"))
    assert "got 2 run folders, expected one" in capsys.readouterr().err
