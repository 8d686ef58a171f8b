import numpy as np
import pytest
import torch

from lightning_nas.analysis.runs import load_runs, read_accuracies
from lightning_nas.analysis.views import agreement, data_of, fitted, network_views, predicted
from lightning_nas.errors import UsageError


class Nearest:
    """A regression of scikit-learn's kind that remembers what it was given."""

    def fit(self, features, scores):
        self.features, self.scores = features, scores
        return self

    def predict(self, features):
        return features.sum(axis=1)


def test_every_initialisation_is_a_row_and_predictions_are_means():
    features = torch.arange(12.0).reshape(3, 2, 2)
    regression = fitted(Nearest(), features, torch.tensor([1.0, 2.0, 3.0]))
    assert regression.features.tolist() == features.flatten(0, 1).tolist()
    assert regression.scores.tolist() == [1, 1, 2, 2, 3, 3]
    assert predicted(regression, features).tolist() == [(0 + 1 + 2 + 3) / 2, (4 + 5 + 6 + 7) / 2, (8 + 9 + 10 + 11) / 2]


def test_agreement_of_one_number_is_none():
    truth = np.array([1.0, 2.0, 3.0, 4.0])
    assert agreement(truth * 2, truth) == {"Pearson": pytest.approx(1.0), "Kendall": pytest.approx(1.0)}
    assert agreement(np.ones(4), truth) == {"Pearson": 0.0, "Kendall": 0.0}


def test_architectures_share_their_canonical_networks_features(contrastive):
    (run,) = load_runs([contrastive / "one0"])["ContrastiveEncoder"]
    (networks,) = data_of(run).jacobian_sets()
    truth = read_accuracies(run.space, str(contrastive / "buildable.npz"), "toy", None, None)
    views = network_views(run, networks, truth)
    assert torch.equal(views.scores, truth.values)
    assert views.connected.all()
    assert {label: tuple(table.shape) for label, table in views.features.items()} == {
        "ContrastiveEncoder": (45, 2, 4), "singular values": (45, 2, 8), "largest singular value": (45, 2, 1),
        "parameters": (45, 1, 1), "multiply-adds": (45, 1, 1),
    }  # fmt: skip
    means = views.features["ContrastiveEncoder"].mean(dim=1)[views.networks]
    torch.testing.assert_close(means, run.embeddings)
    assert torch.equal(views.networks, views.networks[run.space.representatives])
    values = views.features["singular values"]
    assert (values.diff(dim=-1) <= 1e-5).all()


def test_other_data_are_refused(trained):
    (run,) = load_runs([trained.folder / "run0"])["Arch2Vec"]
    with pytest.raises(UsageError, match="trained on CellDataModule, expected JacobianDataModule"):
        data_of(run)
