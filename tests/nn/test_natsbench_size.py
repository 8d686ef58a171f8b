import pytest
import torch
from torch import nn

from lightning_nas.nn.complexity import count_flops, count_parameters
from lightning_nas.nn.natsbench_size import SizedCell, SizedNetwork


@pytest.mark.parametrize(
    ("widths", "classes", "size", "parameters", "flops"),
    [  # as published with the benchmark
        ((8, 8, 8, 8, 8), 10, 32, 0.011714, 4.481114),
        ((8, 8, 8, 16, 32), 10, 32, 0.049202, 6.84065),
        ((8, 8, 40, 32, 40), 10, 32, 0.144834, 21.827994),
        ((8, 8, 40, 32, 40), 100, 32, 0.148524, 21.831684),
        ((8, 8, 40, 32, 40), 120, 16, 0.149344, 5.461816),
    ],
)
def test_sizes_are_the_published_ones(widths, classes, size, parameters, flops):
    network = SizedNetwork(widths, classes)
    assert count_parameters(network) == round(parameters * 1e6)
    assert count_flops(network, (3, size, size)) == round(flops * 1e6)
    assert network(torch.randn(2, 3, size, size)).shape == (2, classes)


def test_a_cell_is_the_sum_over_its_edges():
    torch.manual_seed(0)
    cell, x = SizedCell(4, 6).eval(), torch.randn(2, 4, 5, 5)
    one = cell.first(x)
    two = cell.second(x) + cell.first_to_second(one)
    expected = cell.shortcut(x) + cell.first_to_output(one) + cell.second_to_output(two)
    torch.testing.assert_close(cell(x), expected)
    assert isinstance(SizedCell(4, 4).shortcut, nn.Identity)
