import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_nas.cell_layout import layered_layout
from lightning_nas.spaces.base import CellGraph


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(2, 9))
def test_arcs_go_down_and_boxes_do_not_overlap(seed, size):
    rng = np.random.default_rng(seed)
    adjacency = torch.from_numpy(np.triu(rng.random((size, size)) < 0.4, 1))
    layout = layered_layout(CellGraph(torch.arange(size), adjacency))
    assert set(layout.vertices) == set(range(size))
    assert set(layout.arcs) == set(map(tuple, adjacency.nonzero().tolist()))
    for (u, v), points in layout.arcs.items():
        assert points[0] == layout.vertices[u]
        assert points[-1] == layout.vertices[v]
        rows = [y for _, y in points]
        assert rows == list(range(int(rows[0]), int(rows[0]) + len(rows)))
        assert len(rows) > 1
    places = list(layout.vertices.values())
    for number, (x, y) in enumerate(places):
        assert abs(x) <= layout.width / 2
        assert 0 <= y < layout.height
        assert all(abs(x - other) > 0.999 for other, row in places[:number] if row == y)


def test_padding_is_not_drawn():
    adjacency = torch.zeros(3, 3, dtype=torch.bool)
    adjacency[0, 1] = True
    layout = layered_layout(CellGraph(torch.tensor([0, 1, -1]), adjacency))
    assert layout.vertices.keys() == {0, 1}
    assert layout.height == 2


def test_crossings_are_undone():
    # Two arcs that cross when vertices stand in the order of their numbers.
    adjacency = torch.zeros(6, 6, dtype=torch.bool)
    for arc in ((0, 1), (0, 2), (1, 4), (2, 3), (3, 5), (4, 5)):
        adjacency[arc] = True
    places = layered_layout(CellGraph(torch.arange(6), adjacency)).vertices
    assert (places[1][0] - places[2][0]) * (places[4][0] - places[3][0]) > 0
    assert places[0][0] == pytest.approx(places[5][0], abs=0.1)
