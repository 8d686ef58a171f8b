import numpy as np
import pytest
import torch

from lightning_nas.benchmarks.columns import TableColumns
from lightning_nas.benchmarks.table import write_table
from lightning_nas.errors import BenchmarkDataError, UsageError
from tests.contract import OtherSpace, TinySpace


@pytest.fixture
def table(tmp_path):
    columns = {
        "member": np.array([3, 70, 5]), "proxy/a": np.array([[1.0, 3.0], [40.0, 60.0], [np.nan, 2.0]]),
        "proxy/b": np.array([7.0, 5.0, 6.0]),
    }  # fmt: skip
    write_table(tmp_path / "scores.npz", {"space": "tiny"}, columns)
    return str(tmp_path / "scores.npz")


def test_means_over_initialisations_where_the_table_has_them(table):
    features = TableColumns(table, ["proxy/b", "proxy/a"]).encode_members(TinySpace(), torch.tensor([70, 3, 5, 0]))
    expected = torch.tensor([[5.0, 50.0], [7.0, 2.0], [6.0, torch.nan], [torch.nan, torch.nan]])
    torch.testing.assert_close(features, expected, equal_nan=True)


def test_ranks_have_no_gaps(table):
    features = TableColumns(table, ["proxy/a", "proxy/b"], ranks=True).encode(TinySpace())
    assert features.shape == (81, 2)
    assert features[[3, 70, 5, 0]].tolist() == [[0.0, 0.5], [0.5, -0.5], [-0.5, 0.0], [-0.5, -0.5]]


def test_isomorphic_architectures_share_their_numbers(cells, tmp_path):
    member = int((cells.representatives != torch.arange(len(cells))).nonzero()[0])
    write_table(tmp_path / "one.npz", {"space": "nasbench201"}, {"member": np.array([member]), "proxy/a": np.ones(1)})
    features = TableColumns(str(tmp_path / "one.npz"), ["proxy/a"]).encode(cells)[:, 0]
    alike = cells.representatives == cells.representatives[member]
    assert alike.sum() > 1
    assert torch.equal(~features.isnan(), alike)


def test_a_table_of_another_space_is_refused(table):
    with pytest.raises(BenchmarkDataError, match="expected one of the finite space 'other'"):
        TableColumns(table, ["proxy/a"]).encode(OtherSpace())
    with pytest.raises(BenchmarkDataError, match="no column 'proxy/c'"):
        TableColumns(table, ["proxy/c"]).encode(TinySpace())
    with pytest.raises(UsageError, match="got no columns"):
        TableColumns(table, [])
