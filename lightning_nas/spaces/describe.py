"""What the search spaces of the package are, and what one architecture is, in words."""

from __future__ import annotations

import inspect
import pkgutil
from importlib import import_module
from typing import Any

from lightning_nas import spaces
from lightning_nas.errors import SpaceError
from lightning_nas.nn.complexity import count_flops, count_parameters
from lightning_nas.spaces.base import FiniteSpace, SearchSpace


def find_spaces() -> dict[str, SearchSpace[Any]]:
    """Every search space of the package that can be made without arguments, by name.

    Example:
        >>> "nasbench201" in find_spaces()
        True
    """
    found = {}
    for module in pkgutil.iter_modules(spaces.__path__, f"{spaces.__name__}."):
        for kind in vars(import_module(module.name)).values():
            if not (inspect.isclass(kind) and issubclass(kind, SearchSpace)) or inspect.isabstract(kind):
                continue
            needed = [p for p in inspect.signature(kind).parameters.values() if p.default is p.empty]
            if kind.__module__ == module.name and not needed:
                space = kind()
                found[space.name] = space
    return dict(sorted(found.items()))


def size(space: SearchSpace[Any]) -> str:
    """Number of architectures, for humans."""
    return f"{len(space):,}" if isinstance(space, FiniteSpace) else "not numbered"


def summary(space: SearchSpace[Any]) -> str:
    """First line of the space's documentation."""
    return (inspect.getdoc(type(space)) or "").split("\n")[0]


def member(space: SearchSpace[Any], index: int | None, text: str | None) -> Any:
    """An architecture given by its number or in the space's notation.

    Args:
        space: Where it comes from.
        index: Its number, counted from 0.
        text: Its notation; used when there is no number.

    Raises:
        SpaceError: The space has no such architecture.
    """
    if index is None:
        return space.parse(text or "")
    if not isinstance(space, FiniteSpace):
        raise SpaceError(f"{space.name}: got the index {index}, but its architectures are not numbered; give a string")
    if not 0 <= index < len(space):
        raise SpaceError(f"{space.name}: got the index {index}, expected 0 to {len(space) - 1}")
    return space[index]


def describe(space: SearchSpace[Any], arch: Any) -> list[tuple[str, str]]:
    """Facts about one architecture: (what, value).

    Args:
        space: Its space.
        arch: The architecture; its network is built with the space's default size.

    Example:
        >>> facts = dict(describe(find_spaces()["nasbench201"], (1, 1, 1, 1, 1, 1)))
        >>> facts["parameters"], facts["neighbours"]
        ('73,306', '24')
    """
    network = space.build(arch)
    facts = [
        ("architecture", space.format(arch)),
        ("parameters", f"{count_parameters(network):,}"),
        ("multiply-adds", f"{count_flops(network, (3, 32, 32)) / 1e6:.2f} million for an image of 3 x 32 x 32"),
        ("neighbours", str(sum(1 for _ in space.neighbors(arch)))),
    ]
    if isinstance(space, FiniteSpace):
        canonical = space.canonical(arch)
        facts[1:1] = [
            ("index", str(space.index(arch))),
            ("canonical form", f"{space.format(canonical)} (index {space.index(canonical)})"),
        ]
    return facts
