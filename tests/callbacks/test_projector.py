import csv

import numpy as np
import pytest
import torch
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from lightning_nas.benchmarks.tabular import TabularBenchmark
from lightning_nas.callbacks.projector import EmbeddingProjector
from lightning_nas.datamodules.cells import CellDataModule
from lightning_nas.modules.arch2vec import Arch2Vec
from tests.contract import TinySpace, quiet_trainer, write_tiny_table

SPACE = TinySpace()


def fit(folder, callback, **arguments):
    torch.manual_seed(0)
    module = Arch2Vec(num_ops=5, latent_dim=3, hidden_dim=8, num_layers=1)
    arguments = {"logger": TensorBoardLogger(str(folder), name="", version=""), "max_epochs": 1, **arguments}
    trainer = quiet_trainer(folder, callbacks=[callback], **arguments)
    trainer.fit(module, CellDataModule(SPACE, batch_size=40, eval_batch_size=7))
    return module


def read(path):
    with open(path, newline="") as file:
        return list(csv.reader(file, delimiter="\t"))


def test_rows_are_cells_with_their_embeddings_and_scores(tmp_path):
    write_tiny_table(tmp_path / "tiny.npz")
    benchmark = TabularBenchmark(SPACE, str(tmp_path / "tiny.npz"), "toy", epochs=3, test_epochs=9)
    module = fit(tmp_path / "run", EmbeddingProjector(benchmark, num_cells=20))
    (metadata,) = (tmp_path / "run").rglob("metadata.tsv")
    (tensors,) = (tmp_path / "run").rglob("tensors.tsv")
    header, *rows = read(metadata)
    vectors = torch.tensor([[float(x) for x in row] for row in read(tensors)])
    assert header == ["architecture", "valid", "test"]
    assert len(rows) == len({row[0] for row in rows}) == len(vectors) == 20
    indices = torch.tensor([SPACE.index(SPACE.parse(row[0])) for row in rows])
    scores = benchmark.lookup(indices)
    assert [row[1:] for row in rows] == [
        [f"{v:.2f}", f"{t:.2f}"] for v, t in zip(scores.valid, scores.test, strict=True)
    ]
    cells = CellDataModule(SPACE)
    cells.setup()
    with torch.no_grad():
        expected = torch.cat([module.eval().embed(graph) for _, graph in cells.cells(indices)])
    torch.testing.assert_close(vectors, expected, rtol=1e-4, atol=1e-5)
    assert (tmp_path / "run" / "projector_config.pbtxt").exists()


def test_a_benchmark_of_a_part_of_the_space_shows_that_part(tmp_path):
    members = np.arange(0, 81, 2)[::-1]

    def keep(columns):
        columns.update({name: values[members] for name, values in columns.items()}, member=members)

    write_tiny_table(tmp_path / "half.npz", keep)
    benchmark = TabularBenchmark(SPACE, str(tmp_path / "half.npz"), "toy", epochs=3, test_epochs=9)
    fit(tmp_path / "run", EmbeddingProjector(benchmark))
    (metadata,) = (tmp_path / "run").rglob("metadata.tsv")
    _, *rows = read(metadata)
    assert {SPACE.index(SPACE.parse(row[0])) for row in rows} == set(members.tolist())


def test_names_only_and_no_more_cells_than_there_are(tmp_path):
    module = fit(tmp_path, EmbeddingProjector())
    (metadata,) = tmp_path.rglob("metadata.tsv")
    assert sorted(row[0] for row in read(metadata)) == sorted(SPACE.format(arch) for arch in SPACE)
    assert module.training


@pytest.mark.parametrize(
    "arguments", [{"fast_dev_run": True}, {"logger": False}, {"logger": CSVLogger("csv")}], ids=str
)
def test_nothing_without_tensorboard_or_in_a_dev_run(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    fit(tmp_path / "run", EmbeddingProjector(), **arguments)
    assert not list(tmp_path.rglob("*.tsv"))
