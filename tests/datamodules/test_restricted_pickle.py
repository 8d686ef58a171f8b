import io
import os
import pickle

import numpy as np
import pytest

from lightning_nas.datamodules.restricted_pickle import load_arrays
from lightning_nas.errors import BenchmarkDataError

CONTENT = {
    "data": np.arange(12, dtype=np.uint8).reshape(3, 4), "mean": np.array([0.5, 1.5]), "labels": [1, 2, 3],
    "raw": b"\x00\xff", "batch_label": "testing batch 1 of 1", "whole": True, "none": None, "pair": (1.5, -7),
}  # fmt: skip


def read(data):
    return load_arrays("batch", io.BytesIO(data))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_numbers_and_text_of_every_protocol(protocol):
    found = read(pickle.dumps(CONTENT, protocol))
    assert found.keys() == CONTENT.keys()
    for name, value in CONTENT.items():
        np.testing.assert_array_equal(found[name], value)
        assert type(found[name]) is type(value)


def test_an_array_pickled_by_python_2_and_numpy_1():
    # Python 2.7: cPickle.dumps({"data": numpy.array([7, 200], numpy.uint8), "labels": [1, 2]}, 2)
    old = (
        b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b"
        b"\x87Rq\x05(K\x01K\x02\x85cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x02\x07\xc8tbU\x06labelsq\x08]q\t(K\x01K\x02eu."
    )
    found = read(old)
    np.testing.assert_array_equal(found["data"], np.array([7, 200], np.uint8))
    assert found["labels"] == [1, 2]


class Attack:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_nothing_else_is_loaded_or_run(tmp_path, protocol):
    mark = tmp_path / "mark"
    for attack in (Attack(os.mkdir, str(mark)), Attack(eval, f"open({str(mark)!r}, 'w')")):
        data = pickle.dumps({"data": [attack]}, protocol)
        with pytest.raises(BenchmarkDataError, match=r"batch: not a pickle of arrays .* it wants to load"):
            read(data)
    assert not mark.exists()
    pickle.loads(data)
    assert mark.exists(), "the attack is none"


@pytest.mark.parametrize("data", [b"", b"nonsense", pickle.dumps(CONTENT)[:100], b"\x80\x04."])
def test_a_damaged_file_is_named(data):
    with pytest.raises(BenchmarkDataError, match="batch: not a pickle of arrays"):
        read(data)


def test_something_else_than_a_dictionary_is_refused():
    with pytest.raises(BenchmarkDataError, match="batch: holds a list, expected a dictionary"):
        read(pickle.dumps([1, 2]))
