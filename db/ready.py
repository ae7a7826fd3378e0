"""Print where to look when a start is over: pgAdmin's address and the command for the report, as the last line of `up`.

The service `ready` (docker-compose.yml) runs this program. A start is over when no trainer runs, every proposed bundle
is predicted, and pgAdmin answers. A trainer holds a shared lock on the models volume (pyml/docker_entrypoint.sh). After
the line the program waits for the next trainer, and prints the line again after it. It does not end, because compose
would print a line about that. When pypredict refuses a bundle, the start is not over; pypredict's log says why.
"""

import fcntl
import os
import time
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psycopg2

from bundle import BundleError
from bundle.publish import pointers, read_pointer

MODELS = Path("/models")
PING = "http://pgadmin:5050/misc/ping"
SETTLE_SECONDS = 5  # until the last lines of the other services, and of compose about the trainer, are printed
PREDICTED = """
    SELECT %(proposed)s <@ ARRAY(SELECT bundle_id FROM ml.model)
       AND NOT EXISTS (SELECT FROM ml.progress WHERE inputs_done < inputs OR (state = 'serving' AND inputs = 0))"""


def main() -> None:
    """Print the line after the start and after every later training."""
    volume = os.open(MODELS, os.O_RDONLY)
    while True:
        wait_until(lambda: not trainer_runs(volume) and all_predicted() and pgadmin_answers())
        time.sleep(SETTLE_SECONDS)
        if trainer_runs(volume):
            continue  # the next training has begun
        print(  # noqa: T201 - the service's output
            f"pgAdmin is open on http://127.0.0.1:{os.environ['PGADMIN_PORT']}, with the login of .env; "
            "accuracy and confusion matrix: docker compose exec pypredict pypredict report",
            flush=True,
        )
        wait_until(lambda: trainer_runs(volume))


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds; check it once a second."""
    while not condition():
        time.sleep(1)


def trainer_runs(volume: int) -> bool:
    """Return whether a trainer holds its lock on the volume."""
    try:
        fcntl.flock(volume, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(volume, fcntl.LOCK_UN)
    return False


def all_predicted() -> bool:
    """Return whether every proposed bundle is registered and no input waits."""
    try:
        proposed = [read_pointer(path).bundle_id for path in pointers(MODELS).values()]
        with closing(psycopg2.connect("")) as connection, connection.cursor() as cursor:
            cursor.execute(PREDICTED, {"proposed": proposed})
            (answer,) = cursor.fetchone() or (False,)
            return bool(answer)
    except (BundleError, OSError, psycopg2.OperationalError):  # pypredict's log names the error if it stays
        return False


def pgadmin_answers() -> bool:
    """Return whether pgAdmin's health address answers."""
    try:
        with urllib.request.urlopen(PING, timeout=5):
            return True
    except OSError:
        return False


if __name__ == "__main__":
    main()
