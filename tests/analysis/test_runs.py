import shutil

import numpy as np
import pytest
import torch
import yaml

from lightning_nas.analysis.runs import load_runs, read_accuracies, representations, untrained
from lightning_nas.benchmarks.table import write_table
from lightning_nas.errors import RunFolderError, UsageError
from tests.contract import TinySpace, write_tiny_table


def test_seeds_of_one_method_are_one_group(trained):
    groups = load_runs([trained.folder / "run0", trained.folder / "run1", trained.folder / "run0"])
    assert {label: [run.folder.name for run in group] for label, group in groups.items()} == {
        "Arch2Vec": ["run0", "run1"]
    }
    first, second = groups["Arch2Vec"]
    assert first.space == TinySpace()
    assert first.embeddings.shape == (81, 3)
    assert not torch.equal(first.embeddings, second.embeddings)


def test_other_arguments_are_another_method(trained, tmp_path):
    other = tmp_path / "wider"
    shutil.copytree(trained.folder / "run1", other)
    config = yaml.safe_load((other / "config.yaml").read_text())
    config["model"]["init_args"]["kl_weight"] = 0.5
    (other / "config.yaml").write_text(yaml.safe_dump(config))
    assert list(load_runs([trained.folder / "run0", other])) == ["Arch2Vec (run0)", "Arch2Vec (wider)"]


def test_embeddings_are_the_modules_own_in_evaluation_mode(trained):
    (run,) = load_runs([trained.folder / "run0"])["Arch2Vec"]
    assert not run.module.training
    with torch.no_grad():
        assert torch.allclose(run.embeddings, run.module.embed(run.space.all_graphs()), atol=1e-6)


def test_untrained_weights_are_fresh_and_repeat(trained):
    (run,) = load_runs([trained.folder / "run0"])["Arch2Vec"]
    before = run.embeddings.clone()
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    one, same, other = (run.embed(untrained(run.module, seed)) for seed in (3, 3, 4))
    assert torch.equal(torch.rand(1), expected), "global randomness was touched"
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(one, before)
    assert torch.equal(run.embed(run.module), before)


def test_names_of_representations_are_distinct(trained):
    from lightning_nas.spaces.encodings import OneHotEncoding

    groups = load_runs([trained.folder / "run0", trained.folder / "run1"])
    found = representations(groups, {"codes": OneHotEncoding()}, {"supervised": []}, seed=0)
    assert {label: len(tables) for label, tables in found.items()} == {
        "Arch2Vec": 2, "Arch2Vec, untrained": 2, "supervised": 0, "codes": 1,
    }  # fmt: skip
    with pytest.raises(UsageError, match="'Arch2Vec', which is taken"):
        representations(groups, {"Arch2Vec": OneHotEncoding()}, {}, seed=0)


def test_folders_that_cannot_be_analysed(trained, tmp_path):
    with pytest.raises(UsageError, match="no run folders"):
        load_runs([])
    with pytest.raises(RunFolderError, match="no such folder"):
        load_runs([tmp_path / "gone"])
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    shutil.copy(trained.folder / "run0" / "checkpoints" / "last.ckpt", tmp_path / "run" / "checkpoints")
    config = yaml.safe_load((trained.folder / "run0" / "config.yaml").read_text())
    del config["data"]["init_args"]["space"]
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(RunFolderError, match=r"(?s)does not say on which data.*arguments are required: space"):
        load_runs([tmp_path / "run"])


def test_runs_of_two_spaces(trained, tmp_path):
    shutil.copytree(trained.folder / "run0", tmp_path / "other")
    config = yaml.safe_load((tmp_path / "other" / "config.yaml").read_text())
    config["data"]["init_args"]["space"] = "tests.contract.OtherSpace"
    (tmp_path / "other" / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UsageError, match=r"'tiny' and .*other of 'other'"):
        load_runs([trained.folder / "run0", tmp_path / "other"])


def test_accuracies_of_a_table(tmp_path):
    write_tiny_table(tmp_path / "tiny.npz")
    found = read_accuracies(TinySpace(), None, "toy", None, str(tmp_path))
    assert (found.dataset, found.epochs, found.table, len(found.values)) == ("toy", 9, "tiny", 81)
    assert found.members.tolist() == list(range(81))
    for wrong in ({"dataset": None}, {"dataset": "gone"}, {"dataset": "toy", "epochs": 3}):
        with pytest.raises(UsageError, match=r"expected one of second 9, toy 9"):
            read_accuracies(TinySpace(), None, **{"epochs": None, **wrong}, data_dir=str(tmp_path))


def test_a_table_of_a_part(tmp_path):
    columns = {"d/test@1": np.array([5.0, 6.0]), "member": np.array([40, 7])}
    write_table(tmp_path / "tiny.npz", {"space": "tiny"}, columns)
    found = read_accuracies(TinySpace(), None, None, None, str(tmp_path))
    assert found.members.tolist() == [40, 7]
    assert found.values.tolist() == [5.0, 6.0]


def test_a_table_of_another_space(tmp_path):
    write_table(tmp_path / "bits.npz", {"space": "bits"}, {"d/test@1": np.zeros(4)})
    with pytest.raises(UsageError, match="is a table of 'bits', expected one of 'tiny'"):
        read_accuracies(TinySpace(), str(tmp_path / "bits.npz"), None, None, None)
