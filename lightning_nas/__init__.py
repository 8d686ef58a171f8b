"""Neural architecture search on PyTorch Lightning (importing it costs nothing; ``load`` brings torch when used)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_nas.loading import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    if name != "load":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lightning_nas.loading import load

    return load
