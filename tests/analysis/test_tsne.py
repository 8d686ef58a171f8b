import json

import numpy as np
import pytest

from lightning_nas.analysis.tsne import grid_means, neighbour_agreement


def test_means_over_squares():
    places = np.array([[-1.0, -1.0], [-0.9, -0.9], [1.0, 1.0], [0.1, -0.1]])
    means = grid_means(places, np.array([10.0, 20.0, 30.0, 40.0]), 2)
    assert np.array_equal(means, [[15.0, 40.0], [np.nan, 30.0]], equal_nan=True)


def testneighbour_agreement_leaves_the_cell_itself_out():
    points = np.arange(10.0)[:, None]
    assert neighbour_agreement(points, np.array([0.0, 1.0] * 5), 2) < 0
    assert neighbour_agreement(points, np.arange(10.0), 2) > 0.9


def test_from_run_folders_to_files(analyze, tmp_path, trained):
    given = ("--table", trained.folder / "tiny.npz", "--dataset", "toy", "--num_cells", 60, "--perplexity", 5)
    analyze("tsne", *given, "--grid", 7)
    first = (tmp_path / "out" / "tsne.json").read_text()
    rows = json.loads(first)["rows"]
    assert [row["n"] for row in rows] == [2, 2]
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"tsne_0.png", "tsne_1.png"}
    analyze("tsne", *given, "--grid", 7)
    assert json.loads((tmp_path / "out" / "tsne.json").read_text())["rows"] == rows


def test_more_neighbours_than_cells(analyze, trained, capsys):
    with pytest.raises(SystemExit):
        analyze("tsne", "--table", trained.folder / "tiny.npz", "--dataset", "toy", "--num_neighbors", 81)
    assert "num_neighbors=81 for 81 cells" in capsys.readouterr().err
