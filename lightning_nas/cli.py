"""The console script: looks at the verb before it imports anything heavy."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from lightning_nas.errors import NASError, UsageError

HELP = """\
usage: lightning-nas VERB [options]        (lightning-nas VERB --help explains the options of each)

Train and search (a PyTorch Lightning command line; --config takes a file or the name of a shipped experiment):
  fit        train a method, then run the searches of its configuration; --ckpt_path last continues
  search     search with a trained method's embeddings; continues where it was stopped
  retrain    train what a search found from scratch and test it: --genotype RUN_FOLDER --data DigitsDataModule
  validate   measure a trained method on held-out cells
  test       the same, for datamodules that keep a test part
  predict    run a trained method over a whole space; the embeddings go to embeddings.npz in the run folder

Data and results:
  data       prepare published benchmark tables, list what is there, tell what a table is worth
  tabulate   train a whole search space on your data: a benchmark table of your own
  compare    compare performance predictors on the same random architectures
  score      score untrained networks of a search space by training-free proxies
  spaces     list the search spaces, look at single architectures
  report     compare finished runs, render the results ledger
  analyze    look into what a trained embedding is worth: performance, regression, transfer, walk, tsne, …
  export     write a trained network as Python source, torch.export program or ONNX, and check it

First steps:
  lightning-nas fit --config demo --ckpt_path last     pre-train and search on a laptop, offline, in a few minutes
  lightning-nas search --config NAME --print_config
"""

# Verbs without a model; only tabulate, compare and score, which train or build networks, import torch at once.
PLAIN = {
    "data": "lightning_nas.data_cli",
    "spaces": "lightning_nas.data_cli",
    "report": "lightning_nas.report_cli",
    "analyze": "lightning_nas.analyze_cli",
    "export": "lightning_nas.export_cli",
    "tabulate": "lightning_nas.tabulate_cli",
    "compare": "lightning_nas.compare_cli",
    "score": "lightning_nas.score_cli",
}
LIGHTNING = ("fit", "validate", "test", "predict", "search", "retrain")


def main(argv: Sequence[str] | None = None) -> None:
    """Run a verb; mistakes a user can mend end in one line and status 2.

    Args:
        argv: What was typed behind ``lightning-nas``; None for ``sys.argv``.
    """
    # Threads that spin while they wait make small models many times slower as soon as another program runs.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help", "help"):
        sys.stdout.write(HELP)
        return
    try:
        _run(args[0], args[1:])
    except KeyboardInterrupt:
        sys.stderr.write(
            "interrupted; what was finished is kept, the same command continues (fit, retrain: with --ckpt_path last)\n"
        )
        raise SystemExit(130) from None
    except Exception as error:
        mistake = _mistake(error)
        if mistake is None:
            raise
        sys.stderr.write(f"error: {mistake}\n")
        raise SystemExit(2) from None


def _mistake(error: BaseException | None) -> NASError | None:
    """The user's mistake behind an exception: jsonargparse wraps what a constructor raises in errors of its own."""
    while error is not None and not isinstance(error, NASError):
        error = error.__cause__ or error.__context__
    return error


def _run(verb: str, args: list[str]) -> None:
    if verb in PLAIN:
        from jsonargparse import auto_cli

        module = import_module(PLAIN[verb])
        auto_cli(getattr(module, verb), args=module.arguments(verb, args), prog=f"lightning-nas {verb}")
    elif verb in LIGHTNING:
        from lightning_nas.nascli import run

        run(verb, args)
    else:
        from difflib import get_close_matches

        verbs = [*LIGHTNING, *PLAIN]
        near = get_close_matches(verb, verbs, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"got the verb {verb!r}, expected one of {', '.join(verbs)}{hint}")


if __name__ == "__main__":
    main()
