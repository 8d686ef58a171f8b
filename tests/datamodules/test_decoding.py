import threading
import time

import numpy as np
import pytest
from PIL import Image

from lightning_nas.datamodules.decoding import decode, in_threads, is_grey, shape_of
from lightning_nas.errors import BenchmarkDataError


@pytest.fixture
def colour(tmp_path):
    file = tmp_path / "colour.png"
    Image.new("RGB", (7, 5), (255, 0, 0)).save(file)
    return file


@pytest.mark.parametrize("count", [0, 1, 64, 65, 1000])
def test_threads_keep_the_order(count):
    assert in_threads(lambda x: -x, range(count)) == [-x for x in range(count)]


def test_the_first_error_ends_the_work():
    done, lock = [], threading.Lock()

    def work(x):
        if x == 3:
            raise BenchmarkDataError("third")
        time.sleep(0.005)  # all of them would take seconds, whatever the number of threads
        with lock:
            done.append(x)

    with pytest.raises(BenchmarkDataError, match="third"):
        in_threads(work, range(5_000))
    assert len(done) < 4_000


def test_shape_and_colour_are_read_from_the_header(colour):
    assert shape_of("it", colour) == (3, 5, 7) == shape_of("it", colour.read_bytes())
    assert not is_grey("it", colour)
    header = colour.read_bytes()[:45]
    assert shape_of("it", header) == (3, 5, 7)
    with pytest.raises(BenchmarkDataError, match="it: not a readable image"):
        decode(["it"], [header], (3, 5, 7), resize=False)


def test_grey_and_colour_become_what_is_asked_for(tmp_path, colour):
    grey = tmp_path / "grey.png"
    pixels = np.arange(35, dtype=np.uint8).reshape(5, 7)
    Image.fromarray(pixels).save(grey)
    both = decode(["a", "b"], [colour, grey], (3, 5, 7), resize=False)
    assert (both[0].numpy() == np.array([255, 0, 0])[:, None, None]).all()
    assert (both[1].numpy() == pixels).all()
    assert (decode(["b"], [grey], (1, 5, 7), resize=False)[0, 0].numpy() == pixels).all()
    with pytest.raises(BenchmarkDataError, match="a has colour and the first image has none"):
        decode(["a"], [colour], (1, 5, 7), resize=False)
