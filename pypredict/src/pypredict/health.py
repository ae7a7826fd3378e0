"""Check that the daemon runs and can work. In each loop it writes a file: empty, or the reason why it cannot work."""

import logging
import time
from pathlib import Path

from pypredict import PypredictError

log = logging.getLogger(__name__)

MAX_AGE_SECONDS = 60  # longer than to load a model or to predict a chunk


def check_health(path: Path | None) -> None:
    """Raise PypredictError when the file is not set, missing, older than a minute, or not empty."""
    if path is None:
        raise PypredictError("PYPREDICT_HEALTH_FILE is not set; set the same file for the daemon and this command")
    try:
        age, trouble = time.time() - path.stat().st_mtime, path.read_text()
    except OSError as error:
        raise PypredictError(f"{path} cannot be read ({error.strerror}); the daemon has not started") from error
    if age > MAX_AGE_SECONDS:
        raise PypredictError(
            f"the daemon wrote {path} {age:.0f} s ago, the limit is {MAX_AGE_SECONDS} s; restart the daemon"
        )
    if trouble:
        raise PypredictError(f"the daemon cannot work: {trouble}; check PGUSER and PGPASSFILE, then restart it")


class HealthFile:
    """The file of a worker. trouble: why the worker cannot work; empty: it can."""

    def __init__(self, path: Path | None) -> None:
        """path: None writes nothing."""
        self._path = path
        self._is_written = True
        self.trouble = ""

    def write(self) -> None:
        """Write the file. When that fails, log it once: the file grows old, and that tells it."""
        try:
            if self._path is not None:
                _replace(self._path, self.trouble)
        except OSError as error:
            if self._is_written:
                log.warning("%s cannot be written: %s", self._path, error.strerror)
            self._is_written = False
        else:
            self._is_written = True


def check_writable(path: Path | None) -> None:
    """Write the file once before the worker starts. Raises PypredictError when it cannot be written."""
    if path is None:
        return
    try:
        _replace(path, "")
    except OSError as error:
        raise PypredictError(
            f"{path} cannot be written ({error.strerror}); set PYPREDICT_HEALTH_FILE to a file in a directory that "
            "exists and can be written"
        ) from error


def _replace(path: Path, trouble: str) -> None:
    """Replace the file by a new one: a reader never finds it empty before the reason is in it. Raises OSError."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(trouble)
    new.replace(path)
