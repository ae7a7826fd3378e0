"""Write a file so that a reader sees the whole new file or the old one."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def write_whole(path: Path, *, any_kind: bool = False) -> Iterator[IO[bytes]]:
    """Open a temporary file to write; at the end of the block, fsync it, set mode 0644 and rename it to path.

    any_kind: also replace a FIFO, socket or device, which somebody may have put into a folder of ours. When the block
    raises, the old file stays. Raises OSError when the directory cannot be written, or when path is of such a kind.
    """
    if not any_kind and path.exists() and not (path.is_file() or path.is_dir()):  # the rename refuses a directory
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    handle, name = tempfile.mkstemp(prefix=".tmp-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)  # does nothing after the rename
    fsync(path.parent)


def fsync(path: Path) -> None:
    """Write a file or a directory to the disk (fsync)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
