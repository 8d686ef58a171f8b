import copy
import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal
from torch.distributions import kl_divergence as reference_kl

from lightning_nas.errors import UsageError
from lightning_nas.modules.arch2vec import (
    Arch2Vec,
    Decoded,
    dot_product_limit,
    kl_divergence,
    one_cycle,
    one_hot,
    reconstruction_loss,
)  # fmt: skip
from lightning_nas.nn.gcn import normalised_adjacency
from lightning_nas.spaces.base import CellGraph
from tests.contract import TinyModuleContract, TinySpace, quiet_trainer


def small(**arguments):
    torch.manual_seed(arguments.get("seed", 0))
    return Arch2Vec(**{"num_ops": 5, "latent_dim": 3, "hidden_dim": 8, "num_layers": 2, "dropout": 0.3, **arguments})


class TestContract(TinyModuleContract):
    embedding_dim = 3

    def module(self, seed=0):
        return small(seed=seed)


class TestReferenceModeContract(TestContract):
    def module(self, seed=0):
        return small(seed=seed, mode="reference")

    # The released code divides the KL term by the batch size once more, so that two batches of 8 are not one of 16.
    test_gradients_of_two_processes_are_those_of_the_joint_batch = None


class TestAutoencoderContract(TestContract):
    def module(self, seed=0):
        return small(seed=seed, encoder="gcn", variational=False)


class TestJointDecoderContract(TestContract):
    def module(self, seed=0):
        return small(seed=seed, encoder="gcn", decoder="joint", num_vertices=6)


@pytest.fixture
def graphs():
    """Seven cells; the last vertex of the first two is padding."""
    space = TinySpace()
    ops, adjacency = (part[:: len(space) // 7][:7].clone() for part in space.all_graphs())
    ops[:2, -1] = -1
    adjacency[:2, :, -1] = False
    return CellGraph(ops, adjacency)


@pytest.fixture
def decoded(graphs):
    generator = torch.Generator().manual_seed(1)
    batch, vertices = graphs.ops.shape
    return Decoded(
        3 * torch.randn(batch, vertices, 5, generator=generator),
        3 * torch.randn(batch, vertices, vertices, generator=generator),
    )


def bernoulli_cost(logit, target):
    """-log of the probability that a sigmoid gives to the target, in float64."""
    probability = 1 / (1 + math.exp(-logit))
    return -math.log(probability if target else 1 - probability)


@pytest.mark.parametrize("averaged", [False, True])
def test_reconstruction_loss_against_loops(graphs, decoded, averaged):
    """Sums over what belongs to a vertex, or means over all labels and all 36 entries of the matrix."""
    ops_costs, arc_costs = [], []
    for b in range(7):
        for v in range(6):
            ops_costs += [bernoulli_cost(float(decoded.ops[b, v, k]), int(graphs.ops[b, v]) == k) for k in range(5)]
            logits, arcs = decoded.adjacency[b, :v, v].tolist(), graphs.adjacency[b, :v, v].tolist()
            arc_costs += map(bernoulli_cost, logits, arcs)
    ours = reconstruction_loss(decoded, graphs, averaged)
    vertices = 7 * 6
    entries = (vertices * 5, vertices * 6) if averaged else (vertices, vertices)
    expected = [sum(ops_costs) / entries[0], sum(arc_costs) / entries[1]]
    np.testing.assert_allclose([float(x) for x in ours], expected, rtol=1e-5)


def test_the_lower_triangle_and_the_diagonal_do_not_count(graphs, decoded):
    disturbed = Decoded(decoded.ops, decoded.adjacency + 100 * torch.ones(6, 6).tril())
    assert reconstruction_loss(disturbed, graphs) == reconstruction_loss(decoded, graphs)


def test_kl_against_torch_distributions():
    generator = torch.Generator().manual_seed(2)
    mu, log_std = torch.randn(2, 4, 6, 3, generator=generator)
    expected = reference_kl(Normal(mu, log_std.exp()), Normal(0.0, 1.0)).sum(dim=-1).mean()
    torch.testing.assert_close(kl_divergence(mu, log_std), expected)
    assert kl_divergence(torch.zeros(2, 2, 2), torch.zeros(2, 2, 2)) == 0


def test_one_hot_rows_of_padding_are_zero():
    rows = one_hot(torch.tensor([[2, -1, 0]]), 3)
    assert rows.tolist() == [[[0, 0, 1], [0, 0, 0], [1, 0, 0]]]


def test_decode_is_the_dot_product(graphs):
    module = small()
    z = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    decoded = module.decode(z)
    for u in range(6):
        for v in range(6):
            assert float(decoded.adjacency[1, u, v]) == pytest.approx(float((z[1, u] * z[1, v]).sum()), abs=1e-5)
    np.testing.assert_allclose(
        decoded.ops.detach().numpy(),
        z.numpy() @ module.to_ops.weight.detach().numpy().T + module.to_ops.bias.detach().numpy(),
        rtol=1e-4, atol=1e-6,
    )  # fmt: skip


def test_the_joint_decoder_takes_the_place_of_the_dot_product():
    module = small(decoder="joint", num_vertices=6)
    z = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    for ours, expected in zip(module.decode(z), module.decoder(z), strict=True):
        assert torch.equal(ours, expected)
    assert not hasattr(module, "to_ops")


def test_evaluation_without_gradients_takes_a_faster_way_to_the_same_numbers(graphs):
    module = small()
    for _ in range(3):
        module.encode(graphs)  # running statistics worth the name
    module.eval()
    slow = module.encode(graphs)
    with torch.no_grad():
        fast = module.encode(graphs)
    assert not fast[0].requires_grad
    for ours, expected in zip(fast, slow, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_a_graph_convolution_hears_both_ways_and_its_heads_hear_too(graphs):
    module = small(encoder="gcn").eval()
    norm = normalised_adjacency((graphs.adjacency | graphs.adjacency.mT).float(), self_loops=True)
    hidden = module.encoder(one_hot(graphs.ops, 5), norm)
    mu, log_std = module.encode(graphs)
    torch.testing.assert_close(mu, module.to_mu(hidden, norm))
    torch.testing.assert_close(log_std, module.to_log_std(hidden, norm))


def test_the_released_graph_convolution_has_no_self_loops_and_survives_padding(graphs):
    module = small(encoder="gcn", mode="reference").eval()
    norm = normalised_adjacency((graphs.adjacency | graphs.adjacency.mT).float(), self_loops=False)
    mu, _ = module.encode(graphs)
    assert mu.isfinite().all()
    torch.testing.assert_close(mu, module.to_mu(module.encoder(one_hot(graphs.ops, 5), norm), norm))


@pytest.mark.parametrize("encoder", ["gin", "gcn"])
def test_a_plain_autoencoder_has_neither_noise_nor_prior(graphs, encoder, monkeypatch):
    module = small(encoder=encoder, variational=False, dropout=0.0).train()
    logged, seen = {}, []
    module.log_dict = lambda values, **_: logged.update(values)
    monkeypatch.setattr(Arch2Vec, "global_step", 0)
    encode, decode = module.encode, module.decode
    module.encode = lambda graph: seen.append(encode(graph)) or seen[-1]
    module.decode = lambda z: seen.append(z) or decode(z)
    loss = module.training_step((torch.arange(7), graphs), 0)
    (mu, log_std), z = seen
    assert torch.equal(z, mu)
    assert (log_std.exp() == 0).all()
    assert float(logged["train/kl"]) == 0.0
    torch.testing.assert_close(loss, logged["train/ops_loss"] + logged["train/adjacency_loss"])
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def graph_of(labels, *arcs):
    adjacency = torch.zeros(6, 6, dtype=torch.bool)
    adjacency[tuple(zip(*arcs, strict=True))] = True
    return torch.tensor(labels), adjacency


LIMITS = {
    "all labels differ": (graph_of([0, 1, 2, 3, 4, -1], (0, 1), (1, 2), (2, 3), (3, 4)), True),
    "two padded vertices": (graph_of([0, 1, 2, 4, -1, -1], (0, 1), (1, 2), (2, 3)), False),
    "twins": (graph_of([0, 1, 1, 2, 4, -1], (0, 1), (0, 2), (1, 3), (2, 3), (3, 4)), False),
    "twins with an arc": (graph_of([0, 1, 1, 2, 4, -1], (0, 1), (0, 2), (1, 2), (1, 3), (2, 3), (3, 4)), True),
    "mirrored paths": (graph_of([0, 1, 2, 1, 2, 4], (0, 1), (1, 2), (2, 5), (0, 3), (3, 4), (4, 5)), False),
    "with a rung": (graph_of([0, 1, 2, 1, 2, 4], (0, 1), (1, 2), (2, 5), (0, 3), (3, 4), (4, 5), (1, 3)), False),
    "with a diagonal": (graph_of([0, 1, 2, 1, 2, 4], (0, 1), (1, 2), (2, 5), (0, 3), (3, 4), (4, 5), (1, 4)), True),
    "same labels, other places": (graph_of([0, 1, 1, 2, 4, -1], (0, 1), (1, 2), (2, 3), (3, 4), (0, 3)), True),
}


@pytest.mark.parametrize("name", LIMITS)
def test_what_a_dot_product_can_give_back(name):
    (ops, adjacency), expected = LIMITS[name]
    assert dot_product_limit(CellGraph(ops[None], adjacency[None])).tolist() == [expected]


def test_the_limit_holds_for_a_real_encoder():
    """Equal latent vectors where the limit says no: no threshold, no weights can bring such a graph back."""
    ops, adjacency = map(torch.stack, zip(*(graph for graph, _ in LIMITS.values()), strict=True))
    module = small(num_layers=4).eval()
    with torch.no_grad():
        z = module.encode(CellGraph(ops, adjacency))[0]
    linked = adjacency | adjacency.mT
    for b, (_, possible) in enumerate(LIMITS.values()):
        dots = z[b] @ z[b].T
        same = [(u, v) for u in range(6) for v in range(u) if torch.allclose(z[b, u], z[b, v], atol=1e-6)]
        clash = any(
            not linked[b, u, v] or any(linked[b, u, w] != linked[b, v, w] for w in range(6) if w not in (u, v))
            for u, v in same
        )
        assert clash == (not possible)
        assert all(dots[u, v] > 0 for u, v in same)


def test_one_cycle_rises_for_a_tenth_and_falls_along_a_cosine():
    factors = [one_cycle(step, 100) for step in range(101)]
    np.testing.assert_allclose(factors[:9], np.arange(1, 10) / 10)
    assert factors[10] == max(factors) == 1.0
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0.0, abs=1e-12)
    assert one_cycle(150, 100) == pytest.approx(0.0, abs=1e-12)
    assert one_cycle(10**6, math.inf) > 0


def test_the_schedule_is_taken_step_by_step(tmp_path):
    trainer = fit(tmp_path, small(schedule="one_cycle", optimizer=adam), 2)
    (optimizer,) = trainer.optimizers
    total = trainer.estimated_stepping_batches
    assert trainer.global_step == total
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * one_cycle(total, total))


def test_discretise_keeps_the_likeliest_label_and_arcs_above_one_half_in_the_upper_triangle():
    ops = torch.tensor([[[0.1, 0.3, 0.2], [5.0, -1.0, 4.9], [-3.0, -2.0, -1.0]]])
    adjacency = torch.tensor([[[9.0, 0.1, -0.1], [9.0, 9.0, 2.0], [9.0, 9.0, 9.0]]])
    graph = small(num_ops=3).discretise(Decoded(ops, adjacency))
    assert graph.ops.tolist() == [[1, 0, 2]]
    assert graph.adjacency.tolist() == [[[False, True, False], [False, False, True], [False, False, False]]]


def test_messages_flow_along_and_against_arcs(graphs):
    module = small().eval()
    turned = CellGraph(graphs.ops, graphs.adjacency.mT)
    torch.testing.assert_close(module.encode(graphs)[0], module.encode(turned)[0])


def test_the_embedding_is_the_mean_over_vertices_and_ignores_their_order(graphs):
    module = small().eval()
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    shuffled = CellGraph(graphs.ops[:, order], graphs.adjacency[:, order][:, :, order])
    torch.testing.assert_close(module.embed(graphs), module.embed(shuffled), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        module.embed(graphs).detach().numpy(), module.encode(graphs)[0].detach().numpy().sum(axis=1) / 6, rtol=1e-4,
        atol=1e-6,
    )  # fmt: skip


def fit(tmp_path, module, epochs, watch=None, **arguments):
    callbacks = [watch] if watch is not None else []
    trainer = quiet_trainer(tmp_path, max_epochs=epochs, callbacks=callbacks, **arguments)
    trainer.fit(module, TinyModuleContract().data())
    return trainer


def record_latents(module, monkeypatch):
    """Pairs of (epoch, did the decoder get mu itself?) for all training steps."""
    seen, encode, decode, last = [], module.encode, module.decode, {}

    def watch_encode(graph):
        last["mu"], log_std = encode(graph)
        return last["mu"], log_std

    def watch_decode(z):
        if torch.is_grad_enabled():
            seen.append((module.current_epoch, torch.equal(z, last["mu"])))
        return decode(z)

    monkeypatch.setattr(module, "encode", watch_encode)
    monkeypatch.setattr(module, "decode", watch_decode)
    return seen


@pytest.mark.parametrize(("mode", "noisy_epochs"), [("paper", {0, 1, 2}), ("reference", {0})])
def test_reference_mode_has_noise_in_its_first_epoch_only(tmp_path, monkeypatch, mode, noisy_epochs):
    module = small(mode=mode)
    seen = record_latents(module, monkeypatch)
    fit(tmp_path, module, 3)
    assert {epoch for epoch, _ in seen} == {0, 1, 2}
    assert {epoch for epoch, same in seen if not same} == noisy_epochs
    assert {epoch for epoch, same in seen if same} == {0, 1, 2} - noisy_epochs


@pytest.mark.parametrize("mode", ["paper", "reference"])
def test_reference_mode_freezes_batch_normalisation_after_the_first_epoch(tmp_path, mode):
    module = small(mode=mode)
    fit(tmp_path, module, 1)
    first = copy.deepcopy(dict(module.named_buffers()))
    weight = module.to_mu.weight.detach().clone()
    module = small(mode=mode)
    fit(tmp_path, module, 3)
    frozen = all(torch.equal(value, first[name]) for name, value in module.named_buffers())
    assert frozen == (mode == "reference")
    assert not torch.equal(module.to_mu.weight, weight)
    assert module.training == (mode == "paper")


@pytest.mark.parametrize("mode", ["paper", "reference"])
def test_the_loss_is_assembled_from_its_parts(graphs, mode, tmp_path):
    module = small(mode=mode, kl_weight=0.25).eval()
    logged = {}
    module.log_dict = lambda values, **_: logged.update(values)
    loss = module.training_step((torch.arange(7), graphs), 0)
    mu, log_std = module.encode(graphs)
    ops_loss, adjacency_loss = reconstruction_loss(module.decode(mu), graphs, averaged=mode == "reference")
    kl = kl_divergence(mu, log_std)
    torch.testing.assert_close(logged["train/ops_loss"], ops_loss)
    torch.testing.assert_close(logged["train/adjacency_loss"], adjacency_loss)
    torch.testing.assert_close(logged["train/kl"], kl)
    assert loss is logged["train/loss"]
    weight = 1 / (7 * 6) if mode == "reference" else 0.25
    torch.testing.assert_close(loss, ops_loss + adjacency_loss + weight * kl)
    more = small(mode=mode, kl_weight=5.0).eval()
    more.log_dict = lambda *_, **__: None
    changed = more.training_step((torch.arange(7), graphs), 0) - loss
    # The released code's weight is its own.
    expected = 0.0 if mode == "reference" else (5.0 - 0.25) * float(kl.detach())
    assert float(changed.detach()) == pytest.approx(expected, abs=1e-5)


def test_noise_differs_between_steps_seeds_and_ranks_and_repeats():
    def draw(seed=0, step=0, rank=0):
        module = small(seed=seed)
        module.__class__ = type("At", (Arch2Vec,), {"global_step": step, "global_rank": rank})
        return torch.rand(4, generator=module._generator()).tolist()

    draws = [draw(), draw(seed=1), draw(step=1), draw(rank=1)]
    assert len({tuple(d) for d in draws}) == 4
    assert draw() == draws[0]


def test_dropout_rescales_what_it_keeps(graphs, monkeypatch):
    module = small(dropout=0.5).train()
    with torch.no_grad():
        module.to_log_std.weight.zero_()
        module.to_log_std.bias.fill_(-50.0)  # no noise worth mentioning
    module.log_dict = lambda *_, **__: None
    monkeypatch.setattr(Arch2Vec, "global_step", 0)
    seen = []
    decode = module.decode
    module.decode = lambda z: seen.append(z) or decode(z)
    buffers = copy.deepcopy(module)
    module.training_step((torch.arange(7), graphs), 0)
    mu = buffers.encode(graphs)[0]
    kept = seen[0] != 0
    assert 0.3 < kept.float().mean() < 0.7
    torch.testing.assert_close(seen[0], torch.where(kept, 2 * mu, 0.0))


def test_whole_graph_accuracy_by_hand(graphs, monkeypatch):
    """Of seven graphs, one gets a wrong label, one a wrong arc, one both, one a wrong label at a padded vertex."""
    module = small().eval()
    truth = CellGraph(graphs.ops.clamp_min(0), graphs.adjacency)
    guess = CellGraph(truth.ops.clone(), truth.adjacency.clone())
    guess.ops[3, 1] = (guess.ops[3, 1] + 1) % 5
    guess.adjacency[4, 0, 5] ^= True
    guess.ops[5, 2] = (guess.ops[5, 2] + 1) % 5
    guess.adjacency[5, 1, 4] ^= True
    guess.ops[0, 5] = 4  # vertex 5 of graph 0 is padding
    logits = Decoded(10 * torch.nn.functional.one_hot(guess.ops, 5).float(), 20.0 * guess.adjacency - 10)
    monkeypatch.setattr(module, "decode", lambda z: logits)
    logged = {}
    monkeypatch.setattr(module, "log", lambda name, value, **_: logged.update({name: value.item()}))
    module.validation_step((torch.arange(7), graphs), 0)
    assert logged["val/graph_accuracy"] == pytest.approx(4 / 7)
    assert logged["val/ops_accuracy"] == pytest.approx(1 - 2 / 40)  # 42 vertices, 2 of them padding
    assert logged["val/adjacency_accuracy"] == pytest.approx(1 - 2 / (7 * 15))
    # Padding counts as the first label: right at one of the two padded vertices.
    assert logged["val/ops_accuracy_published"] == pytest.approx(1 - 3 / 42)


def test_an_arc_to_padding_is_wrong(graphs, monkeypatch):
    module = small().eval()
    adjacency = graphs.adjacency.clone()
    adjacency[1, 2, 5] = True
    logits = Decoded(10 * one_hot(graphs.ops, 5), 20.0 * adjacency - 10)
    monkeypatch.setattr(module, "decode", lambda z: logits)
    logged = {}
    monkeypatch.setattr(module, "log", lambda name, value, **_: logged.update({name: value.item()}))
    module.validation_step((torch.arange(7), graphs), 0)
    assert logged["val/graph_accuracy"] == pytest.approx(6 / 7)


def test_training_learns_to_reconstruct(tmp_path):
    module = small(hidden_dim=32, latent_dim=8, dropout=0.0, optimizer=adam)
    (before,) = quiet_trainer(tmp_path).validate(module, TinyModuleContract().data(), verbose=False)
    after = fit(tmp_path, module, 10).callback_metrics
    assert after["val/loss"] < 0.7 * before["val/loss"]
    for share in ("ops_accuracy", "adjacency_accuracy"):
        assert after[f"val/{share}"] > before[f"val/{share}"]
        assert after[f"val/{share}"] > 0.5


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.01)


@pytest.mark.parametrize(
    "arguments", [{"dropout": 1.0}, {"dropout": -0.1}, {"kl_weight": -1.0}, {"num_layers": 0}, {"hidden_dim": 0}]
)
def test_nonsense_is_refused(arguments):
    with pytest.raises(UsageError, match=next(iter(arguments))):
        small(**arguments)


def test_a_joint_decoder_needs_to_know_the_number_of_vertices():
    with pytest.raises(UsageError, match="num_vertices"):
        small(decoder="joint")


@pytest.mark.parametrize(
    ("arguments", "name"),
    [({}, "Arch2Vec"), ({"encoder": "gcn"}, "VGAE"), ({"encoder": "gcn", "variational": False}, "GAE")],
)
def test_methods_have_the_names_of_papers(arguments, name):
    assert Arch2Vec(num_ops=5, **arguments).method == name


@pytest.mark.parametrize(
    "wrong", [{"mode": "Reference"}, {"encoder": "gat"}, {"decoder": "dot"}, {"schedule": "cosine"}]
)
def test_unknown_choices_are_refused(wrong):
    with pytest.raises(UsageError, match=f"got '{next(iter(wrong.values()))}', expected '"):
        Arch2Vec(num_ops=5, **wrong)
