"""Any networks whatever: a list of what makes them."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Iterator
from importlib import import_module
from operator import index as as_int
from pathlib import Path
from typing import Any

from torch import nn

from lightning_nas.errors import SpaceError
from lightning_nas.spaces.base import CellGraph, FiniteSpace


class ListedNetworks(FiniteSpace[int]):
    """Networks of your own, each a class or function that makes one: to be embedded beside those of a search space.

    An architecture is its number in the list, written as the list has it. There are no cells, hence no graphs, and no
    two are neighbours.

    Args:
        networks: Dotted paths such as ``torchvision.models.resnet18`` or ``my_file.MyNetwork``, or
            ``{class_path: my_file.MyNetwork, init_args: {depth: 20}}``. Where the class or function has parameters
            named ``num_classes`` and ``in_channels`` that are not given, they are what the images need; the same goes
            for other sizes, such as ``channels``. What takes ``**kwargs`` instead needs ``init_args``: a network of
            more classes has larger gradients.

    Raises:
        SpaceError: The list is empty, has something twice, or an entry cannot be imported.

    Example:
        >>> linear = {"class_path": "torch.nn.Linear", "init_args": {"in_features": 2}}
        >>> space = ListedNetworks(["torch.nn.Flatten", linear])
        >>> len(space), space.format(1), space.parse("torch.nn.Flatten")
        (2, 'torch.nn.Linear(in_features=2)', 0)
    """

    name = "listed"
    vertex_labels = ()
    num_vertices = 0

    def __init__(self, networks: list[str | dict[str, Any]]) -> None:
        self.networks = networks
        self._names = tuple(_notation(entry) for entry in networks)
        twice = sorted({name for name in self._names if self._names.count(name) > 1})
        if not networks or twice:
            raise SpaceError(f"ListedNetworks: got {twice or 'no networks'}, expected different networks, one or more")
        for entry in networks:
            _imported(_path(entry))

    @property
    def fingerprint(self) -> str:
        """Hash of the source files that define the networks: what was computed of a network that was changed is old."""
        total = hashlib.sha256()
        for entry in self.networks:
            module = sys.modules[inspect.unwrap(_imported(_path(entry))).__module__]
            file = getattr(module, "__file__", None)  # none where it is built into Python
            total.update(Path(file).read_bytes() if file else _path(entry).encode())
        return total.hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.networks)

    def __getitem__(self, index: int) -> int:  # type: ignore[override]
        return range(len(self))[as_int(index)]

    def index(self, arch: int) -> int:  # type: ignore[override]
        """The number itself; raises ``SpaceError`` when the list is shorter."""
        if not 0 <= arch < len(self):
            raise SpaceError(f"{self.name}: got the number {arch}, expected 0 to {len(self) - 1}")
        return arch

    def neighbors(self, arch: int) -> Iterator[int]:
        """None."""
        return iter(())

    def parse(self, text: str) -> int:
        """The number of a network; raises ``SpaceError`` naming those there are."""
        if text.strip() not in self._names:
            raise SpaceError(f"{self.name}: got {text!r}, expected one of {', '.join(self._names)}")
        return self._names.index(text.strip())

    def format(self, arch: int) -> str:
        """Path and arguments."""
        return self._names[self.index(arch)]

    def graph(self, arch: int) -> CellGraph:
        """Raises ``SpaceError``: any network has no cell."""
        raise SpaceError(f"{self.name}: {self.format(arch)} has no cell; expected a method that looks at networks")

    def from_graph(self, graph: CellGraph) -> int:
        """Raises ``SpaceError``: there are no cells."""
        raise SpaceError(f"{self.name}: got a cell, but listed networks have none")

    def build(self, arch: int, num_classes: int = 10, in_channels: int = 3, **sizes: Any) -> nn.Module:
        """A network with fresh weights.

        Args:
            arch: Its number.
            num_classes: Handed over where the network has a parameter of this name that the list does not set.
            in_channels: The same for the channels of the images.
            sizes: The same for anything else.

        Raises:
            SpaceError: What was made is no network.
        """
        entry = self.networks[self.index(arch)]
        factory = _imported(_path(entry))
        arguments = dict(entry.get("init_args") or {}) if isinstance(entry, dict) else {}
        known = inspect.signature(factory).parameters
        wanted = {"num_classes": num_classes, "in_channels": in_channels, **sizes}
        network = factory(**{**{name: size for name, size in wanted.items() if name in known}, **arguments})
        if not isinstance(network, nn.Module):
            raise SpaceError(f"{self.format(arch)}: made a {type(network).__name__}, expected a torch.nn.Module")
        return network


def _path(entry: str | dict[str, Any]) -> str:
    return str(entry.get("class_path")) if isinstance(entry, dict) else entry


def _notation(entry: str | dict[str, Any]) -> str:
    arguments = (entry.get("init_args") or {}) if isinstance(entry, dict) else {}
    inner = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    return _path(entry) + (f"({inner})" if arguments else "")


def _imported(path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise SpaceError(
            f"ListedNetworks: {path!r} cannot be imported ({error}); expected the dotted path of a class or function "
            "that makes a network, in an installed package or in a file of the folder where the command is typed"
        ) from error
