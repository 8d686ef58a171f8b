"""Which images are for training, validation and test."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lightning_nas.errors import UsageError

Purpose = Literal["search", "evaluation"]

_SHARE = 0.2  # of the images goes to validation and to the test, where a source has no such part of its own


class Split(NamedTuple):
    """An order of all images in which every part is one piece, so that a part of a file can be mapped.

    Attributes:
        order: All images: those to train on and to select by first, those of the test behind.
        train: Places in ``order``; ``valid`` and ``test`` likewise.
    """

    order: Tensor
    train: slice
    valid: slice
    test: slice


class Sizes(NamedTuple):
    """How many images are used.

    Attributes:
        purpose: ``search`` holds ``num_valid`` images out; ``evaluation`` trains on these, too.
        num_train: Images to train on; None for all that are left.
        num_valid: Images to select by; a fraction is a share of what is not for the test; None for the whole official
            validation part, or a fifth where there is none.
        num_test: Images of the test; None for the whole official test part, or a fifth where there is none.
    """

    purpose: Purpose
    num_train: int | None
    num_valid: int | float | None
    num_test: int | None


def split_images(labels: Tensor, official: tuple[int, int], sizes: Sizes, seed: int) -> Split:
    """Split with equal shares of every class; the order depends on labels and seed alone, the test not on the purpose.

    Args:
        labels: Classes of all images: those to train on, the official validation part, the official test part.
        official: Images in the official validation part and in the test part; 0 splits such a part off.
        sizes: How many images are used.
        seed: Draws the order.

    Raises:
        UsageError: There are not enough images, or none of some class.
    """
    generator = torch.Generator().manual_seed(seed)
    own_valid, own_test = official
    lengths = [len(labels) - own_valid - own_test, own_valid, own_test]
    parts = [stratified_order(part, generator) for part in torch.split(labels, lengths) if len(part)]
    starts = torch.tensor([0, *map(len, parts)]).cumsum(0)
    order = torch.cat([part + start for part, start in zip(parts, starts, strict=False)])
    num_test = (own_test or round(_SHARE * len(labels))) if sizes.num_test is None else sizes.num_test
    fit = len(labels) - (own_test or num_test)
    num_valid = (own_valid or _SHARE) if sizes.num_valid is None else sizes.num_valid
    if isinstance(num_valid, float):
        num_valid = round(num_valid * fit)
    held_out = max(num_valid, own_valid) if sizes.purpose == "search" else 0
    num_train = fit - held_out if sizes.num_train is None else sizes.num_train
    too_many = num_test > (own_test or len(labels)) or num_valid > (own_valid or fit) or num_train + held_out > fit
    if too_many or min(num_train, num_valid, num_test) < 1:
        raise UsageError(
            f"got num_train={sizes.num_train}, num_valid={sizes.num_valid} and num_test={sizes.num_test} for "
            f"{sizes.purpose} on {lengths[0]} images and official parts of {own_valid} for validation and {own_test} "
            "for the test; expected three parts of at least one image that fit into these"
        )
    missing = sorted(set(labels.tolist()) - set(labels[order[:num_train]].tolist()))
    if missing:
        raise UsageError(
            f"the {num_train} training images hold none of class {missing[0]} (and {len(missing) - 1} more); raise "
            "num_train, lower num_valid and num_test, or add images"
        )
    valid = slice(fit - num_valid, fit) if held_out else slice(0)
    return Split(order, slice(num_train), valid, slice(fit, fit + num_test))


def stratified_order(labels: Tensor, generator: torch.Generator) -> Tensor:
    """A random order of which every leading part has, up to rounding, the same share of every class.

    Shapes:
        ``(N,)`` -> ``(N,)`` int64, a permutation.
    """
    order = torch.randperm(len(labels), generator=generator)
    classes = labels[order]
    count = classes.bincount()
    by_class = classes.argsort(stable=True)
    place = torch.empty_like(order)  # 1, 2, … within the class
    place[by_class] = torch.arange(1, len(order) + 1) - (count.cumsum(0) - count)[classes[by_class]]
    share = place.double() / count[classes]
    return order[share.argsort(stable=True)]
