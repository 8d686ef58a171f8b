"""Where data lies, what tells it from other data, and writing files so that a crash never leaves half of one."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from lightning_nas.errors import BenchmarkDataError, RunFolderError

if TYPE_CHECKING:
    from numpy.lib.npyio import NpzFile


def data_dir(path: str | Path | None = None) -> Path:
    """Folder of prepared data: the argument, else ``LIGHTNING_NAS_DATA``, else a cache folder in the home."""
    chosen = path or os.environ.get("LIGHTNING_NAS_DATA") or Path.home() / ".cache" / "lightning_nas"
    return Path(chosen).expanduser()


@contextmanager
def write_atomically(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file in the same folder and rename it to ``path`` when the block ends well.

    Args:
        path: Target; its folder is made when missing.
        mode: ``"w"`` for text, ``"wb"`` for bytes.

    Raises:
        RunFolderError: The folder cannot be written.
    """
    ensure_writable(path.parent)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp gives 0600, which would hide results from colleagues
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def opened_npz(path: Path) -> Iterator[NpzFile]:
    """Open an ``.npz`` without pickles; whatever is wrong with it becomes a ``BenchmarkDataError``.

    Args:
        path: File to read; a missing one raises ``FileNotFoundError``.
    """
    import numpy as np
    from numpy.lib.npyio import NpzFile

    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, NpzFile):
            raise ValueError("a single array")
        with file:
            yield file
    except FileNotFoundError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise BenchmarkDataError(
            f"{path}: not a readable .npz file of columns ({error}); damaged, cut short or another kind of file"
        ) from error


def ensure_writable(folder: Path) -> None:
    """Make a folder and prove that a file can be written there; raises ``RunFolderError`` otherwise."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RunFolderError(
            f"{folder}: cannot write there ({error.strerror or error}); choose another folder or mend its permissions"
        ) from error


def canonical_json(details: Mapping[str, Any]) -> str:
    """Primitives as text, the same in every process and for every order of the keys."""
    return json.dumps(details, sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint(details: Mapping[str, Any]) -> str:
    """Short hash of primitives, the same in every process and for every order of the keys.

    Example:
        >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1}) != fingerprint({"a": 1, "b": 3})
        True
    """
    return hashlib.sha256(canonical_json(details).encode()).hexdigest()[:16]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
