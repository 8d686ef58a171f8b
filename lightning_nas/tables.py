"""Tables of text as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table with padded columns, readable in a terminal, too.

    Example:
        >>> print(markdown_table(["a", "bc"], [["1", "xyz"]]), end="")
        | a | bc  |
        |---|-----|
        | 1 | xyz |
    """
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines) + "\n"


def csv_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Comma-separated values, quoted where needed."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue()


def latex_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    r"""A ``tabular`` in the style of the booktabs package, ready to ``\input``.

    Example:
        >>> print(latex_table(["method", "test (%)"], [["a_b", "1.0 ± 0.2"]]), end="")
        \begin{tabular}{ll}
        \toprule
        method & test (\%) \\
        \midrule
        a\_b & 1.0 $\pm$ 0.2 \\
        \bottomrule
        \end{tabular}
    """
    head, *body = (" & ".join(map(_latex, row)) + r" \\" for row in (header, *rows))
    lines = [rf"\begin{{tabular}}{{{'l' * len(header)}}}", r"\toprule", head, r"\midrule", *body]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def mean_std(mean: float | None, std: float | None, digits: int = 2) -> str:
    """``94.18 ± 0.24``, without the second part for a single run; a dash when there is no number.

    Example:
        >>> mean_std(94.184, 0.2), mean_std(94.184, None), mean_std(float("nan"), None)
        ('94.18 ± 0.20', '94.18', '-')
    """
    if mean is None or not math.isfinite(mean):
        return "-"
    return f"{mean:.{digits}f}" + (f" ± {std:.{digits}f}" if std is not None and math.isfinite(std) else "")


_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "|": r"$|$"}
_LATEX |= {sign: f"\\{sign}" for sign in "&%$#_{}"}


def _latex(cell: str) -> str:
    return re.sub(r"[\\~^±|&%$#_{}]", lambda match: _LATEX[match[0]], cell)
