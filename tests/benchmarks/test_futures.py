from concurrent.futures import CancelledError, Future, wait

import pytest

from lightning_nas.benchmarks.futures import completed, then


def test_a_function_of_what_comes_later():
    first = Future()
    second = then(first, lambda x: x + 1)
    assert not second.done()
    first.set_result(3)
    assert second.result(0) == 4


def test_errors_are_passed_on():
    first = Future()
    second = then(first, str)
    first.set_exception(KeyError("lost"))
    with pytest.raises(KeyError, match="lost"):
        second.result(0)
    with pytest.raises(ZeroDivisionError):
        then(completed(0), lambda x: 1 / x).result(0)


def test_cancellation_is_passed_on_and_ends_waiting():
    first = Future()
    second = then(first, str)
    first.cancel()
    assert wait([second], 0).done
    with pytest.raises(CancelledError):
        second.result(0)


def test_who_no_longer_waits_disturbs_nobody(caplog):
    first = Future()
    second = then(first, str)
    second.cancel()
    first.set_result(3)
    assert second.cancelled()
    assert caplog.text == ""
