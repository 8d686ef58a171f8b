"""Networks seen through their Jacobians: what a regression is given, and how it is judged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from lightning_nas.analysis.runs import Accuracies, TrainedRun
from lightning_nas.datamodules.jacobians import JacobianDataModule, JacobianSet
from lightning_nas.errors import UsageError

_CHUNK = 512  # networks per forward pass

Regressor = Callable[[int], Any]
"""Makes a regression of scikit-learn's kind (fit, predict) from a seed."""


class Features(NamedTuple):
    """What a regression is given, each different row once.

    Attributes:
        values: Features of m things in I initialisations, ``(m, I, d)``.
        rows: Which of them belongs to each of n architectures, ``(n,)``.
    """

    values: Tensor
    rows: Tensor


class NetworkViews(NamedTuple):
    """All architectures of a set that have a Jacobian and an accuracy.

    Attributes:
        networks: Which of the set's networks each architecture is; isomorphic ones share theirs.
        scores: Their accuracies in percent.
        connected: Whether the space has a path from input to output for them; the others score by chance.
        features: By name.

    Shapes:
        networks, scores, connected ``(n,)``.
    """

    networks: Tensor
    scores: Tensor
    connected: Tensor
    features: dict[str, Features]


def jacobian_features(run: TrainedRun, networks: JacobianSet, embedded: bool = True) -> dict[str, Tensor]:
    """What is seen in the Jacobians of a set's M networks, by a trained run and without it, ``(M, I, d)`` each.

    Args:
        run: The run.
        networks: The networks of its data.
        embedded: Whether the run's own embedding is wanted.
    """
    singular = _singular_values(data_of(run), networks)
    found = {run.method: view_embeddings(run.module, data_of(run), networks)} if embedded else {}
    return {**found, "singular values": singular, "largest singular value": singular[..., :1]}


def network_views(
    run: TrainedRun, networks: JacobianSet, truth: Accuracies, features: dict[str, Tensor]
) -> NetworkViews:
    """All that a regression may be given of the networks of one space, and their accuracies.

    Args:
        run: The run.
        networks: The networks of its data.
        truth: Their accuracies.
        features: What :func:`jacobian_features` made of them.

    Raises:
        UsageError: No architecture has a Jacobian and an accuracy.
    """
    members, places = networks.members
    position = torch.full((len(networks.space),), -1)
    position[truth.members] = torch.arange(len(truth.members))
    known = position[members] >= 0
    if not known.any():
        raise UsageError(
            f"analyze: no network of {run.folder} has an accuracy in the table {truth.table!r}, expected a table of "
            f"the space {networks.space.name!r}"
        )
    connected = getattr(networks.space, "connected", torch.ones(len(networks.space), dtype=torch.bool))
    places, asked = places[known], position[members[known]]
    shown = {label: Features(values, places) for label, values in features.items()}
    # What an architecture costs itself, where the table says it: its canonical form may have fewer operations.
    costs = networks.store.costs(networks.size).double()[places] if truth.costs is None else truth.costs[asked]
    for label, column in zip(("parameters", "multiply-adds"), costs.unbind(dim=1), strict=True):
        # Repeated, so that the trees get as many rows of everything.
        values = column[:, None, None].expand(-1, data_of(run).num_initialisations, -1)
        shown[label] = Features(values, torch.arange(len(places)))
    return NetworkViews(places, truth.values[asked], connected[members[known]], shown)


def data_of(run: TrainedRun) -> JacobianDataModule:
    """The Jacobians of a run, computed where they are missing.

    Raises:
        UsageError: Its data are something else.
    """
    if not isinstance(run.data, JacobianDataModule):
        raise UsageError(f"analyze: {run.folder} was trained on {type(run.data).__name__}, expected JacobianDataModule")
    run.data.prepare_data()
    return run.data


def described(run: TrainedRun) -> str:
    """The Jacobians of a run in words, and what the encoder sees of them, for protocols."""
    data = data_of(run)
    parts = [
        f"{data.num_images} images", f"{data.num_initialisations} initialisations",
        f"{data.num_components} components", f"output {data.output!r}",
        "divided by the largest singular value" if data.normalise else "as they are",
        *(f"{part.space.name} of {part.sizes or 'the usual size'}" for part in data.networks),
        f"{round((1 - data.val_fraction) * sum(part.size for part in data.jacobian_sets())):,} networks trained on",
    ]  # fmt: skip
    seen = ", seen as directions and logarithms of singular values" if getattr(run.module, "spectrum", False) else ""
    return f"Jacobians ({', '.join(parts)}){seen}"


@torch.no_grad()
def view_embeddings(module: LightningModule, data: JacobianDataModule, networks: JacobianSet) -> Tensor:
    """Embedding of every initialisation of every network, ``(M, I, D)`` float32."""
    chunks = torch.split(torch.arange(networks.size), _CHUNK)
    return torch.cat([module.embed_views(data.scores(networks, chunk)) for chunk in chunks])  # type: ignore[operator]


def _singular_values(data: JacobianDataModule, networks: JacobianSet) -> Tensor:
    chunks = torch.split(torch.arange(networks.size), _CHUNK)
    return torch.cat([networks.store.scores(chunk, data.num_initialisations).norm(dim=-2) for chunk in chunks])


def split(views: NetworkViews, num_train: int, entropy: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Random architectures to fit, and all others whose network is not among theirs, in random order.

    Raises:
        UsageError: There are not enough of them.
    """
    (word,) = np.random.SeedSequence(entropy).generate_state(1, np.uint64)
    order = torch.randperm(len(views.scores), generator=torch.Generator().manual_seed(int(word) >> 1))
    train = order[: max(0, num_train)]
    unseen = order[~torch.isin(views.networks[order], views.networks[train])]
    if num_train < 2 or min(len(unseen), int(views.connected[unseen].sum())) < 2:
        raise UsageError(
            f"analyze: got num_train={num_train} of {len(views.scores):,} architectures, which leaves {len(unseen)} "
            "that are not isomorphic to any of these; expected at least 2 of both"
        )
    return train, unseen


def fitted(regressor: Any, features: Features, scores: Tensor, train: Tensor) -> Any:
    """A regression on some architectures ``(t,)``, each initialisation a row with the architecture's score."""
    values = features.values[features.rows[train]]
    rows = values.flatten(0, 1).numpy()
    return regressor.fit(rows, scores[train].repeat_interleave(values.shape[1]).numpy())


def predicted(regression: Any, features: Features, chosen: Tensor) -> np.ndarray:
    """Mean prediction over the initialisations of some architectures, ``(c,)``; what they share is looked at once."""
    distinct, place = torch.unique(features.rows[chosen], return_inverse=True)
    values = features.values[distinct]
    guess = regression.predict(values.flatten(0, 1).numpy())
    means: np.ndarray = guess.reshape(values.shape[:2]).mean(axis=1)[place.numpy()]
    return means


def agreement(guess: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Pearson's correlation and Kendall's tau; 0 where all predictions are one number, which ranks nothing."""
    from scipy.stats import kendalltau, pearsonr

    if np.ptp(guess) == 0 or np.ptp(truth) == 0:
        return {"Pearson": 0.0, "Kendall": 0.0}
    return {"Pearson": float(pearsonr(guess, truth).statistic), "Kendall": float(kendalltau(guess, truth).statistic)}
