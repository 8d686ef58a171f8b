"""The verb ``lightning-nas analyze``: what a trained embedding is worth.

Each analysis is one function in one file of ``lightning_nas/analysis``; its arguments are the command's options. Only
the one that is asked for is imported, so that the list of them answers at once.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from lightning_nas.configurations import expand_configs
from lightning_nas.errors import UsageError

NAMES = (
    "performance",
    "smoothness",
    "walk",
    "tsne",
    "regression",
    "transfer",
    "spectrum",
    "stages",
    "trajectories",
    "selections",
    "discretisation",
    "shuffling",
    "skips",
    "curvature",
    "slopes",
    "cells",
)
"""Analyses of this package: function NAME in ``lightning_nas/analysis/NAME.py``."""


def analyze(name: str, options: list[str] = []) -> None:  # noqa: B006  # a CLI default
    """Look into what a trained embedding is worth; leaves figures (PNG, PDF, TensorBoard) and numbers (JSON).

    'lightning-nas analyze NAME --help' explains the options of each, for example
    'lightning-nas analyze walk --run runs/arch2vec/nasbench201'.

    Args:
        name: performance: how well a regression on the embeddings of a few cells predicts the accuracy of all others.
            smoothness: whether cells that a few edits separate lie close to each other. walk: whether nearest
            neighbours look alike, drawn as graphs. tsne: a map of the embedding, coloured by accuracy. regression: how
            well trees on embedded Jacobians predict accuracies. transfer: the same across search spaces. spectrum: what
            the largest singular value of Jacobians says about accuracy. stages: maps of raw Jacobians and of their
            embedding, untrained and trained. trajectories: where networks go in the embedding while they are trained.
            selections: what was read off supernets, over methods and seeds.
            discretisation: whether the weights of a supernet's operations say what they are worth.
            shuffling: whether it still works when two edges change places. skips: whether skip connections weigh what
            the variances of messages predict. curvature: how curved the validation loss is in alpha.
            slopes: whether a Petri dish finds the best slope of sigmoids among slopes right of it.
            cells: how soon strategies find recurrent cells of low perplexity.
            Or the dotted path of a function of your own, such as mine.analyses.density.
        options: What follows the name ('lightning-nas analyze NAME --help' explains it); --run takes one or more run
            folders.
    """
    sys.path.insert(0, os.getcwd())  # a user's own spaces and analyses lie where the command is typed
    from jsonargparse import auto_cli

    import lightning_nas.short_names  # noqa: F401  # so that encodings and predictors go by their class names

    given, _ = expand_configs(_joined(options))
    auto_cli(_find(name), args=given, prog=f"lightning-nas analyze {name}", as_positional=False)


def arguments(verb: str, args: Sequence[str]) -> list[str]:
    """The name, then all options as one list.

    Args:
        verb: ``analyze``.
        args: What was typed behind the verb.

    Example:
        >>> arguments("analyze", ["walk", "--run", "runs/a"])
        ['walk', '--options=["--run", "runs/a"]']
    """
    if not args or args[0].startswith("-"):
        return list(args)
    return [args[0], f"--options={json.dumps(list(args[1:]))}"]


def _find(name: str) -> Any:
    if name in NAMES:
        return getattr(import_module(f"lightning_nas.analysis.{name}"), name)
    module, _, function = name.rpartition(".")
    if not module:
        near = get_close_matches(name, NAMES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"analyze: got the analysis {name!r}, expected one of {', '.join(NAMES)}{hint}")
    try:
        return getattr(import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"analyze: {name!r} cannot be imported ({error}); expected one of {', '.join(NAMES)}, or the dotted path "
            "of a function that can be imported from here"
        ) from error


def _joined(options: Sequence[str]) -> list[str]:
    """Let people write ``--run a b``, which jsonargparse cannot read.

    Example:
        >>> _joined(["--run", "a", "b", "--seed", "1", "--run=c"])
        ['--run=["a", "b", "c"]', '--seed', '1']
    """
    folders: list[str] = []
    rest: list[str] = []
    taking = False
    for option in options:
        taking = option == "--run" or (taking and not option.startswith("-"))
        if option.startswith("--run="):
            folders.append(option.removeprefix("--run="))
        elif not taking:
            rest.append(option)
        elif option != "--run":
            folders.append(option)
    return [*([f"--run={json.dumps(folders)}"] if folders else []), *rest]
