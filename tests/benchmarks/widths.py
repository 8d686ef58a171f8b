"""A space of nine small networks, six of them distinct."""

from torch import nn

from lightning_nas.spaces.categorical import CategoricalSpace


class Widths(CategoricalSpace):
    """Networks of two layers; the order of their widths does not matter."""

    name = "widths"
    choices = (("1", "2", "4"),) * 2

    def canonical(self, arch):
        return tuple(sorted(arch))

    def parse(self, text):
        return tuple(int(code) for code in text)

    def format(self, arch):
        return "".join(map(str, arch))

    def graph(self, arch):
        raise NotImplementedError

    from_graph = graph

    def build(self, arch, channels, num_classes, in_channels, **_):
        a, b = (2**code for code in sorted(arch))
        return nn.Sequential(
            nn.Conv2d(in_channels, a, 3), nn.ReLU(), nn.Conv2d(a, b, 3), nn.ReLU(), nn.AdaptiveAvgPool2d((4, 1)),
            nn.Flatten(), nn.Linear(4 * b, num_classes),
        )  # fmt: skip
