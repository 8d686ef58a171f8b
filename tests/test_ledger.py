import json
import math
import os
from dataclasses import replace

import numpy as np
import pytest

from lightning_nas.errors import UsageError
from lightning_nas.ledger import Result, Row, merge, read_results, render_ledger, write_result

ROW = Row("gp", "test accuracy", "%", "94.18 ± 0.24", 94.1, 0.2, 500, "seed 0, runs 0-499")
RESULT = Result(
    name="arch2vec/nasbench201_search",
    title="Search on NAS-Bench-201",
    source="Yan et al., arXiv 2006.06936, table 3",
    reference_protocol="12000 s of simulated time",
    our_protocol="150 queries",
    scale="500 runs x 150 queries",
    command="lightning-nas search --config arch2vec/nasbench201",
    commit="abc1234",
    versions={"torch": "2.13.0", "botorch": "0.18.1"},
    date="2026-11-22",
    seconds=123.456,
    notes=("The paper does not say which seed.",),
    rows=(ROW,),
)


def test_round_trip_is_stable():
    text = RESULT.to_json()
    assert Result.from_json(text) == RESULT
    assert Result.from_json(text).to_json() == text
    assert list(json.loads(text))[:3] == ["name", "title", "source"]
    assert list(json.loads(text)["versions"]) == ["botorch", "torch"]
    assert len(text) < 1500


def test_values_are_kept_when_few_and_dropped_when_many():
    few = Row.of([93.0, 94.0], label="gp", metric="m", unit="%", paper="", seeds="0, 1")
    assert (few.mean, few.n, few.values) == (93.5, 2, (93.0, 94.0))
    assert few.std == pytest.approx(math.sqrt(0.5))
    many = Row.of(range(500), label="gp", metric="m", unit="%", paper="", seeds="0")
    assert (many.mean, many.values) == (249.5, ())
    one = Row.of([93.0], label="gp", metric="m", unit="%", paper="", seeds="0")
    assert one.std is None
    again = replace(RESULT, rows=(few, replace(one, label="b")))
    assert Result.from_json(again.to_json()).rows[0].values == (93.0, 94.0)
    with pytest.raises(UsageError, match="no values"):
        Row.of([], label="gp", metric="m", unit="%", paper="", seeds="0")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": math.nan}, "got mean = nan, expected a finite number"),
        ({"mean": "94"}, "got mean = '94'"),
        ({"std": None}, "got std = None"),
        ({"std": math.inf}, "got std = inf"),
        ({"n": -1}, "got n = -1"),
        ({"n": 0}, "got n = 0, expected mean and std null"),
        ({"n": 0, "mean": None, "std": None}, "a note that says why"),
        ({"mean": None}, "got mean = None"),
        ({"n": 1}, "of a single run"),
        ({"values": (1.0,)}, "got 1 values, expected n = 500"),
        ({"values": (math.nan,) * 500}, r"values\[0\] = nan"),
        ({"label": " "}, "label"),
        ({"paper": 94.18}, "got paper = 94.18, expected a string"),
    ],
)
def test_wrong_rows(change, message):
    with pytest.raises(UsageError, match=message):
        replace(ROW, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "../up"}, r"expected lower-case words"),
        ({"name": "a/../../b"}, r"expected lower-case words"),
        ({"name": "Arch2Vec"}, "expected lower-case words"),
        ({"title": ""}, "got title = ''"),
        ({"date": "22.11.2026"}, "expected YYYY-MM-DD"),
        ({"seconds": math.nan}, "got seconds = nan"),
        ({"rows": ()}, "at least one number"),
        ({"rows": (ROW, ROW)}, "two rows"),
        ({"versions": {"torch": None}}, "versions"),
        ({"commit": 7}, "commit"),
        ({"notes": ("",)}, "notes"),
        ({"notes": "text"}, "notes"),
    ],
)
def test_wrong_results(change, message):
    with pytest.raises(UsageError, match=message):
        replace(RESULT, **change)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda r: r.pop("scale"), r"here.json: .*missing fields \['scale'\]"),
        (lambda r: r.update(scael=""), r"unknown fields \['scael'\]"),
        (lambda r: r["rows"][0].pop("mean"), r"row 0: missing fields \['mean'\]"),
        (lambda r: r.update(rows=[3]), "row 0: got int"),
        (lambda r: r.update(rows=3), "rows"),
        (lambda r: r["rows"][0].update(mean=float("nan")), "got mean = nan"),
    ],
)
def test_wrong_files_are_named(edit, message):
    record = json.loads(RESULT.to_json())
    edit(record)
    with pytest.raises(UsageError, match=message):
        Result.from_json(json.dumps(record), "here.json")
    for text in ("{", "[]", "null"):
        with pytest.raises(UsageError, match=r"here\.json"):
            Result.from_json(text, "here.json")


def test_write_and_read(tmp_path):
    names = ["arch2vec/table10", "arch2vec/table2", "darts/cnn", "baselines"]
    for name in names:
        assert write_result(tmp_path, replace(RESULT, name=name)) == tmp_path / f"{name}.json"
    assert [result.name for result in read_results(tmp_path)] == [names[1], names[0], names[3], names[2]]
    os.rename(tmp_path / "darts" / "cnn.json", tmp_path / "darts" / "rnn.json")
    with pytest.raises(UsageError, match=r"rnn.json: holds the experiment 'darts/cnn'"):
        read_results(tmp_path)
    with pytest.raises(UsageError, match="no such folder"):
        read_results(tmp_path / "none")


def test_a_crash_while_writing_leaves_the_old_result(tmp_path, monkeypatch):
    path = write_result(tmp_path, RESULT)
    before = path.read_text()

    def fail(handle):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_result(tmp_path, replace(RESULT, title="new"))
    assert path.read_text() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_merge_equals_all_values_at_once():
    rng = np.random.default_rng(0)
    parts = [rng.normal(94, 0.3, size).tolist() for size in (1, 20, 7)]
    results = [
        replace(
            RESULT,
            rows=(Row.of(part, label="gp", metric="m", unit="%", paper="", seeds=f"seed {i}"),),
            seconds=10.0,
            date=f"2026-11-2{i}",
        )
        for i, part in enumerate(parts)
    ]
    whole = merge(results)
    (row,) = whole.rows
    everything = np.concatenate(parts)
    assert (row.n, row.seeds) == (28, "seed 0; seed 1; seed 2")
    assert row.mean == pytest.approx(np.mean(everything))
    assert row.std == pytest.approx(np.std(everything, ddof=1))
    assert (whole.seconds, whole.date, whole.commit) == (30.0, "2026-11-22", "abc1234")
    assert merge([results[0], results[2]]).rows[0].values == (*parts[0], *parts[2])
    assert merge(results[:1]) == results[0]


def test_what_was_not_run(tmp_path):
    row = Row.not_run("lightning-nas fit", label="gp", metric="m", paper="2.5")
    result = replace(RESULT, rows=(ROW, row))
    assert Result.from_json(result.to_json()) == result
    write_result(tmp_path, result)
    assert " | 2.5 " in render_ledger(tmp_path).replace("  ", " ")
    assert "| not run " in render_ledger(tmp_path)
    assert "| not run: lightning-nas fit " in render_ledger(tmp_path)
    measured = replace(row, mean=2.0, n=1, seeds="seed 0", note="")
    both = merge([replace(RESULT, rows=(row,)), replace(RESULT, rows=(measured,)), replace(RESULT, rows=(row,))])
    assert both.rows == (measured,)
    assert merge([replace(RESULT, rows=(row,))] * 2).rows == (row,)


@pytest.mark.parametrize(("notes", "kept"), [(("took 3 s", "took 4 s"), ""), (("one seed",) * 2, "; one seed")])
def test_merged_groups_of_runs_show_the_mean_of_each(notes, kept):
    text = {"label": "gp", "metric": "m", "unit": "%", "paper": ""}
    rows = [Row.of([90.0 + i, 91.0 + i], **text, seeds=f"seed {i}", note=note) for i, note in enumerate(notes)]
    parts = [replace(RESULT, rows=(row,)) for row in rows]
    assert merge(parts).rows[0].note == f"means of the 2 parts 90.50 / 91.50{kept}"


def test_merge_refuses_what_does_not_belong_together():
    with pytest.raises(UsageError, match="the scale differs"):
        merge([RESULT, replace(RESULT, scale="5 runs")])
    with pytest.raises(UsageError, match="expected each once"):
        merge([RESULT, RESULT])
    with pytest.raises(UsageError, match="no results"):
        merge([])


def test_page_shows_everything_in_order(tmp_path):
    write_result(tmp_path, RESULT)
    single = replace(ROW, label="random", paper="", mean=93.7, std=None, n=1, seeds="seed 7", note="only one")
    write_result(
        tmp_path, replace(RESULT, name="darts/cnn", title="CNN", commit=None, seconds=None, rows=(ROW, single))
    )
    page = render_ledger(tmp_path)
    for expected in (
        "lightning-nas report --ledger",
        "## arch2vec",
        "### Search on NAS-Bench-201",
        "test accuracy (%)",
        "| 94.18 ± 0.24 | 94.10 ± 0.20, n = 500 |",
        "93.70, n = 1",
        "only one",
        "- Source: Yan et al.",
        "- Their protocol: 12000 s of simulated time",
        "- Our protocol: 150 queries",
        "- Scale: 500 runs x 150 queries",
        "2026-11-22, 123 s, commit abc1234, botorch 0.18.1, torch 2.13.0",
        "commit unknown",
        "- Command: `lightning-nas search --config arch2vec/nasbench201`",
        "- Note: The paper does not say which seed.",
    ):
        assert expected in page, expected
    assert page.index("## arch2vec") < page.index("## darts")
    assert page == render_ledger(tmp_path)
    assert page.endswith("\n")
    assert not page.endswith("\n\n")


def test_decimals_follow_the_paper(tmp_path):
    write_result(tmp_path, replace(RESULT, rows=(replace(ROW, paper="0.7312", mean=0.73456, std=0.00123),)))
    assert "0.7346 ± 0.0012" in render_ledger(tmp_path)


@pytest.mark.parametrize(
    ("unit", "mean", "text"), [("", 0.90612, "0.906 ± 0.001"), ("", 2.75, "2.75 ± 0.00"), ("%", 0.90612, "0.91 ± 0.00")]
)
def test_correlations_have_three_decimals(tmp_path, unit, mean, text):
    write_result(tmp_path, replace(RESULT, rows=(replace(ROW, paper="", unit=unit, mean=mean, std=0.00123),)))
    assert text in render_ledger(tmp_path)


def test_an_empty_ledger_says_so(tmp_path):
    assert "No experiment is recorded yet" in render_ledger(tmp_path)
