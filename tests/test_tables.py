import csv
import io

from lightning_nas.tables import csv_table, latex_table, markdown_table, mean_std


def test_markdown_keeps_one_line_a_row():
    lines = markdown_table(["a", "b"], [["x|y", "two\nlines"], ["longer", ""]]).splitlines()
    assert lines == [
        "| a      | b         |",
        "|--------|-----------|",
        r"| x\|y   | two lines |",
        "| longer |           |",
    ]


def test_csv_reads_back():
    rows = [["a,b", 'say "x"'], ["±", ""]]
    assert list(csv.reader(io.StringIO(csv_table(["1", "2"], rows)))) == [["1", "2"], *rows]


def test_latex_escapes_signs():
    row = latex_table(["x"], [["50 % of a_b & c ± {d} \\ ~ |e|"]]).splitlines()[4]
    assert row == r"50 \% of a\_b \& c $\pm$ \{d\} \textbackslash{} \textasciitilde{} $|$e$|$ \\"


def test_mean_and_std():
    assert mean_std(1.005, 0.5, digits=1) == "1.0 ± 0.5"
    assert mean_std(2.0, float("nan")) == "2.00"
    assert mean_std(float("inf"), 1.0) == "-"
