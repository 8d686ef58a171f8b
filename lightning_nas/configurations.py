"""Shipped configurations, called by their names."""

from __future__ import annotations

import re
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path

from lightning_nas.errors import UsageError


def shipped_configs() -> dict[str, Path]:
    """Shipped experiments by name, for example ``arch2vec/nasbench201``."""
    root = Path(str(files("lightning_nas.configs")))
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in sorted(root.rglob("*.yaml"))}


def resolve_config(name: str) -> str:
    """Path of a configuration: an existing file wins, else a shipped name; raises ``UsageError`` for neither."""
    if Path(name).is_file():
        return name
    known = shipped_configs()
    if name in known:
        return str(known[name])
    near = get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise UsageError(f"--config {name}: neither a file nor a shipped configuration ({', '.join(known)}){hint}")


def expand_configs(args: list[str]) -> tuple[list[str], str]:
    """Replace shipped names by their paths.

    Args:
        args: Arguments behind the subcommand.

    Returns:
        The arguments, and the default run folder: ``runs/`` and the first configuration's name.
    """
    expanded, folder = [], "runs/default"
    for place, arg in enumerate(args):
        name = None
        if arg.startswith(("--config=", "-c=")):
            name = arg.partition("=")[2]
        elif place and args[place - 1] in ("--config", "-c"):
            name = arg
        if name is None:
            expanded.append(arg)
            continue
        path = resolve_config(name)
        expanded.append(arg.removesuffix(name) + path)
        if folder == "runs/default":
            shipped = {str(file): key for key, file in shipped_configs().items()}
            # A config.yaml that fit left in a run folder belongs to that folder.
            own = Path(path).parent if re.fullmatch(r"(\w+_)?config\.yaml", Path(path).name) else None
            folder = f"runs/{shipped[path]}" if path in shipped else str(own or Path("runs") / Path(path).stem)
    return expanded, folder
