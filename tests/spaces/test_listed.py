import pytest
import torch
from torch import nn

from lightning_nas.errors import SpaceError
from lightning_nas.spaces.config import describe_space, make_space
from lightning_nas.spaces.listed import ListedNetworks

HERE = "tests.spaces.test_listed"


class Classifier(nn.Module):
    def __init__(self, num_classes, width=4, in_channels=1):
        super().__init__()
        head = nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, num_classes)
        self.layers = nn.Sequential(nn.Conv2d(in_channels, width, 3), nn.ReLU(), *head)

    def forward(self, images):
        return self.layers(images)


def fixed():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


def no_network():
    return "a string"


WIDE = {"class_path": f"{HERE}.Classifier", "init_args": {"width": 8, "num_classes": 5}}


def test_sizes_go_where_they_are_wanted_and_not_given():
    space = ListedNetworks([f"{HERE}.Classifier", WIDE, f"{HERE}.fixed"])
    first, wide, plain = (space.build(arch, num_classes=7, in_channels=2, width=3, depth=9) for arch in space)
    images = torch.randn(3, 2, 8, 8)
    assert [first(images).shape[1], wide(images).shape[1]] == [7, 5]
    assert first.layers[0].weight.shape[:2] == (3, 2)
    assert wide.layers[0].weight.shape[:2] == (8, 2)
    assert plain(images[:, :1]).shape == (3, 3)


def test_numbers_and_names():
    space = ListedNetworks([f"{HERE}.Classifier", WIDE])
    assert list(space) == [0, 1]
    assert [space.parse(space.format(arch)) for arch in space] == [0, 1]
    assert space.format(1) == f"{HERE}.Classifier(width=8, num_classes=5)"
    assert list(space.neighbors(0)) == []
    assert space.representatives.tolist() == [0, 1]
    assert make_space(describe_space(space)) == space
    assert space != ListedNetworks([WIDE])


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        ([], "got no networks"),
        ([WIDE, WIDE], "expected different networks"),
        (["nowhere.Net"], "'nowhere.Net' cannot be imported"),
        ([f"{HERE}.Gone"], "cannot be imported"),
        (["resnet"], "expected the dotted path"),
    ],
)
def test_lists_that_cannot_be(networks, message):
    with pytest.raises(SpaceError, match=message):
        ListedNetworks(networks)


def test_what_a_list_has_not():
    space = ListedNetworks([f"{HERE}.no_network"])
    for wrong, message in (
        (lambda: space.build(0), "made a str, expected a torch.nn.Module"),
        (lambda: space.format(1), "expected 0 to 0"),
        (lambda: space.parse("other"), "expected one of tests"),
        (lambda: space.graph(0), "has no cell"),
        (lambda: space.from_graph(None), "have none"),
    ):
        with pytest.raises(SpaceError, match=message):
            wrong()


def test_what_was_computed_of_a_network_that_was_changed_is_old(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "changing_networks.py"
    file.write_text("from torch import nn\ndef Net():\n    return nn.Flatten()\n")
    space = ListedNetworks(["changing_networks.Net"])
    before = space.fingerprint
    assert ListedNetworks(["changing_networks.Net"]).fingerprint == before
    file.write_text(file.read_text().replace("Flatten", "Identity"))
    assert ListedNetworks(["changing_networks.Net"]).fingerprint != before
    assert ListedNetworks(["torch.nn.Flatten"]).fingerprint != before
    assert ListedNetworks(["builtins.dict"]).fingerprint  # without a source file
