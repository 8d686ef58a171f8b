import json
import os
from pathlib import Path

import numpy as np
import pytest

from lightning_nas.benchmarks.sigmoid_slope import prepare
from lightning_nas.benchmarks.tabular import TabularBenchmark
from lightning_nas.errors import BenchmarkDataError
from lightning_nas.spaces.sigmoid_slope import SigmoidSlope

SPACE = SigmoidSlope()


def write(path, pairs):
    path.write_text(json.dumps({"mnist_slope_accuracy_full100": pairs}))
    return path


def made_up():
    return [[slope, 0.95 - 0.01 * abs(slope - 0.3)] for slope in SPACE.slopes][::-1]


def test_pairs_become_a_table(tmp_path):
    table = prepare(write(tmp_path / "slopes.json", made_up()), tmp_path / "out.npz")
    assert len(table) == 100
    benchmark = TabularBenchmark(SPACE, str(tmp_path / "out.npz"), "mnist", 1, 1)
    scores = benchmark.evaluate([SPACE[0], SPACE[99]])
    np.testing.assert_allclose(scores.valid, [95 - 0.29, 95 - 1.71], rtol=1e-5)


@pytest.mark.parametrize(("pairs", "message"), [
    (made_up()[1:], r"shape \(99, 2\)"), ([[s, 95.0] for s in SPACE.slopes], "between 0 and 1"),
    ([[s + 0.01, 0.5] for s in SPACE.slopes], "slopes are not"),
], ids=["one missing", "percent", "other slopes"])  # fmt: skip
def test_other_content_is_refused(tmp_path, pairs, message):
    with pytest.raises(BenchmarkDataError, match=message):
        prepare(write(tmp_path / "slopes.json", pairs), tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()


def test_damaged_and_missing_files(tmp_path):
    with pytest.raises(BenchmarkDataError, match="no such file"):
        prepare(tmp_path / "absent.json", tmp_path / "out.npz")
    (tmp_path / "damaged.json").write_text("{")
    with pytest.raises(BenchmarkDataError, match="holds no pairs"):
        prepare(tmp_path / "damaged.json", tmp_path / "out.npz")


@pytest.mark.skipif("LIGHTNING_NAS_SLOPES" not in os.environ, reason="set LIGHTNING_NAS_SLOPES to the published JSON")
def test_the_published_accuracies(tmp_path):
    table = prepare(Path(os.environ["LIGHTNING_NAS_SLOPES"]), tmp_path / "out.npz")
    accuracies = table["mnist/valid@1"]
    for slope, accuracy in ((0.01, 90.115), (0.2120, 96.930), (0.2524, 97.040), (1.0605, 93.732), (2.01, 90.862)):
        place = int(np.abs(np.array(SPACE.slopes) - slope).argmin())
        assert accuracies[place] == pytest.approx(accuracy, abs=0.001)
    assert SPACE[int(accuracies.argmax())] == pytest.approx(0.252424)
