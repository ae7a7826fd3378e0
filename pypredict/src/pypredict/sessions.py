"""End the sessions of people who hold a transaction open for too long.

PostgreSQL lets each login change its own timeouts, so timeouts alone do not protect the service: an old transaction
keeps VACUUM from its work, keeps the server's queue of notifications full, and makes a migration wait.
"""

import logging

import sqlalchemy as sa

log = logging.getLogger(__name__)

MAX_READER_SECONDS = 600  # age of a transaction of a login that only reads; the worker ends older ones
IS_INSTALLED = sa.text("SELECT to_regprocedure('ml.end_reader_sessions(double precision)')")
END = sa.text("SELECT ml.end_reader_sessions(:seconds)")


def end_reader_sessions(connection: sa.Connection, seconds: float) -> None:
    """End each session of a reader whose transaction is older than this; do nothing before the first migration."""
    if connection.execute(IS_INSTALLED).scalar() is None:
        return
    ended = connection.execute(END, {"seconds": seconds}).scalar_one()
    if ended:
        log.warning("%d sessions of readers were ended: their transactions were older than %g s", ended, seconds)
