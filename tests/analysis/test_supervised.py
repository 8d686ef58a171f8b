import torch

from lightning_nas.analysis.runs import read_accuracies
from lightning_nas.analysis.supervised import fitted_cells, supervised_tables
from tests.contract import TinySpace, write_tiny_table


def test_tables_of_trained_encoders(tmp_path):
    write_tiny_table(tmp_path / "tiny.npz")
    space = TinySpace()
    truth = read_accuracies(space, None, "toy", None, str(tmp_path))
    first, second = supervised_tables(space, truth, num_samples=20, num=2, seed=0)
    assert first.shape == second.shape == (81, 16)
    assert (first.abs() <= 1).all()
    assert not torch.equal(first, second)
    (alone,) = supervised_tables(space, truth, num_samples=20, num=1, seed=0)
    assert torch.allclose(alone, first, atol=1e-4)


def test_cells_of_a_fit_are_distinct_and_do_not_depend_on_the_number_of_fits():
    chosen = fitted_cells(50, 20, 3, seed=1)
    assert all(len(row.unique()) == 20 for row in chosen)
    assert torch.equal(fitted_cells(50, 20, 1, seed=1), chosen[:1])
