"""Hide lines that C++ libraries write to stderr, where no logger of Python can filter them."""

import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()  # file descriptor 2 belongs to the whole process


@contextmanager
def without_stderr(parts: tuple[bytes, ...] = (b"",)) -> Iterator[None]:
    """Drop the lines on file descriptor 2 that hold one of these parts (default: all); show the others at the end.

    One thread at a time; another one waits.
    """
    with _lock, tempfile.TemporaryFile() as held:
        sys.stderr.flush()
        shown = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(shown, 2)
            held.seek(0)
            kept = [line for line in held if not any(part in line for part in parts)]
            os.write(shown, b"".join(kept))
            os.close(shown)
