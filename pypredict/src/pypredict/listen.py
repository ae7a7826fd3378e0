"""Wait until a chunk arrives, until a stop, or until the time to poll.

A notification only shortens the wait. The worker also polls, so a lost notification does no harm. It is sent after the
chunk's commit: any login can fill the server's queue of notifications, and a full queue refuses the commit.
"""

import contextlib
import logging
import os
import re
import signal

import psycopg2
import sqlalchemy as sa

from pypredict.database import OUTAGE, readable

log = logging.getLogger(__name__)

CHANNEL = "ml_chunk"
DAEMON = "pypredict daemon"  # application_name of the connection with which a daemon listens
# SET LOCAL: nobody waits until the disk holds a notification.
NOTIFY = sa.text(f"SET LOCAL synchronous_commit = off; SELECT pg_notify('{CHANNEL}', CAST(:chunk_id AS text))")
# Only logins that may predict can be daemons: another login may take the same application_name.
COUNT_DAEMONS = sa.text("""
    SELECT count(*) FROM pg_stat_activity
    WHERE application_name = :daemon AND datname = current_database()
      AND pg_has_role(usesysid, 'ml_predictor', 'member')""")


class Stop:
    """A stop flag that a signal handler can set. Setting it also ends a wait at once."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        self._set = False

    def set(self) -> None:
        """Ask to stop."""
        if not self._set:
            self._set = True
            os.write(self._write, b"\0")

    def on_signal(self, number: int, _: object) -> None:
        """Handle a signal: stop after the current job; the second signal ends the process at once."""
        if self._set:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.set()
        with contextlib.suppress(RuntimeError):  # it came while this thread wrote to stderr, which cannot be nested
            log.info("stopping after the current job")

    def is_set(self) -> bool:
        """Return whether `set` was called."""
        return self._set

    def fileno(self) -> int:
        """Return the file descriptor that becomes readable at a stop."""
        return self._read


def count_daemons(connection: sa.Connection) -> int:
    """Count the daemons that listen, and so will predict new chunks."""
    return int(connection.execute(COUNT_DAEMONS, {"daemon": DAEMON}).scalar_one())


def somebody_listens(connection: sa.Connection) -> bool:
    """Return whether a daemon listens."""
    return count_daemons(connection) > 0


def notify(engine: sa.Engine, chunk_id: int) -> None:
    """Wake the waiting workers after a chunk's commit. When it fails, they find the chunk when they poll."""
    try:
        with engine.begin() as connection:
            connection.execute(NOTIFY, {"chunk_id": chunk_id})
    except sa.exc.DBAPIError as error:
        log.debug("the workers are not notified: %s", error.orig)


class Listener:
    """One connection with LISTEN; `open` opens it again after an error."""

    def __init__(self, engine: sa.Engine, stop: Stop) -> None:
        self._engine = engine
        self._stop = stop
        self._connection: psycopg2.extensions.connection | None = None
        self.lost = False  # the server has ended the connection, and `close` was not called since
        self.chunk_id = 0  # the number in a notification, which anybody may send; 0: it had none, or there were several

    def open(self) -> None:
        """Start listening. Call it before a claim, so that no chunk is missed between the claim and the wait."""
        if self._connection is None:
            with contextlib.suppress(*OUTAGE):
                pooled = self._engine.raw_connection()
                connection = pooled.driver_connection
                pooled.detach()
                assert isinstance(connection, psycopg2.extensions.connection)  # noqa: S101 - for the type checker
                connection.autocommit = True
                connection.cursor().execute(f"LISTEN {CHANNEL}; SET application_name = '{DAEMON}'")
                self._connection = connection

    def wait(self, seconds: float) -> bool:
        """Wait for a new chunk, a stop, or the given seconds; return whether there is a new chunk."""
        waiting: list[Stop | psycopg2.extensions.connection] = [self._stop]
        if self._connection is not None:
            waiting.append(self._connection)
        ready = readable(waiting, seconds)
        if self._connection is None or self._connection not in ready:
            return False
        try:
            self._connection.poll()
            said = [notice.payload for notice in self._connection.notifies]
            self._connection.notifies.clear()
            self.chunk_id = int(said[0]) if len(said) == 1 and re.fullmatch("[0-9]{1,18}", said[0]) else 0
        except OUTAGE:
            self.close()
            self.lost = True
            return False
        return True

    def close(self) -> None:
        """Stop listening."""
        if self._connection is not None:
            with contextlib.suppress(psycopg2.Error):
                self._connection.close()
            self._connection = None
        self.lost = False
