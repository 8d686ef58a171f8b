from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from lightning_nas.callbacks.embeddings import EmbeddingWriter, assemble
from lightning_nas.cli import main
from lightning_nas.datamodules.cells import CellDataModule
from lightning_nas.errors import UsageError
from lightning_nas.modules.arch2vec import Arch2Vec
from tests.contract import TinySpace, quiet_trainer

SPACE = TinySpace()


def test_batches_become_a_table():
    outputs = [(torch.tensor([4, 1]), torch.ones(2, 3, 2)), (torch.tensor([0]), torch.full((1, 3, 2), 2.0))]
    table, there = assemble(outputs, 6)
    assert table.shape == (6, 3, 2)
    assert table[:, 0, 0].tolist() == [2.0, 1.0, 0.0, 0.0, 1.0, 0.0]
    assert there.tolist() == [1.0, 1.0, 0.0, 0.0, 1.0, 0.0]


@pytest.mark.parametrize("devices", [1, 2])
def test_a_file_of_names_and_embeddings(tmp_path, devices):
    torch.manual_seed(0)
    module, data = (
        Arch2Vec(num_ops=5, latent_dim=3, hidden_dim=8, num_layers=1),
        CellDataModule(SPACE, eval_batch_size=30),
    )
    data.prepare_data()
    data.setup("predict")
    many = {"devices": 2, "strategy": "ddp_fork"} if devices == 2 else {}
    quiet_trainer(tmp_path, callbacks=[EmbeddingWriter()], **many).predict(module, data, return_predictions=False)
    with np.load(tmp_path / "embeddings.npz") as saved:
        assert saved["index"].tolist() == list(range(81))
        assert saved["architecture"].tolist() == [SPACE.format(arch) for arch in SPACE]
        with torch.no_grad():
            expected = torch.cat([module.eval().embed(graphs) for _, graphs in data.predict_dataloader()])
        np.testing.assert_allclose(saved["embedding"], expected, atol=1e-6)


def test_data_of_two_spaces_leave_two_files(contrastive, tmp_path):
    config = contrastive / "both0"
    main(["predict", "--config", str(config / "config.yaml"), "--ckpt_path", str(config), "--run_dir", str(tmp_path)])
    sizes = {}
    for space in ("buildable", "second"):
        with np.load(tmp_path / f"embeddings-{space}.npz") as saved:
            sizes[space] = saved["embedding"].shape
    assert sizes == {"buildable": (81, 4), "second": (81, 4)}


@pytest.mark.parametrize("given", ["--config", "--data"])
def test_networks_of_ones_own_are_embedded_beside_those_of_the_space(contrastive, tmp_path, given):
    """The command of the README: a trained encoder, and a list of what makes networks."""
    run = contrastive / "one0"
    wide = {"class_path": "tests.spaces.test_listed.Classifier", "init_args": {"width": 6}}
    space = {
        "class_path": "lightning_nas.spaces.listed.ListedNetworks",
        "init_args": {"networks": ["tests.spaces.test_listed.Classifier", wide]},
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"data": {"init_args": {"networks": {"space": space}}}}))
    common = ["--config", str(run / "config.yaml"), "--ckpt_path", str(run), "--run_dir", str(tmp_path / "out")]
    extra = ["--config", str(tmp_path / "mine.yaml")]
    if given == "--data":
        names = '["tests.spaces.test_listed.Classifier", "tests.spaces.test_listed.fixed"]'
        extra = ["--data.networks.space", "ListedNetworks", "--data.networks.space.networks", names]
    main(["predict", *common, *extra])
    with np.load(tmp_path / "out" / "embeddings.npz") as saved:
        assert saved["embedding"].shape == (2, 4)
        assert np.isfinite(saved["embedding"]).all()
        assert not np.array_equal(saved["embedding"][0], saved["embedding"][1])
        second = (
            "tests.spaces.test_listed.Classifier(width=6)" if given == "--config" else "tests.spaces.test_listed.fixed"
        )
        assert saved["architecture"].tolist() == ["tests.spaces.test_listed.Classifier", second]


def test_more_processes_than_networks():
    def begin(processes):
        trainer = SimpleNamespace(datamodule=SimpleNamespace(space=SPACE), world_size=processes)
        EmbeddingWriter().setup(trainer, None, "predict")

    begin(81)
    with pytest.raises(UsageError, match="got 82 processes for 81 architectures of 'tiny'"):
        begin(82)
