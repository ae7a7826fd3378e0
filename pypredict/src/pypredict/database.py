"""The way to Postgres: one engine, configured by libpq's own variables, and errors that a person understands.

PGHOST, PGPORT, PGUSER, PGDATABASE and PGPASSFILE are read by libpq itself (docs/operations.md); DATABASE_URL, when
set, goes before them. No password is ever part of a message of ours.
"""

import logging
import random
import time
from typing import Any

import psycopg2
import psycopg2.extensions
import sqlalchemy as sa

from bundle.messages import one_line
from pypredict import PypredictError, schema

log = logging.getLogger(__name__)

# A dead peer is noticed within a minute: after 30 s idle 3 probes 10 s apart, or data unacknowledged for as long.
# roles.sql sets the same for the server's end.
KEEPALIVE: dict[str, Any] = {
    **{"keepalives": 1, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3},
    "tcp_user_timeout": 60_000,  # ms
}
# What the server's absence or refusal raises.
OUTAGE = (sa.exc.OperationalError, sa.exc.InterfaceError, psycopg2.OperationalError, psycopg2.InterfaceError)
FINAL_ERRORS = (
    "password authentication failed",
    "no password supplied",
    "does not exist",
    "no pg_hba.conf entry",
    "is not permitted to log in",
    "permission denied for database",
)


class DatabaseError(PypredictError):
    """The database is absent, refuses the login, or has another schema than this code."""


def connect(url: str | None, *, wait_seconds: float = 30, application: str = "pypredict") -> sa.Engine:
    """Make an engine and wait up to wait_seconds until the server answers, which is logged once.

    Raises DatabaseError at once on a refused login, and after wait_seconds when nothing answers.
    """
    _check_url(url)
    engine = sa.create_engine(
        "postgresql+psycopg2://",
        creator=lambda: psycopg2.connect(url or "", connect_timeout=5, application_name=application, **KEEPALIVE),
        pool_pre_ping=True,
        pool_size=4,
    )
    deadline = time.monotonic() + wait_seconds
    announced = False
    while True:
        try:
            with engine.connect():
                return engine
        except sa.exc.OperationalError as error:
            why = reason(error)
            if is_refused_login(error):
                raise DatabaseError(f"the database refuses the login: {why}; check PGUSER and PGPASSFILE") from error
            if time.monotonic() >= deadline:
                within = f" within {wait_seconds:g} s" if wait_seconds else ""
                raise DatabaseError(
                    f"no database answered{within} ({why}); start it (`make db`, `docker compose up`), or check "
                    "PGHOST and PGPORT"
                ) from error
            if not announced:
                log.info("waiting up to %g s for the database: %s", wait_seconds, why)
                announced = True
            time.sleep(min(1.0, 0.2 + 0.2 * random.random()))  # noqa: S311 - jitter, no secret


def _check_url(url: str | None) -> None:
    """Refuse what libpq would quote in its complaint, password and all. Raises DatabaseError."""
    try:
        parts = psycopg2.extensions.parse_dsn(url or "")
    except psycopg2.ProgrammingError:
        parts = {"port": "?"}
    if not all(port.isdecimal() for port in parts.get("port", "0").split(",")):
        raise DatabaseError(
            "DATABASE_URL is not as libpq wants it: postgresql://USER@HOST:PORT/DATABASE, with :PASSWORD after USER if "
            "no PGPASSFILE holds it, and every character of it that is neither letter nor digit written as %XX"
        )


def is_refused_login(error: BaseException) -> bool:
    """Tell whether the server answers and refuses the login, which waiting does not mend."""
    return any(final in str(error) for final in FINAL_ERRORS)


def check_schema(connection: sa.Connection) -> None:
    """Refuse a database whose schema is not the one this code was written for. Raises DatabaseError."""
    found = None
    if connection.execute(sa.text("SELECT to_regclass('ml.alembic_version')")).scalar() is not None:
        found = connection.execute(sa.text("SELECT version_num FROM ml.alembic_version")).scalar()
    if found != schema.REVISION:
        raise DatabaseError(
            f"the database has schema revision {found or 'none'}, this version needs {schema.REVISION}: "
            "run `pypredict migrate` as the owner of the database"
        )


def reason(error: BaseException) -> str:
    """Say on one line why a statement or a connection failed, without the statement itself."""
    if isinstance(error, sa.exc.DBAPIError) and error.orig is not None:
        return one_line(error.orig)
    return one_line(error)
