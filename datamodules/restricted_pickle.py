"""Pickles of arrays by others, read without running anything that is in them."""

from __future__ import annotations

import codecs
import pickle
from typing import IO, Any

import numpy as np

from lightning_nas.errors import BenchmarkDataError

# What arrays are made of, under the names of NumPy 1 and 2; protocol 2 writes bytes as encoded text.
_ALLOWED = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0] for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): np.empty(0).__reduce_ex__(5)[0] for core in ("core", "_core")},
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): codecs.encode,
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Nothing but arrays; numbers, text, lists and dictionaries need no class."""
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it wants to load {module}.{name}, which is no part of an array")
        return _ALLOWED[module, name]


def load_arrays(name: str, file: IO[bytes]) -> dict[str, Any]:
    """A pickled dictionary of arrays, numbers, text and lists of these.

    Args:
        name: What errors call the file.
        file: The pickle; Python 2's text is read as Latin-1, which keeps every byte.

    Raises:
        BenchmarkDataError: It is damaged, or holds anything else, of which nothing was run.
    """
    try:
        content = _ArrayUnpickler(file, encoding="latin1").load()
    except Exception as error:  # a damaged pickle can fail in any way whatever
        raise BenchmarkDataError(
            f"{name}: not a pickle of arrays ({type(error).__name__}: {error}); damaged or another file, get it again"
        ) from error
    if not isinstance(content, dict):
        raise BenchmarkDataError(f"{name}: holds a {type(content).__name__}, expected a dictionary; get it again")
    return content
