import os

import pytest

from lightning_nas.errors import RunFolderError
from lightning_nas.files import ensure_writable, write_atomically


@pytest.mark.parametrize(("mode", "content"), [("w", "größer\n"), ("wb", b"\x00\xff")])
def test_writes_text_and_bytes_and_makes_folders(tmp_path, mode, content):
    path = tmp_path / "new" / "deeper" / "file"
    with write_atomically(path, mode) as file:
        file.write(content)
    assert (path.read_bytes() if "b" in mode else path.read_text("utf-8")) == content


@pytest.mark.parametrize("crash", [ValueError, KeyboardInterrupt])
def test_a_crash_leaves_the_old_file_and_no_litter(tmp_path, crash):
    path = tmp_path / "file"
    path.write_text("old")

    def write_half():
        with write_atomically(path) as file:
            file.write("half of the ne")
            file.flush()
            raise crash

    with pytest.raises(crash):
        write_half()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_the_target_is_untouched_until_the_end(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with write_atomically(path) as file:
        file.write("new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_permissions_follow_the_umask(tmp_path):
    previous = os.umask(0o027)
    try:
        with write_atomically(tmp_path / "file") as file:
            file.write("x")
    finally:
        os.umask(previous)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(RunFolderError, match=r"file/sub.*cannot write there.*another folder"):
        ensure_writable(blocked / "sub")
    with pytest.raises(RunFolderError), write_atomically(blocked / "sub" / "table.npz"):
        pass
