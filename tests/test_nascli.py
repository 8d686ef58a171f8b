import re
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from pytorch_lightning import Trainer

from lightning_nas.files import write_atomically
from lightning_nas.nascli import AtomicCheckpointIO
from tests.contract import Project, assert_identical, histories_in, tiny_config, weights_in, write_tiny_table


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A project whose fit has ended; tests copy its run folder."""
    project = Project(tmp_path_factory.mktemp("finished"))
    process = project.fork("fit")
    process.join(120)
    assert process.exitcode == 0, (project.folder / "child.log").read_text()
    return project


@pytest.fixture
def refused(project, capsys, monkeypatch):
    """Types a command that must fail in a line or two, before training or searching, and returns what it said."""

    def no_work(*_, **__):
        pytest.fail("work has begun")

    def refused(verb, *args, **given):
        monkeypatch.setattr(Trainer, "_run_stage", no_work)
        with pytest.raises(SystemExit) as stop:
            project.main(verb, *args, **given)
        said = capsys.readouterr().err
        assert stop.value.code == 2
        assert "Traceback" not in said
        assert "error: " in said
        return said

    return refused


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- what a user can get wrong ----


def update(*path, **values):
    """A change of the configuration at a nested place."""

    def change(config):
        for key in path:
            config = config[key]
        config.update(values)

    return change


SEARCH = ("trainer", "callbacks", 0, "init_args")
WRONG = {  # what is wrong: change, what the message must name, the closest match
    "model argument": (update("model", "init_args", latent_dimm=3), "latent_dimm", "latent_dim"),
    "data argument": (update("data", "init_args", batchsize=3), "batchsize", "batch_size"),
    "trainer key": (update("trainer", max_epoch=3), "trainer.max_epoch", "trainer.max_epochs"),
    "section": (update(modle={"class_path": "Arch2Vec"}), "modle", "model"),
    "search argument": (update(*SEARCH, num_query=3), "num_query", "num_queries"),
    "type": (update(*SEARCH, num_queries="many"), "num_queries", None),
    "class": (update("model", class_path="lightning_nas.modules.arch2vec.Arch3Vec"), "Arch3Vec", "Arch2Vec"),
    "space": (update("data", "init_args", space="tests.contract.TinySpce"), "TinySpce", "TinySpace"),
    "choice": (update("model", "init_args", mode="papre"), "papre", None),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("verb", ["fit", "search"])
def test_a_wrong_key_or_value_is_named_with_the_closest_match(project, refused, verb, wrong):
    change, named, near = WRONG[wrong]
    said = refused(verb, config=project.write("wrong.yaml", change))
    assert named in said
    assert re.findall("Did you mean '(.*)'", said) == ([near] if near else [])
    assert not project.run_dir.exists()


def test_yaml_that_is_no_yaml(project, refused):
    path = project.folder / "broken.yaml"
    path.write_text("model: [1, 2\ntrainer: }")
    assert re.search(r"config.*line 2", refused("fit", config=path), flags=re.S)
    assert not project.run_dir.exists()


def test_an_unknown_configuration_is_told_the_closest(refused):
    said = refused("fit", config="arch2vec/nasbench202")
    assert re.search(r"arch2vec/nasbench202: neither a file nor .*did you mean 'arch2vec/nasbench201'\?", said)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"dataset": "cifar11"}, r"cifar11/test@9.*expected one of .*toy/test@9"),
        ({"epochs": 12}, r"toy/valid@12.*expected one of .*toy/valid@3"),
        ({"seed": 777}, r"only the mean over seeds, got seed=777"),
        ({"table": "tiny"}, r"tiny\.npz: no such table"),
    ],
    ids=str,
)
def test_a_wrong_column(project, refused, arguments, expected):
    def change(config):
        config["trainer"]["callbacks"][0]["init_args"]["benchmark"]["init_args"].update(arguments)

    assert re.search(expected, refused("fit", config=project.write("wrong.yaml", change)), flags=re.S)
    assert not (project.run_dir / "checkpoints").exists()


@pytest.mark.parametrize("verb", ["fit", "search"])
def test_a_column_with_holes(project, refused, verb):
    def holes(columns):
        columns["toy/valid@3"][[4, 7]] = np.nan

    write_tiny_table(project.folder / "tiny.npz", holes)
    assert "holds no number in 2 of 81 rows (the first is row 4)" in refused(verb)


def test_holes_in_a_column_that_is_not_used(project):
    def holes(columns):
        columns["second/valid@3"][:] = np.nan

    write_tiny_table(project.folder / "tiny.npz", holes)
    project.main("search", config=project.write("free.yaml", only_random, num_queries=2, num_runs=1))
    assert (project.run_dir / "trials.csv").exists()


def only_random(config):
    strategies = config["trainer"]["callbacks"][0]["init_args"]["strategies"]
    config["trainer"]["callbacks"][0]["init_args"]["strategies"] = {"random": strategies["random"]}


@pytest.mark.parametrize("verb", ["fit", "search", "predict"])
def test_a_run_folder_that_cannot_be_written(project, refused, verb):
    (project.folder / "file").write_text("in the way")
    assert re.search(
        r"file/run.*cannot write there.*another folder", refused(verb, run_dir=project.folder / "file/run")
    )


def test_a_trained_run_folder_is_not_overwritten(finished, project, refused):
    shutil.copytree(finished.run_dir, project.run_dir)
    before = snapshot(project.run_dir)
    said = refused("fit")
    assert all(way in said for way in ("--ckpt_path last", "--run_dir", "delete"))
    assert snapshot(project.run_dir) == before


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict", "search"])
def test_a_missing_checkpoint(project, refused, verb):
    assert re.search(r"--ckpt_path \S*gone\.ckpt: there is no such file", refused(verb, "--ckpt_path", "gone.ckpt"))
    assert not project.run_dir.exists()


def test_search_before_training(project, refused):
    assert re.search(r"last\.ckpt does not exist.*train one first", refused("search"))


def test_more_queries_than_architectures(project, refused):
    assert "num_queries=100" in refused("fit", config=project.write("wrong.yaml", num_queries=100))


def test_constructors_complaints_are_one_line(project, refused):
    def change(config):
        config["data"]["init_args"]["val_fraction"] = 2

    assert "val_fraction=2" in refused("fit", config=project.write("wrong.yaml", change)).splitlines()[-1]


def test_a_changed_search_in_a_finished_folder(finished, project, refused):
    shutil.copytree(finished.run_dir, project.run_dir)
    before = snapshot(project.run_dir)
    config = project.folder / "changed.yaml"
    changed = tiny_config(finished.folder, seed=5)
    config.write_text(yaml.safe_dump(changed))
    assert re.search(r"another seed.*--run_dir", refused("search", config=config))
    after = snapshot(project.run_dir)
    assert {path: after[path] for path in before} == before


# ---- what a run folder is good for ----


def test_one_folder_for_everything(finished):
    names = {path.relative_to(finished.run_dir).as_posix() for path in finished.run_dir.rglob("*") if path.is_file()}
    assert {
        "config.yaml", "checkpoints/last.ckpt", "trials.csv", "summary.md", "genotype.json", "regret.png", "regret.pdf",
        "search/random.pt", "search/evolution.pt", "search/gp.pt", "search/search.json", "hparams.yaml",
    } <= names  # fmt: skip
    assert (finished.run_dir / "regret.png").read_bytes().startswith(b"\x89PNG")
    assert not [name for name in names if name.rpartition("/")[2].startswith(".")]


@pytest.mark.parametrize("verb", ["validate", "test", "predict", "search"])
def test_the_saved_configuration_serves_every_verb(finished, project, verb):
    shutil.copytree(finished.run_dir, project.run_dir)
    config = project.run_dir / "config.yaml"
    saved = config.read_bytes()
    project.main(verb, "--ckpt_path", project.run_dir / "checkpoints" / "last.ckpt", config=config)
    assert config.read_bytes() == saved
    assert (project.run_dir / f"{verb}_config.yaml").exists()


def test_another_run_folder_stands_for_its_checkpoint(finished, project):
    project.main("search", "--ckpt_path", finished.run_dir, config=finished.run_dir / "config.yaml")
    ours, theirs = ((folder / "trials.csv").read_text() for folder in (project.run_dir, finished.run_dir))
    assert ours == theirs


def test_continue_for_more_epochs(finished, project):
    config = project.write("train.yaml", change=lambda c: c["trainer"].pop("callbacks"))
    project.main("fit", "--trainer.max_epochs", "1", config=config)
    project.main("fit", "--trainer.max_epochs", "2", "--ckpt_path", "last", config=config)
    assert_identical(weights_in(project.run_dir), weights_in(finished.run_dir))


def test_the_seed_reaches_the_weights(finished, project):
    config = project.write("train.yaml", change=lambda c: c["trainer"].pop("callbacks"))
    project.main("fit", "--seed_everything", "1", config=config)
    ours, theirs = weights_in(project.run_dir), weights_in(finished.run_dir)
    assert any(not torch.equal(ours[name], theirs[name]) for name in ours)


def test_fast_dev_run_leaves_an_empty_folder_and_may_use_a_trained_one(finished, project):
    project.main("fit", "--trainer.fast_dev_run", "true")
    assert snapshot(project.run_dir) == {}
    shutil.copytree(finished.run_dir, project.folder / "trained")
    before = snapshot(project.folder / "trained")
    project.main("fit", "--trainer.fast_dev_run", "true", run_dir=project.folder / "trained")
    assert snapshot(project.folder / "trained") == before


@pytest.mark.parametrize(
    "flags",
    [
        ("--trainer.logger", "false"),
        ("--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "csv"),
        ("--trainer.overfit_batches", "2"),
        ("--trainer.limit_train_batches", "1", "--trainer.accumulate_grad_batches", "2"),
        ("--trainer.profiler", "simple", "--trainer.deterministic", "true"),
    ],
    ids=" ".join,
)
def test_trainer_flags_work_unmodified(project, flags):
    config = project.write("free.yaml", only_random, num_queries=2, num_runs=1)
    project.main("fit", "--trainer.max_epochs", "1", *flags, config=config)
    assert len(list(project.folder.rglob("random.pt"))) == 1
    assert len(list(project.folder.rglob("*.ckpt"))) == 1


def test_checkpoints_are_written_whole_or_not_at_all(tmp_path):
    target = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"weights": torch.ones(3)}, str(target))

    class Explosive:
        def __reduce__(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        AtomicCheckpointIO().save_checkpoint({"weights": torch.zeros(3), "more": Explosive()}, target)
    assert torch.equal(torch.load(target)["weights"], torch.ones(3))
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_what_a_crash_leaves_is_not_taken_for_a_checkpoint(finished, project, monkeypatch):
    folder = project.run_dir / "checkpoints"
    folder.mkdir(parents=True)
    shutil.copy(finished.run_dir / "checkpoints" / "last.ckpt", folder)
    time.sleep(0.02)

    def crash():
        with write_atomically(folder / "last.ckpt") as file:
            file.write("half of a checkpoint")
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_, **__: None)  # a killed process tidies nothing up
        with pytest.raises(KeyboardInterrupt):
            crash()
    assert len(list(folder.iterdir())) == 2
    config = project.write("train.yaml", change=lambda c: c["trainer"].pop("callbacks"))
    project.main("fit", "--ckpt_path", "last", config=config)
    assert_identical(weights_in(project.run_dir), weights_in(finished.run_dir))


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_measuring_takes_what_fit_left(finished, project, verb, monkeypatch):
    shutil.copytree(finished.run_dir, project.run_dir)
    seen = []
    monkeypatch.setattr(Trainer, f"_{verb}_impl", lambda *args, **kwargs: seen.append(args[3]))
    project.main(verb)
    project.main(verb, run_dir=project.folder / "untrained")
    assert seen == [str(project.run_dir / "checkpoints" / "last.ckpt"), None]


def test_a_space_of_ones_own_lies_where_the_command_is_typed(project, capsys, monkeypatch):
    (project.folder / "own_space.py").write_text(
        "from tests.contract import TinySpace\n\n\nclass Mine(TinySpace): ...\n"
    )
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(project.folder))])
    config = project.write("own.yaml", change=update("data", "init_args", space="own_space.Mine"))
    with pytest.raises(SystemExit) as stop:
        project.main("fit", "--print_config", config=config)
    assert stop.value.code == 0
    assert "own_space.Mine" in capsys.readouterr().out


def test_whatever_the_logger_one_folder_holds_the_run(project):
    config = project.write("free.yaml", only_random, num_queries=2, num_runs=1)
    project.main("fit", "--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "csv", config=config)
    assert (project.run_dir / "checkpoints" / "last.ckpt").exists()
    assert histories_in(project.run_dir).keys() == {"random"}


def test_images_are_refused_where_no_search_trains(project):
    with pytest.raises(SystemExit) as stop:
        project.main("search", "--images", "DigitsDataModule")
    assert stop.value.code == 2
