import pytest

from lightning_nas.callbacks.search import SearchCallback
from lightning_nas.errors import UsageError
from lightning_nas.trainer import NASTrainer
from tests.contract import quiet_trainer, weights_in


def test_search_finds_the_checkpoint_that_fit_left(project, monkeypatch):
    project.main("fit")
    loaded = []
    predict = NASTrainer.predict

    def watch(self, model, datamodule=None, ckpt_path=None, **arguments):
        loaded.append(ckpt_path)
        return predict(self, model, datamodule=datamodule, ckpt_path=ckpt_path, **arguments)

    monkeypatch.setattr(NASTrainer, "predict", watch)
    for given in ([], ["--ckpt_path", "last"]):
        project.main("search", *given)
    assert loaded == [str(project.run_dir / "checkpoints" / "last.ckpt")] * 2


def test_a_configuration_without_a_search(tmp_path):
    from tests.contract import TinyModuleContract

    with pytest.raises(UsageError, match=r"no search callback.*trainer\.callbacks"):
        quiet_trainer(tmp_path, NASTrainer).search(None, TinyModuleContract().data())


def test_searching_is_over_when_it_ends(project, monkeypatch):
    trainers = []
    setup = SearchCallback.setup

    def watch(self, trainer, pl_module, stage):
        trainers.append((trainer, trainer.searching))
        setup(self, trainer, pl_module, stage)

    monkeypatch.setattr(SearchCallback, "setup", watch)
    project.main("fit", "--trainer.max_epochs", "1")
    project.main("search")
    assert [searching for _, searching in trainers] == [False, True]
    assert not any(trainer.searching for trainer, _ in trainers)


def test_the_last_checkpoint_is_one_file_also_after_a_move(project):
    project.main("fit", "--trainer.max_epochs", "1")
    project.run_dir.rename(project.folder / "moved")
    project.main("fit", "--trainer.max_epochs", "2", "--ckpt_path", "last", run_dir=project.folder / "moved",
                 config=project.write("more.yaml", change=lambda c: c["trainer"].pop("callbacks")))  # fmt: skip
    files = [path.name for path in (project.folder / "moved" / "checkpoints").iterdir()]
    assert files == ["last.ckpt"]
    assert weights_in(project.folder / "moved")
