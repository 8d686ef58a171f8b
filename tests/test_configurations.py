import pytest

from lightning_nas.configurations import expand_configs, resolve_config, shipped_configs
from lightning_nas.errors import UsageError


def test_the_run_folder_follows_the_first_configuration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("seed_everything: 1\n")
    run = tmp_path / "runs" / "some"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("seed_everything: 1\n")
    demo = str(shipped_configs()["demo"])
    assert expand_configs(["--config", "demo", "--config", "mine.yaml"]) == (
        ["--config", demo, "--config", "mine.yaml"], "runs/demo",
    )  # fmt: skip
    assert expand_configs(["--config=demo"]) == ([f"--config={demo}"], "runs/demo")
    assert expand_configs(["-c", "demo"]) == (["-c", demo], "runs/demo")
    assert expand_configs(["--config", "mine.yaml"])[1] == "runs/mine"
    assert expand_configs(["--config", "runs/some/config.yaml"])[1] == "runs/some"
    assert expand_configs(["--trainer.max_epochs", "3"])[1] == "runs/default"
    (tmp_path / "demo").write_text("seed_everything: 2\n")
    assert resolve_config("demo") == "demo"  # an existing file wins


def test_an_unknown_name_gets_the_closest_match(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"--config deno: neither a file nor a shipped.*did you mean 'demo'"):
        resolve_config("deno")
