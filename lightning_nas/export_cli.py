"""The verb ``lightning-nas export``: a trained network for use elsewhere.

A plain function for ``jsonargparse.auto_cli``; torch is imported where it is used.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rich.console import Console

from lightning_nas.errors import UsageError
from lightning_nas.terminal import say

Format = Literal["python", "program", "onnx", "all"]


def export(run_dir: Path, output: Path | None = None, format: Format = "all") -> None:
    """Write a trained network for use without this package, and check what was written.

    Args:
        run_dir: Run folder of ``lightning-nas retrain``, or one of its checkpoints.
        output: Folder to write to; default: ``export`` in the run folder.
        format: python: network.py, readable source that needs torch alone, and weights.pt. program: network.pt2 for
            torch.export.load. onnx: network.onnx (needs the extra: pip install 'lightning-nas[export]'). all: those of
            these that can be written.
    """
    sys.path.insert(0, os.getcwd())  # a user's own spaces lie where the command is typed
    from lightning_nas import export as writers
    from lightning_nas.loading import load
    from lightning_nas.modules.classifier import ImageClassifier

    model = load(run_dir)
    if not isinstance(model, ImageClassifier):
        raise UsageError(
            f"export: {run_dir} holds a trained {type(model).__name__}, expected the run of an ImageClassifier, as "
            "'lightning-nas retrain' leaves it"
        )
    folder = output or (run_dir.parent if run_dir.is_file() else run_dir) / "export"
    console = Console()
    names = ("python", "program", "onnx") if format == "all" else (format,)
    count = 0
    for name in names:
        try:
            written = getattr(writers, f"export_{name}")(model, folder)
        except UsageError as error:  # no ONNX here, or nothing that this format can hold
            if name == names[-1] and not count:
                raise
            say(console, f"Left out: {error}")
            continue
        count += 1
        say(
            console,
            f"Written: {written.path} (scores differ by at most {written.difference:.1e} from the network's, whose "
            f"standard deviation over images is {written.spread:.1e})",
        )


def arguments(verb: str, args: Sequence[str]) -> list[str]:
    """The run folder comes first, as jsonargparse expects it.

    Args:
        verb: ``export``.
        args: What was typed behind the verb.

    Example:
        >>> arguments("export", ["--format", "onnx", "runs/retrain"])
        ['runs/retrain', '--format', 'onnx']
    """
    typed, folders, options = iter(args), [], []
    for arg in typed:
        if not arg.startswith("-"):
            folders.append(arg)
            continue
        options.append(arg)
        if "=" not in arg and arg not in ("-h", "--help"):
            options.extend(part for part in [next(typed, None)] if part is not None)
    return [*folders, *options]
