"""Jacobians of untrained networks as data: what the contrastive encoder is trained on and embeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch import LongTensor, Tensor
from torch.utils.data import DataLoader, Dataset

from lightning_nas.datamodules.cells import EpochShuffle
from lightning_nas.datamodules.jacobian_store import JACOBIAN_VERSION, JacobianJob, JacobianStore
from lightning_nas.datamodules.vision import VisionDataModule
from lightning_nas.errors import UsageError
from lightning_nas.files import data_dir, fingerprint
from lightning_nas.nn.jacobian import Output, normalised
from lightning_nas.spaces.base import FiniteSpace
from lightning_nas.spaces.config import describe_space
from lightning_nas.workers.base import Workers
from lightning_nas.workers.local import LocalWorkers

Batch = tuple[Tensor, Tensor]
"""Indices in the space ``(B,)`` and principal scores ``(B, I, N, K)``."""


@dataclass
class NetworkSet:
    """Untrained networks of one space.

    Args:
        space: The space; architectures with the same ``canonical`` share the Jacobians of that one.
        sizes: Arguments of the space's ``build`` besides the image's channels and the number of classes.
        num_members: Canonical architectures, drawn by the data's seed; default: all.
    """

    space: FiniteSpace  # type: ignore[type-arg]  # jsonargparse cannot read FiniteSpace[A]
    sizes: dict[str, Any] = field(default_factory=dict)
    num_members: int | None = None


class JacobianDataModule(LightningDataModule):
    """Principal scores of the Jacobians of untrained networks, some initialisations of each (arXiv 2102.04208).

    All networks see the same images, normalised as the data set is, and have its number of classes (the released code
    normalises with 0.5 and has 10 classes always). The Jacobians are computed when they are first needed, several
    networks at a time, and kept: a run that is interrupted goes on where it was, and every later run with the same
    images, networks and seed finds them, those of a GPU on a CPU, too. Several nodes need a folder that all reach.

    Args:
        networks: The networks, of one space or of several; several are trained on together.
        images: Data set whose training images the networks see.
        num_images: Images, N, drawn by ``seed``.
        num_initialisations: Random initialisations of every network, I.
        num_components: Leading components of a Jacobian that are kept, K; default: all N.
        output: What is differentiated: the sum of all class scores (``sum``, released code) or of their absolute values
            (``norm``, the paper).
        normalise: Divide every Jacobian by its largest singular value; those that are zero stay zero.
        batch_size: Networks per batch in training (per process).
        eval_batch_size: Networks per batch in validation and prediction.
        val_fraction: Share of the networks held out; 0 trains on all of them and validates on all of them.
        seed: Seed of images, weights, choice of networks and split.
        shuffle_seed: Seed of the order of batches; default: ``seed``.
        workers: Who computes: a number of processes on this machine, or ``DaskWorkers``, ``SlurmWorkers``; default: a
            process for every GPU or core.
        folder: Folder of the Jacobians; default ``jacobians`` in ``$LIGHTNING_NAS_DATA`` or a cache folder in the home.

    Shapes:
        A batch is ``(index (B,), scores (B, I, N, K))``; indices are those of the network's space.
    """

    def __init__(
        self,
        networks: NetworkSet | list[NetworkSet],
        images: VisionDataModule,
        num_images: int = 256,
        num_initialisations: int = 4,
        num_components: int | None = None,
        output: Output = "sum",
        normalise: bool = False,
        batch_size: int = 512,
        eval_batch_size: int = 512,
        val_fraction: float = 0.1,
        seed: int = 0,
        shuffle_seed: int | None = None,
        workers: int | Workers | None = None,
        folder: str | None = None,
    ) -> None:
        super().__init__()
        self.networks = networks if isinstance(networks, list) else [networks]
        self.num_components = num_images if num_components is None else num_components
        counts = (num_images, num_initialisations, self.num_components, batch_size, eval_batch_size)
        if min(counts) < 1 or self.num_components > num_images or not 0.0 <= val_fraction < 1.0 or not self.networks:
            raise UsageError(
                f"JacobianDataModule(num_images={num_images}, num_initialisations={num_initialisations}, "
                f"num_components={num_components}, batch_size={batch_size}, eval_batch_size={eval_batch_size}, "
                f"val_fraction={val_fraction}): expected networks, positive numbers, no more components than images, "
                "and val_fraction in [0, 1)"
            )
        names = [part.space.name for part in self.networks]
        if len(set(names)) < len(names):  # files and tables go by the space's name
            raise UsageError(f"JacobianDataModule: got the spaces {', '.join(names)}, expected each of them once")
        self.images, self.num_images, self.num_initialisations = images, num_images, num_initialisations
        self.output, self.normalise = output, normalise
        self.batch_size, self.eval_batch_size, self.val_fraction = batch_size, eval_batch_size, val_fraction
        self.seed, self.shuffle_seed = seed, seed if shuffle_seed is None else shuffle_seed
        self.workers = workers if isinstance(workers, Workers) else LocalWorkers(workers)
        self.folder = Path(folder).expanduser() if folder else data_dir() / "jacobians"
        self._sets: list[JacobianSet] | None = None

    @property
    def space(self) -> FiniteSpace | None:  # type: ignore[type-arg]
        """The networks' space; None where there are several."""
        return self.networks[0].space if len(self.networks) == 1 else None

    def prepare_data(self) -> None:
        """Compute the Jacobians that are missing, and show how far that is."""
        from rich.progress import track

        for networks in self.jacobian_sets():
            if not networks.store.tasks(networks.size, self.num_initialisations):
                continue  # the images are not needed
            show = partial(track, description=f"Jacobians of {networks.space.name}")
            networks.store.fill(self._job(networks), self.workers, networks.size, self.num_initialisations, show)

    def setup(self, stage: str | None = None) -> None:
        """Split the networks into a part to train on and a part held out."""
        sizes = [networks.size for networks in self.jacobian_sets()]
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(sum(sizes), generator=generator)
        held_out = round(self.val_fraction * len(order))
        self.train_rows: LongTensor = order[: len(order) - held_out]  # type: ignore[assignment]
        self.val_rows: LongTensor = order[len(order) - held_out :] if held_out else order  # type: ignore[assignment]

    def jacobian_sets(self) -> list[JacobianSet]:
        """The networks' Jacobians, space by space."""
        if self._sets is None:
            self._sets = [self._jacobian_set(networks) for networks in self.networks]
        return self._sets

    def _jacobian_set(self, networks: NetworkSet) -> JacobianSet:
        space = networks.space
        canonical = torch.unique(space.representatives)
        order = canonical[torch.randperm(len(canonical), generator=torch.Generator().manual_seed(self.seed))]
        size = len(order) if networks.num_members is None else networks.num_members
        if not 1 <= size <= len(order):
            raise UsageError(
                f"JacobianDataModule: got num_members={size} of {space.name!r}, expected 1 to {len(order)}, the number "
                "of canonical architectures"
            )
        identity = {
            "space": describe_space(space), "sizes": networks.sizes, "images": self.images.identity(),
            "num_images": self.num_images, "num_components": self.num_components, "output": self.output,
            "seed": self.seed, "version": JACOBIAN_VERSION,
        }  # fmt: skip
        if hasattr(space, "fingerprint"):  # of what the networks are made of, where the space's name does not say it
            identity["source"] = space.fingerprint
        folder = self.folder / f"{space.name}-{fingerprint(identity)}"
        return JacobianSet(
            space, networks.sizes, JacobianStore(folder, identity, order, (self.num_images, self.num_components)), size
        )

    def _job(self, networks: JacobianSet) -> JacobianJob:
        shown = self.shown_images()
        return JacobianJob(networks.space, self.sizes_of(networks), shown, self.num_components, self.output, self.seed)

    def sizes_of(self, networks: JacobianSet) -> dict[str, Any]:
        """All arguments of the space's ``build`` for these images."""
        sizes = {"in_channels": self.images.image_shape[0], "num_classes": self.images.num_classes}
        return {**sizes, **networks.sizes}

    def shown_images(self) -> Tensor:
        """The images of the Jacobians as networks see them, ``(N, C, H, W)``.

        Raises:
            UsageError: There are not so many training images.
        """
        images = self.images
        images.prepare_data()
        images.setup("fit")
        if self.num_images > (count := len(images.train.labels)):
            raise UsageError(
                f"JacobianDataModule: got num_images={self.num_images}, expected at most the {count} training images"
            )
        drawn = torch.randperm(count, generator=torch.Generator().manual_seed(self.seed))[: self.num_images]
        return images.normalise(images.train.images[drawn])

    def scores(self, networks: JacobianSet, positions: Tensor) -> Tensor:
        """Principal scores of networks of one set by their places in its store, ``(b,)`` -> ``(b, I, N, K)``."""
        scores = networks.store.scores(positions, self.num_initialisations)
        return normalised(scores) if self.normalise else scores

    def rows(self, rows: Tensor) -> Batch:
        """A batch by place in the union of all sets, ``(B,)``."""
        index = torch.empty_like(rows)
        scores = torch.empty(len(rows), self.num_initialisations, self.num_images, self.num_components)
        start = 0
        for networks in self.jacobian_sets():
            here = ((rows >= start) & (rows < start + networks.size)).nonzero().flatten()
            if len(here):
                positions = rows[here] - start
                index[here], scores[here] = networks.store.order[positions], self.scores(networks, positions)
            start += networks.size
        return index, scores

    def _loader(self, dataset: Dataset[Batch], batch_size: int, shuffle: bool = False) -> DataLoader[Batch]:
        sampler = EpochShuffle(len(dataset), self.shuffle_seed) if shuffle else None  # type: ignore[arg-type]
        processes = 1 if self.trainer is None else self.trainer.world_size
        incomplete = shuffle and len(dataset) // processes > batch_size  # type: ignore[arg-type]
        # By name: Lightning makes loaders anew for prediction and distributed runs, and repeats positional arguments.
        return DataLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            collate_fn=_identity,  # type: ignore[arg-type]
            drop_last=incomplete,
        )

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled batches of the training networks; an incomplete one, with fewer negatives, is left out."""
        return self._loader(JacobianRows(self, self.train_rows), self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Held-out networks in a fixed order."""
        return self._loader(JacobianRows(self, self.val_rows), self.eval_batch_size)

    def test_dataloader(self) -> DataLoader[Batch]:
        """The same networks as for validation: nothing is selected on them."""
        return self.val_dataloader()

    def predict_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        """All networks in the order of their indices, isomorphic ones included; for several spaces a loader of each."""
        loaders = [
            self._loader(JacobianMembers(self, networks), self.eval_batch_size) for networks in self.jacobian_sets()
        ]
        return loaders[0] if len(loaders) == 1 else loaders


@dataclass(frozen=True)
class JacobianSet:
    """Jacobians of one space.

    Args:
        space: The space.
        sizes: Arguments of its ``build``.
        store: Where the Jacobians are.
        size: Networks there are, the first of the store's order.
    """

    space: FiniteSpace[Any]
    sizes: dict[str, Any]
    store: JacobianStore
    size: int

    @cached_property
    def members(self) -> tuple[Tensor, Tensor]:
        """Indices of all architectures that have Jacobians, and where in the store those are, two of ``(n,)``."""
        places = torch.full((len(self.space),), -1)
        places[self.store.order[: self.size]] = torch.arange(self.size)
        places = places[self.space.representatives]
        members = (places >= 0).nonzero().flatten()
        return members, places[members]


class JacobianRows(Dataset[Batch]):
    """Any networks by place in the union of all sets.

    Args:
        data: Where they are.
        rows: Places, ``(n,)``.
    """

    def __init__(self, data: JacobianDataModule, rows: Tensor) -> None:
        self.data, self.chosen = data, rows

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, item: int) -> Batch:
        return self.__getitems__([item])

    def __getitems__(self, items: Sequence[int]) -> Batch:
        """A finished batch, so that the loader has nothing to collate."""
        return self.data.rows(self.chosen[torch.as_tensor(items)])


class JacobianMembers(Dataset[Batch]):
    """All architectures of one set that have Jacobians, isomorphic ones included, in the order of their indices.

    Args:
        data: Where they are.
        networks: The set.
    """

    def __init__(self, data: JacobianDataModule, networks: JacobianSet) -> None:
        self.data, self.networks = data, networks

    def __len__(self) -> int:
        return len(self.networks.members[0])

    def __getitem__(self, item: int) -> Batch:
        return self.__getitems__([item])

    def __getitems__(self, items: Sequence[int]) -> Batch:
        """A finished batch."""
        index, places = (column[torch.as_tensor(items)] for column in self.networks.members)
        return index, self.data.scores(self.networks, places)


def _identity(batch: Batch) -> Batch:
    return batch
