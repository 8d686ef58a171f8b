import math
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pytorch_lightning import seed_everything

from lightning_nas.datamodules.jacobians import JacobianDataModule, NetworkSet
from lightning_nas.datamodules.vision import DigitsDataModule
from lightning_nas.errors import UsageError
from lightning_nas.modules.contrastive import ContrastiveEncoder, nt_xent, retrieval
from lightning_nas.nn.jacobian import spectral_rows
from lightning_nas.workers.base import ExecutorWorkers
from tests.contract import ModuleContract, quiet_trainer
from tests.datamodules.networks import BuildableSpace


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("jacobians")


def make_data(folder, seed=0, **changes):
    settings = {"num_initialisations": 3, "batch_size": 16, "val_fraction": 0.2} | changes
    data = JacobianDataModule(
        NetworkSet(BuildableSpace()), DigitsDataModule(), 12, seed=0, shuffle_seed=seed,
        workers=ExecutorWorkers(ThreadPoolExecutor(1)), folder=str(folder), **settings,
    )  # fmt: skip
    data.prepare_data()
    return data


class TestContrastiveEncoder(ModuleContract):
    embedding_dim = 8

    @pytest.fixture(autouse=True)
    def keep(self, folder):
        self.folder = folder

    def module(self, seed=0):
        return ContrastiveEncoder(
            12, hidden_dim=16, embedding_dim=8, projection_dim=6, seed=seed,
            optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-2),
        )  # fmt: skip

    def data(self, seed=0):
        return make_data(self.folder, seed)


class TestSpectrum(TestContrastiveEncoder):
    def module(self, seed=0):
        return ContrastiveEncoder(
            12, hidden_dim=16, embedding_dim=8, projection_dim=6, seed=seed, images_per_view=6, spectrum=True,
            optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-2),
        )  # fmt: skip


def by_hand(first, second, tau):
    """Chen et al., Eq. 1, in NumPy, anchor by anchor."""
    z = np.concatenate([first, second]).astype(np.float64)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    count = len(first)
    losses = []
    for anchor in range(2 * count):
        partner = (anchor + count) % (2 * count)
        weights = [math.exp(z[anchor] @ z[other] / tau) for other in range(2 * count)]
        losses.append(-math.log(weights[partner] / (sum(weights) - weights[anchor])))
    return np.mean(losses)


@pytest.mark.parametrize("count", [2, 5])
def test_the_loss_is_that_of_simclr(count):
    first, second = torch.randn(2, count, 3, generator=torch.Generator().manual_seed(0))
    for tau in (0.1, 0.5):
        assert nt_xent(first, second, tau=tau).item() == pytest.approx(by_hand(first, second, tau), rel=1e-5)


def test_random_embeddings_lose_the_logarithm_of_all_choices():
    first, second = torch.randn(2, 512, 4096, generator=torch.Generator().manual_seed(0))
    assert nt_xent(first, second, tau=1.0).item() == pytest.approx(math.log(2 * 512 - 1), abs=0.01)


def test_shares_of_the_batch_lose_what_the_whole_does():
    views = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    whole = nt_xent(views[0], views[1], tau=0.3)
    halves = [(views[0, :3], views[1, :3]), (views[0, 3:], views[1, 3:])]
    everything = torch.cat([view for half in halves for view in half])
    shares = [nt_xent(*half, everything, rank, 0.3) for rank, half in enumerate(halves)]
    assert sum(shares).item() / 2 == pytest.approx(whole.item(), rel=1e-5)
    expected, found = (torch.autograd.grad(loss, views, retain_graph=True)[0] for loss in (whole, sum(shares) / 2))
    torch.testing.assert_close(found, expected)


def test_retrieval_counts_both_directions():
    first = torch.eye(4)
    assert retrieval(first, first) == 1
    assert retrieval(first, first.roll(1, 0)) == 0
    assert retrieval(first, torch.stack([first[0], first[0] + 0.1 * first[1], first[2], first[3]])) == 0.875


def test_training_teaches_to_tell_networks_apart(tmp_path, folder):
    seed_everything(0, verbose=False)
    # Wide enough to learn from every start: a width of 16 ended between 0.19 and 0.43, depending on seed and processor.
    module = ContrastiveEncoder(
        12, hidden_dim=64, embedding_dim=32, projection_dim=32, decay=1.0,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=3e-3),
    )  # fmt: skip
    data = make_data(folder, val_fraction=0, batch_size=45)
    (before,) = quiet_trainer(tmp_path).validate(module, data, verbose=False)
    quiet_trainer(tmp_path, max_epochs=100, limit_val_batches=0).fit(module, data)
    (after,) = quiet_trainer(tmp_path).validate(module, data, verbose=False)
    assert before["val/retrieval"] < 0.25 < after["val/retrieval"]  # chance finds 1 of 45
    assert after["val/loss"] < before["val/loss"]


def test_views_are_two_different_initialisations_drawn_anew_in_every_step(folder):
    scores = torch.arange(4.0)[:, None, None].expand(64, 4, 2, 12)  # every number says of which initialisation it is
    module = ContrastiveEncoder(12).train()
    first = module._two_views(scores)
    assert first.shape == (64, 2, 2, 12)
    assert (first[:, 0] != first[:, 1]).all()
    assert set(first.flatten().tolist()) == {0, 1, 2, 3}
    assert torch.equal(first, module._two_views(scores))
    for attribute in ("global_step", "global_rank"):
        later = type("Later", (ContrastiveEncoder,), {attribute: 1})(12).train()
        assert not torch.equal(first, later._two_views(scores))
    assert not torch.equal(first, ContrastiveEncoder(12, seed=1).train()._two_views(scores))
    assert torch.equal(module.eval()._two_views(scores), scores[:, :2])


def test_one_initialisation_is_too_few(tmp_path, folder):
    with pytest.raises(UsageError, match="at least two"):
        quiet_trainer(tmp_path, max_epochs=1).fit(ContrastiveEncoder(12), make_data(folder, num_initialisations=1))


@pytest.mark.parametrize(
    "changes",
    [{"embedding_dim": 0}, {"images_per_view": 0}, {"temperature": 0.0}, {"decay": 0.0}, {"decay": 1.5}],
    ids=str,
)
def test_what_cannot_be_is_said(changes):
    with pytest.raises(UsageError, match="expected positive sizes"):
        ContrastiveEncoder(12, **changes)


def test_the_embedding_is_the_mean_over_initialisations():
    torch.manual_seed(0)
    module, scores = ContrastiveEncoder(4, embedding_dim=8), torch.randn(5, 3, 9, 4)
    views = module.embed_views(scores)
    torch.testing.assert_close(module.embed(scores), views.mean(dim=1))
    torch.testing.assert_close(views[2, 1], module.encoder(scores[2, 1]))
    index, embedding = module.predict_step((torch.arange(5), scores), 0)
    assert (len(index), embedding.shape) == (5, (5, 3, 8))
    assert torch.equal(embedding, views)


def test_a_view_has_some_of_the_images_in_training_and_all_otherwise():
    module = ContrastiveEncoder(4, embedding_dim=8, images_per_view=3)
    module._trainer = SimpleNamespace(global_step=0, global_rank=0)
    # Every row says of which network, initialisation and image it is.
    places = torch.stack(torch.meshgrid(*map(torch.arange, (5, 4, 9)), indexing="ij"), dim=-1).float()
    views = module.train()._two_views(places)
    assert views.shape == (5, 2, 3, 3)
    assert torch.equal(views[..., 0], torch.arange(5.0)[:, None, None].expand(5, 2, 3))
    initialisations, images = views[..., 0, 1], views[..., 2]
    assert torch.equal(views[..., 1], initialisations[..., None].expand(5, 2, 3))
    assert (initialisations[:, 0] != initialisations[:, 1]).all()
    assert torch.equal(images, images[:1].expand(5, 2, 3))  # the same for all networks of the batch
    assert all(len(set(row)) == 3 for row in images[0].tolist())
    assert torch.equal(views, module._two_views(places))
    module._trainer.global_step = 1
    assert not torch.equal(views, module._two_views(places))
    assert torch.equal(module.eval()._two_views(places), places[:, :2])


def test_many_networks_are_compared_part_by_part(monkeypatch):
    first, second = torch.randn(2, 25, 6, generator=torch.Generator().manual_seed(0))
    second += first
    whole = nt_xent(first, second), retrieval(first, second)
    assert 0 < whole[1] < 1
    monkeypatch.setattr("lightning_nas.modules.contrastive._CHUNK", 7)
    torch.testing.assert_close(nt_xent(first, second), whole[0])
    assert retrieval(first, second) == whole[1]


def test_singular_values_are_those_of_all_images_in_training_too():
    scores = torch.randn(6, 3, 9, 4, generator=torch.Generator().manual_seed(0))
    module = ContrastiveEncoder(4, embedding_dim=8, images_per_view=3, spectrum=True)
    assert module.encoder.element[0].in_features == 9
    module._trainer = SimpleNamespace(global_step=0, global_rank=0)
    views = module.train()._two_views(scores)
    assert views.shape == (6, 2, 3, 9)
    whole = {tuple(row) for row in spectral_rows(scores)[..., 4:].flatten(0, 2).tolist()}
    assert {tuple(row) for row in views[..., 4:].flatten(0, 2).tolist()} <= whole
    assert torch.equal(module.eval()._two_views(scores), spectral_rows(scores[:, :2]))
    torch.testing.assert_close(module.embed_views(scores)[:, 0], module.encoder(spectral_rows(scores)[:, 0]))
