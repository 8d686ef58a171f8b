"""Every shipped experiment parses, for fit and for search, and says how to run it."""

import re

import pytest
import yaml

from lightning_nas.cli import main
from lightning_nas.configurations import resolve_config, shipped_configs
from lightning_nas.nascli import VERBS

ALL = shipped_configs()
TABULATIONS = {name: path for name, path in ALL.items() if name.startswith("tabulate/")}
SCORES = {name: path for name, path in ALL.items() if name.startswith("score/")}
COMPARISONS = {name: path for name, path in ALL.items() if "predictors:" in path.read_text().splitlines()}
ANALYSES = {name: path for name, path in ALL.items() if name.startswith("analyze/")}
CONFIGS = {name: path for name, path in ALL.items() if name not in TABULATIONS | SCORES | COMPARISONS | ANALYSES}


@pytest.fixture
def printed(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["lightning-nas"])
    monkeypatch.chdir(tmp_path)

    def printed(*args):
        with pytest.raises(SystemExit) as stop:
            main([*args, "--print_config"])
        captured = capsys.readouterr()
        assert stop.value.code == 0, captured.err
        return yaml.safe_load(captured.out)

    return printed


def test_there_are_configurations():
    assert {"demo", "arch2vec/nasbench201", "arch2vec/nasbench201_cifar10"} <= CONFIGS.keys()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("verb", ["fit", "search"])
def test_it_parses(printed, name, verb, tmp_path):
    config = printed(verb, "--config", name)
    assert config["run_dir"] == f"runs/{name}"
    assert config["model"]["class_path"].startswith("lightning_nas.modules.")
    assert config["trainer"]["max_epochs"]
    given = yaml.safe_load(CONFIGS[name].read_text())
    assert config["data"]["class_path"] == given["data"]["class_path"]
    for read, written in zip(config["trainer"]["callbacks"] or [], given["trainer"].get("callbacks", []), strict=False):
        for name, text in (written.get("init_args", {}).get("ledger") or {}).items():
            if isinstance(text, str):  # one with a single colon and a space behind it would become a mapping
                assert read["init_args"]["ledger"][name] == text
    assert list(tmp_path.iterdir()) == []  # parsing leaves nothing


@pytest.mark.parametrize("name", ANALYSES)
def test_an_analysis_parses(printed, name):
    verb = re.search(r"lightning-nas analyze (\w+) --config " + name, ANALYSES[name].read_text())
    config = printed("analyze", verb[1], "--config", name)
    given = yaml.safe_load(ANALYSES[name].read_text())
    assert_within(given, config)


def assert_within(given, read):
    """What a file says is what was read; a class may stand there by its path alone, and leave arguments out."""
    if isinstance(read, dict) and isinstance(given, str):
        assert read["class_path"] == given
    elif isinstance(given, dict):
        for key, value in given.items():
            assert_within(value, read[key])
    else:
        assert read == given


@pytest.mark.parametrize("name", TABULATIONS)
def test_a_tabulation_parses(printed, name):
    config = printed("tabulate", "--config", name)
    assert config["benchmark"]["init_args"]["recipe"]["epochs"]
    assert config["output"].endswith(".npz")


@pytest.mark.parametrize("name", SCORES)
def test_a_scoring_parses(printed, name):
    config = printed("score", "--config", name)
    assert config["output"].endswith(".npz")
    assert len(config["proxies"]) > 1


@pytest.mark.parametrize("name", COMPARISONS)
def test_a_comparison_parses(printed, name):
    for library in ("lightgbm", "xgboost"):
        pytest.importorskip(library, reason="an optional extra")
    config = printed("compare", "--config", name)
    assert len(config["predictors"]) > 1
    assert {"num_train", "num_test", "num_trials"} <= config.keys()


@pytest.mark.parametrize("name", ALL)
def test_it_begins_with_what_it_is_and_how_to_run_it(name):
    comment = re.match(r"(#.*\n)+", ALL[name].read_text()).group()
    commands = re.findall(r"lightning-nas (\w+)(?: \w+)?\s+--config (\S+)", comment)
    assert commands
    for verb, config in commands:
        assert verb in (*VERBS, "tabulate", "compare", "score", "analyze")
        assert config == name
        assert resolve_config(config) == str(ALL[name])


@pytest.mark.parametrize("name", CONFIGS)
def test_a_search_names_its_runs_and_queries(name):
    """What a result rests on is written down, not left to defaults."""
    for callback in yaml.safe_load(CONFIGS[name].read_text())["trainer"].get("callbacks", []):
        if callback["class_path"].endswith("SearchCallback"):
            assert {"num_runs", "num_queries", "strategies"} <= callback["init_args"].keys()


def test_flags_win_over_the_file(printed):
    config = printed("fit", "--config", "demo", "--trainer.max_epochs", "77", "--model.latent_dim", "5")
    assert config["trainer"]["max_epochs"] == 77
    assert config["model"]["init_args"]["latent_dim"] == 5


def test_every_experiment_has_a_place_of_its_own_in_the_ledger():
    found = [name for path in ALL.values() for name in ledger_names(yaml.safe_load(path.read_text()))]
    assert len(found) > 20
    assert len(set(found)) == len(found)


def ledger_names(config):
    """Names under which the callbacks of an experiment record it."""
    for callback in config.get("trainer", {}).get("callbacks") or []:
        arguments = callback.get("init_args", {})
        if callback["class_path"].endswith("LedgerCallback"):
            yield arguments["name"]
        elif arguments.get("ledger"):
            yield arguments["ledger"]["name"]
