import pytest
import torch

from lightning_nas.errors import EncodingError
from lightning_nas.spaces.base import SearchSpace
from lightning_nas.spaces.categorical import CategoricalSpace
from lightning_nas.spaces.encodings import OneHotEncoding, PathEncoding


class Other(CategoricalSpace):
    """A categorical space that is not NAS-Bench-201."""

    name, choices = "other", (("a", "b"), ("x", "y", "z"))
    graph = from_graph = build = None


class Foreign(SearchSpace):
    """A space that is not categorical."""

    name = "foreign"
    sample = neighbors = parse = format = graph = from_graph = build = None


def test_one_hot_distances_count_differing_positions(cells):
    features = OneHotEncoding().encode(cells)
    some = torch.arange(0, 15625, 997)
    distances = torch.cdist(features[some], features[some]).square()
    differing = (cells.codes[some][:, None] != cells.codes[some][None]).sum(dim=-1)
    assert torch.allclose(distances, 2.0 * differing, atol=1e-4)


def test_one_hot_of_uneven_choices():
    assert OneHotEncoding().encode(Other()).tolist()[4] == [0, 1, 0, 1, 0]


def test_path_encoding_covers_the_space(cells):
    features = PathEncoding().encode(cells)
    assert features.shape == (15625, 155)
    # Four routes; the two of length two may carry the same operations.
    assert set(features.sum(dim=1).tolist()) == {3.0, 4.0}
    assert features.any(dim=0).all()


@pytest.mark.parametrize(("encoding", "space"), [(OneHotEncoding(), Foreign()), (PathEncoding(), Other())])
def test_other_spaces_are_refused_by_name(encoding, space):
    with pytest.raises(EncodingError, match=f"{type(encoding).__name__}: got the space '{space.name}', expected"):
        encoding.encode(space)
