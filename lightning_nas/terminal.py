"""What the plain verbs say."""

from __future__ import annotations

from rich.console import Console


def say(console: Console, text: str) -> None:
    """Print lines that are copied into a shell or a paper: nothing is wrapped, coloured or read as markup."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
