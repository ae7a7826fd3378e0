"""Open a file for reading, but only a regular one: a FIFO would wait for ever, and a device has no end."""

import errno
import os
import stat
from pathlib import Path
from typing import IO


def open_regular(path: Path, *, follow_links: bool = True) -> IO[bytes]:
    """Open a regular file to read its bytes; a link to one is followed unless follow_links is False.

    Raises OSError, with the strerror "not a regular file" for a folder, FIFO, socket, device or refused link.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow_links else os.O_NOFOLLOW)
    try:
        handle = os.open(path, flags)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link, or a socket
            raise OSError(error.errno, "not a regular file", str(path)) from error
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(handle, "rb")
