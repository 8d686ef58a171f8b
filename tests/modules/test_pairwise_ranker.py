import math

import pytest
import torch

from lightning_nas.benchmarks.tabular import TabularBenchmark
from lightning_nas.callbacks.pretrained import PretrainedEncoder
from lightning_nas.datamodules.pairs import PairDataModule
from lightning_nas.errors import RunFolderError, UsageError
from lightning_nas.modules.arch2vec import Arch2Vec
from lightning_nas.modules.pairwise_ranker import PairwiseRanker, pair_loss, take_pretrained
from lightning_nas.spaces.base import CellGraph
from lightning_nas.spaces.encodings import OneHotEncoding
from tests.contract import ModuleContract, TinySpace, quiet_trainer, weights, write_tiny_table


class TestPairwiseRanker(ModuleContract):
    embedding_dim = 6

    @pytest.fixture(autouse=True)
    def table(self, tmp_path_factory):
        self.path = tmp_path_factory.mktemp("tiny") / "tiny.npz"
        write_tiny_table(self.path)

    def module(self, seed=0):
        return PairwiseRanker(
            5, latent_dim=6, hidden_dim=8, num_layers=2, head_dim=8, num_features=12, seed=seed,
            optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-2),
        )  # fmt: skip

    def data(self, seed=0):
        return pairs_of(self.path, seed=seed, batch_size=8)


def pairs_of(path, **arguments):
    benchmark = TabularBenchmark(TinySpace(), str(path), "toy", epochs=3, test_epochs=9)
    return PairDataModule(
        benchmark, **{"num_known": [30], "num_val": 20, "features": OneHotEncoding(), "eval_batch_size": 32} | arguments
    )


def test_losses_are_those_of_the_formulas():
    differences = torch.tensor([-2.0, 0.0, 0.05, 3.0])
    logistic = [-math.log(1 / (1 + math.exp(-d))) for d in differences.tolist()]
    torch.testing.assert_close(pair_loss(differences), torch.tensor(logistic))
    hinge = [max(0.0, 0.1 - d) for d in differences.tolist()]
    torch.testing.assert_close(pair_loss(differences, "hinge", 0.1), torch.tensor(hinge))


def test_comparisons_are_antisymmetric():
    space, module = TinySpace(), PairwiseRanker(5, hidden_dim=8, num_layers=2).eval()
    graphs = space.all_graphs()
    first, second = (CellGraph(graphs.ops[part], graphs.adjacency[part]) for part in (slice(0, 40), slice(40, 80)))
    there, back = module.compare(first, second), module.compare(second, first)
    torch.testing.assert_close(there + back, torch.ones(40))
    torch.testing.assert_close(module.compare(first, first), torch.full((40,), 0.5))
    torch.testing.assert_close(there > 0.5, module.scores(first) > module.scores(second))
    assert there.std() > 1e-4


def test_a_space_is_ranked_in_parts_as_in_one(monkeypatch):
    graphs, module = TinySpace().all_graphs(), PairwiseRanker(5, hidden_dim=8, num_layers=2).eval()
    whole = module.scores(graphs)
    monkeypatch.setattr("lightning_nas.modules.pairwise_ranker._CHUNK", 10)
    torch.testing.assert_close(module.scores(graphs), whole)
    assert module.scores(CellGraph(graphs.ops[:0], graphs.adjacency[:0])).shape == (0,)


@pytest.mark.parametrize("loss", ["logistic", "hinge"])
def test_it_learns_to_rank(tmp_path, loss):
    """Accuracy depends on where there are convolutions, for which a few cells suffice to tell."""

    def change(columns):
        codes = TinySpace().codes.numpy()
        columns["toy/valid@3"] = 50.0 + (codes == 0) @ [8.0, 4.0, 2.0, 1.0] + 0.3 * (codes == 1).sum(axis=1)

    write_tiny_table(tmp_path / "tiny.npz", change)
    data = pairs_of(tmp_path / "tiny.npz", features=OneHotEncoding())
    module = PairwiseRanker(
        5, hidden_dim=16, num_layers=2, num_features=12, loss=loss, optimizer=lambda p: torch.optim.Adam(p, lr=1e-2)
    )  # fmt: skip
    quiet_trainer(tmp_path, max_epochs=15, limit_val_batches=0).fit(module, data)
    (found,) = quiet_trainer(tmp_path).validate(module, data, verbose=False)
    assert found["val/kendall_tau"] > 0.75


def test_it_begins_with_the_encoder_of_arch2vec(tmp_path):
    torch.manual_seed(1)
    trained, fresh = Arch2Vec(5, latent_dim=6, hidden_dim=8, num_layers=2), TestPairwiseRanker().module()
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True)
    torch.save({"state_dict": trained.state_dict()}, path)
    head = fresh.head[0].weight.clone()
    callback = PretrainedEncoder(str(tmp_path / "run"))
    callback.setup(None, fresh, "validate")
    assert not torch.equal(fresh.to_mu.weight, trained.to_mu.weight)
    callback.setup(None, fresh, "fit")
    assert torch.equal(fresh.head[0].weight, head)
    graphs = TinySpace().all_graphs()
    with torch.no_grad():
        torch.testing.assert_close(fresh.eval().embed(graphs), trained.eval().embed(graphs))
    other = PairwiseRanker(5, latent_dim=7, hidden_dim=8, num_layers=2)
    before = weights(other)
    with pytest.raises(UsageError, match="expected Arch2Vec"):
        take_pretrained(other, path)
    assert all(torch.equal(value, before[name]) for name, value in weights(other).items())
    with pytest.raises(RunFolderError, match="not a readable checkpoint"):
        take_pretrained(other, tmp_path / "nowhere")
    with pytest.raises(UsageError, match="expected PairwiseRanker"):
        callback.setup(None, trained, "fit")


@pytest.mark.parametrize(
    "changes", [{"hidden_dim": 0}, {"num_features": -1}, {"margin": 0.0}, {"loss": "none"}], ids=str
)
def test_what_cannot_be_is_said(changes):
    with pytest.raises(UsageError, match="expected"):
        PairwiseRanker(**{"num_ops": 5} | changes)
