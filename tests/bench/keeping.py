"""Times of ``make bench`` for the ledger: ``python -m tests.bench.bench_… --record docs/results``."""

import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from lightning_nas.ledger import Result, Row, write_result
from lightning_nas.provenance import provenance


class Times:
    """Prints what was measured, and writes it to the ledger when asked to.

    Args:
        name: Last part of the experiment's name, ``speed/<name>``.
        title: What was compared.
        plain: What the other side is.
        notes: What a reader must know.
    """

    def __init__(self, name, title, plain, notes=()):
        self.name, self.title, self.plain, self.notes = name, title, plain, notes
        self.rows, self.started = [], time.perf_counter()

    def add(self, label, ours, other, unit="s", ratio=None):
        """One line: our time and the other side's, measured in the same run; their ratio, unless another is given."""
        ratio = ours / other if ratio is None else ratio
        sys.stdout.write(f"{label}: {ours:.3f} {unit}, {self.plain} {other:.3g} {unit}, ratio {ratio:.3f}\n")
        sys.stdout.flush()
        text = {"label": label, "paper": "", "seeds": "one run"}
        self.rows += [
            Row.of([ours], metric="ours", unit=unit, **text),
            Row.of([other], metric=self.plain, unit=unit, **text),
            Row.of([ratio], metric="ratio", unit="", **text),
        ]

    def keep(self, scale):
        """Write the ledger's file where ``--record FOLDER`` was typed."""
        if "--record" not in sys.argv:
            return
        origin = provenance()
        typed = origin["command"].replace(".py", "")
        result = Result(
            name=f"speed/{self.name}", title=self.title, source="none: our own comparison",
            reference_protocol=f"{self.plain}, in the same process", our_protocol="one thread; medians",
            scale=scale, command=f"python -m tests.bench.{typed}", commit=origin["commit"],
            versions=origin["versions"], date=datetime.now(UTC).date().isoformat(),
            seconds=time.perf_counter() - self.started, notes=self.notes, rows=tuple(self.rows),
        )  # fmt: skip
        write_result(Path(sys.argv[sys.argv.index("--record") + 1]), result)
