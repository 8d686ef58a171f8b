import json
import re
import shutil

import pytest
import torch
import yaml
from pytorch_lightning import Trainer

from lightning_nas.nascli import expand_genotype
from lightning_nas.trainer import NASTrainer
from tests.contract import assert_identical, weights_in

CELL = "|nor_conv_3x3~0|+|none~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_1x1~1|skip_connect~2|"
SMALL = (
    "--model.channels", "4", "--model.num_stages", "2", "--data.num_train", "600", "--trainer.max_epochs", "2",
    "--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.enable_progress_bar", "false",
    "--trainer.enable_model_summary", "false",
)  # fmt: skip


def retrain(*args, genotype=CELL):
    from lightning_nas.cli import main

    main(["retrain", "--genotype", str(genotype), *SMALL, *map(str, args)])


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["lightning-nas"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run folder as the verb leaves it."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["lightning-nas"])
        patch.chdir(folder)
        retrain()
    return folder / "runs" / "retrain"


def record_in(run_dir):
    return json.loads((run_dir / "retrain.json").read_text())


def test_the_run_folder_tells_everything(finished):
    record = record_in(finished)
    assert record["architecture"] == CELL
    assert record["space"] == "nasbench201"
    assert record["epochs"] == 2
    assert record["model"]["channels"] == 4
    assert record["model"]["space"]["class_path"] == "lightning_nas.spaces.nasbench201.NASBench201"
    assert record["data"]["purpose"] == "evaluation"
    assert record["seconds"] > 0
    assert record["valid_accuracy"] is None  # all images but those of the test are trained on
    assert 5 < record["test_accuracy"] <= 100
    summary = (finished / "summary.md").read_text()
    assert CELL in summary
    assert f"Test accuracy **{record['test_accuracy']:.2f} %**" in summary
    assert yaml.safe_load((finished / "config.yaml").read_text())["model"]["init_args"]["architecture"] == CELL
    assert len(list(finished.rglob("*.ckpt"))) == 1


def test_the_test_accuracy_is_that_of_the_checkpoint(finished, here, capsys):
    from lightning_nas.cli import main

    main(["test", "--config", str(finished / "config.yaml"), "--run_dir", str(finished)])
    shown = re.search(r"test/accuracy\s+│\s+([\d.]+)", capsys.readouterr().out)
    assert float(shown[1]) == pytest.approx(record_in(finished)["test_accuracy"], abs=1e-4)


def test_validation_images_are_selected_by_and_reported_for_a_search(here):
    retrain("--data.purpose", "search", "--trainer.max_epochs", "1", genotype=CELL)
    record = record_in(here / "runs" / "retrain")
    assert 5 < record["valid_accuracy"] <= 100
    assert f"validation {record['valid_accuracy']:.2f} %" in (here / "runs" / "retrain" / "summary.md").read_text()


def test_an_interrupted_training_continues_to_the_same_weights(finished, here, monkeypatch):
    class KilledError(Exception):
        """Stands for a crash."""

    def crash(self, *_):
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr("lightning_nas.modules.classifier.ImageClassifier.on_train_epoch_start",
                      lambda self: crash(self) if self.current_epoch == 1 else None)  # fmt: skip
        with pytest.raises(KilledError):
            retrain()
    run_dir = here / "runs" / "retrain"
    assert not (run_dir / "retrain.json").exists()
    retrain("--ckpt_path", "last")
    assert_identical(weights_in(run_dir), weights_in(finished))
    assert record_in(run_dir)["test_accuracy"] == record_in(finished)["test_accuracy"]


def test_seconds_are_those_of_the_whole_training(finished, here):
    run_dir = here / "runs" / "retrain"
    shutil.copytree(finished, run_dir)
    checkpoint = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    assert 0 < checkpoint["training_seconds"] <= record_in(finished)["seconds"] + 0.01
    checkpoint["training_seconds"] = 1000.0
    torch.save(checkpoint, run_dir / "checkpoints" / "last.ckpt")
    retrain("--ckpt_path", "last")
    assert record_in(run_dir)["seconds"] == 1000.0  # nothing was left to do
    retrain("--ckpt_path", "last", "--trainer.max_epochs", "3")
    assert 1000.0 < record_in(run_dir)["seconds"] < 1500.0


def test_two_processes_train_together_and_report_once(here, capfd):
    retrain("--trainer.devices", "2", "--trainer.strategy", "ddp_fork", "--data.batch_size", "32")
    run_dir = here / "runs" / "retrain"
    state = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 2 * ((600 + 450) // 64 + 1)  # each process has half of every step
    assert capfd.readouterr().out.count("trained from scratch") == 1
    assert record_in(run_dir)["seconds"] > 0
    alone = here / "alone"
    from lightning_nas.cli import main

    main(["test", "--config", str(run_dir / "config.yaml"), "--run_dir", str(alone), "--trainer.devices", "1",
          "--trainer.strategy", "auto", "--ckpt_path", str(run_dir / "checkpoints" / "last.ckpt")])  # fmt: skip
    shown = re.search(r"test/accuracy\s+│\s+([\d.]+)", capfd.readouterr().out)
    assert float(shown[1]) == pytest.approx(record_in(run_dir)["test_accuracy"], abs=1e-4)


def test_fast_dev_run_leaves_nothing(here):
    retrain("--trainer.fast_dev_run", "true")
    assert [path for path in (here / "runs").rglob("*") if path.is_file()] == []


# ---- the command line ----


@pytest.fixture
def refused(here, capsys, monkeypatch):
    def no_work(*_, **__):
        pytest.fail("work has begun")

    def refused(*args):
        from lightning_nas.cli import main

        monkeypatch.setattr(Trainer, "_run_stage", no_work)
        with pytest.raises(SystemExit) as stop:
            main(["retrain", *map(str, args)])
        assert stop.value.code == 2
        return capsys.readouterr().err

    return refused


def test_without_an_architecture(refused):
    assert "got no architecture, expected --genotype" in refused()
    assert "got no architecture" in refused("--data", "DigitsDataModule")


def test_a_trained_run_folder_is_not_overwritten(finished, here, refused):
    shutil.copytree(finished, here / "runs" / "retrain")
    said = refused("--genotype", CELL)
    assert all(way in said for way in ("--ckpt_path last", "--run_dir", "delete"))


def test_another_architecture_does_not_continue(finished, here, refused):
    shutil.copytree(finished, here / "runs" / "retrain")
    other = CELL.replace("avg_pool_3x3", "skip_connect")
    said = refused("--genotype", other, *SMALL, "--ckpt_path", "last")
    assert "the checkpoint is of" in said
    assert CELL in said


def test_drop_path_where_there_is_nothing_to_drop(here, refused):
    (here / "own_plain.py").write_text("from tests.modules.test_classifier import Plain\n\n\nclass Mine(Plain): ...\n")
    said = refused("--model.space", "own_plain.Mine", "--model.architecture", "relu", "--model.drop_path", "0.2")
    assert "no paths to drop" in said


def test_another_model_is_refused(tmp_path):
    from lightning_nas.errors import UsageError
    from lightning_nas.modules.arch2vec import Arch2Vec
    from tests.contract import quiet_trainer

    with pytest.raises(UsageError, match=r"got the model Arch2Vec, expected .*ImageClassifier"):
        quiet_trainer(tmp_path, NASTrainer).retrain(Arch2Vec(num_ops=5))


@pytest.fixture
def printed(here, capsys):
    def printed(*args):
        from lightning_nas.cli import main

        with pytest.raises(SystemExit) as stop:
            main(["retrain", *map(str, args), "--print_config"])
        captured = capsys.readouterr()
        assert stop.value.code == 0, captured.err
        return yaml.safe_load(captured.out)

    return printed


def test_flags_win_over_the_genotype_and_the_genotype_over_the_recipe(printed):
    config = printed("--genotype", CELL, "--model.channels", "5")
    assert config["model"]["init_args"]["architecture"] == CELL
    assert config["model"]["init_args"]["channels"] == 5
    assert config["run_dir"] == "runs/retrain"


def test_other_data_are_evaluated_on_too(printed):
    config = printed("--genotype", CELL, "--data", "CIFAR10DataModule")
    assert config["data"]["class_path"] == "lightning_nas.datamodules.cifar.CIFAR10DataModule"
    assert config["data"]["init_args"]["purpose"] == "evaluation"
    assert config["data"]["init_args"]["num_train"] is None


def test_another_recipe(printed):
    config = printed("--config", "retrain/cifar10", "--genotype", CELL)
    assert config["trainer"]["max_epochs"] == 200
    assert config["model"]["init_args"]["architecture"] == CELL
    assert config["run_dir"] == "runs/retrain/cifar10"


def test_the_origin_is_told_once(capsys, monkeypatch):
    first = expand_genotype(["--genotype", CELL])
    assert capsys.readouterr().err == f"an architecture of nasbench201, as typed: {CELL}\n"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert expand_genotype([f"--genotype={CELL}"]) == first
    assert capsys.readouterr().err == ""


def test_the_shipped_recipe_is_the_default():
    assert expand_genotype(["--genotype", CELL])[:2] == ["--config", "retrain"]
