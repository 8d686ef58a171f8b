"""A search space as primitives, for checkpoints and files, in the form that configurations have."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

from lightning_nas.errors import SpaceError
from lightning_nas.spaces.base import SearchSpace


def describe_space(space: SearchSpace[Any]) -> dict[str, Any]:
    """Class path and constructor's arguments of a space, the inverse of :func:`make_space`.

    Raises:
        SpaceError: The space does not keep its constructor's arguments as attributes of the same names.

    Example:
        >>> from lightning_nas.spaces.nasbench201 import NASBench201
        >>> describe_space(NASBench201())
        {'class_path': 'lightning_nas.spaces.nasbench201.NASBench201', 'init_args': {}}
    """
    kind = type(space)
    arguments = {name: getattr(space, name, None) for name in inspect.signature(kind).parameters}
    described = {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": arguments}
    if kind(**arguments) != space:
        raise SpaceError(
            f"{kind.__qualname__}({', '.join(arguments)}) cannot be made again from its attributes; expected a search "
            "space that keeps its constructor's arguments under their names"
        )
    return described


def make_space(described: dict[str, Any]) -> SearchSpace[Any]:
    """A space from its class path and arguments.

    Raises:
        SpaceError: There is no such class, or it refuses the arguments.
    """
    path = str(described.get("class_path"))
    module, _, name = path.rpartition(".")
    try:
        space = getattr(import_module(module), name)(**described.get("init_args") or {})
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise SpaceError(
            f"cannot make the search space {path!r} ({error}); its module must be importable, as it was when the "
            "architecture was found or trained: run in the same folder"
        ) from error
    return space  # type: ignore[no-any-return]
