"""Is the daemon's loop turning? It touches a file each turn; this looks at the file's age."""

import time
from pathlib import Path

from pypredict import PypredictError

# Longer than loading a model or predicting a chunk takes, shorter than a person's patience.
MAX_AGE_SECONDS = 60


def check_health(path: Path | None) -> None:
    """Raise PypredictError when the file is not set, missing, or older than a minute."""
    if path is None:
        raise PypredictError("PYPREDICT_HEALTH_FILE is not set; the daemon and this command need the same one")
    try:
        age = time.time() - path.stat().st_mtime
    except OSError as error:
        raise PypredictError(f"{path} is not there ({error.strerror}); the daemon has not started") from error
    if age > MAX_AGE_SECONDS:
        raise PypredictError(f"the daemon last turned {age:.0f} s ago, {MAX_AGE_SECONDS} s are allowed; restart it")
