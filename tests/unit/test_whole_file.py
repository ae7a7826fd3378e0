"""A file appears whole; what is no regular file is not replaced."""

import os
import stat
from pathlib import Path

import pytest

from bundle.whole_file import write_whole


def test_a_fifo_or_a_device_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/dev/null")
    before = sorted(tmp_path.iterdir())
    for name in ("fifo", "link"):
        with pytest.raises(OSError, match="not a regular file"), write_whole(tmp_path / name):
            pytest.fail("the block began")
    assert sorted(tmp_path.iterdir()) == before
    assert stat.S_ISFIFO((tmp_path / "fifo").stat().st_mode)
    assert (tmp_path / "link").is_symlink()


def test_a_file_and_a_link_to_one_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("absent")
    for name in ("link", "dangling", "new"):
        with write_whole(tmp_path / name) as file:
            file.write(b"new")
        assert not (tmp_path / name).is_symlink()
        assert (tmp_path / name).read_bytes() == b"new"
    assert (tmp_path / "file").read_text() == "old"
