import pickle
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import pytest
import torch

from lightning_nas.benchmarks.store import ResultStore
from lightning_nas.errors import EvaluationError, UsageError
from lightning_nas.nn.images import LabelledImages
from lightning_nas.workers.base import ExecutorWorkers, run_alone
from lightning_nas.workers.local import LocalWorkers
from tests.benchmarks.stripes import CONV, MIXED, POOL, RECIPE, SKIP, TroubledSpace

ARCHS = [CONV, MIXED, SKIP, POOL]


@pytest.fixture
def expected(tmp_path, make_live):
    return make_live(store=str(tmp_path / "local.sqlite")).evaluate(ARCHS)


def test_threads_of_one_process_do_not_disturb_each_other(make_live, expected):
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    with ThreadPoolExecutor(4) as executor:
        bench = make_live(workers=ExecutorWorkers(executor, 4))
        assert torch.equal(bench.evaluate(ARCHS).valid, expected.valid)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert ResultStore(bench.path).count() == 4


def test_a_shared_folder_holds_images_and_unfinished_trainings(tmp_path, make_live):
    recipe = replace(RECIPE, epochs=2)
    whole = make_live(recipe=recipe, store=str(tmp_path / "local.sqlite")).evaluate([MIXED])
    with ThreadPoolExecutor(1) as executor:
        bench = make_live(recipe=recipe, workers=ExecutorWorkers(executor, folder=str(tmp_path / "shared")))
        bench.evaluate([MIXED], epochs=1)
        assert len(list((tmp_path / "shared" / "unfinished").iterdir())) == 1
        assert len(list((tmp_path / "shared").glob("job-*.pickle"))) == 1
        assert torch.equal(bench.evaluate([MIXED]).valid, whole.valid)
        bench.close()
    assert not list((tmp_path / "shared").rglob("*.p*"))


def test_an_executor_that_breaks_ends_the_evaluation_and_blames_nobody(tmp_path, make_live):
    space = TroubledSpace(tmp_path, dies=CONV)
    with ProcessPoolExecutor(1, mp_context=get_context("forkserver")) as executor:
        bench = make_live(space=space, workers=ExecutorWorkers(executor))
        with pytest.raises(EvaluationError, match="take no more trainings"):
            bench.evaluate([CONV, SKIP])
    assert ResultStore(bench.path).count() == 0


def test_an_executor_that_exits_ends_the_evaluation(make_live):
    class Exits(Executor):
        def submit(self, function, *args):
            future = Future()
            future.set_exception(SystemExit(1))
            return future

    bench = make_live(workers=ExecutorWorkers(Exits()))
    with pytest.raises(EvaluationError, match="the workers cannot train"):
        bench.submit(SKIP).result(20)


def test_results_that_cannot_be_kept_are_an_error(make_live):
    class Vandal(Executor):
        def submit(self, function, *args):
            bench.path.unlink()
            return executor.submit(function, *args)

    with ThreadPoolExecutor(1) as executor:
        bench = make_live(workers=ExecutorWorkers(Vandal()))
        with pytest.raises(Exception, match="cannot use the result store"):
            bench.evaluate([SKIP])


def test_a_job_for_elsewhere_needs_no_file_of_this_machine(tmp_path, make_live):
    bench = make_live()
    bench.prepare()
    job = bench._job()
    (tmp_path / "pixels").write_bytes(bytes(range(64)))
    pixels = torch.from_file(str(tmp_path / "pixels"), size=64, dtype=torch.uint8).view(1, 1, 8, 8)
    mapped = replace(job, data=replace(job.data, test=LabelledImages(pixels, torch.zeros(1, dtype=torch.long))))
    sent = pickle.dumps(mapped.elsewhere("cuda", None))
    expected = pixels.clone()
    del pixels, mapped
    (tmp_path / "pixels").unlink()
    there = pickle.loads(sent)
    assert torch.equal(there.data.test.images, expected)
    assert (there.store, there.unfinished, there.device) == (None, None, "cuda")
    assert job.store is not None


def test_every_gpu_gets_a_worker(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert (LocalWorkers().num_workers, LocalWorkers().devices) == (3, ["cuda:0", "cuda:1", "cuda:2"])
    assert LocalWorkers(device="cpu").devices == ["cpu"]
    assert LocalWorkers(7).num_workers == 7
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert LocalWorkers().devices == ["cpu"]
    with pytest.raises(UsageError, match="device=cuda"):
        LocalWorkers(device="cuda").prepare()


def test_local_workers_share_gpus_when_there_are_more_of_them(tmp_path, monkeypatch, make_live):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    bench = make_live(workers=3)
    bench.prepare()
    bench._trainings()
    assert sorted(bench.workers._idle.get()._device for _ in range(3)) == ["cuda:0", "cuda:0", "cuda:1"]


def test_no_more_workers_start_than_are_needed(tmp_path, make_live):
    bench = make_live(space=TroubledSpace(tmp_path), workers=2)
    for arch in ARCHS[:3]:
        bench.evaluate([arch])
    assert len({path.name.split(".")[0] for path in tmp_path.glob("[0-9]*.*")}) == 1


def test_images_that_cannot_be_sent_leave_nothing(tmp_path, monkeypatch, make_live):
    bench = make_live()
    bench.data.augmentation = (lambda batch: batch,)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(Exception, match="pickle"):
        bench.evaluate([SKIP])
    assert not list(tmp_path.glob("lightning-nas-*"))


def test_kernels_are_deterministic_while_training(make_live):
    seen = []

    class Spy:
        def run(self, key):
            seen.append(torch.backends.cudnn.deterministic)

    before = torch.backends.cudnn.deterministic
    run_alone(Spy(), None)
    assert seen == [True]
    assert torch.backends.cudnn.deterministic == before


def test_results_of_gpus_are_kept_apart(monkeypatch, make_live):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    gpus, cpus = make_live(), make_live(workers=LocalWorkers(1, device="cpu"))
    assert gpus.identity() == {**cpus.identity(), "device": "cuda"}
    assert make_live(workers=ExecutorWorkers(None, device="cuda:1")).identity() == gpus.identity()
    assert cpus.identity().keys() == {
        "benchmark", "space", "epochs", "seed", "data", "network", "recipe", "num_seeds", "training_version"
    }  # fmt: skip


def test_a_benchmark_that_is_at_rest_can_be_sent_to_another_process(make_live):
    bench = make_live()
    bench.evaluate([SKIP])
    bench.close()
    assert torch.equal(pickle.loads(pickle.dumps(bench)).evaluate([SKIP]).valid, bench.evaluate([SKIP]).valid)


def test_numbers_are_checked():
    with pytest.raises(UsageError, match="num_workers=0"):
        ExecutorWorkers(ThreadPoolExecutor(), 0)
