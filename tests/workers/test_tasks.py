from concurrent.futures import Future

import pytest

from lightning_nas.errors import EvaluationError
from lightning_nas.workers.base import WorkerLostError, Workers
from lightning_nas.workers.tasks import results_of


class Scripted(Workers):
    """Answers at once with the task, unless it is to die of it so many times."""

    def __init__(self, parallelism=2, deaths_of=None):
        self.size, self.deaths_of, self.submitted = parallelism, dict(deaths_of or {}), []

    @property
    def parallelism(self):
        return self.size

    def start(self, job):
        pass

    def submit(self, task):
        self.submitted.append(task)
        future = Future()
        if self.deaths_of.get(task, 0) > 0:
            self.deaths_of[task] -= 1
            future.set_exception(WorkerLostError("gone"))
        else:
            future.set_result(task * 10)
        return future


def everything(workers, tasks, done=lambda task: False):
    return sorted(results_of(workers, tasks, done, lambda task: f"the task {task}"), key=lambda pair: pair[0])


def test_all_are_done_and_a_lost_one_is_repeated():
    workers = Scripted(deaths_of={2: 1})
    assert everything(workers, [1, 2, 3]) == [(1, 10), (2, 20), (3, 30)]
    assert sorted(workers.submitted) == [1, 2, 2, 3]


def test_what_is_done_elsewhere_is_not_done_again():
    workers = Scripted(1)
    assert everything(workers, [1, 2, 3], lambda task: task == 2) == [(1, 10), (2, None), (3, 30)]
    assert workers.submitted == [1, 3]


def test_two_deaths_end_it():
    with pytest.raises(EvaluationError, match="two workers died of the task 2"):
        everything(Scripted(deaths_of={2: 2}), [1, 2, 3])


def test_an_error_is_no_death():
    workers = Scripted()
    workers.submit = lambda task: 1 / 0
    with pytest.raises(ZeroDivisionError):
        everything(workers, [1])
