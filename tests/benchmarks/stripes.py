"""A small live benchmark without Lightning, whose import would take most of the time of its tests.

Workers of every kind import this module, so it has to be on their path under the name that it has here.
"""

import os
import signal
import time
from pathlib import Path

import torch

from lightning_nas.benchmarks.live import LiveBenchmark
from lightning_nas.nn.images import LabelledImages
from lightning_nas.nn.training import TrainingRecipe
from lightning_nas.spaces.nasbench201 import NASBench201

CONV, SKIP, POOL, MIXED = (2, 0, 0, 0, 0, 1), (0, 0, 0, 1, 0, 0), (0, 0, 0, 4, 0, 0), (3, 1, 2, 4, 1, 3)
RECIPE = TrainingRecipe(epochs=1, batch_size=8, learning_rate=0.1)


class Stripes:
    """Four classes of images, told apart by the row that is bright."""

    purpose = "search"
    num_classes = 4
    image_shape = (1, 8, 8)
    mean, std, max_pixel, augmentation = (0.0,), (1.0,), 255, ()

    def prepare_data(self):
        pass

    def setup(self, stage):
        self.train, self.valid, self.test = (stripes(count, seed) for seed, count in enumerate((96, 60, 60)))

    def identity(self):
        return {"data": "stripes"}


def stripes(count, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count,), generator=generator)
    images = torch.rand(count, 1, 8, 8, generator=generator)
    images[torch.arange(count), 0, 2 * labels] += 1.5
    return LabelledImages(images, labels)


class TroubledSpace(NASBench201):
    """Cells that misbehave where they are trained; every such build leaves process id and kind in a folder.

    Args:
        folder: Where to leave it.
        trouble: A cell for a kind of trouble: ``raises``, ``sleeps``, ``waits`` (for a file ``go``), ``dies``,
            ``dies_once``.
    """

    def __init__(self, folder, **trouble):
        self.folder, self.home = str(folder), os.getpid()
        self.trouble = {self.canonical(arch): kind for kind, arch in trouble.items()}

    def build(self, arch, **network):
        if os.getpid() == self.home:
            return super().build(arch, **network)
        kind, folder = self.trouble.get(arch), Path(self.folder)
        first = not (folder / "died").exists()
        (folder / f"{os.getpid()}.{time.monotonic_ns()}.{kind}").touch()
        if kind == "raises":
            raise RuntimeError("no such cell")
        if kind == "sleeps":
            time.sleep(100)
        while kind == "waits" and not (folder / "go").exists():
            time.sleep(0.01)
        if kind == "dies" or (kind == "dies_once" and first):
            (folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().build(arch, **network)


def make(folder, space=None, **changes):
    arguments = {"channels": 4, "recipe": RECIPE, "store": f"{folder}/results.sqlite", "workers": 1}
    return LiveBenchmark(space or NASBench201(), Stripes(), **(arguments | changes))


def until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def alive(pid):
    """Whether a process works still: one that has ended and that no parent has asked about (a zombie) does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
