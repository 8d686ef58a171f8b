import json

import pytest
import torch

from lightning_nas.analysis.discretisation import EdgeWorth, _agreement, _skips, discretisation, worth_figure
from lightning_nas.analysis.supernets import load_supernet, supernet_accuracy
from lightning_nas.errors import RunFolderError, UsageError
from lightning_nas.ledger import read_results
from lightning_nas.nn.mixing import DirichletMixing


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from lightning_nas.cli import main

    folder = tmp_path_factory.mktemp("supernet") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["lightning-nas"])
        images = "--data.init_args.images.init_args."
        main(
            [
                "fit", "--config", "darts/nasbench201_digits_drnas", "--run_dir", str(folder),
                images + "num_train", "64", images + "num_valid", "64",
                "--trainer.max_epochs", "2", "--trainer.callbacks.tune_epochs", "0",
                "--trainer.enable_progress_bar", "false",
            ]
        )  # fmt: skip
    return folder


def test_a_supernet_comes_back_with_its_mixing(run):
    module, data = load_supernet(run)
    assert isinstance(module.mixing, DirichletMixing)
    assert module.label == "DrNAS"
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert torch.equal(module.alpha, saved["state_dict"]["alpha"])
    assert module.sizes == saved["sizes"]
    assert 0.0 <= supernet_accuracy(module, data) <= 100.0


def test_every_operation_of_an_edge_is_tried(run, tmp_path):
    discretisation([run], num_edges=2, epochs=1, output=tmp_path, record=tmp_path / "ledger")
    ((_, edges),) = json.loads((tmp_path / "discretisation.json").read_text()).items()
    assert [len(edge["accuracies"]) for edge in edges] == [5, 5]
    assert sum(edges[0]["weights"]) == pytest.approx(1.0)
    (result,) = read_results(tmp_path / "ledger")
    assert [row.unit for row in result.rows] == ["", "%", "%", "%"]
    assert (tmp_path / "discretisation.png").exists()


def test_skip_connections_are_counted_where_they_are_first():
    by_weight = EdgeWorth("a", ("skip_connect", "conv"), [0.6, 0.4], [50.0, 60.0])
    by_worth = EdgeWorth("b", ("skip_connect", "conv"), [0.4, 0.6], [70.0, 60.0])
    assert list(_skips({"run": [by_weight, by_weight, by_worth, by_weight]}).values()) == [[75.0], [25.0]]
    assert _skips({"run": [EdgeWorth("a", ("conv", "pool"), [0.6, 0.4], [1.0, 2.0])]}) == {}


def test_an_unknown_kind_of_cell_is_said(run):
    with pytest.raises(UsageError, match="cell='normal', expected one of cell"):
        discretisation([run], cell="normal")


def test_agreement_is_a_rank_correlation():
    same = EdgeWorth("a", ("x", "y", "z"), [0.1, 0.3, 0.6], [50.0, 60.0, 70.0])
    other = EdgeWorth("b", ("x", "y", "z"), [0.6, 0.3, 0.1], [50.0, 60.0, 70.0])
    correlations, wrong = _agreement({"run": [same, other], "second": [same]})
    assert correlations == pytest.approx([0.0, 1.0])
    assert wrong == [50.0, 0.0]
    assert len(worth_figure([same, other]).axes) == 4


def test_what_cannot_be_is_said(run, tmp_path):
    with pytest.raises(UsageError, match="epochs=0"):
        discretisation([run], epochs=0)
    with pytest.raises(RunFolderError):
        load_supernet(tmp_path)
