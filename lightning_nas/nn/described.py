"""Objects as primitives, for checkpoints, in the form that configurations have."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any


def described(value: Any) -> Any:
    """Class path and constructor's arguments of an object that keeps them as attributes; primitives as they are.

    Example:
        >>> from lightning_nas.nn.inner_loop import InnerSGD
        >>> described(InnerSGD(0.5))
        {'class_path': 'lightning_nas.nn.inner_loop.InnerSGD', 'init_args': {'learning_rate': 0.5}}
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [described(item) for item in value]
    kind = type(value)
    arguments = {name: described(getattr(value, name)) for name in inspect.signature(kind).parameters}
    return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": arguments}


def made(value: Any) -> Any:
    """The inverse of :func:`described`; what is an object already stays one."""
    if not isinstance(value, dict):
        return value
    module, _, name = str(value["class_path"]).rpartition(".")
    arguments = {key: made(item) for key, item in (value.get("init_args") or {}).items()}
    return getattr(import_module(module), name)(**arguments)
