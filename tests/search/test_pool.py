from itertools import combinations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from lightning_nas.errors import SearchStateError
from lightning_nas.search.history import SearchHistory
from lightning_nas.search.pool import CandidatePool, pick_unvisited, whitened_directions
from lightning_nas.spaces.encodings import Encoding, OneHotEncoding


def subsets(size):
    """Every set of fewer than ``size`` indices below ``size``, in shuffled order."""
    rng = np.random.default_rng(0)
    return [rng.permutation(chosen).tolist() for k in range(size) for chosen in combinations(range(size), k)]


def test_every_unvisited_member_is_equally_likely(written):
    size, grid = 6, 60  # 60 is a multiple of every possible number of unvisited members
    visited = subsets(size)
    history = written(visited, [[1.0] * len(v) for v in visited], capacity=size)
    times = torch.zeros(len(visited), size, dtype=torch.long)
    for k in range(grid):
        picked = pick_unvisited(history, size, torch.full((len(visited),), (k + 0.5) / grid, dtype=torch.float64))
        times.scatter_add_(1, picked[:, None], torch.ones_like(times[:, :1]))
    for run, tried in enumerate(visited):
        expected = [0 if member in tried else grid // (size - len(tried)) for member in range(size)]
        assert times[run].tolist() == expected


@pytest.mark.parametrize("draw", [0.0, np.nextafter(1.0, 0.0)])
def test_extreme_draws(written, draw):
    history = written([[0, 4], [3, 1]], [[1.0, 1.0]] * 2, capacity=3)
    picked = pick_unvisited(history, 5, torch.full((2,), draw, dtype=torch.float64))
    assert picked.tolist() == ([1, 0] if draw == 0 else [3, 4])


def test_running_and_failed_evaluations_are_visited(written):
    history = written([[0, 1, 2]], [[..., None, 1.0]], capacity=5)
    draws = (torch.arange(8) + 0.5) / 8
    assert {pick_unvisited(history, 4, draw[None].double()).item() for draw in draws} == {3}


def test_exhausted(written):
    history = written([[0, 1], [2]], [[1.0, 1.0], [1.0]], capacity=4)
    with pytest.raises(SearchStateError, match="the pool of 2 candidates is exhausted"):
        pick_unvisited(history, 2, torch.zeros(2, dtype=torch.float64))


def test_whole_space(tiny, pool):
    assert len(pool) == 81
    assert pool.architectures(torch.tensor([[5, 0], [7, 80]])) == [tiny[i] for i in (5, 0, 7, 80)]
    assert torch.equal(pool.neighbors, tiny.neighbor_table())


def test_embeddings_of_a_diverged_module(tiny):
    embeddings = torch.zeros(81, 2)
    embeddings[3:5, 1] = torch.nan
    with pytest.raises(SearchStateError, match=r"2 of 81 are not finite; the module's training must have diverged"):
        CandidatePool(tiny, embeddings=embeddings)


def test_part_of_the_space(tiny):
    chosen = np.random.default_rng(3).permutation(81)[:20].tolist()
    members = [tiny[i] for i in chosen]
    part = CandidatePool(tiny, torch.tensor(chosen), embeddings=torch.zeros(20, 2))
    assert len(part) == 20
    assert part.members.tolist() == chosen
    assert part.architectures(torch.tensor([[3], [19]])) == [members[3], members[19]]
    for i, arch in enumerate(members):
        near = {j for j, other in enumerate(members) if sum(a != b for a, b in zip(arch, other, strict=True)) == 1}
        row = part.neighbors[i].tolist()
        assert {j for j in row if j >= 0} == near
        assert sum(j >= 0 for j in row) == len(near)
        assert row == [j for j in row if j >= 0] + [-1] * (len(row) - len(near)), "padding comes last"
    assert part.neighbors.shape[1] == max(len([j for j in row if j >= 0]) for row in part.neighbors.tolist())
    raw = OneHotEncoding().encode(tiny)[chosen].numpy()
    np.testing.assert_allclose(part.features(OneHotEncoding()), scaled(raw), atol=1e-6)


def scaled(raw):
    centred = raw - raw.mean(0)
    return centred / np.sqrt(centred.var(0).mean())


def test_features_are_centred_with_one_scale(pool):
    raw = pool.embeddings.double().numpy() * [1, 10, 100]
    features = CandidatePool(pool.space, embeddings=torch.from_numpy(raw)).features(None)
    assert features.dtype == torch.float32
    np.testing.assert_allclose(features, scaled(raw), atol=1e-5)
    np.testing.assert_allclose(features.double().var(0, correction=0).mean(), 1.0, rtol=1e-5)
    ratio = features.std(0) / torch.from_numpy(raw).std(0)
    np.testing.assert_allclose(ratio, ratio[0].expand(3), rtol=1e-5)


def test_constant_features_stay_finite(tiny):
    assert (CandidatePool(tiny, embeddings=torch.ones(81, 2)).features(None) == 0).all()


def test_encodings_of_one_class_are_kept_apart(tiny):
    class Columns(Encoding):
        def __init__(self, first):
            self.first = first

        def encode(self, space):
            return space.codes[:, self.first :].float()

    pool = CandidatePool(tiny)
    assert pool.members.tolist() == list(range(81))
    assert pool.features(Columns(0)).shape == (81, 4)
    assert pool.features(Columns(2)).shape == (81, 2)
    encoding = Columns(1)
    assert pool.features(encoding) is pool.features(encoding)


def test_an_encoding_that_is_not_to_be_scaled(tiny):
    class Graphs(OneHotEncoding):
        scaled = False

    part = torch.tensor([5, 3, 80])
    features = CandidatePool(tiny, part).features(Graphs())
    assert torch.equal(features, OneHotEncoding().encode(tiny)[part])


def test_of_a_part_only_members_are_encoded(tiny):
    class Recorded(OneHotEncoding):
        def encode_members(self, space, members):
            asked.append(members)
            return super().encode_members(space, members)

    asked, part = [], torch.tensor([5, 3, 80])
    assert CandidatePool(tiny, part).features(Recorded()).shape == (3, 12)
    assert CandidatePool(tiny).features(Recorded()).shape == (81, 12)
    assert asked == [part, None]


@pytest.mark.parametrize("members", [[1, 2, 1], [0, 81], [-1, 3]])
def test_members_are_distinct_indices_of_the_space(tiny, members):
    with pytest.raises(SearchStateError, match=r"expected distinct indices from 0 to 80"):
        CandidatePool(tiny, torch.tensor(members))


def test_without_any_neighbour(tiny):
    far = torch.tensor([tiny.index((0, 0, 0, 0)), tiny.index((1, 1, 1, 1))])
    assert CandidatePool(tiny, far).neighbors.tolist() == [[-1], [-1]]


def test_missing_or_wrong_embeddings(tiny):
    with pytest.raises(SearchStateError, match="--ckpt_path"):
        CandidatePool(tiny).features(None)
    with pytest.raises(SearchStateError, match="got 80 embeddings for 81 candidates"):
        CandidatePool(tiny, embeddings=torch.zeros(80, 2))


def test_an_empty_history_has_the_whole_pool_before_it():
    history = SearchHistory.empty(9, 3)
    draws = (torch.arange(9, dtype=torch.float64) + 0.5) / 9
    assert pick_unvisited(history, 9, draws).tolist() == list(range(9))


def test_directions_are_whitened_components_of_unit_vectors(tiny):
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(81, 2, 5, generator=generator) * torch.tensor([9.0, 3.0, 1.0, 0.3, 0.1])
    lengths = torch.rand(81, 2, 1, generator=generator) + 0.5
    found = whitened_directions(embeddings, 3)
    torch.testing.assert_close(whitened_directions(lengths * embeddings, 3), found)
    flat = found.flatten(0, 1)
    torch.testing.assert_close(flat.T @ flat / len(flat), torch.eye(3, dtype=torch.float64))
    units = torch.nn.functional.normalize(embeddings.double(), dim=-1).flatten(0, 1).numpy()
    expected = PCA(3, whiten=True).fit_transform(units) * (162 / 161) ** 0.5  # scikit-learn divides by n - 1
    np.testing.assert_allclose(np.abs(flat), np.abs(expected), atol=1e-9)
    pool = CandidatePool(tiny, embeddings=embeddings)
    features = pool.features(None, 3)
    assert features.shape == (81, 3)
    mean = found.mean(dim=1)
    torch.testing.assert_close(features, (mean / mean.var(dim=0, correction=0).mean().sqrt()).float())
    assert not torch.equal(pool.features(None)[:, :3], features)  # the one does not stand for the other
    with pytest.raises(SearchStateError, match="got directions=6 of embeddings of 5 dimensions"):
        pool.features(None, 6)
