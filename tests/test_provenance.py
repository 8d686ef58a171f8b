import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version

import pytest

from lightning_nas import provenance


@pytest.fixture(autouse=True)
def no_outer_repository(monkeypatch):
    """Inside a git hook, git would look at the hook's repository instead of the one it is pointed to."""
    for name in [n for n in os.environ if n.startswith("GIT_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A folder that the package seems to run from."""
    package = tmp_path / "lightning_nas"
    package.mkdir()
    (package / "provenance.py").write_text("first")
    monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))
    return tmp_path


def git(folder, *arguments):
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(installed):
    git(installed, "init", "-q")
    git(installed, "add", ".")
    git(installed, "commit", "-q", "-m", "first")
    return installed


def test_commit_of_a_checkout(checkout):
    assert provenance.commit() == git(checkout, "rev-parse", "HEAD")[:12]
    (checkout / "notes.txt").write_text("a stranger among the files changes no result")
    assert provenance.commit() == git(checkout, "rev-parse", "HEAD")[:12]


@pytest.mark.parametrize("staged", [False, True])
def test_changed_files_show(checkout, staged):
    (checkout / "lightning_nas" / "provenance.py").write_text("second")
    if staged:
        git(checkout, "add", ".")
    assert provenance.commit() == git(checkout, "rev-parse", "HEAD")[:12] + "-dirty"


def test_outside_a_checkout(installed):
    assert provenance.commit() is None


def test_a_checkout_around_the_environment_is_not_ours(checkout, monkeypatch):
    # An installed package inside somebody's repository must not claim its commit.
    site = checkout / "env" / "site-packages"
    monkeypatch.setattr(provenance, "__file__", str(site / "lightning_nas" / "provenance.py"))
    assert provenance.commit() is None


def test_a_broken_checkout(installed):
    (installed / ".git").mkdir()
    assert provenance.commit() is None


def test_a_checkout_without_a_commit(installed):
    git(installed, "init", "-q")
    assert provenance.commit() is None


def test_without_git(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance.commit() is None


def test_the_command_can_be_pasted(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/lightning-nas", "search", "--run_dir", "my runs/1"])
    assert provenance.command_line() == "lightning-nas search --run_dir 'my runs/1'"


def test_versions(monkeypatch):
    found = provenance.versions()
    assert found["python"] == platform.python_version()
    assert found["torch"] == version("torch")
    assert next(iter(found)) == "python"
    monkeypatch.setattr(provenance, "_PACKAGES", ("numpy", "surely-not-installed"))
    assert provenance.versions() == {"python": platform.python_version(), "numpy": version("numpy")}


def test_all_together(checkout):
    everything = provenance.provenance()
    assert everything == {
        "command": provenance.command_line(),
        "commit": provenance.commit(),
        "versions": provenance.versions(),
    }
    assert json.loads(json.dumps(everything)) == everything
