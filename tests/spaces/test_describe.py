import pytest

from lightning_nas.errors import SpaceError
from lightning_nas.spaces.describe import describe, find_spaces, member, size, summary


def test_every_space_found_is_whole():
    for name, space in find_spaces().items():
        assert space.name == name
        assert summary(space)
        assert size(space)


def test_members_by_number_and_notation(cells):
    assert member(cells, 5, None) == cells[5]
    assert member(cells, None, cells.format(cells[5])) == cells[5]
    with pytest.raises(SpaceError, match="expected 0 to 15624"):
        member(cells, 15625, None)


def test_facts(cells):
    facts = dict(describe(cells, cells[5]))
    assert facts["index"] == "5"
    assert facts["neighbours"] == "24"
    assert facts["parameters"] == f"{73306 + 2 * 28000 + 243040:,}"
