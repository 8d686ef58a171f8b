import numpy as np

from lightning_nas.cell_drawing import architecture_figure, cells_figure
from lightning_nas.spaces.darts import DARTSNetwork
from tests.contract import TinySpace


def test_cells_are_drawn_with_their_operations():
    space = TinySpace()
    figure = cells_figure([space.graph(space[i]) for i in (0, 40, 80)], ["a", "b", "c"], space.vertex_labels, "heading")
    drawn = [axes for axes in figure.axes if axes.texts]
    assert len(drawn) == 3
    assert sorted(text.get_text() for text in drawn[2].texts) == ["in", "out", "skip", "skip", "skip", "skip"]
    arcs = int(space.graph(space[80]).adjacency.sum())
    assert len(drawn[2].patches) == 6 + arcs
    assert figure.get_suptitle() == "heading"


def test_an_architecture_of_two_cells_is_two_drawings():
    space = DARTSNetwork()
    figure = architecture_figure(space, space.sample(np.random.default_rng(0)))
    assert [ax.get_title() for ax in figure.axes if ax.texts] == ["normal", "reduction"]
