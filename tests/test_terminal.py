import io

from rich.console import Console

from lightning_nas.terminal import say


def test_lines_are_copied_as_they_are():
    out = io.StringIO()
    text = "lightning-nas data prepare [bold]x[/bold] --source " + 30 * "long/" + "\n1,234 2026-01-01"
    say(Console(file=out, width=40, force_terminal=True), text)
    assert out.getvalue() == text + "\n"
