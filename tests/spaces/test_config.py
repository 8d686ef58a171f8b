import json

import pytest

from lightning_nas.errors import SpaceError
from lightning_nas.spaces.config import describe_space, make_space
from tests.contract import TinySpace


class Wide(TinySpace):
    def __init__(self, width=3):
        self.width = width


class Forgetful(TinySpace):
    def __init__(self, width=3):
        self.twice = 2 * (width or 0)


def test_a_space_comes_back_from_primitives():
    described = json.loads(json.dumps(describe_space(Wide(width=7))))
    assert described["init_args"] == {"width": 7}
    assert make_space(described) == Wide(7) != Wide()
    assert make_space({"class_path": described["class_path"]}) == Wide()


def test_a_space_that_forgets_its_arguments_is_refused():
    with pytest.raises(SpaceError, match=r"Forgetful\(width\) cannot be made again"):
        describe_space(Forgetful(4))


@pytest.mark.parametrize(
    "described",
    [{"class_path": "no_such_module.Space"}, {"class_path": "tests.contract.NoSpace"}, {"class_path": "Space"}, {},
     {"class_path": "tests.contract.TinySpace", "init_args": {"depth": 3}}],
)  # fmt: skip
def test_a_space_that_cannot_be_made(described):
    with pytest.raises(SpaceError, match="cannot make the search space"):
        make_space(described)
