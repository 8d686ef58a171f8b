import os
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest
import torch

from lightning_nas.datamodules.jacobian_store import SHARD, JacobianJob, JacobianStore, ShardTask
from lightning_nas.errors import BenchmarkDataError, EvaluationError, SpaceError
from lightning_nas.nn.complexity import count_flops, count_parameters
from lightning_nas.nn.jacobian import input_jacobian, principal_scores
from lightning_nas.workers.base import ExecutorWorkers, WorkerLostError
from tests.datamodules.networks import BuildableSpace, ExplodingSpace

ORDER = torch.randperm(81, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def job(space=None, **changes):
    return JacobianJob(space or BuildableSpace(), {"channels": 2}, IMAGES, 4, **changes)


@pytest.fixture
def workers():
    with ThreadPoolExecutor(2) as executor:
        yield ExecutorWorkers(executor, 2)


@pytest.fixture
def store(tmp_path):
    return JacobianStore(tmp_path / "new", {"seed": 0}, ORDER, (6, 4))


def test_scores_are_those_of_the_networks(store, workers):
    store.fill(job(), workers, 40, 2)
    scores = store.scores(torch.tensor([39, 0, 33]), 2)
    assert scores.shape == (3, 2, 6, 4)
    for place, found in zip((39, 0, 33), scores, strict=True):
        member = int(ORDER[place])
        for initialisation in range(2):
            (word,) = np.random.SeedSequence((0, member, initialisation)).generate_state(1, np.uint64)
            torch.manual_seed(int(word) >> 1)
            network = BuildableSpace().build(BuildableSpace()[member], channels=2)
            expected = principal_scores(input_jacobian(network, IMAGES), 4)
            torch.testing.assert_close(found[initialisation], expected, rtol=1e-4, atol=1e-5)
    costs = [count_parameters(network), count_flops(network, (1, 8, 8))]
    assert store.costs(40)[33].tolist() == costs
    assert store.costs(40).shape == (40, 2)


def test_only_what_is_missing_is_computed(store, workers):
    store.fill(job(), workers, 10, 1)
    assert store.tasks(10, 1) == []
    before = {path.name: path.stat().st_mtime_ns for path in store.folder.glob("scores-*")}
    assert store.tasks(SHARD + 1, 2) == [
        ShardTask(0, 1, tuple(ORDER[:SHARD].tolist())),
        *(ShardTask(1, view, tuple(ORDER[SHARD : 2 * SHARD].tolist())) for view in range(2)),
    ]
    store.fill(job(), workers, SHARD + 1, 2)
    after = {path.name: path.stat().st_mtime_ns for path in store.folder.glob("scores-*")}
    assert len(after) == 4
    assert after.items() > before.items()


def test_the_last_shard_may_be_short(store, workers):
    store.fill(job(), workers, 81, 1)
    assert store.scores(torch.arange(81), 1).isfinite().all()
    assert len(store.costs(81)) == 81


def test_neither_order_nor_workers_matter(tmp_path, store, workers):
    state = torch.get_rng_state()
    store.fill(job(), workers, 40, 2)
    assert torch.equal(torch.get_rng_state(), state)
    other = JacobianStore(tmp_path / "other", {}, ORDER.flip(0), (6, 4))
    with ThreadPoolExecutor(1) as executor:
        other.fill(job(), ExecutorWorkers(executor), 81, 2)
    assert torch.equal(other.scores(80 - torch.arange(40), 2), store.scores(torch.arange(40), 2))
    assert not torch.equal(store.scores(torch.arange(40), 2)[:, 0], store.scores(torch.arange(40), 2)[:, 1])


def test_what_was_done_before_an_error_stays(store, workers):
    workers.num_workers = 1  # the first shard is done when the second begins
    arch = BuildableSpace()[int(ORDER[SHARD])]
    with pytest.raises(SpaceError, match=r"no such layer.*expected a network that takes these images"):
        store.fill(job(BuildableSpace(dies=arch)), workers, SHARD + 1, 1)
    assert [path.name for path in store.folder.glob("scores-*")] == ["scores-00000-0.npy"]
    store.fill(job(), workers, SHARD + 1, 1)
    assert store.tasks(SHARD + 1, 1) == []


def test_jacobians_that_are_not_finite_are_refused(store, workers):
    with pytest.raises(EvaluationError, match="not finite"):
        store.fill(job(ExplodingSpace()), workers, 1, 1)
    assert not list(store.folder.glob("*.npy"))


class Mortal(ExecutorWorkers):
    """Workers that are lost some times."""

    def __init__(self, executor, deaths):
        super().__init__(executor)
        self.left = deaths

    def submit(self, task):
        if self.left:
            self.left -= 1
            lost = Future()
            lost.set_exception(WorkerLostError("killed"))
            return lost
        return super().submit(task)


@pytest.mark.parametrize("deaths", [1, 2])
def test_a_worker_may_die_once(store, deaths):
    with ThreadPoolExecutor(1) as executor:
        if deaths == 2:
            with pytest.raises(EvaluationError, match="two workers died"):
                store.fill(job(), Mortal(executor, 2), 1, 1)
            return
        store.fill(job(), Mortal(executor, 1), 1, 1)
    assert store.tasks(1, 1) == []


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
@pytest.mark.parametrize("name", ["scores-00000-0.npy", "costs-00000.npy"])
def test_a_damaged_file_is_mended_as_the_error_says(store, workers, damage, name):
    def read():
        return store.scores(torch.tensor([0]), 1), store.costs(1)

    store.fill(job(), workers, 1, 1)
    before = read()
    path = store.folder / name
    if damage is None:
        np.save(path, np.zeros((SHARD, 6, 3), np.float32))
    else:
        path.write_bytes(damage)
    with pytest.raises(BenchmarkDataError, match=rf"{name}.*delete it and start again"):
        read()
    path.unlink()
    store.fill(job(), workers, 1, 1)
    assert all(map(torch.equal, read(), before))


def test_files_are_not_kept_open(store, workers):
    store.fill(job(), workers, 81, 2)
    before = len(os.listdir("/proc/self/fd"))
    held = [store.scores(torch.arange(81), 2) for _ in range(3)]
    assert len(os.listdir("/proc/self/fd")) == before
    assert torch.equal(held[0], held[2])


def test_what_another_run_has_done_meanwhile_is_not_done_again(store, workers):
    class Slow(ExecutorWorkers):
        def start(self, job):
            store.fill(job, workers, 81, 1)  # the other run
            super().start(job)

        def submit(self, task):
            raise AssertionError("computed twice")

    store.fill(job(), Slow(workers.executor), 81, 1)
    assert store.tasks(81, 1) == []
