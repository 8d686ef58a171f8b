import numpy as np
import pytest
import torch
from pytorch_lightning import LightningModule

from lightning_nas.callbacks.validity import PriorValidity, moments
from lightning_nas.datamodules.cells import CellDataModule
from lightning_nas.errors import UsageError
from lightning_nas.metrics import validity_and_uniqueness
from lightning_nas.modules.arch2vec import Arch2Vec
from lightning_nas.spaces.base import CellGraph
from tests.contract import TinySpace, quiet_trainer

SPACE = TinySpace()


def module(**arguments):
    torch.manual_seed(0)
    return Arch2Vec(num_ops=5, latent_dim=3, hidden_dim=8, num_layers=1, **arguments)


def data(space=SPACE):
    return CellDataModule(space, batch_size=40)


class Memory(LightningModule):
    """Its latent vectors are cells themselves: what comes back is known."""

    def __init__(self, answer):
        super().__init__()
        self.answer, self.points = answer, None

    def encode(self, graph):
        mu = torch.stack([graph.ops.float(), graph.adjacency.float().sum(dim=2)], dim=-1)
        return mu, mu

    def decode(self, z):
        self.points = z
        return z

    def discretise(self, decoded):
        return self.answer(len(decoded))


def measured(answer, space=SPACE, **arguments):
    decoder, cells = Memory(answer), data(space)
    trainer = quiet_trainer("unused")
    trainer.strategy.connect(decoder)
    cells.setup()
    cells.trainer = trainer
    trainer.datamodule = cells
    trainer._data_connector._datahook_selector = None
    callback = PriorValidity(**{"num_samples": 8, **arguments})
    trainer.__class__ = type("Bound", (type(trainer),), {"datamodule": cells})
    return callback.measure(trainer, decoder), decoder.points, cells


def test_shares_by_hand():
    """Four different cells, one of them twice, one wired wrongly, two with a wrong label."""
    ops, adjacency = SPACE.all_graphs()
    chosen = torch.tensor([0, 5, 5, 40, 80, 7, 8, 9])
    ops, adjacency = ops[chosen].clone(), adjacency[chosen].clone()
    adjacency[5, 1, 4] ^= True
    ops[6, 0], ops[7, 3] = 1, 4
    values, _, _ = measured(lambda n: CellGraph(ops, adjacency))
    assert values == {"validity": 5 / 8, "uniqueness": pytest.approx(4 / 5)}


def test_the_published_test_where_the_space_has_one(cells):
    graphs = cells.all_graphs()
    ops, adjacency = graphs.ops[:8].clone(), graphs.adjacency[:8].clone()
    adjacency[3] = False  # the released code does not look at the wiring
    values, _, _ = measured(lambda n: CellGraph(ops, adjacency), cells)
    assert values["validity"] == 7 / 8
    assert values["validity_published"] == 1.0
    assert values.keys() == {"validity", "uniqueness", "validity_published", "uniqueness_published"}


def test_graphs_that_are_one_member_count_once():
    """Graphs 0 and 1 are one member; 2 is valid and no member, as in a space that holds a sample; 3 is not valid."""

    class Sampled(TinySpace):
        def indices_of(self, graphs):
            return torch.tensor([5, 5, -1, -1])

        def is_valid_published(self, graphs):
            return torch.tensor([True, True, False, True])

    ops, adjacency = (part[:4].clone() for part in SPACE.all_graphs())
    adjacency[3] = False
    assert validity_and_uniqueness(Sampled(), CellGraph(ops, adjacency)) == {
        "validity": 3 / 4, "uniqueness": 2 / 3, "validity_published": 3 / 4, "uniqueness_published": 1.0,
    }  # fmt: skip


def test_moments_of_parts_are_those_of_the_whole():
    points = 1000 + torch.randn(50, 3, 2, generator=torch.Generator().manual_seed(0))
    mean, std = moments(iter(points.split(17)))
    np.testing.assert_allclose(mean, points.double().mean(dim=0), rtol=1e-6)
    np.testing.assert_allclose(std, points.double().std(dim=0), rtol=1e-5)


def test_points_have_the_moments_of_the_training_cells():
    def nothing(n):
        return CellGraph(torch.full((n, 6), -1), torch.zeros(n, 6, 6, dtype=torch.bool))

    values, points, split = measured(nothing, num_samples=20_000)
    assert values == {"validity": 0.0, "uniqueness": 0.0}
    ops, adjacency = (part[split.train_indices].float() for part in SPACE.all_graphs())
    mu = np.stack([ops.numpy(), adjacency.sum(dim=2).numpy()], axis=-1)
    np.testing.assert_allclose(points.mean(dim=0), mu.mean(axis=0), atol=0.05)
    np.testing.assert_allclose(points.std(dim=0), mu.std(axis=0, ddof=1), rtol=0.03, atol=1e-3)
    again = measured(nothing, num_samples=20_000)[1]
    assert torch.equal(points, again)
    assert not torch.equal(points, measured(nothing, num_samples=20_000, seed=1)[1])


@pytest.mark.parametrize(("every", "expected"), [(1, [0, 1, 2, 3, 4]), (2, [1, 3, 4]), (9, [4])])
def test_measures_when_due_and_at_the_end(tmp_path, monkeypatch, every, expected):
    epochs = []
    measure = PriorValidity.measure
    monkeypatch.setattr(
        PriorValidity,
        "measure",
        lambda self, trainer, model: epochs.append(trainer.current_epoch) or measure(self, trainer, model),
    )
    callback = PriorValidity(num_samples=16, every_n_epochs=every)
    trainer = quiet_trainer(tmp_path, max_epochs=5, callbacks=[callback], num_sanity_val_steps=2)
    trainer.fit(module(), data())
    assert epochs == expected
    assert {"val/validity", "val/uniqueness"} <= trainer.callback_metrics.keys()
    assert 0 <= trainer.callback_metrics["val/validity"] <= 1


def test_measuring_changes_neither_weights_nor_random_state(tmp_path):
    def trained(callbacks):
        fitted = module()
        quiet_trainer(tmp_path, max_epochs=2, callbacks=callbacks).fit(fitted, data())
        return torch.cat([value.flatten().float() for value in fitted.state_dict().values()]), torch.rand(1)

    (plain, draw), (measured_too, draw_too) = trained([]), trained([PriorValidity(16)])
    assert torch.equal(plain, measured_too)
    assert draw == draw_too


@pytest.mark.parametrize("arguments", [{"num_samples": 0}, {"every_n_epochs": 0}])
def test_nonsense_is_refused(arguments):
    with pytest.raises(UsageError, match=r"=0.*expected >= 1"):
        PriorValidity(**arguments)
