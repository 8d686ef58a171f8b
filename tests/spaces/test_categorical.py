from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_nas.errors import SpaceError
from lightning_nas.spaces.categorical import CategoricalSpace


class Menu(CategoricalSpace):
    """2 x 3 x 2 choices in reversed order, to tell numbering from lexicographic order."""

    name, choices = "menu", (("soup", "salad"), ("fish", "meat", "beans"), ("tea", "coffee"))
    vertex_labels, num_vertices = (), 0

    @property
    def order(self):
        return np.arange(12)[::-1].copy()

    def graph(self, arch):
        raise NotImplementedError

    from_graph = build = graph


MENU = Menu()
ARCHS = st.tuples(st.integers(0, 1), st.integers(0, 2), st.integers(0, 1))


def test_numbering_follows_the_given_order():
    assert list(MENU) == list(product(range(2), range(3), range(2)))[::-1]
    assert [MENU.index(arch) for arch in MENU] == list(range(12))
    assert torch.equal(MENU.indices(MENU.codes), torch.arange(12))


def test_numbers_outside_the_space():
    with pytest.raises(IndexError):
        MENU[12]
    with pytest.raises(TypeError):
        MENU[1.0]


@given(ARCHS)
def test_notation_round_trip(arch):
    assert MENU.parse(MENU.format(arch)) == arch
    assert MENU.parse(f"  {MENU.format(arch)}\n") == arch


@given(ARCHS)
def test_neighbours_differ_in_one_place_and_are_mutual(arch):
    neighbors = list(MENU.neighbors(arch))
    assert len(set(neighbors)) == 1 + 2 + 1
    for other in neighbors:
        assert sum(a != b for a, b in zip(arch, other, strict=True)) == 1
        assert arch in MENU.neighbors(other)
    assert set(MENU.neighbor_table()[MENU.index(arch)].tolist()) == {MENU.index(other) for other in neighbors}


@given(st.text())
def test_malformed_text_raises_nothing_but_space_errors(text):
    try:
        arch = MENU.parse(text)
    except SpaceError:
        return
    assert MENU.format(arch) == text.strip()


def test_messages_name_position_and_choices():
    with pytest.raises(SpaceError, match="'eggs' at position 1, expected one of fish, meat, beans"):
        MENU.parse("soup|eggs|tea")
    with pytest.raises(SpaceError, match=r"2 choices in 'soup\|fish', expected 3"):
        MENU.parse("soup|fish")


@pytest.mark.parametrize("stranger", [(), (0, 0), (0, 3, 0), (-1, 0, 0), (0, 0, 0, 0)])
@pytest.mark.parametrize("method", ["index", "format", "neighbors"])
def test_strangers_are_refused(stranger, method):
    with pytest.raises(SpaceError, match="expected 3 integers below"):
        list(getattr(MENU, method)(stranger))


def test_sampling_reaches_everything():
    rng = np.random.default_rng(0)
    assert {MENU.sample(rng) for _ in range(300)} == set(MENU)
