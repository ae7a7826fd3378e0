"""Is the daemon's loop turning, and can it work? It writes a file each turn: empty, or what keeps it from working."""

import time
from pathlib import Path

from pypredict import PypredictError

# Longer than loading a model or predicting a chunk takes, shorter than a person's patience.
MAX_AGE_SECONDS = 60


def check_health(path: Path | None) -> None:
    """Raise PypredictError when the file is not set, missing, older than a minute, or names a trouble."""
    if path is None:
        raise PypredictError("PYPREDICT_HEALTH_FILE is not set; the daemon and this command need the same one")
    try:
        age, trouble = time.time() - path.stat().st_mtime, path.read_text()
    except OSError as error:
        raise PypredictError(f"{path} is not there ({error.strerror}); the daemon has not started") from error
    if age > MAX_AGE_SECONDS:
        raise PypredictError(f"the daemon last turned {age:.0f} s ago, {MAX_AGE_SECONDS} s are allowed; restart it")
    if trouble:
        raise PypredictError(f"the daemon cannot work: {trouble}; check PGUSER and PGPASSFILE, then restart it")


def check_writable(path: Path | None) -> None:
    """Write the file that the worker will write each turn. Raises PypredictError when it cannot be written."""
    if path is None:
        return
    try:
        path.write_text("")
    except OSError as error:
        raise PypredictError(
            f"{path} cannot be written ({error.strerror}); let PYPREDICT_HEALTH_FILE name a file in a directory "
            "that is there and can be written"
        ) from error
