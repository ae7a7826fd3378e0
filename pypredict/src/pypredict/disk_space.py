"""The disk space of the tables: how many bytes a deletion made reusable, and how many went back to the disk."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

import psycopg2.errors
import sqlalchemy as sa

from pypredict.deletion import LOCK_SECONDS

log = logging.getLogger(__name__)

TABLES = "ml.chunk, ml.test_set, ml.input, ml.input_name, ml.job, ml.prediction, ml.prediction_error, ml.suspect"
SIZE = sa.text("SELECT sum(pg_total_relation_size(name::regclass)) FROM unnest(CAST(:tables AS text[])) name")
CLOCK = sa.text("SELECT clock_timestamp()")
# Transactions that began before this time and may still see the deleted rows.
OLDER = sa.text("""
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND xact_start < :time AND coalesce(backend_xmin, backend_xid) IS NOT NULL""")


@dataclass
class Freed:
    """Bytes. deleted: of the deleted rows; the caller sets it. returned: those that went back to the disk."""

    deleted: int = 0
    returned: int = 0

    @property
    def reusable(self) -> int:
        """About how many bytes new rows can use before the files grow."""
        return max(0, self.deleted - self.returned)


@contextmanager
def free_space(engine: sa.Engine, *, full: bool) -> Iterator[Freed]:
    """Measure the tables before and after the deletions of the block, with a VACUUM at its end.

    full: VACUUM FULL, which returns all free space, but locks each table while it writes a copy of it.
    """
    freed = Freed()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        before = _size(connection)
        yield freed
        deleted_at = connection.execute(CLOCK).scalar_one()
        connection.exec_driver_sql(f"SET lock_timeout = '{LOCK_SECONDS}s'")
        vacuum = f"VACUUM ({'FULL, ' if full else ''}ANALYZE) {TABLES}"
        try:
            connection.exec_driver_sql(vacuum)
        except sa.exc.DBAPIError as error:
            if not isinstance(error.orig, psycopg2.errors.LockNotAvailable):
                raise
            log.warning("another transaction locks a table, so the space is not free yet; run as the owner: %s", vacuum)
        freed.returned = max(0, before - _size(connection))
        _warn_of_older(connection, deleted_at)


def _size(connection: sa.Connection) -> int:
    return int(connection.execute(SIZE, {"tables": TABLES.split(", ")}).scalar_one())


def _warn_of_older(connection: sa.Connection, deleted_at: datetime) -> None:
    older = connection.execute(OLDER, {"time": deleted_at}).scalar_one()
    if older:
        log.warning(
            "%d transactions began before the end of the deletion and may still see the deleted rows, so not all space "
            "is free yet; end them (pg_stat_activity shows them), then PostgreSQL frees it by itself",
            older,
        )
