import numpy as np
import pytest
import torch

from lightning_nas.benchmarks.table import write_table
from lightning_nas.benchmarks.tabular import TabularBenchmark
from lightning_nas.errors import BenchmarkDataError, SpaceError
from lightning_nas.spaces.categorical import CategoricalSpace


class Pairs(CategoricalSpace):
    """Six architectures."""

    name, choices = "pairs", (("a", "b"), ("x", "y", "z"))
    graph = from_graph = build = None


SPACE = Pairs()
VALID = np.array([[10.0, 30.0], [20, 20], [50, 70], [1, 3], [5, 5], [np.nan, 8]])
COLUMNS = {
    "toy/valid@1": VALID,
    "toy/valid@9": np.arange(6.0) * 10,
    "toy/test@9": np.array([11.0, 12, 13, 99, 15, 16]),
    "toy/cost@1": np.arange(6.0),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_NAS_DATA", str(tmp_path))
    write_table(tmp_path / "toy.npz", {"space": "pairs"}, COLUMNS)
    return tmp_path


def toy(**options):
    return TabularBenchmark(SPACE, **{"table": "toy", "dataset": "toy", "epochs": 1, "test_epochs": 9, **options})


def test_scores_by_architecture(folder):
    got = toy().evaluate([SPACE[2], SPACE[0], SPACE[2]])
    assert got.valid.tolist() == [60, 20, 60]
    assert got.test.tolist() == [13, 11, 13]
    assert got.cost.tolist() == [2, 0, 2]
    assert all(column.dtype == torch.float64 for column in got)


def test_lookup_of_any_shape_and_fidelity(folder):
    benchmark, indices = toy(), torch.tensor([[0, 1], [5, 3]])
    assert benchmark.lookup(indices).valid.tolist() == [[20, 20], [8, 2]]
    longer = benchmark.lookup(indices, epochs=9)
    assert longer.valid.tolist() == [[0, 10], [50, 30]]
    assert longer.test.tolist() == [[11, 12], [16, 99]]
    assert longer.cost.isnan().all()


def test_no_architectures(folder):
    assert toy().evaluate([]).valid.shape == (0,)


def test_the_optimum_is_of_the_test_column(folder):
    assert toy().optimum == 99


def test_one_seed(folder):
    assert toy(seed=1).lookup(torch.arange(6)).valid.tolist() == [30, 20, 70, 3, 5, 8]
    with pytest.raises(BenchmarkDataError, match=r"no number in 1 of 6 rows \(the first is row 5\)"):
        toy(seed=0)


def test_identity_tells_apart_what_gives_other_answers(folder):
    identities = [toy(**o).identity() for o in ({}, {"epochs": 9}, {"seed": 1})]
    assert all(a != b for i, a in enumerate(identities) for b in identities[:i])
    assert toy().identity() == identities[0]


@pytest.mark.parametrize("path", ["toy.npz", "~/toy.npz"])
def test_a_table_by_path(folder, monkeypatch, path):
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(folder)
    assert toy(table=path).optimum == 99


def test_data_dir_goes_before_the_environment(folder, monkeypatch):
    monkeypatch.setenv("LIGHTNING_NAS_DATA", "/nowhere")
    assert toy(data_dir=str(folder)).optimum == 99


def test_missing_table(folder):
    with pytest.raises(BenchmarkDataError, match=r"download NATS-tss.*lightning-nas data prepare nasbench201 --source"):
        TabularBenchmark(SPACE)


@pytest.mark.parametrize(
    ("options", "missing"),
    [({"epochs": 5}, "toy/valid@5"), ({"test_epochs": 1}, "toy/test@1"), ({"dataset": "cifar10"}, "cifar10/test@9")],
)
def test_missing_columns_are_found_at_once(folder, options, missing):
    with pytest.raises(BenchmarkDataError, match=f"no column '{missing}'; expected one of toy/cost@1, toy/test@9"):
        toy(**options)


def test_not_a_number_in_a_column_that_is_used(folder):
    write_table(folder / "toy.npz", {"space": "pairs"}, {**COLUMNS, "toy/test@9": np.full(6, np.nan)})
    with pytest.raises(BenchmarkDataError, match="'toy/test@9' holds no number in 6 of 6 rows"):
        toy()


@pytest.mark.parametrize(("space", "rows"), [("nasbench201", 6), ("pairs", 5)])
def test_a_table_of_another_space(folder, space, rows):
    columns = {name: values[:rows] for name, values in COLUMNS.items()}
    write_table(folder / "toy.npz", {"space": space}, columns)
    with pytest.raises(
        BenchmarkDataError, match=rf"holds {rows} members of the space '{space}', expected 6 of 'pairs'"
    ):
        toy()


def test_a_stranger(folder):
    with pytest.raises(SpaceError):
        toy().evaluate([(7, 7)])


@pytest.mark.parametrize("index", [-1, 6])
def test_an_index_that_is_none(folder, index):
    for benchmark in (toy(), partial(folder)):
        with pytest.raises(BenchmarkDataError, match=rf"got the index {index}, expected 0 to 5, the arch.*'pairs'"):
            benchmark.lookup(torch.tensor([4, index]))


def partial(folder, members=(4, 0, 3), **columns):
    rows = {name: values[[4, 0, 3]] for name, values in COLUMNS.items()}
    write_table(folder / "part.npz", {"space": "pairs"}, {**rows, "member": np.array(members), **columns})
    return toy(table="part")


def test_a_table_of_a_part_of_the_space(folder):
    part, whole = partial(folder), toy()
    assert whole.members is None
    assert part.members.tolist() == [4, 0, 3]
    assert part.optimum == 99
    two = {name: values[[4, 0]] for name, values in COLUMNS.items()}
    write_table(folder / "two.npz", {"space": "pairs"}, {"member": np.array([4, 0]), **two})
    assert toy(table="two").optimum == 15, "the best of those that are there"
    indices = torch.tensor([[0, 3], [4, 4]])
    for ours, theirs in zip(part.lookup(indices), whole.lookup(indices), strict=True):
        assert torch.equal(ours, theirs)
    archs = [SPACE[i] for i in (3, 4, 3)]
    assert part.evaluate(archs).valid.tolist() == whole.evaluate(archs).valid.tolist() == [2, 5, 2]
    assert part.evaluate([]).valid.shape == (0,)


def test_parts_and_the_whole_are_told_apart(folder):
    part, whole = partial(folder).identity(), toy().identity()
    assert part["members"] == 3
    assert "members" not in whole, "searches of before go on"


def test_an_architecture_that_the_table_lacks(folder):
    part = partial(folder)
    with pytest.raises(BenchmarkDataError, match=r"holds 3 of the 6 architectures .* \(index 5\) is not among"):
        part.evaluate([SPACE[0], SPACE[5]])
    with pytest.raises(SpaceError):
        part.evaluate([(7, 7)])


def test_a_part_whose_results_are_shared(folder):
    shared = {name: values[[4, 0]] for name, values in COLUMNS.items()}
    columns = {**shared, "row": np.array([0, 1, 1]), "member": np.array([5, 2, 3])}
    write_table(folder / "part.npz", {"space": "pairs"}, columns)
    part = toy(table="part")
    assert part.members.tolist() == [5, 2, 3]
    assert part.lookup(torch.tensor([2, 3, 5])).test.tolist() == [11, 11, 15]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ((4, 0, 4), r"rows \[0, 2\] are both of the architecture 4"),
        ((4, 6, 3), "'member' is 6 in row 1, expected 0 to 5"),
        ((-1, 0, 3), "'member' is -1 in row 0"),
        ((4.0, 0.0, 3.0), r"'member' is float64 of shape \(3,\)"),
        ((4, 0), "'member' has 2 entries, expected one for each of 3 rows"),
    ],
)
def test_members_that_cannot_be(folder, members, message):
    with pytest.raises(BenchmarkDataError, match=message):
        partial(folder, members)


@pytest.mark.data
@pytest.mark.parametrize(
    ("dataset", "best", "at"), [("cifar10", 94.37, 6111), ("cifar100", 73.51, 9930), ("imagenet16", 47.31, 857)]
)
def test_real_table(cells, real_table, dataset, best, at):
    benchmark = TabularBenchmark(cells, str(real_table.path), dataset, epochs=12)
    assert benchmark.optimum == pytest.approx(best, abs=0.01)
    scores = benchmark.lookup(torch.arange(len(cells)))
    assert scores.test.argmax() == at
    assert benchmark.evaluate([cells[at]]).valid == scores.valid[at]


def test_trainings_go_on_where_the_table_has_curves(folder):
    assert not toy(epochs=9).resumes  # epochs 1 and 9: two trainings, each to the end of its schedule
    assert not toy().resumes
    curve = {f"toy/valid@{epoch}": np.arange(6.0) + epoch for epoch in range(1, 10)}
    write_table(folder / "curves.npz", {"space": "pairs"}, COLUMNS | curve)
    assert toy(table="curves", epochs=9).resumes
