"""Connect to Postgres with libpq's own variables, and turn database errors into plain sentences.

libpq reads PGHOST, PGPORT, PGUSER, PGDATABASE and PGPASSFILE itself (docs/install.md). DATABASE_URL, if set, has
priority. Our messages never contain a password.
"""

import logging
import os
import random
import re
import select
import time
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import psycopg2
import psycopg2.errors
import psycopg2.extensions
import sqlalchemy as sa

from bundle.messages import one_line
from pypredict import PypredictError, schema

log = logging.getLogger(__name__)

# A dead connection is noticed within a minute: after 30 s without data, 3 probes follow with 10 s between them; and the
# server must acknowledge data within 60 s. roles.sql sets the same times on the server.
KEEPALIVE: dict[str, Any] = {
    "keepalives": 1,
    "keepalives_idle": 30,  # s
    "keepalives_interval": 10,  # s
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,  # ms
}
# The errors of a server that does not answer, refuses the connection, or is read-only, as after a failover.
OUTAGE = (
    sa.exc.OperationalError,
    sa.exc.InterfaceError,
    sa.exc.TimeoutError,  # every connection of the pool is in use
    psycopg2.OperationalError,
    psycopg2.InterfaceError,
    psycopg2.errors.ReadOnlySqlTransaction,
)
HOST = re.compile(r"[\w.:%-]*|/.*", re.DOTALL)  # a name, an IP address, or the directory of a socket
FINAL_ERRORS = (
    "password authentication failed",
    "no password supplied",
    "does not exist",
    "no pg_hba.conf entry",
    "is not permitted to log in",
    "permission denied for database",
)


class DatabaseError(PypredictError):
    """The database does not answer, refuses the login, or has another schema than this code needs."""


def connect(url: str | None, *, wait_seconds: float = 30, application: str = "pypredict") -> sa.Engine:
    """Make an engine, and wait up to wait_seconds until the server answers. The wait is logged once.

    Raises DatabaseError at once when the login is refused, and after wait_seconds when no server answers.
    """
    read_address(url)
    engine = sa.create_engine(
        "postgresql+psycopg2://",
        creator=lambda: _open(url, application),
        pool_size=4,
    )
    sa.event.listen(engine, "checkout", _refuse_closed)
    sa.event.listen(engine, "handle_error", _raise_outage)
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
                    f"no database answered{within} ({why}); start it (`make db`, and paste the lines that it prints; "
                    "or `docker compose up`), or check PGHOST and PGPORT"
                ) from error
            if not announced:
                log.info("waiting up to %g s for the database: %s", wait_seconds, why)
                announced = True
            time.sleep(min(1.0, 0.2 + 0.2 * random.random()))  # noqa: S311 - jitter, no secret


def _open(url: str | None, application: str) -> psycopg2.extensions.connection:
    """Connect with READ COMMITTED: db/references.sql needs it, and a server may have another default.

    It is set once. With SQLAlchemy's isolation_level, psycopg2 sets it again at each use of a pooled connection.
    """
    connection: psycopg2.extensions.connection
    connection = psycopg2.connect(
        url or "", connect_timeout=5, application_name=application, client_encoding="utf8", **KEEPALIVE
    )
    with connection, connection.cursor() as cursor:
        cursor.execute("SET default_transaction_isolation = 'read committed'")
    return connection


class _File(Protocol):
    def fileno(self) -> int: ...


MAX_POLL_MS = 2**31 - 1  # poll(2) takes an int of milliseconds
Readable = TypeVar("Readable", bound=_File)


def readable(files: Sequence[Readable], seconds: float) -> list[Readable]:
    """Wait up to `seconds`, at most 24 days, until one of the files can be read, or is closed; return those."""
    poll = select.poll()
    for file in files:
        poll.register(file, select.POLLIN)
    ready = {number for number, _ in poll.poll(min(1000 * seconds, MAX_POLL_MS))}
    return [file for file in files if file.fileno() in ready]


def _refuse_closed(connection: psycopg2.extensions.connection, record: Any, _: object) -> None:
    """Let the pool open a new connection in place of one that the server has closed.

    On an idle connection there is nothing to read, except the message with which the server ends it. A connection that
    was opened just now is not checked. Unlike SQLAlchemy's pool_pre_ping, this sends no statement to the server. A
    chunk takes four connections from the pool.
    """
    new = "used" not in record.info
    record.info["used"] = True
    if not new and (connection.closed or readable([connection], 0)):
        raise sa.exc.DisconnectionError("the server has closed this connection")


def _raise_outage(context: sa.engine.ExceptionContext) -> None:
    """Let SQLAlchemy raise the error of a read-only database as an OperationalError, as other outages.

    The pool then closes its connections: a session that began read-only stays so.
    """
    error = context.original_exception
    if isinstance(error, psycopg2.errors.ReadOnlySqlTransaction):
        context.is_disconnect = True
        raise sa.exc.OperationalError(context.statement, None, error) from error


def read_address(url: str | None) -> dict[str, str]:
    """Give the parts of DATABASE_URL by libpq's names.

    An invalid address is refused here, before any look-up, because libpq's errors would show its password.

    A password with an unescaped @ or / ends there for libpq; the rest becomes the host, the port, the database or an
    option, or the login becomes the host. Raises DatabaseError.
    """
    for variable in ("PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGUSER"):
        value = os.environ.get(variable, "")
        if "://" in value or (variable != "PGUSER" and "@" in value):
            raise DatabaseError(f"{variable} holds more than one part of an address; set DATABASE_URL to a whole URL")
    try:
        parts = psycopg2.extensions.parse_dsn(url or "")
    except (psycopg2.ProgrammingError, UnicodeError):
        parts = {"port": "?"}
    shown = {name: value for name, value in parts.items() if name not in ("user", "password")}  # in libpq's errors
    if (
        any("@" in value or "://" in value for value in shown.values())
        or not all(HOST.fullmatch(host) for host in parts.get("host", "").split(","))
        or not all(port.isdecimal() for port in parts.get("port", "0").split(","))
    ):
        raise DatabaseError(
            "libpq cannot read DATABASE_URL; write postgresql://USER@HOST:PORT/DATABASE, with :PASSWORD after USER if "
            "no PGPASSFILE holds it, and write each character of the password that is not a letter or digit as %XX"
        )
    return parts


def is_away(error: BaseException) -> bool:
    """Return whether no server answers, or the server ends the session; otherwise it refuses a statement."""
    code = getattr(getattr(error, "orig", error), "pgcode", None)
    return code is None or code.startswith("57P")  # 57P01 to 57P05: it shuts down, starts, or ended the session


def is_refused_login(error: BaseException) -> bool:
    """Return whether the server answers and refuses the login; then it is useless to wait."""
    return any(final in str(error) for final in FINAL_ERRORS)


def check_schema(connection: sa.Connection) -> None:
    """Refuse a database with another schema revision than this code needs. Raises DatabaseError."""
    found = None
    if connection.execute(sa.text("SELECT to_regclass('ml.alembic_version')")).scalar() is not None:
        found = connection.execute(sa.text("SELECT version_num FROM ml.alembic_version")).scalar()
    if found != schema.REVISION:
        raise DatabaseError(
            f"the database has schema revision {found or 'none'}, this version needs {schema.REVISION}: "
            "run `pypredict migrate` as the owner of the database"
        )


def reason(error: BaseException) -> str:
    """Return the reason of a failed statement or connection on one line, without the statement."""
    if isinstance(error, sa.exc.DBAPIError) and error.orig is not None:
        return one_line(error.orig)
    return one_line(error)
