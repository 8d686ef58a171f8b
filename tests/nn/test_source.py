import ast
import math
import re
from collections import OrderedDict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lightning_nas.errors import UsageError
from lightning_nas.nn.drop_path import DropPath
from lightning_nas.nn.source import network_source


def rebuilt(network, *inputs):
    """The network made from its source, after checking that it computes the same."""
    written = network_source(network)
    scope = {"torch": torch, "nn": nn}
    text = f"{written.imports}\n{written.classes}"
    exec(compile(text, "source", "exec"), scope)
    assert "lightning_nas" not in text
    copy = eval(written.constructor, scope)
    copy.load_state_dict(written.weights)
    expected = network.eval()(*inputs)
    assert expected.flatten(1).std(dim=0).max() > 1e-3  # it depends on its input
    assert torch.equal(copy.eval()(*inputs), expected)
    return written


def images(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def warm(network, *shape):
    """Statistics of batch normalisation that are not the trivial ones."""
    for _ in range(3):
        network.train()(torch.randn(*shape))
    return network


@pytest.mark.parametrize(
    "cell",
    [
        "|nor_conv_3x3~0|+|none~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_1x1~1|skip_connect~2|",
        "|skip_connect~0|+|skip_connect~0|skip_connect~1|+|skip_connect~0|skip_connect~1|skip_connect~2|",
        "|none~0|+|none~0|none~1|+|avg_pool_3x3~0|none~1|none~2|",
    ],
)
def test_cells_of_nasbench201(cells, cell):
    torch.manual_seed(0)
    network = cells.build(cells.parse(cell), channels=4, cells_per_stage=1, in_channels=1, num_stages=2)
    written = rebuilt(warm(network, 16, 1, 8, 8), images(3, 1, 8, 8))
    assert written.weights.keys() == network.state_dict().keys()


def test_what_only_training_needs_is_left_out(cells):
    network = warm(cells.build(cells[9930], channels=4, cells_per_stage=1, in_channels=1, auxiliary=True), 8, 1, 8, 8)
    written = rebuilt(network, images(3, 1, 8, 8))
    assert not [name for name in written.weights if name.startswith("auxiliary")]
    assert not re.search("auxiliary|drop", written.classes, flags=re.IGNORECASE)


def test_it_is_the_same_every_time_and_short(cells):
    """Cells alike are one class, and lines fit a page."""
    network = cells.build(cells[9930], channels=4, cells_per_stage=5)
    first, again = network_source(network), network_source(network)
    assert first[:3] == again[:3]
    assert len(re.findall("^class NASBench201Cell", first.classes, flags=re.MULTILINE)) == 3  # one for each width
    assert len(re.findall("^class ", first.classes, flags=re.MULTILINE)) == len(ast.parse(first.classes).body)
    assert max(map(len, first.classes.splitlines())) <= 120


def test_the_network_is_left_as_it_was(cells):
    network = cells.build(cells[9930], channels=4, cells_per_stage=1)
    network.cells[0].eval()
    before = [module.training for module in network.modules()]
    attributes = [set(vars(module)) for module in network.modules()]
    network_source(network)
    assert [module.training for module in network.modules()] == before
    assert [set(vars(module)) for module in network.modules()] == attributes


class Gate(nn.Module):
    """Own weights, buffers, constants, functions and keyword arguments."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(1, 2, 3).view(3, 1, 1))
        self.register_buffer("shift", torch.arange(3.0).view(3, 1, 1), persistent=False)
        self.register_buffer("which", torch.tensor([2, 0, 1]))
        self.unused = nn.Linear(2, 2)
        self.drop = DropPath()

    def forward(self, x, power=2.0):
        height = x.shape[2]
        y = F.relu(x * self.scale + self.shift, inplace=False) ** power
        y = torch.cat([y, -y], dim=1)[:, :3].clamp(max=math.inf)
        return self.drop(y[:, self.which] / math.sqrt(4) / height)


class Block(nn.Module):
    def __init__(self, dilation):
        super().__init__()
        self.branches = nn.ModuleDict({"left": Gate(), "right": nn.Conv2d(3, 3, (3, 1), padding=(1, 0), groups=3)})
        self.mix = nn.Sequential(OrderedDict(conv=nn.Conv2d(6, 3, 3, padding=dilation, dilation=dilation)))

    def forward(self, x):
        return self.mix(torch.cat([self.branches["left"](x), self.branches["right"](x)], dim=1))


def test_a_network_of_other_parts():
    torch.manual_seed(0)
    network = nn.Sequential(
        Block(1), nn.BatchNorm2d(3, affine=False), Block(2), nn.PReLU(3), nn.Dropout(0.3), nn.GroupNorm(3, 3),
        nn.Hardswish(), nn.MaxPool2d(3, 2, 1), nn.AdaptiveAvgPool2d((2, 1)), nn.Flatten(), nn.Linear(6, 4, bias=False),
        nn.LayerNorm(4), nn.Softmax(dim=1),
    )  # fmt: skip
    written = rebuilt(warm(network, 4, 3, 9, 9), images(5, 3, 9, 9))
    assert "0.branches.left.shift" in written.weights  # not in the network's own state
    assert not [name for name in written.weights if "unused" in name]


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


class Cut(nn.Module):
    """Calls the children of a part of a sequence, and of containers with numbers for names."""

    def __init__(self):
        super().__init__()
        self.part = nn.Sequential(nn.ReLU(), nn.Conv2d(3, 3, 1), nn.Tanh(), nn.Sigmoid())[1:]
        self.whole = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Hardswish())
        self.named = nn.ModuleDict({"1": nn.Conv2d(3, 3, 1), "0": nn.Tanh()})

    def forward(self, x):
        return self.part[1](self.part[0](x)) + self.whole[1](self.whole[0](x)) + self.named["1"](self.named["0"](x))


class Dashed(nn.Module):
    def __init__(self):
        super().__init__()
        self.add_module("conv-1", nn.Conv2d(3, 3, 1))
        self.register_parameter("1x1", nn.Parameter(torch.ones(3, 1, 1)))

    def forward(self, x):
        return self.get_submodule("conv-1")(x) * getattr(self, "1x1")


class Inner(nn.Module):
    """Its own forward needs nothing of what others use of it."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.conv = nn.Sequential(nn.Conv2d(3, 3, 1))

    def forward(self, x):
        return x.tanh()


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.conv = nn.Sequential(Inner(), nn.ReLU()), nn.Conv2d(3, 3, 1)

    def forward(self, x):
        inner = self.inner[0]
        return F.conv2d(self.inner(x) * inner.scale, self.conv.weight) + inner.conv(x)


@pytest.mark.parametrize(
    "network",
    [
        lambda: nn.Sequential(nn.ReLU(), nn.Conv2d(3, 4, 1), nn.Tanh(), nn.Conv2d(4, 2, 1))[1:],
        lambda: nn.Sequential(Residual(nn.Conv2d(3, 3, 1), nn.ReLU()), Residual(nn.Tanh(), Residual(nn.ReLU()))),
        lambda: nn.Sequential(OrderedDict([("conv-1", nn.Conv2d(3, 3, 1)), ("act", nn.ReLU())])),
        Cut,
        Dashed,
        Reader,
    ],
    ids=["slice", "residual", "dashes", "cut", "strange names", "reader"],
)
def test_names_and_parts_as_others_write_them(network):
    torch.manual_seed(0)
    rebuilt(network(), images(5, 3, 4, 4))


class Branches(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Foreign(nn.Module):
    def forward(self, x):
        return torch.as_tensor(np.asarray(x))


class Layer(nn.Conv2d):
    """Not what torch's Conv2d is."""

    def forward(self, x):
        return super().forward(x) + 1


@pytest.mark.parametrize("kind", [Branches, Foreign])
def test_what_cannot_be_traced_is_refused(kind):
    with pytest.raises(UsageError, match=rf"cannot write {kind.__name__} .*--format"):
        network_source(nn.Sequential(nn.ReLU(), kind()))


def test_a_subclass_of_a_layer_is_not_taken_for_the_layer():
    torch.manual_seed(0)
    assert "class Layer" in rebuilt(nn.Sequential(Layer(1, 2, 1)), images(3, 1, 4, 4)).classes


def hidden():
    layer = nn.GroupNorm(3, 3)
    layer.num_groups = 2
    return layer


def hooked():
    layer = nn.Identity()
    layer.register_forward_hook(lambda _, __, y: 2 * y)
    return layer


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (hidden(), "layer GroupNorm.* do not say how"),
        (hooked(), "forward hooks"),
        (nn.utils.weight_norm(nn.Linear(2, 2)), "forward hooks"),
        (nn.ParameterList([torch.ones(1)]), "layer ParameterList"),
    ],
    ids=str,
)
def test_a_layer_that_is_more_than_its_settings_is_refused(layer, reason):
    with pytest.raises(UsageError, match=reason):
        network_source(nn.Sequential(layer))
