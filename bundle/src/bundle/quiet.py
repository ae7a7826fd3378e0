"""Keep what C++ libraries print of themselves off the terminal."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_stderr(parts: tuple[bytes, ...] = (b"",)) -> Iterator[None]:
    """Drop the lines with one of these parts that C++ writes to file descriptor 2, past every logger; keep all else."""
    sys.stderr.flush()
    shown = os.dup(2)
    with tempfile.TemporaryFile() as held:
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
