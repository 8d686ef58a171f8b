import pytest
import torch

from lightning_nas.analysis.curvature import _hessian, curvature, measure_curvature
from lightning_nas.errors import UsageError
from lightning_nas.ledger import read_results
from lightning_nas.nn.mixing import DirichletMixing
from lightning_nas.nn.supernet import frozen_statistics
from tests.analysis.test_discretisation import run  # noqa: F401
from tests.modules.test_darts import batch, make_module


def test_the_hessian_is_what_differences_of_gradients_say():
    module = make_module().double()
    module.train()
    batches, at = [batch(1), batch(2, size=6)], torch.rand(1, 6, 5, dtype=torch.float64)

    def gradient(point):
        point = point.clone().requires_grad_()
        loss = sum(module.loss(each, point.softmax(-1)) * len(each[1]) for each in batches) / 18
        return torch.autograd.grad(loss, point)[0].flatten()

    with frozen_statistics(module.network):
        found = _hessian(module, lambda alpha: alpha.softmax(-1), at, batches)
        for place in (0, 7, 29):
            step = torch.zeros(30, dtype=torch.float64)
            step[place] = 1e-5
            ahead, behind = gradient(at + step.view_as(at)), gradient(at - step.view_as(at))
            torch.testing.assert_close(found[place], (ahead - behind) / 2e-5, rtol=1e-4, atol=1e-6)


def test_alphas_that_all_grow_change_nothing_in_a_softmax():
    module = make_module().double()
    module.train()
    with frozen_statistics(module.network):
        found = _hessian(module, lambda alpha: alpha.softmax(-1), torch.rand(1, 6, 5).double(), [batch(1)])
    edge = torch.zeros(6, 5, dtype=torch.float64)
    edge[2] = 1.0
    assert (found @ edge.flatten()).abs().max() < 1e-9
    assert found.abs().max() > 1e-3


def test_both_curvatures_of_a_mixing():
    module = make_module(mixing=DirichletMixing()).double()
    found = measure_curvature(module, [batch(1)])
    module.train()
    with frozen_statistics(module.network):
        mixed = module.mixing.mean(module.alpha.detach(), module.active)
        hessian = _hessian(module, lambda weights: weights, mixed, [batch(1)])
    assert found["trace in weights of operations"] == pytest.approx(float(hessian.diagonal().sum()))
    assert found["largest eigenvalue in weights of operations"] == pytest.approx(
        float(torch.linalg.eigvals(hessian).real.max())
    )


def test_a_run_leaves_a_table(run, tmp_path):  # noqa: F811
    curvature([run], output=tmp_path, record=tmp_path / "ledger")
    (result,) = read_results(tmp_path / "ledger")
    assert [row.label for row in result.rows] == ["DrNAS"] * 4
    with pytest.raises(UsageError, match="no run"):
        curvature([])
