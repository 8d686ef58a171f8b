"""The reproduction ledger: one small JSON per finished experiment, rendered to ``RESULTS.md``.

No torch here, so that rendering and checking answer at once.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from lightning_nas.errors import UsageError
from lightning_nas.files import write_atomically
from lightning_nas.tables import markdown_table, mean_std

INTRO = """\
# Results

Every number of every paper beside ours. Each experiment below is one JSON file in `docs/results`, left by the run
itself; this page is generated from them, so change it with

    lightning-nas report --ledger

and not by hand. "Paper" is what the source prints. "Ours" is mean ± standard deviation over n independent runs.
Architectures are selected on validation and reported on test. Where our protocol or scale differs from the paper's, the
lines under the table say so, and the two numbers are not the same measurement.
"""


@dataclass(frozen=True)
class Row:
    """One measured number beside the published one, or, with n = 0, what there is to be measured.

    Args:
        label: What was measured, for example the strategy.
        metric: For example ``test accuracy``.
        unit: For example ``%``; empty for a number without unit.
        paper: The published value as it is printed there, for example ``94.18 ± 0.24``; empty when there is none.
        mean: Mean over n runs; None for n = 0.
        std: Standard deviation over runs (n - 1 in the denominator); None for a single run.
        n: Number of runs; 0 for what was not run, of which the note says why.
        seeds: Which seeds, for example ``seed 0, runs 0-499``.
        note: Anything a reader of this line must know.
        values: The single runs, kept when they are few.

    Raises:
        UsageError: A number is missing or not finite, or text is missing.
    """

    label: str
    metric: str
    unit: str
    paper: str
    mean: float | None
    std: float | None
    n: int
    seeds: str
    note: str = ""
    values: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(self.values))  # JSON gives a list
        where = f"row {self.label!r}, {self.metric!r}"
        _require_text(where, label=self.label, metric=self.metric, seeds=self.seeds)
        _require_text(where, empty=True, unit=self.unit, paper=self.paper, note=self.note)
        if not isinstance(self.n, int) or self.n < 0:
            raise UsageError(f"{where}: got n = {self.n!r}, expected the number of runs, or 0 for what was not run")
        if self.n == 0:
            if (self.mean, self.std, self.values) != (None, None, ()) or not self.note.strip():
                raise UsageError(f"{where}: got n = 0, expected mean and std null, no values, and a note that says why")
            return
        _require_numbers(where, mean=self.mean, **{f"values[{i}]": v for i, v in enumerate(self.values)})
        if self.n == 1 and self.std is not None:
            raise UsageError(f"{where}: got std = {self.std!r} of a single run, expected null")
        if self.n > 1:
            _require_numbers(where, std=self.std)
        if self.values and len(self.values) != self.n:
            raise UsageError(f"{where}: got {len(self.values)} values, expected n = {self.n}")

    @classmethod
    def of(cls, values: Sequence[float], *, keep: int = 10, **text: str) -> Row:
        """Row of measured values.

        Args:
            values: One number for each run.
            keep: Keep the single values up to this many; files stay small.
            text: The other fields: label, metric, unit, paper, seeds, note.
        """
        if not values:
            raise UsageError(f"row {text.get('label')!r}: got no values, expected one for each run")
        std = stdev(values) if len(values) > 1 else None
        kept = tuple(values) if len(values) <= keep else ()
        return cls(mean=fmean(values), std=std, n=len(values), values=kept, **text)

    @classmethod
    def not_run(cls, command: str, **text: str) -> Row:
        """Row of a published number that was not measured.

        Args:
            command: What to type to measure it.
            text: Some of the other fields: label, metric, unit, paper.
        """
        _require_text(f"row {text.get('label')!r}", command=command)
        given: dict[str, Any] = {"unit": "", "paper": "", **text}
        return cls(**given, mean=None, std=None, n=0, seeds="-", note=f"not run: {command}")


@dataclass(frozen=True)
class Result:
    """One finished experiment.

    Args:
        name: File name below ``docs/results``, lower case, the method first: ``arch2vec/nasbench201_search``.
        title: Heading in the ledger.
        source: Paper, arXiv id and table or figure of the published numbers.
        reference_protocol: How the source measured.
        our_protocol: How we measured, with every difference.
        scale: How much was run, for example ``500 runs x 150 queries``.
        command: What to type to get it again.
        commit: Revision of this repository; None when it was not run from a checkout.
        versions: Package versions that matter.
        date: Day of the measurement, ``YYYY-MM-DD``.
        seconds: Wall-clock seconds of the whole experiment; None when unknown.
        notes: Anything a reader must know, one paragraph each.
        rows: The numbers.

    Raises:
        UsageError: A field is missing or wrong.
    """

    name: str
    title: str
    source: str
    reference_protocol: str
    our_protocol: str
    scale: str
    command: str
    commit: str | None
    versions: dict[str, str]
    date: str
    seconds: float | None
    notes: tuple[str, ...]
    rows: tuple[Row, ...]

    def __post_init__(self) -> None:
        where = f"result {self.name!r}"
        if not isinstance(self.notes, list | tuple):
            raise UsageError(f"{where}: got notes = {self.notes!r}, expected a list of strings")
        object.__setattr__(self, "notes", tuple(self.notes))  # JSON gives lists
        object.__setattr__(self, "rows", tuple(self.rows))
        if not isinstance(self.name, str) or not re.fullmatch(
            r"[a-z0-9][a-z0-9_.-]*(/[a-z0-9][a-z0-9_.-]*)*", self.name
        ):
            raise UsageError(f"{where}: expected lower-case words joined by '/', such as 'arch2vec/nasbench201_search'")
        named = ("title", "source", "reference_protocol", "our_protocol", "scale", "command", "date")
        _require_text(where, **{field: getattr(self, field) for field in named})
        for note in self.notes:
            _require_text(where, notes=note)
        if self.commit is not None:
            _require_text(where, commit=self.commit)
        if not isinstance(self.versions, dict) or not all(isinstance(v, str) for v in self.versions.values()):
            raise UsageError(f"{where}: got versions = {self.versions!r}, expected package names with version strings")
        if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", self.date):
            raise UsageError(f"{where}: got the date {self.date!r}, expected YYYY-MM-DD")
        if self.seconds is not None:
            _require_numbers(where, seconds=self.seconds)
        if not self.rows:
            raise UsageError(f"{where}: got no rows, expected at least one number")
        keys = [(row.label, row.metric) for row in self.rows]
        for key in keys:
            if keys.count(key) > 1:
                raise UsageError(f"{where}: got two rows {key}, expected each label and metric once")

    def to_json(self) -> str:
        """Text with a stable order and a line for each field, so that differences read well."""
        record = asdict(self)
        record["versions"] = dict(sorted(self.versions.items()))
        record["seconds"] = _rounded(self.seconds)
        record["rows"] = [_row_record(row) for row in self.rows]
        return json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str = "result") -> Result:
        """The inverse of :meth:`to_json`.

        Args:
            text: What the file holds.
            where: Name of the file, for messages.

        Raises:
            UsageError: It is not such a text, or a field is missing, unknown or wrong.
        """
        try:
            record = json.loads(text)
        except json.JSONDecodeError as error:
            raise UsageError(f"{where}: not JSON ({error}); mend it or record the run again") from None
        try:
            given = _checked_fields(cls, record, "result")
            if not isinstance(given["rows"], list):
                raise UsageError(f"got rows = {given['rows']!r}, expected a list")
            rows = (_checked_fields(Row, row, f"row {i}") for i, row in enumerate(given["rows"]))
            return cls(**(given | {"rows": tuple(Row(**row) for row in rows)}))
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from None


def write_result(folder: Path, result: Result) -> Path:
    """Write one experiment to ``<folder>/<name>.json``, over an older one of the same name; returns the path."""
    path = folder / f"{result.name}.json"
    with write_atomically(path) as file:
        file.write(result.to_json())
    return path


def read_results(folder: Path) -> list[Result]:
    """All experiments below a folder, in the order of their names (numbers in names count as numbers).

    Raises:
        UsageError: The folder does not exist, or a file is damaged or has another name than its experiment.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; expected the JSON files of finished experiments (docs/results)")
    results = []
    for path in folder.rglob("*.json"):
        result = Result.from_json(path.read_text("utf-8"), str(path))
        if path.relative_to(folder).with_suffix("").as_posix() != result.name:
            raise UsageError(f"{path}: holds the experiment {result.name!r}; name the file {result.name}.json")
        results.append(result)
    return sorted(results, key=lambda result: _natural(result.name))


def merge(results: Sequence[Result]) -> Result:
    """Combine runs of one experiment with different seeds; mean and standard deviation are those of all runs.

    Args:
        results: At least one; everything but seeds, numbers, command, commit, date, seconds and notes must agree.

    Raises:
        UsageError: They are different experiments, or the same seeds occur twice.
    """
    if not results:
        raise UsageError("merge: got no results, expected at least one")
    first, *others = results
    for other in others:
        for field in ("name", "title", "source", "reference_protocol", "our_protocol", "scale"):
            if getattr(first, field) != getattr(other, field):
                raise UsageError(
                    f"merge: {first.name!r}: the {field} differs between runs, {getattr(first, field)!r} and "
                    f"{getattr(other, field)!r}; only seeds may differ within one experiment"
                )
    groups: dict[tuple[str, str], list[Row]] = {}
    for result in results:
        for row in result.rows:
            groups.setdefault((row.label, row.metric), []).append(row)
    known = [result.seconds for result in results if result.seconds is not None]
    return replace(
        first,
        command="\n".join(_distinct(result.command for result in results)),
        commit=", ".join(_distinct(result.commit for result in results if result.commit)) or None,
        date=max(result.date for result in results),
        seconds=sum(known) if known else None,
        notes=tuple(_distinct(note for result in results for note in result.notes)),
        rows=tuple(_pool(rows) for rows in groups.values()),
    )


def render_ledger(folder: Path) -> str:
    """The Markdown page of all experiments below a folder, a section for each method.

    Args:
        folder: Holds the JSON files.
    """
    parts = [INTRO]
    section = None
    for result in read_results(folder):
        method = result.name.split("/")[0]
        if method != section:
            parts.append(f"## {method}\n")
            section = method
        parts.append(_render(result))
    if section is None:
        parts.append("No experiment is recorded yet.\n")
    return "\n".join(parts)


def _render(result: Result) -> str:
    noted = any(row.note for row in result.rows)
    header = ["what", "metric", "paper", "ours (mean ± std, n)", "seeds", *(["note"] if noted else [])]
    rows = [
        [
            row.label,
            row.metric + (f" ({row.unit})" if row.unit else ""),
            row.paper or "-",
            f"{mean_std(row.mean, row.std, _digits(row))}, n = {row.n}" if row.n else "not run",
            row.seeds,
            *([row.note] if noted else []),
        ]
        for row in result.rows
    ]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(result.versions.items()))
    seconds = "" if result.seconds is None else f", {result.seconds:,.0f} s"
    facts = {
        "Source": result.source,
        "Their protocol": result.reference_protocol,
        "Our protocol": result.our_protocol,
        "Scale": result.scale,
        "Run": f"{result.date}{seconds}, commit {result.commit or 'unknown'}" + (f", {versions}" if versions else ""),
    }
    lines = [f"- {name}: {' '.join(text.split())}" for name, text in facts.items()]
    lines += [f"- Command: `{command}`" for command in result.command.splitlines()]
    lines += [f"- Note: {' '.join(note.split())}" for note in result.notes]
    return f"### {result.title}\n\n{markdown_table(header, rows)}\n" + "\n".join(lines) + "\n"


def _digits(row: Row) -> int:
    """Decimals of the paper's number, between 2 and 4, so that the two can be compared; at least 3 below 1."""
    decimals = re.findall(r"\.(\d+)", row.paper)
    small = not row.unit and abs(row.mean or 0.0) < 1
    return min(4, max([3 if small else 2, *map(len, decimals)]))


def _pool(rows: Sequence[Row]) -> Row:
    """Mean and standard deviation of all runs from those of the parts: exact, no single values needed."""
    rows = [row for row in rows if row.n] or rows[:1]
    first = rows[0]
    if len(rows) == 1:
        return first
    seeds = [row.seeds for row in rows]
    if len(set(seeds)) < len(seeds):
        raise UsageError(
            f"merge: row {first.label!r}, {first.metric!r}: got the seeds {seeds}, expected each once; "
            "leave out the run folder that repeats them"
        )
    n = sum(row.n for row in rows)
    means = [row.mean or 0.0 for row in rows]
    mean = sum(row.n * one for row, one in zip(rows, means, strict=True)) / n
    within = sum((row.n - 1) * (row.std or 0.0) ** 2 for row in rows)
    squares = within + sum(row.n * (one - mean) ** 2 for row, one in zip(rows, means, strict=True))
    values = tuple(value for row in rows for value in row.values)
    notes = _distinct(row.note for row in rows if row.note)
    if n > len(rows):  # groups of runs, for example those of one trained module each
        texts = " / ".join(f"{one:.{_digits(first)}f}" for one in means)
        shared = notes if len({row.note for row in rows}) == 1 else []  # others are of one part: its time, its interval
        notes = [f"means of the {len(rows)} parts {texts}", *shared]
    return replace(
        first,
        mean=mean,
        std=math.sqrt(squares / (n - 1)),
        n=n,
        seeds="; ".join(seeds),
        note="; ".join(notes),
        values=values if len(values) == n else (),
    )


def _row_record(row: Row) -> dict[str, Any]:
    record = asdict(row)
    record["mean"], record["std"] = _rounded(row.mean), _rounded(row.std)
    record["values"] = [_rounded(value) for value in row.values]
    for optional in ("note", "values"):
        if not record[optional]:
            del record[optional]
    return record


def _checked_fields(kind: type[Any], record: Any, where: str) -> dict[str, Any]:
    """Entries of a JSON object that makes a ``kind``; says which are missing or unknown."""
    if not isinstance(record, dict):
        raise UsageError(
            f"{where}: got {type(record).__name__}, expected an object with the fields of a {kind.__name__}"
        )
    names = [field.name for field in fields(kind)]
    missing = [name for name in names if name not in record and name not in ("note", "values")]
    unknown = [name for name in record if name not in names]
    if missing or unknown:
        raise UsageError(f"{where}: missing fields {missing}, unknown fields {unknown}; expected {', '.join(names)}")
    return dict(record)


def _require_text(where: str, empty: bool = False, **given: Any) -> None:
    for name, value in given.items():
        if not isinstance(value, str) or not (empty or value.strip()):
            raise UsageError(f"{where}: got {name} = {value!r}, expected {'a' if empty else 'a non-empty'} string")


def _require_numbers(where: str, **given: Any) -> None:
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise UsageError(f"{where}: got {name} = {value!r}, expected a finite number")


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.8g}")  # seventeen digits of noise would fill every difference


def _distinct(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))


def _natural(name: str) -> list[tuple[str, int]]:
    return [(word, int(number or -1)) for word, number in re.findall(r"(\D+|^)(\d*)", name)]
