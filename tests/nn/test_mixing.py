import pytest
import torch

from lightning_nas.errors import UsageError
from lightning_nas.nn.described import described, made
from lightning_nas.nn.mixing import (
    DirichletMixing,
    PerturbedMixing,
    SoftmaxMixing,
    UniformMixing,
    masked_softmax,
    on_simplex,
)

ALPHA = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
ACTIVE = torch.ones(1, 3, 4, dtype=torch.bool)
SOME = ACTIVE.clone()
SOME[0, 1, 2:] = False
SOME[0, 2] = False


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("mixing", [SoftmaxMixing(), UniformMixing(), DirichletMixing(), PerturbedMixing()], ids=str)
def test_weights_are_shares_of_what_is_active(mixing):
    for weights in (mixing.mean(ALPHA, SOME), mixing.sample(ALPHA, SOME, generator())):
        torch.testing.assert_close(weights.sum(dim=-1), torch.tensor([[1.0, 1.0, 0.0]], dtype=torch.float64))
        assert not weights[~SOME].any()
        assert (weights >= 0.0).all()


def test_softmax_is_torchs():
    torch.testing.assert_close(SoftmaxMixing().mean(ALPHA, ACTIVE), ALPHA.softmax(dim=-1))
    alpha = ALPHA.clone().requires_grad_()
    masked_softmax(alpha, SOME)[0, 0, 0].backward()
    assert alpha.grad.isfinite().all()
    assert alpha.grad[0, 0].any()


def test_uniform_weights_do_not_learn():
    mixing = UniformMixing()
    assert not mixing.learns
    assert mixing.mean(ALPHA, SOME)[0, 1].tolist() == [0.5, 0.5, 0.0, 0.0]


def test_dirichlet_draws_have_the_distributions_mean_and_gradient():
    mixing = DirichletMixing()
    many = ALPHA.expand(20_000, 3, 4).clone().requires_grad_()
    draws = mixing.sample(many, ACTIVE, generator())
    concentration = torch.nn.functional.elu(ALPHA) + 1
    torch.testing.assert_close(
        draws.mean(dim=0), (concentration / concentration.sum(-1, keepdim=True))[0], atol=0.01, rtol=0
    )
    torch.testing.assert_close(mixing.mean(ALPHA, ACTIVE)[0], draws.mean(dim=0).detach(), atol=0.01, rtol=0)
    # The gradient of the mean, against that of the mean's formula.
    (sampled,) = torch.autograd.grad(draws[:, 0, 0].mean(), many)
    alpha = ALPHA.clone().requires_grad_()
    (exact,) = torch.autograd.grad(mixing.mean(alpha, ACTIVE)[0, 0, 0], alpha)
    torch.testing.assert_close(sampled.sum(dim=0)[0], exact[0, 0], atol=0.01, rtol=0)
    assert torch.equal(mixing.sample(ALPHA, ACTIVE, generator(1)), mixing.sample(ALPHA, ACTIVE, generator(1)))


def test_the_divergence_is_zero_at_concentration_one():
    zero = torch.zeros(1, 3, 4)
    assert DirichletMixing(2.0).penalty(zero, ACTIVE) == pytest.approx(0.0, abs=1e-5)
    assert DirichletMixing(2.0).penalty(zero + 1.0, ACTIVE) > 0.1
    assert DirichletMixing().penalty(zero + 1.0, ACTIVE) == 0.0
    some = ALPHA[:, :2]
    rows = [torch.nn.functional.elu(row) + 1 for row in (some[0, 0], some[0, 1, :2])]
    uniform = [torch.distributions.Dirichlet(torch.ones_like(row)) for row in rows]
    pairs = zip(map(torch.distributions.Dirichlet, rows), uniform, strict=True)
    expected = sum(torch.distributions.kl_divergence(*pair) for pair in pairs)
    torch.testing.assert_close(DirichletMixing(1.0).penalty(ALPHA, SOME), expected)


@pytest.mark.parametrize("mixing", [PerturbedMixing("gaussian", 0.0, 0.1, 3), DirichletMixing(0.5), UniformMixing()])
def test_a_mixing_can_be_made_again(mixing):
    again = made(described(mixing))
    assert type(again) is type(mixing)
    assert vars(again) == vars(mixing)


def test_random_noise_stays_within_its_size_before_it_is_normalised():
    mixing, weights = PerturbedMixing(start=0.0, end=0.2), torch.full((1, 3, 4), 0.25)
    assert torch.allclose(mixing.disturb(weights, ACTIVE, 0.0, generator(), lambda mixed: None), weights)
    late = mixing.disturb(weights, ACTIVE, 1.0, generator(), lambda mixed: None)
    assert not torch.allclose(late, weights)
    torch.testing.assert_close(late.sum(dim=-1), torch.ones(1, 3))
    assert (late <= 0.45 / (0.45 + 3 * 0.05) + 1e-6).all()


def test_adversarial_noise_raises_the_loss_or_is_left_out():
    weights = torch.full((1, 3, 4), 0.25)
    slope = torch.tensor([3.0, 1.0, -1.0, -3.0])
    mixing = PerturbedMixing("adversarial", 0.1, 0.1)
    found = mixing.disturb(weights, ACTIVE, 0.5, generator(), lambda mixed: (mixed * slope).sum())
    assert (found * slope).sum() > (weights * slope).sum() + 0.5
    assert torch.equal(
        mixing.disturb(weights, ACTIVE, 0.5, generator(), lambda mixed: -(mixed - weights).square().sum()), weights
    )


def test_a_row_without_anything_left_goes_to_the_largest():
    weights = torch.tensor([[-0.3, -0.1, -0.2]])
    assert on_simplex(weights, torch.ones(1, 3, dtype=torch.bool)).tolist() == [[0.0, 1.0, 0.0]]


@pytest.mark.parametrize(
    "make",
    [
        lambda: PerturbedMixing("loud"), lambda: PerturbedMixing(start=-1.0), lambda: PerturbedMixing(num_steps=0),
        lambda: DirichletMixing(-1.0),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said(make):
    with pytest.raises(UsageError, match="expected"):
        make()
