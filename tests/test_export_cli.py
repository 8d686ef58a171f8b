import re
import sys

import pytest

from lightning_nas import export as writers
from lightning_nas.cli import main
from lightning_nas.errors import UsageError
from lightning_nas.export_cli import arguments
from tests.contract import quiet_trainer
from tests.modules.test_classifier import Images, small


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    trainer = quiet_trainer(folder, max_epochs=2)
    trainer.fit(small(), Images())
    trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt")
    (folder / "config.yaml").write_text("model: {class_path: lightning_nas.modules.classifier.ImageClassifier}\n")
    return folder


@pytest.fixture
def said(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)

    def said(*args, status=0):
        if status:
            with pytest.raises(SystemExit) as stop:
                main(["export", *map(str, args)])
            assert stop.value.code == status
            return capsys.readouterr().err
        main(["export", *map(str, args)])
        return capsys.readouterr().out

    return said


def test_one_format_of_one_checkpoint(run_dir, said, tmp_path):
    out = said("--format", "python", run_dir / "checkpoints" / "last.ckpt", "--output", tmp_path / "there")
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == ["network.py", "weights.pt"]
    difference, spread = re.search(r"network\.py \(scores differ by at most (\S+) from .* is (\S+)\)", out).groups()
    assert float(difference) < 1e-5 < float(spread)


def test_all_formats_go_to_the_run_folder(run_dir, said, monkeypatch):
    monkeypatch.setattr(writers, "onnx_is_there", lambda: False)  # what is written is tested elsewhere
    out = said(run_dir)
    assert "Left out: export --format onnx" in out
    assert "lightning-nas[export]" in out
    files = sorted(path.name for path in (run_dir / "export").iterdir())
    assert files == ["network.pt2", "network.py", "weights.pt"]


def test_what_is_not_there_and_what_is_no_classifier(project, said, tmp_path):
    assert "there is no such folder" in said(tmp_path / "gone", status=2)
    project.main("fit", config=project.write("train.yaml", change=lambda config: config["trainer"].pop("callbacks")))
    assert "holds a trained Arch2Vec, expected the run of an ImageClassifier" in said(project.run_dir, status=2)
    assert not (project.run_dir / "export").exists()


def test_onnx_alone_must_be_installed(run_dir, said, monkeypatch, tmp_path):
    monkeypatch.setattr(writers, "onnx_is_there", lambda: False)
    assert "lightning-nas[export]" in said(run_dir, "--format=onnx", "--output", tmp_path / "there", status=2)
    assert not (tmp_path / "there").exists()
    (tmp_path / "there").mkdir()
    assert "lightning-nas[export]" in said(run_dir, "--format=onnx", "--output", tmp_path / "there", status=2)


def test_nothing_at_all_is_an_error_whatever_was_there(run_dir, said, monkeypatch, tmp_path):
    def refuse(model, folder):
        raise UsageError("cannot")

    for name in ("python", "program", "onnx"):
        monkeypatch.setattr(writers, f"export_{name}", refuse)
    assert "cannot" in said(run_dir, "--output", tmp_path, status=2)


def test_the_run_folder_may_stand_anywhere():
    assert arguments("export", ["--format=onnx", "runs/a", "--output", "there"]) == [
        "runs/a", "--format=onnx", "--output", "there",
    ]  # fmt: skip
    assert arguments("export", ["--help"]) == ["--help"]
    assert arguments("export", ["runs/a", "--output"]) == ["runs/a", "--output"]
