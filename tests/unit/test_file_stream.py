"""Files of a volume as a stream: what is sent, and what cannot be."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import file_stream
from installation import FILE_STREAM, Command, pipe

NOBODY = 65534


def copy_files(source: Path, target: Path) -> None:
    """Send the folder `records` of one directory to another one."""
    send, receive = ([sys.executable, FILE_STREAM, action] for action in ("send", "receive"))
    pipe(Command([*send, source, "records"]), Command([*receive, target]))


def test_a_file_with_two_names_is_sent_under_each(tmp_path: Path) -> None:
    (tmp_path / "from/records").mkdir(parents=True)
    (tmp_path / "from/records/first").write_bytes(b"content")
    (tmp_path / "from/records/second").hardlink_to(tmp_path / "from/records/first")
    copy_files(tmp_path / "from", tmp_path / "to")
    found = {path.name: path.read_bytes() for path in (tmp_path / "to/records").iterdir()}
    assert found == {"first": b"content", "second": b"content"}


@contextmanager
def unprivileged() -> Iterator[None]:
    """Be a user whom the rights of files bind: root becomes `nobody` meanwhile."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_directory_that_is_not_readable_is_an_error() -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as made:  # every user can enter /var/tmp
        root = Path(made)
        root.chmod(0o755)
        (root / "records/closed").mkdir(parents=True)
        (root / "records").chmod(0o755)
        (root / "records/open").write_text("open")
        (root / "records/closed").chmod(0)
        try:
            with unprivileged(), pytest.raises(PermissionError, match="records/closed"):
                list(file_stream.files_below(root, ["records"]))
        finally:
            (root / "records/closed").chmod(0o700)


def test_a_folder_that_is_missing_has_no_files(tmp_path: Path) -> None:
    assert list(file_stream.files_below(tmp_path, ["records"])) == []
