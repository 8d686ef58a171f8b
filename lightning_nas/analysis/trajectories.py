"""Where networks go in the embedding while they are trained (arXiv 2102.04208, Fig. 5)."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_nas.analysis.figures import paths_figure
from lightning_nas.analysis.findings import Findings, publish
from lightning_nas.analysis.runs import draw, every_run, load_runs, read_accuracies
from lightning_nas.analysis.trajectory_job import TrajectoryJob
from lightning_nas.analysis.tsne import neighbour_agreement, tsne_map
from lightning_nas.analysis.views import agreement, data_of, described
from lightning_nas.datamodules.jacobians import JacobianDataModule, JacobianSet
from lightning_nas.errors import BenchmarkDataError, UsageError
from lightning_nas.files import canonical_json, ensure_writable, fingerprint, write_atomically
from lightning_nas.ledger import Row
from lightning_nas.loading import home
from lightning_nas.nn.images import LabelledImages
from lightning_nas.nn.jacobian import normalised
from lightning_nas.nn.training import TRAINING_VERSION, TrainingData, TrainingRecipe
from lightning_nas.spaces.config import describe_space
from lightning_nas.workers.tasks import results_of

_SOURCE = "Contrastive embeddings for neural architectures (Hesslow & Poli, arXiv 2102.04208), Figure 5"
_THEIRS = (
    "t-SNE of the embeddings of 100 (text) or 50 (caption) networks over the first 50 epochs of their training; "
    "neither recipe nor code; a figure without numbers"
)


def trajectories(
    run: list[Path],
    dataset: str | None = None,
    epochs: int | None = None,
    table: str | None = None,
    num_networks: int = 50,
    recipe: TrainingRecipe = TrainingRecipe(epochs=50, batch_size=64, learning_rate=0.1, test_shift=0),  # noqa: B008
    num_train: int = 1000,
    num_valid: int = 500,
    perplexity: float = 30.0,
    num_neighbors: int = 5,
    seed: int = 0,
    data_dir: str | None = None,
    output: Path | None = None,
    record: Path | None = None,
) -> None:
    """Train networks, embed them after every epoch, and draw their ways through the embedding by t-SNE.

    They are trained on images of the run's data; the Jacobians are of the images that the encoder saw. Every network
    that is done is kept in the output folder, so an analysis that was interrupted goes on. In numbers: how far training
    moves a network, how many stay nearest to where they began, and how well accuracy (from a table of full trainings)
    agrees with that of the nearest neighbours before and after.

    Args:
        run: A run folder of 'lightning-nas fit' with Jacobians of one space as data.
        dataset: Data set of the table, for example cifar10; default: the only one.
        epochs: Training epochs behind the table's accuracies; default: the most there are.
        table: Name or path of the benchmark table; default: the space's name.
        num_networks: Random networks that are trained; isomorphic cells are one.
        recipe: How they are trained.
        num_train: Images they are trained on, at most.
        num_valid: Images of their validation curves, at most.
        perplexity: Of t-SNE: about how many neighbours count.
        num_neighbors: Neighbours whose accuracies are averaged.
        seed: Seed of the choice of networks and of t-SNE.
        data_dir: Folder of tables; default $LIGHTNING_NAS_DATA or ~/.cache/lightning_nas.
        output: Folder for figures and numbers; default: analysis/trajectories in the run folder.
        record: Folder of the ledger, usually docs/results; writes the numbers there.
    """
    runs = every_run(load_runs(run))
    if len(runs) > 1:
        raise UsageError(f"analyze trajectories: got {len(runs)} run folders, expected one")
    (member,) = runs
    truth = read_accuracies(member.space, table, dataset, epochs, data_dir)
    data = data_of(member)
    (networks,) = data.jacobian_sets()
    accuracy = torch.full((len(networks.space),), torch.nan, dtype=torch.float64)
    accuracy[truth.members] = truth.values
    known = networks.store.order[: networks.size]
    known = known[~accuracy[known].isnan()]
    chosen = known[draw(len(known), num_networks, seed)]
    points = len(chosen) * (recipe.epochs + 1)
    if not 1 <= num_neighbors < len(chosen) or min(num_train, num_valid) < 1 or not 0 < perplexity < points:
        raise UsageError(
            f"analyze trajectories: got num_networks={len(chosen)}, num_neighbors={num_neighbors}, num_train="
            f"{num_train}, num_valid={num_valid}, perplexity={perplexity:g}; expected positive numbers, fewer "
            f"neighbours than networks, and a perplexity below the {points} points"
        )
    job = _job(data, networks, replace(recipe, test_shift=0), num_train, num_valid)
    folder = output or home(member.folder) / "analysis" / "trajectories"
    scores, curves = _watched(job, data, chosen.tolist(), folder)
    with torch.no_grad():
        prepared = normalised(scores) if data.normalise else scores
        ways = torch.stack([member.module.embed(one[:, None]) for one in prepared])  # type: ignore[operator]
    values = accuracy[chosen].numpy()
    places = tsne_map(ways.flatten(0, 1), perplexity, seed).reshape(*ways.shape[:2], 2)
    findings = Findings("trajectories", "Embeddings during training", [], "", "", {}, dataset=truth.dataset)
    findings.source, findings.reference_protocol = _SOURCE, _THEIRS
    findings.figures["trajectories"] = paths_figure(
        places,
        values,
        f"{len(chosen)} networks over {recipe.epochs} epochs; ring: untrained, dot: trained",
        truth.split,
    )
    seeds = f"{len(chosen)} networks, seed {seed}"
    for metric, measured in _numbers(ways, values, num_neighbors).items():
        row = Row.of([measured], label=member.method, metric=metric, unit="", paper="", seeds=seeds)
        findings.rows.append(row)
    final = curves[:, -1]
    for name, value in agreement(final, values).items():
        metric = f"{name}, validation accuracy against the table's"
        row = Row.of([value], label="training here", metric=metric, unit="", paper="", seeds=seeds)
        findings.rows.append(row)
    findings.protocol = (
        f"{len(chosen)} random canonical networks trained for {recipe.epochs} epochs on {len(job.data.train.labels):,} "
        f"images ({canonical_json(recipe.identity())}), validation accuracy {final.mean():.1f} ± {final.std():.1f} %; "
        f"{described(runs[0])}, each projected by its own singular vectors, embedded by the trained encoder; "
        f"t-SNE of all, perplexity {perplexity:g}; {num_neighbors} nearest neighbours; colours "
        f"and neighbours by {truth.split} accuracy ({truth.dataset}, {truth.epochs} epochs) of the table"
    )
    findings.scale = f"{len(chosen)} networks, {recipe.epochs} epochs on {len(job.data.train.labels):,} images"
    findings.details = {"members": chosen.tolist(), "curves": [[round(x, 4) for x in c] for c in curves.tolist()]}
    publish(findings, runs, output, record)


def _job(
    data: JacobianDataModule, networks: JacobianSet, recipe: TrainingRecipe, num_train: int, num_valid: int
) -> TrajectoryJob:
    shown = data.shown_images()  # sets the images up
    images = data.images
    train, valid = (
        LabelledImages(*(part[:most].clone() for part in split))
        for split, most in ((images.train, num_train), (images.valid, num_valid))
    )
    used = TrainingData(train, valid, valid, images.mean, images.std, images.max_pixel, images.augmentation)
    sizes = data.sizes_of(networks)
    return TrajectoryJob(networks.space, sizes, used, recipe, shown, data.num_components, data.output, data.seed)


def _watched(
    job: TrajectoryJob, data: JacobianDataModule, members: list[int], folder: Path
) -> tuple[Tensor, np.ndarray]:
    """Scores ``(n, E + 1, N, K)`` and validation curves ``(n, E)``, from the folder or by training."""
    from rich.progress import track

    identity = {
        "space": describe_space(job.space), "sizes": job.sizes, "images": data.images.identity(),
        "num_train": len(job.data.train.labels), "num_valid": len(job.data.valid.labels), "output": job.output,
        "recipe": job.recipe.identity(), "num_images": data.num_images, "num_components": job.num_components,
        "seed": job.seed, "training_version": TRAINING_VERSION,
    }  # fmt: skip
    folder = folder / f"networks-{fingerprint(identity)}"
    ensure_writable(folder)
    with write_atomically(folder / "identity.json") as file:
        json.dump(identity, file, indent=1)

    def path(member: int) -> Path:
        return folder / f"{member}.npz"

    missing = [member for member in members if not path(member).is_file()]
    if missing:
        data.workers.prepare()
        data.workers.start(job)
        try:
            found = results_of(
                data.workers, missing, lambda member: path(member).is_file(), lambda member: f"the network {member}"
            )
            for _ in track(range(len(missing)), description="Trajectories"):
                member, result = next(found)
                if result is not None:
                    with write_atomically(path(member), "wb") as target:
                        np.savez(target, scores=result[0], curve=result[1])
        finally:
            data.workers.stop()
    read = partial(_read, shape=(job.recipe.epochs + 1, len(job.shown), job.num_components))
    scores, curves = zip(*(read(path(member)) for member in members), strict=True)
    return torch.from_numpy(np.stack(scores)), np.stack(curves)


def _read(path: Path, shape: tuple[int, ...]) -> tuple[Any, Any]:
    try:
        with np.load(path, allow_pickle=False) as saved:
            scores, curve = saved["scores"], saved["curve"]
    except Exception as error:  # a damaged file can fail in many ways
        raise BenchmarkDataError(f"{path}: cannot be read ({error}); delete it and start again") from error
    if scores.shape != shape:
        raise BenchmarkDataError(f"{path}: holds scores of shape {scores.shape}, expected {shape}; delete it")
    return scores, curve


def _numbers(ways: Tensor, values: np.ndarray, num_neighbors: int) -> dict[str, float]:
    """How far networks go, and what their neighbourhoods are worth, ``(n, E + 1, D)`` and ``(n,)``."""
    first, last = ways[:, 0], ways[:, -1]
    apart = torch.pdist(first).mean()
    moved = (last - first).norm(dim=1).mean()
    nearest = torch.cdist(last, first).argmin(dim=1) == torch.arange(len(first))
    worth = "Pearson, accuracy against that of the neighbours"
    return {
        "way from first to last, in mean distances between untrained networks": float(moved / apart),
        "trained networks nearest to where they began": float(nearest.double().mean()),
        f"{worth}, untrained": neighbour_agreement(first.numpy(), values, num_neighbors),
        f"{worth}, trained": neighbour_agreement(last.numpy(), values, num_neighbors),
    }
