import numpy as np
import torch
from sklearn.gaussian_process.kernels import Matern

from lightning_nas.nn.kernels import distance_factors, matern52, squared_distances


def test_matern_equals_scikit_learn():
    x = np.random.default_rng(0).normal(size=(6, 3))
    distances = squared_distances(torch.from_numpy(x), torch.from_numpy(x))
    np.testing.assert_allclose(distances, ((x[:, None] - x) ** 2).sum(-1), atol=1e-12)
    np.testing.assert_allclose(matern52(distances / 0.7**2), Matern(0.7, nu=2.5)(x), rtol=1e-6, atol=1e-9)


def test_distances_of_every_run():
    a, b = torch.randn(2, 4, 3, generator=torch.manual_seed(0)), torch.randn(2, 5, 3, generator=torch.manual_seed(1))
    np.testing.assert_allclose(squared_distances(a, b), torch.cdist(a, b) ** 2, atol=1e-5)
    np.testing.assert_allclose(squared_distances(a, b[0]), torch.cdist(a, b[:1].expand(2, -1, -1)) ** 2, atol=1e-5)


def test_factors_give_distances():
    points = torch.randn(7, 3, generator=torch.manual_seed(2))
    left, right = distance_factors(points)
    torch.testing.assert_close(left @ right.T, torch.cdist(points, points) ** 2, atol=1e-5, rtol=0)
