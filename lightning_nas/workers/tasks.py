"""Many tasks, as many at a time as there are workers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, TypeVar

from lightning_nas.errors import EvaluationError
from lightning_nas.workers.base import Workers

T = TypeVar("T", bound=Hashable)


def results_of(
    workers: Workers, tasks: Sequence[T], done: Callable[[T], bool], what: Callable[[T], str]
) -> Iterator[tuple[T, Any]]:
    """Tasks with their results as they arrive; one whose worker died is repeated once.

    Args:
        workers: Started workers.
        tasks: What is to be done, the first ones first.
        done: Whether somebody else has done a task meanwhile; None stands for its result then.
        what: Names a task in an error.

    Raises:
        EvaluationError: Two workers died of one task.
    """
    waiting, died = list(reversed(tasks)), set()
    running: dict[Future[Any], T] = {}
    while waiting or running:
        while waiting and len(running) < workers.parallelism:
            task = waiting.pop()
            if done(task):
                yield task, None
            else:
                running[workers.submit(task)] = task
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            task = running.pop(future)
            try:
                result = future.result()
            except workers.deaths as error:
                if task in died:
                    raise EvaluationError(
                        f"two workers died of {what(task)} (out of memory?); expected fewer images or smaller "
                        "networks, or workers with more memory"
                    ) from error
                died.add(task)
                waiting.append(task)
            else:
                yield task, result
