"""Two things the standard library's futures lack."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


def completed(value: T) -> Future[T]:
    """A future that is done.

    Example:
        >>> completed(3).result()
        3
    """
    future: Future[T] = Future()
    future.set_result(value)
    return future


def then(future: Future[S], function: Callable[[S], T]) -> Future[T]:
    """A future of a function of another future's result; errors and cancellation are passed on.

    Example:
        >>> then(completed(3), str).result()
        '3'
    """
    outer: Future[T] = Future()

    def pass_on(inner: Future[S]) -> None:
        if inner.cancelled():
            outer.cancel()
        if not outer.set_running_or_notify_cancel():
            return
        try:
            outer.set_result(function(inner.result()))
        except BaseException as error:
            outer.set_exception(error)

    future.add_done_callback(pass_on)
    return outer
