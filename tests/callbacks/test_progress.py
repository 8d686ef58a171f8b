import io
import re

import pytest
import torch
from rich.console import Console

from lightning_nas.benchmarks.tabular import TabularBenchmark
from lightning_nas.callbacks.progress import SearchProgress
from lightning_nas.search.history import SearchHistory
from tests.contract import TinySpace, write_tiny_table


@pytest.fixture
def benchmark(tmp_path):
    write_tiny_table(tmp_path / "tiny.npz")
    return TabularBenchmark(TinySpace(), str(tmp_path / "tiny.npz"), "toy", epochs=3, test_epochs=9)


def history(length, capacity=10):
    filled = SearchHistory.empty(2, capacity)
    for step in range(length):
        columns = filled.begin(torch.tensor([[step], [step + 1]]), 3)
        scores = torch.tensor([[90.0 + step], [92.0 + step]], dtype=torch.float64)
        filled.complete(columns, scores, scores - 1, scores)
    return filled


def written(benchmark, lengths, terminal=False, **arguments):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=140)
    with SearchProgress("gp", 10, benchmark, console=console, **arguments) as progress:
        for length in lengths:
            progress.update(history(length))
    return console.file.getvalue()


def test_lines_where_there_is_no_terminal(benchmark):
    lines = written(benchmark, range(11), interval=0).splitlines()
    assert len(lines) == 11
    assert lines[0].split() == ["gp", "query", "0/10"]
    regret = benchmark.optimum - (91.0 + 3 - 1)
    assert f"query 4/10  incumbent 94.00  regret {regret:.2f}  ETA 00:0" in lines[4]
    assert lines[10].endswith(f"query 10/10  incumbent 100.00  regret {regret - 6:.2f}")


def test_lines_are_few_but_the_last_is_never_missing(benchmark):
    lines = written(benchmark, range(11), interval=1e6).splitlines()
    assert [re.search(r"\d+/\d+", line).group() for line in lines] == ["0/10", "10/10"]


def test_a_bar_on_a_terminal(benchmark):
    text = written(benchmark, [0, 7], terminal=True)
    assert "query 7/10" in text
    assert "incumbent 97.00" in text
    assert "ETA" in text
    assert "\x1b[?25h" in text  # the cursor is back


def test_other_processes_are_silent(benchmark):
    assert written(benchmark, range(11), enabled=False, interval=0) == ""
    assert written(benchmark, range(11), enabled=False, terminal=True) == ""


def test_no_regret_without_a_known_optimum(benchmark):
    benchmark.optimum = None
    assert "regret" not in written(benchmark, [10])


def test_a_long_round_is_followed_from_its_start(benchmark):
    console = Console(file=io.StringIO(), width=140)
    with SearchProgress("gp", 10, benchmark, console=console, batch_size=2, interval=1e6) as progress:
        progress.update(history(4))
        benchmark.on_result(0, 3)  # of four evaluations two are of equal architectures
        progress.interval = 0
        for done in (1, 2):
            progress._line_due = 0
            benchmark.on_result(done, 3)
        progress.update(history(6))
    lines = console.file.getvalue().splitlines()
    assert [re.search(r"query.*?(?=  incumbent)", line).group() for line in lines] == [
        "query 4/10",
        "query 4/10  evaluation 8/20",
        "query 4/10  evaluation 9/20",
        "query 4/10  evaluation 10/20",
        "query 6/10",
    ]
    assert "ETA" not in lines[1]
    assert "ETA 00:0" in lines[2]
    assert benchmark.on_result is None


def test_the_last_round_may_be_shorter(benchmark):
    console = Console(file=io.StringIO(), width=140)
    with SearchProgress("gp", 10, benchmark, console=console, batch_size=4, interval=0) as progress:
        progress.update(history(9))
        benchmark.on_result(1, 2)
    assert "evaluation 19/20" in console.file.getvalue()


def test_evaluations_are_counted_where_there_are_no_rounds(benchmark):
    lines = written(benchmark, range(11), interval=0, batch_size=None).splitlines()
    assert "query 4/10  evaluation 8/20  incumbent" in lines[4]
    assert "evaluation" not in lines[10]


def test_other_processes_do_not_listen(benchmark):
    with SearchProgress("gp", 10, benchmark, enabled=False):
        assert benchmark.on_result is None
