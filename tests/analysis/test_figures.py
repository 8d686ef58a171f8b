import numpy as np
import pytest

from lightning_nas.analysis.figures import box_panels, density_panels, map_figure
from lightning_nas.plots import save_figure


@pytest.mark.parametrize("kind", ["density", "boxes", "map"])
def test_the_same_numbers_give_the_same_file(kind, tmp_path):
    rng = np.random.default_rng(0)
    truth = rng.uniform(80, 95, 300)

    def draw():
        if kind == "density":
            return density_panels({"a": (truth, truth - 1), "b": (truth, truth[::-1])}, ["x", "y"], 82.0)
        if kind == "boxes":
            return box_panels({"a": {1: truth, 4: truth + 1}, "b": {2: truth[:3]}}, ["x", "y"], ("edits", "L2"))
        return map_figure(rng.uniform(-1, 1, (300, 2)) * 0 + truth[:, None] / 95, truth, np.eye(5), "heading")

    first, second = (save_figure(draw(), tmp_path / name) for name in ("first", "second"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_what_is_not_shown_is_said():
    truth = np.linspace(80, 95, 100)
    guess = np.where(np.arange(100) < 20, 10.0, truth)
    figure = density_panels({"a": (truth, guess)}, ["note"], 80.0)
    assert any("20.0% not shown" in text.get_text() for text in figure.axes[0].texts)
