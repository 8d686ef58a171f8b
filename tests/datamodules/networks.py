"""A small space whose networks can be built, for Jacobians; workers import it, too."""

import os

import torch
from torch import nn

from tests.contract import TinySpace


class BuildableSpace(TinySpace):
    """81 networks of 1x8x8 images: four layers with batch normalisation; a cell and its mirror image are the same."""

    name = "buildable"

    def __init__(self, dies: tuple[int, ...] | None = None, folder: str = ""):
        self.dies, self.folder = dies, folder

    def canonical(self, arch):
        return min(arch, arch[::-1])

    def build(self, arch, channels=3, in_channels=1, num_classes=10):
        if arch == self.dies:
            if self.folder and not os.path.exists(os.path.join(self.folder, "died")):
                open(os.path.join(self.folder, "died"), "w").close()
                os._exit(9)
            if not self.folder:
                raise RuntimeError("no such layer")

        def conv():
            return nn.Sequential(nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels))

        layers = {"conv": conv, "pool": lambda: nn.AvgPool2d(3, 1, 1), "skip": nn.Identity}
        body = [layers[self.choices[0][code]]() for code in arch]
        return nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, padding=1), *body, nn.Flatten(), nn.Linear(64 * channels, num_classes)
        )


class SecondSpace(BuildableSpace):
    """The same networks under another name, all of them different, one without a path from input to output."""

    name = "second"
    connected = torch.arange(81) != 5

    def canonical(self, arch):
        return arch


class ExplodingSpace(BuildableSpace):
    """Networks whose Jacobians are not finite."""

    def build(self, arch, channels=3, in_channels=1, num_classes=10):
        class Infinite(nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = nn.Parameter(torch.ones(()))

            def forward(self, x):
                return (x * self.weight * torch.inf).flatten(1)

        return Infinite()
