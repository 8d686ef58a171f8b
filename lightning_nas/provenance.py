"""Where a number comes from: command, commit, versions."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = ("lightning-nas", "torch", "pytorch-lightning", "botorch", "gpytorch", "torch-geometric", "numpy")


def command_line() -> str:
    """The command that started this process, as one would type it: shipped configurations by their names."""
    root = f"{Path(__file__).parent / 'configs'}/"
    typed = [arg.replace(root, "").removesuffix(".yaml") if root in arg else arg for arg in sys.argv[1:]]
    return shlex.join([Path(sys.argv[0]).name, *typed])


def commit() -> str | None:
    """Commit of the checkout this package runs from, with ``-dirty`` when files differ; None outside a checkout."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "--short=12", "HEAD")
        return head + ("-dirty" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10
    ).stdout.strip()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that shape a result."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def provenance() -> dict[str, Any]:
    """Command, commit and versions together."""
    return {"command": command_line(), "commit": commit(), "versions": versions()}
