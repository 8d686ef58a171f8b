"""Sampling distinct DARTS cells whose network is small enough, as arch2vec does (arXiv 2006.06936, section 4)."""

from __future__ import annotations

import hashlib
import logging
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import LongTensor, Tensor

from lightning_nas.errors import BenchmarkDataError, RunFolderError, SpaceError
from lightning_nas.files import data_dir, opened_npz, write_atomically
from lightning_nas.nn.darts import NUM_BLOCKS, OPERATIONS, flops_by_operation, in_thirds
from lightning_nas.nn.isomorphism import isomorphism_hashes
from lightning_nas.spaces.darts_cells import NUM_EDGES, graphs_of

_log = logging.getLogger(__name__)

_VERSION = 1  # raise it whenever other cells are sampled
_CHUNK = 8192  # candidates drawn at a time; a smaller sample is the beginning of a larger one
_KEPT = 50_000  # larger samples take seconds, and are kept on disk
_PATIENCE = 100  # chunks without anything new


class Sample(NamedTuple):
    """Distinct cells.

    Attributes:
        codes: The cells in the order of drawing, ``(N, 16)`` int8.
        hashes: Their graphs' isomorphism hashes, ``(N,)`` int64.
    """

    codes: Tensor
    hashes: Tensor


def draw_cells(count: int, rng: np.random.Generator) -> LongTensor:
    """Cells drawn at random: two different predecessors for each block, then any two operations, ``(count, 16)``."""
    codes = np.empty((count, NUM_BLOCKS, 2, 2), dtype=np.int64)
    for block in range(NUM_BLOCKS):
        pairs = np.array(list(combinations(range(2 + block), 2)))
        codes[:, block, :, 1] = pairs[rng.integers(len(pairs), size=count)]
        codes[:, block, :, 0] = rng.integers(len(OPERATIONS), size=(count, 2))
    return torch.from_numpy(codes.reshape(count, -1))  # type: ignore[return-value]


@lru_cache(maxsize=1)
def _costs() -> tuple[int, Tensor]:
    # 14 cells of 48 channels for 224 x 224 pixels; with 2 for a normalised number, as the paper's profiler counts.
    shared, costs = flops_by_operation(in_thirds(14), per_normalised=2)
    return shared, costs.sum(dim=0)


def imagenet_flops(codes: Tensor) -> LongTensor:
    """Multiply-adds of the ImageNet networks whose two cells are both the given one, ``(…, 16)`` -> ``(…,)``.

    Convolutions, the linear layer, and batch normalisation at 2 for every number; activations and pooling are free.
    """
    shared, costs = _costs()
    reads_input = (codes[..., 1::2] < 2).long()
    return shared + costs[codes[..., ::2].long(), reads_input].sum(dim=-1)  # type: ignore[return-value]


@lru_cache(maxsize=2)
def sample_cells(num_cells: int, max_flops: float, seed: int) -> Sample:
    """Distinct cells below a cost, the same on every machine; large samples are read from the data folder.

    Args:
        num_cells: How many.
        max_flops: Limit of :func:`imagenet_flops`.
        seed: Seed of the drawing.

    Raises:
        SpaceError: There are not that many.
    """
    if num_cells < _KEPT:
        return _sample(num_cells, max_flops, seed)
    path = data_dir() / f"darts-cells-{num_cells}-{max_flops:.0f}-{seed}.v{_VERSION}.npz"
    sample = _read(path, num_cells)
    if sample is None:
        sample = _sample(num_cells, max_flops, seed)
        _write(path, sample)
    return sample


def _sample(num_cells: int, max_flops: float, seed: int) -> Sample:
    rng, codes, hashes = np.random.default_rng(seed), [], []
    drawn = found = idle = 0
    while found < num_cells:
        chunk = draw_cells(_CHUNK, rng)
        chunk = chunk[imagenet_flops(chunk) < max_flops]  # type: ignore[assignment]
        codes.append(chunk.to(torch.int8))
        hashes.append(isomorphism_hashes(graphs_of(chunk)).numpy())
        drawn += len(chunk)
        # Repeats are rare: they are looked for when there may be enough cells.
        distinct = _distinct(hashes) if drawn >= num_cells else np.arange(drawn)
        idle = idle + 1 if len(distinct) <= found else 0
        found = len(distinct)
        if idle == _PATIENCE:
            raise SpaceError(
                f"darts_cell: found {found} cells below {max_flops / 1e6:g} million multiply-adds, expected "
                f"num_cells={num_cells}; ask for fewer, or raise max_flops"
            )
    kept = torch.from_numpy(distinct[:num_cells])
    return Sample(torch.cat(codes)[kept], torch.from_numpy(np.concatenate(hashes))[kept])


def _distinct(hashes: list[np.ndarray]) -> np.ndarray:
    """Places of the first cell of every kind."""
    return np.sort(np.unique(np.concatenate(hashes), return_index=True)[1])


def _read(path: Path, num_cells: int) -> Sample | None:
    """The kept sample; None when there is none, or it is damaged."""
    try:
        with opened_npz(path) as file:
            codes, hashes, digest = (file[name] for name in ("codes", "hashes", "digest"))
        sample = Sample(torch.from_numpy(codes), torch.from_numpy(hashes))
        if codes.shape != (num_cells, 2 * NUM_EDGES) or str(digest) != _digest(sample):
            raise ValueError("its content is not what was written")
        some = sample.codes[:100]
        if not torch.equal(isomorphism_hashes(graphs_of(some)), sample.hashes[:100]):
            raise ValueError("its hashes are of another version")
    except FileNotFoundError:
        return None
    except (BenchmarkDataError, KeyError, ValueError, TypeError, RuntimeError) as error:
        _log.warning("%s: cannot be used (%s), the cells are sampled anew", path, error)
        return None
    return sample


def _write(path: Path, sample: Sample) -> None:
    try:
        with write_atomically(path, "wb") as file:
            np.savez(file, codes=sample.codes.numpy(), hashes=sample.hashes.numpy(), digest=np.array(_digest(sample)))
    except RunFolderError as error:  # it only takes longer the next time
        _log.warning("the sampled cells are not kept: %s", error)


def _digest(sample: Sample) -> str:
    content = b"".join(np.ascontiguousarray(part.numpy()).tobytes() for part in sample)
    return hashlib.sha256(content).hexdigest()
