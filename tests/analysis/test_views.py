import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

from lightning_nas.analysis.runs import load_runs, read_accuracies
from lightning_nas.analysis.views import (
    Features,
    NetworkViews,
    agreement,
    data_of,
    described,
    fitted,
    jacobian_features,
    network_views,
    predicted,
    split,
)
from lightning_nas.errors import UsageError
from lightning_nas.nn.complexity import count_parameters


class Nearest:
    """A regression of scikit-learn's kind that remembers what it was given."""

    def fit(self, features, scores):
        self.features, self.scores = features, scores
        return self

    def predict(self, features):
        return features.sum(axis=1)


def test_every_initialisation_is_a_row_and_predictions_are_means():
    values = torch.arange(12.0).reshape(3, 2, 2)
    features, scores = Features(values, torch.tensor([2, 0, 1, 0])), torch.tensor([3.0, 1.0, 2.0, 1.5])
    regression = fitted(Nearest(), features, scores, torch.tensor([1, 2]))
    assert regression.features.tolist() == values[:2].flatten(0, 1).tolist()
    assert regression.scores.tolist() == [1, 1, 2, 2]
    sums = [(0 + 1 + 2 + 3) / 2, (4 + 5 + 6 + 7) / 2, (8 + 9 + 10 + 11) / 2]
    assert predicted(regression, features, torch.tensor([0, 3, 2])).tolist() == [sums[2], sums[0], sums[1]]


def test_agreement_of_one_number_is_none():
    truth = np.array([1.0, 2.0, 3.0, 4.0])
    assert agreement(truth * 2, truth) == {"Pearson": pytest.approx(1.0), "Kendall": pytest.approx(1.0)}
    assert agreement(np.ones(4), truth) == {"Pearson": 0.0, "Kendall": 0.0}


def test_architectures_share_their_canonical_networks_features(contrastive):
    (run,) = load_runs([contrastive / "one0"])["Contrastive"]
    (networks,) = data_of(run).jacobian_sets()
    truth = read_accuracies(run.space, str(contrastive / "buildable.npz"), "toy", None, None)
    views = network_views(run, networks, truth, jacobian_features(run, networks))
    assert torch.equal(views.scores, truth.values)
    assert views.connected.all()
    assert {label: tuple(kind.values.shape) for label, kind in views.features.items()} == {
        "Contrastive": (45, 2, 4), "singular values": (45, 2, 8), "largest singular value": (45, 2, 1),
        "parameters": (81, 2, 1), "multiply-adds": (81, 2, 1),
    }  # fmt: skip
    values, rows = views.features["Contrastive"]
    torch.testing.assert_close(values.mean(dim=1)[rows], run.embeddings)
    weights = [count_parameters(run.space.build(run.space.canonical(arch))) for arch in run.space]
    assert views.features["parameters"].values[:, 1, 0].tolist() == weights
    told = replace(truth, costs=torch.rand(81, 2, dtype=torch.float64))
    own = network_views(run, networks, told, {}).features
    assert torch.equal(own["multiply-adds"].values[:, 0, 0], told.costs[:, 1])  # what a table says goes first
    assert torch.equal(views.networks, views.networks[run.space.representatives])
    values = views.features["singular values"].values
    assert (values.diff(dim=-1) <= 1e-5).all()


def test_other_data_are_refused(trained):
    (run,) = load_runs([trained.folder / "run0"])["Arch2Vec"]
    with pytest.raises(UsageError, match="trained on CellDataModule, expected JacobianDataModule"):
        data_of(run)


def test_nothing_that_was_fitted_is_predicted():
    networks = torch.arange(50) // 2  # pairs of isomorphic architectures
    views = NetworkViews(networks, torch.rand(50), torch.ones(50, dtype=torch.bool), {})
    train, unseen = split(views, 10, (0, 0, 0))
    assert len(train) == 10
    assert not set(networks[train].tolist()) & set(networks[unseen].tolist())
    assert len(unseen) == 50 - 2 * len(set(networks[train].tolist()))
    assert torch.equal(train, split(views, 10, (0, 0, 0))[0])
    assert not torch.equal(train, split(views, 10, (0, 0, 1))[0])
    with pytest.raises(UsageError, match=r"num_train=49 of 50 architectures, which leaves 0"):
        split(views, 49, (0, 0, 0))


def test_disconnected_architectures_are_known(contrastive):
    (run,) = load_runs([contrastive / "both0"], several_spaces=True)["Contrastive"]
    second = data_of(run).jacobian_sets()[1]
    truth = read_accuracies(second.space, str(contrastive / "second.npz"), "toy", None, None)
    views = network_views(run, second, truth, {})
    assert views.connected.tolist() == [index != 5 for index in range(81)]


def test_runs_on_other_data_are_another_experiment(contrastive, tmp_path):
    shutil.copytree(contrastive / "one1", tmp_path / "other")
    config = yaml.safe_load((tmp_path / "other" / "config.yaml").read_text())
    config["data"]["init_args"]["normalise"] = True
    (tmp_path / "other" / "config.yaml").write_text(yaml.safe_dump(config))
    assert len(load_runs([contrastive / "one0", contrastive / "one1"])) == 1
    assert len(load_runs([contrastive / "one0", tmp_path / "other"])) == 2


def test_a_description_says_what_the_encoder_sees(contrastive):
    (run,) = load_runs([contrastive / "one0"])["Contrastive"]
    plain = described(run)
    assert plain.startswith("Jacobians (")
    run.module.spectrum = True
    assert described(run) == f"{plain}, seen as directions and logarithms of singular values"
