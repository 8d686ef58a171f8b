import re
import shutil
import subprocess
import sys

import pytest
import torch
import yaml

import lightning_nas
from lightning_nas.errors import RunFolderError
from lightning_nas.modules.arch2vec import Arch2Vec
from lightning_nas.modules.classifier import ImageClassifier
from lightning_nas.spaces.nasbench201 import NASBench201
from tests.contract import assert_identical, quiet_trainer, weights, weights_in
from tests.modules.test_classifier import CELL, Images, small


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run folder of a classifier, made from Python: only its configuration knows the class."""
    folder = tmp_path_factory.mktemp("run")
    trainer = quiet_trainer(folder, max_epochs=2)
    trainer.fit(small(), Images())
    trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt")
    config = {"model": {"class_path": "lightning_nas.modules.classifier.ImageClassifier"}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def test_a_method_as_the_command_line_leaves_it(project):
    """Sizes that were linked from the data are in the checkpoint."""
    project.main("fit", config=project.write("train.yaml", change=lambda config: config["trainer"].pop("callbacks")))
    shutil.rmtree(project.folder / "run" / "tensorboard", ignore_errors=True)
    (project.run_dir / "config.yaml").unlink()
    module = lightning_nas.load(project.run_dir)
    assert type(module) is Arch2Vec
    assert module.num_ops == 5
    assert not any(part.training for part in module.modules())
    assert {value.device.type for value in module.state_dict().values()} == {"cpu"}
    assert_identical(weights(module), weights_in(project.run_dir))


@pytest.mark.parametrize("place", ["", "checkpoints/last.ckpt"])
def test_a_classifier_made_from_python(run_dir, place):
    module = lightning_nas.load(str(run_dir / place))
    assert type(module) is ImageClassifier
    assert module.space == NASBench201()
    assert module.hparams["architecture"] == CELL
    assert_identical(weights(module), weights_in(run_dir))
    with torch.no_grad():
        assert module(Images().images).std(dim=0).min() > 1e-3


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_wherever_it_is_loaded_it_can_be_trained(run_dir, tmp_path, mode):
    with mode():
        module = lightning_nas.load(run_dir)
    assert any(weight.requires_grad for weight in module.parameters())
    quiet_trainer(tmp_path, max_epochs=1).fit(module.train(), Images())
    assert not torch.equal(module.network.stem[0].weight, lightning_nas.load(run_dir).network.stem[0].weight)


def test_folders_without_a_checkpoint_say_what_they_hold(tmp_path, run_dir):
    (tmp_path / "summary.md").touch()
    with pytest.raises(RunFolderError, match=r"holds no trained model.*checkpoints/last\.ckpt but summary\.md"):
        lightning_nas.load(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(run_dir / "checkpoints" / "last.ckpt", tmp_path / "checkpoints" / "best.ckpt")
    with pytest.raises(RunFolderError, match=re.escape("give one of its checkpoints instead: checkpoints/best.ckpt")):
        lightning_nas.load(tmp_path)
    with pytest.raises(RunFolderError, match="there is no such folder"):
        lightning_nas.load(tmp_path / "gone")


def test_damaged_checkpoints(tmp_path, run_dir):
    path = tmp_path / "checkpoints" / "last.ckpt"
    path.parent.mkdir()
    path.write_bytes((run_dir / "checkpoints" / "last.ckpt").read_bytes()[:1000])
    with pytest.raises(RunFolderError, match="not a readable checkpoint"):
        lightning_nas.load(tmp_path)
    torch.save({"weights": 1}, path)
    with pytest.raises(RunFolderError, match="not a readable checkpoint"):
        lightning_nas.load(tmp_path)
    shutil.copy(run_dir / "checkpoints" / "last.ckpt", path)
    with pytest.raises(RunFolderError, match="does not say which class it is of"):
        lightning_nas.load(tmp_path)
    (tmp_path / "config.yaml").write_text("model: {class_path: gone.Module}")
    with pytest.raises(RunFolderError, match=r"class gone\.Module, which cannot be imported"):
        lightning_nas.load(tmp_path)


def test_a_checkpoint_runs_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (tmp_path / "touched").touch, ()

    torch.save({"state_dict": {}, "hyper_parameters": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(RunFolderError):
        lightning_nas.load(tmp_path / "evil.ckpt")
    assert not (tmp_path / "touched").exists()


def test_importing_the_package_costs_nothing():
    code = "import sys, lightning_nas; print(sorted({'torch', 'numpy', 'lightning_nas.loading'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_package_has_nothing_else():
    assert lightning_nas.load is lightning_nas.loading.load
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        lightning_nas.lod  # noqa: B018
