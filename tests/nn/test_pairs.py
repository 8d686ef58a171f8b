import pytest
import torch

from lightning_nas.nn.pairs import Standings, balanced, compare, uniform

NAN = float("nan")


def pool_of_six():
    """Two lost at level 0, two wait at level 1, two have come to level 2; the last newcomer came after the promotions.

    a 2, b 2, c 1, d 1 (came later), e 0, f 0
    """
    level = torch.tensor([[2, 2, 1, 1, 0, 0]])
    score = torch.tensor([[
        [0.9, 80.0, 91.0], [0.8, 85.0, 90.0], [0.7, 70.0, NAN], [NAN, 99.0, NAN], [0.2, NAN, NAN], [0.1, NAN, NAN],
    ]]).double()  # fmt: skip
    time = torch.tensor([[
        [-1.0, 0.0, 3.0], [-1.0, 1.0, 4.0], [-1.0, 2.0, NAN], [NAN, 5.0, NAN], [-1.0, NAN, NAN], [-1.0, NAN, NAN],
    ]]).double()  # fmt: skip
    return Standings(level, score, time)


def won(pairs):
    return {"abcdef"[a] + "abcdef"[b] for a, b in pairs.wins[0].nonzero().tolist()}


def test_labels_of_a_pool_of_six():
    within = {
        "ab",
        "dc",
        "ef",
    }  # by the accuracy at the level itself: a has less than b at level 1, and more at level 2
    across = {"ac", "bc", "ae", "af", "be", "bf", "ce", "cf"}
    assert won(compare(pool_of_six())) == within | across
    assert won(compare(pool_of_six(), competed_only=False)) == within | across | {"ad", "bd", "de", "df"}


def test_who_came_later_never_competed():
    """d waits at level 1 with the best accuracy there, but came when a and b had gone on already."""
    pairs = compare(pool_of_six())
    assert not pairs.wins[0, :, 3].any()
    assert pairs.wins[0, 3].nonzero().flatten().tolist() == [2]  # it did compete with c, within the level
    # d was never at level 0: the ranking chose it, not the proxy, so e and f did not lose to it.


@pytest.mark.parametrize(("noise", "expected"), [(0.0, {"ab", "bc", "ac"}), (0.1, {"ac", "bc"}), (5.0, set())])
def test_what_is_within_the_noise_makes_no_pair(noise, expected):
    standings = Standings.at_one_level(torch.tensor([[90.05, 90.0, 89.0]]).double())
    assert won(compare(standings, noise)) == expected


def test_labels_are_antisymmetric_and_nobody_beats_himself():
    scores = torch.randint(5, (3, 12), generator=torch.Generator().manual_seed(0)).double()
    scores[:, -2:] = torch.nan
    wins = compare(Standings.at_one_level(scores)).wins
    assert not (wins & wins.mT).any()
    assert not wins.diagonal(dim1=1, dim2=2).any()
    assert not wins[:, -2:].any() and not wins[:, :, -2:].any()  # noqa: PT018  # there is nobody
    assert torch.equal(wins[:, :10, :10], scores[:, :10, None] > scores[:, None, :10])


def test_a_failed_training_is_the_worst_of_its_level():
    score = torch.tensor([[[NAN, 10.0], [NAN, NAN], [NAN, NAN]]]).double()
    time = torch.tensor([[[NAN, 0.0], [NAN, 1.0], [NAN, 2.0]]]).double()
    assert won(compare(Standings(torch.tensor([[1, 1, 1]]), score, time))) == {"ab", "ac"}


def test_three_kinds_of_pairs_count_alike():
    pairs = compare(pool_of_six())
    weights = balanced(pairs)[0]
    kinds = {
        "same": ~pairs.cross & ~pairs.proxy, "cross": pairs.cross & ~pairs.proxy, "proxy": pairs.proxy,
    }  # fmt: skip
    for kind in kinds.values():
        assert weights[kind[0]].sum() == pytest.approx(1 / 3)
    assert weights[0, 1] == pytest.approx(1 / 6)  # ab and dc
    assert weights[0, 2] == pytest.approx(1 / 6)  # ac and bc
    assert weights[4, 5] == pytest.approx(1 / 21)  # ef and six across level 0
    alike = uniform(pairs)[0]
    torch.testing.assert_close(alike[alike > 0], torch.full((11,), 1 / 11))
    assert (weights > 0).equal(alike > 0)


def test_runs_are_weighted_for_themselves():
    """One level only: the pairs within it have all the weight; no pairs: no weight."""
    scores = torch.tensor([[1.0, 2.0, 3.0], [1.0, 1.0, 1.0]]).double()
    weights = balanced(compare(Standings.at_one_level(scores)))
    torch.testing.assert_close(weights.sum(dim=(1, 2)), torch.tensor([1.0, 0.0]))
