import pytest
import torch

from lightning_nas.datamodules.splits import Sizes, split_images, stratified_order
from lightning_nas.errors import UsageError

LABELS = torch.arange(400) % 4


def split(official=(0, 0), purpose="search", num_train=None, num_valid=None, num_test=None, seed=0, labels=LABELS):
    return split_images(labels, official, Sizes(purpose, num_train, num_valid, num_test), seed)


def parts(result):
    return [result.order[part].tolist() for part in result[1:]]


def test_stratified_order_is_a_permutation_with_even_prefixes():
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    order = stratified_order(labels, torch.Generator().manual_seed(3))
    assert sorted(order.tolist()) == list(range(100))
    assert labels[order[:50]].bincount().tolist() == [30, 15, 5]


def test_without_official_parts_a_fifth_is_split_off_for_each():
    train, valid, test = parts(split())
    assert [len(train), len(valid), len(test)] == [256, 64, 80]
    assert sorted(train + valid + test) == list(range(400))
    for part in (train, valid, test):
        counts = LABELS[part].bincount()
        assert counts.max() - counts.min() <= 2


def test_official_parts_are_kept():
    train, valid, test = parts(split(official=(40, 100)))
    assert sorted(train) == list(range(260))
    assert sorted(valid) == list(range(260, 300))
    assert sorted(test) == list(range(300, 400))


def test_evaluation_trains_on_what_a_search_selects_by_and_keeps_the_test():
    for official in ((0, 0), (0, 100), (40, 100)):
        searched, evaluated = (parts(split(official, purpose)) for purpose in ("search", "evaluation"))
        assert evaluated[1] == []
        assert sorted(evaluated[0]) == sorted(searched[0] + searched[1])
        assert evaluated[2] == searched[2]


def test_fewer_images_are_even_parts_of_more():
    train, valid, test = parts(split(official=(0, 100), num_train=40, num_valid=20, num_test=12))
    assert [LABELS[part].bincount().tolist() for part in (train, valid, test)] == [[10] * 4, [5] * 4, [3] * 4]
    full = parts(split(official=(0, 100), num_valid=20))
    assert train == full[0][:40]
    assert valid == full[1]
    assert test == full[2][:12]
    own, fewer = parts(split(official=(40, 100))), parts(split(official=(40, 100), num_valid=8))
    assert fewer == [own[0], own[1][-8:], own[2]]  # what is left of the validation part is not trained on


def test_a_fraction_is_a_share_of_the_training_images():
    assert len(parts(split(official=(0, 100), num_valid=0.5))[1]) == 150


def test_the_order_is_that_of_the_seed_whatever_the_sizes():
    first = split()
    assert torch.equal(first.order, split(purpose="evaluation", num_train=50, num_test=100).order)
    assert not torch.equal(first.order, split(seed=1).order)


@pytest.mark.parametrize(
    "sizes",
    [
        {"num_train": 0}, {"num_valid": 0}, {"num_test": 0}, {"num_valid": 0.0},
        {"num_train": 300, "num_valid": 101}, {"num_valid": 300}, {"num_test": 101}, {"num_valid": 1.5},
        {"official": (40, 100), "num_valid": 41}, {"num_test": 400, "official": (0, 0)},
    ],
)  # fmt: skip
def test_sizes_that_do_not_fit_are_refused(sizes):
    with pytest.raises(UsageError, match="at least one image that fit"):
        split(**{"official": (0, 100), **sizes})


def test_training_images_must_show_every_class():
    with pytest.raises(UsageError, match=r"3 training images hold none of class \d \(and 0 more\); raise num_train"):
        split(num_train=3)
    split(num_train=4)


def test_a_test_larger_than_the_training_part():
    split = split_images(torch.arange(20) % 2, (0, 0), Sizes("search", 4, 2, 14), seed=0)
    assert [len(split.order[part]) for part in split[1:]] == [4, 2, 14]
