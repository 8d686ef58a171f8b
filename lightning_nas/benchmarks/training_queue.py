"""The trainings a live benchmark waits for."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial

from lightning_nas.benchmarks.job import TrainingJob
from lightning_nas.benchmarks.store import Result, ResultKey, ResultStore
from lightning_nas.errors import EvaluationError, NASError
from lightning_nas.workers.base import Workers


class TrainingQueue:
    """Hands trainings to workers in the order they were asked for, as many at a time as the workers can take.

    What is asked for twice is trained once. A training whose worker died is repeated; when that dies, too, it has
    failed, and this is its result. Every result is in the store before its future is done.

    Args:
        workers: Who trains.
        job: What is to be done with every architecture.
        store: Where results are kept.

    Raises:
        EvaluationError: No worker can be had.
    """

    def __init__(self, workers: Workers, job: TrainingJob, store: ResultStore) -> None:
        self._workers, self._store, self._num_seeds = workers, store, job.num_seeds
        self._asked: dict[ResultKey, list[Future[list[Result]]]] = {}
        self._waiting: deque[ResultKey] = deque()
        self._running: dict[ResultKey, Future[list[Result]]] = {}
        self._died: set[ResultKey] = set()
        self._closed = False
        workers.start(job)
        # One thread does all the bookkeeping: it needs no lock, and no thread of an executor's has to wait for a disk.
        self._clerk = ThreadPoolExecutor(1, thread_name_prefix="training-queue")

    def submit(self, key: ResultKey) -> Future[list[Result]]:
        """Train an architecture some time; one result for every seed."""
        future: Future[list[Result]] = Future()
        self._clerk.submit(self._add, key, future)
        return future

    def close(self) -> None:
        """Stop the workers at once; whatever is not done is cancelled."""
        self._closed = True
        self._clerk.shutdown(wait=True)
        for training in self._running.values():
            training.cancel()
        self._workers.stop()
        for future in (future for futures in self._asked.values() for future in futures):
            future.cancel()
            future.set_running_or_notify_cancel()

    def _add(self, key: ResultKey, future: Future[list[Result]]) -> None:
        if key not in self._asked:
            self._asked[key] = []
            self._waiting.append(key)
        self._asked[key].append(future)
        self._launch()

    def _launch(self) -> None:
        try:
            while self._waiting and not self._closed and len(self._running) < self._workers.parallelism:
                key = self._waiting[0]
                training = self._running[key] = self._workers.submit(key)
                self._waiting.popleft()
                training.add_done_callback(partial(self._tell_clerk, key))
        except Exception as error:
            gone = EvaluationError(f"the workers take no more trainings ({error}); what is done so far is in the store")
            gone.__cause__ = error
            while self._waiting:
                self._answer(self._waiting.popleft(), gone)

    def _tell_clerk(self, key: ResultKey, training: Future[list[Result]]) -> None:
        with suppress(RuntimeError):  # closed meanwhile
            self._clerk.submit(self._arrived, key, training)

    def _arrived(self, key: ResultKey, training: Future[list[Result]]) -> None:
        del self._running[key]
        try:
            results = self._kept(key, training)
        except NASError as error:
            self._answer(key, error)
        except BaseException as error:  # not the architecture's fault: it is no result; somebody waits for an answer
            self._answer(key, _unfit(error))
        else:
            if results is None:
                self._waiting.appendleft(key)
            else:
                self._answer(key, results)
        self._launch()

    def _kept(self, key: ResultKey, training: Future[list[Result]]) -> list[Result] | None:
        """Results that are in the store by now; None when the worker died for the first time."""
        try:
            results = training.result()
        except self._workers.deaths as error:
            if key not in self._died:
                self._died.add(key)
                return None
            reason = f"its worker died twice ({str(error).partition(chr(10))[0] or type(error).__name__})"
            results = [Result(key._replace(seed=key.seed + i), error=reason) for i in range(self._num_seeds)]
        else:
            if self._workers.keeps_results:
                return results
        self._store.put(*results)
        return results

    def _answer(self, key: ResultKey, answer: list[Result] | Exception) -> None:
        self._died.discard(key)
        for future in self._asked.pop(key):
            if not future.set_running_or_notify_cancel():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)


def _unfit(error: BaseException) -> EvaluationError:
    reason = str(error).strip() or type(error).__name__
    unfit = EvaluationError(
        f"the workers cannot train ({reason}); lightning-nas and the modules of the space and of the augmentation must "
        "be installed where they run"
    )
    unfit.__cause__ = error
    return unfit
