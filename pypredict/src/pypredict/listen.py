"""Waiting: until a chunk arrives, until told to stop, or until it is time to look again.

A notification is a hint that shortens the wait, never the only signal: without it the worker polls.
"""

import contextlib
import logging
import os
import select

import psycopg2
import sqlalchemy as sa

from pypredict.database import OUTAGE

log = logging.getLogger(__name__)

CHANNEL = "ml_chunk"  # db/views.sql: the trigger on ml.chunk
PRESENCE = 7_316_003  # advisory lock, shared by every daemon as long as it listens


class Stop:
    """A flag that a signal handler can set and that also ends a wait at once."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        self._set = False

    def set(self) -> None:
        """Ask to stop."""
        if not self._set:
            self._set = True
            os.write(self._write, b"\0")

    def is_set(self) -> bool:
        """Tell whether somebody asked to stop."""
        return self._set

    def fileno(self) -> int:
        """Give the descriptor that becomes readable."""
        return self._read


def somebody_listens(connection: sa.Connection) -> bool:
    """Tell whether a daemon is there to predict what is loaded now."""
    held = sa.text(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = :presence AND granted"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    return bool(connection.execute(held, {"presence": PRESENCE}).scalar_one())


class Listener:
    """One connection that LISTENs, opened when needed and again after a fault."""

    def __init__(self, engine: sa.Engine, stop: Stop) -> None:
        self._engine = engine
        self._stop = stop
        self._connection: psycopg2.extensions.connection | None = None

    def open(self) -> None:
        """Start listening, as a daemon does; call before looking for work, so that nothing falls between."""
        if self._connection is None:
            with contextlib.suppress(*OUTAGE):
                pooled = self._engine.raw_connection()
                connection = pooled.driver_connection
                pooled.detach()
                assert isinstance(connection, psycopg2.extensions.connection)  # noqa: S101 - for the type checker
                connection.autocommit = True
                connection.cursor().execute(f"LISTEN {CHANNEL}; SELECT pg_advisory_lock_shared({PRESENCE})")
                self._connection = connection

    def wait(self, seconds: float) -> bool:
        """Return when a chunk was announced, at a stop, or after the given seconds; tell whether one was announced."""
        waiting: list[Stop | psycopg2.extensions.connection] = [self._stop]
        if self._connection is not None:
            waiting.append(self._connection)
        ready, _, _ = select.select(waiting, [], [], seconds)
        if self._connection is None or self._connection not in ready:
            return False
        try:
            self._connection.poll()
            self._connection.notifies.clear()
        except OUTAGE:
            self.close()
            return False
        return True

    def close(self) -> None:
        """Stop listening."""
        if self._connection is not None:
            with contextlib.suppress(psycopg2.Error):
                self._connection.close()
            self._connection = None
