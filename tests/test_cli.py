import re
import subprocess
import sys

import pytest

from lightning_nas import cli
from lightning_nas.cli import HELP, LIGHTNING, PLAIN, main
from lightning_nas.errors import UsageError


def test_help_answers_before_torch_is_there():
    code = (
        "import sys; from lightning_nas.cli import main; main([]); main(['--help'])\n"
        "heavy = {'torch', 'pytorch_lightning', 'jsonargparse', 'numpy', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == HELP * 2


def test_every_verb_is_explained_and_every_explained_verb_exists():
    explained = re.findall(r"^  (\w+)  +\S", HELP, flags=re.M)
    assert explained == [
        "fit", "search", "retrain", "validate", "test", "predict", "data", "tabulate", "compare", "score", "spaces",
        "report", "analyze", "export",
    ]  # fmt: skip
    assert set(explained) == {*LIGHTNING, *PLAIN}


@pytest.mark.parametrize("verb", [*LIGHTNING, *PLAIN])
def test_every_verb_has_help(verb, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["lightning-nas"])
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    assert f"lightning-nas {verb}" in capsys.readouterr().out


def test_help_of_search_is_its_docstring(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["lightning-nas"])
    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises(SystemExit):
        main(["search", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for explanation in (
        "Checkpoint of the trained module; ``last`` or nothing for ``checkpoints/last.ckpt``",
        "Load nothing but weights and primitives from the checkpoint",
        "Folder of this run: configuration, checkpoints, TensorBoard, results.",
    ):
        assert explanation in text


@pytest.mark.parametrize(("typed", "meant"), [("serach", "search"), ("fitt", "fit"), ("reports", "report")])
def test_unknown_verb(capsys, typed, meant):
    with pytest.raises(SystemExit) as stop:
        main([typed])
    assert stop.value.code == 2
    assert re.fullmatch(rf"error: got the verb '{typed}', .*did you mean '{meant}'\?\n", capsys.readouterr().err)


def raiser(error, wrapped=False):
    def fail(*_):
        if wrapped:
            try:
                raise error
            except UsageError as inner:
                raise ValueError("a parser's words") from inner
        raise error

    return fail


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_users_mistake_is_one_line(capsys, monkeypatch, wrapped):
    monkeypatch.setattr(cli, "_run", raiser(UsageError("too many cooks"), wrapped))
    with pytest.raises(SystemExit) as stop:
        main(["fit"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: too many cooks\n"


def test_a_defect_shows_its_traceback(monkeypatch):
    monkeypatch.setattr(cli, "_run", raiser(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        main(["fit"])


def test_ctrl_c_says_how_to_go_on(capsys, monkeypatch):
    monkeypatch.setattr(cli, "_run", raiser(KeyboardInterrupt()))
    with pytest.raises(SystemExit) as stop:
        main(["fit"])
    assert stop.value.code == 130
    assert "the same command continues" in capsys.readouterr().err
