"""Migrate a database to the current schema: run Alembic's migrations, then apply the SQL files of db/ each time.

Runs as the owner of the database. Roles belong to the whole cluster, and roles.sql makes only the missing ones. The
logins get their passwords from pgpass files. The SCRAM verifier is computed here, so that no password is in the
server's log.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import alembic.command
import alembic.config
import alembic.util
import psycopg2.errors
import psycopg2.extensions
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from bundle.messages import one_line
from pypredict import PypredictError
from pypredict.sessions import end_reader_sessions

log = logging.getLogger(__name__)

LOGINS = ("pypredict", "reader")  # roles.sql makes them
LOCK_SECONDS = 30  # how long a migration waits for other transactions, while new ones wait for it
READER_SECONDS = 10  # a reader's transaction that is older than this would make the migration wait: it is ended
# Made before all else, because its lock lets only one migration run at a time. A login that only reads cannot take this
# lock. Alembic uses the table as it is.
VERSION_TABLE = sa.text("""
    CREATE SCHEMA IF NOT EXISTS ml;
    CREATE TABLE IF NOT EXISTS ml.alembic_version
        (version_num varchar(32) NOT NULL CONSTRAINT alembic_version_pkc PRIMARY KEY)""")
LOCK = sa.text("LOCK TABLE ml.alembic_version IN SHARE ROW EXCLUSIVE MODE")
# A backslash in our SQL is a plain character, also in a database with another default.
PLAIN_BACKSLASHES = sa.text("SET LOCAL standard_conforming_strings = on")
# Each view and function of a SQL file is a statement of its own, since PostgreSQL's error does not always name it.
SEPARATOR = re.compile(r";\n+(?=(?:(?:--.*)?\n)*CREATE OR REPLACE )")
REPLACED = re.compile(r"^CREATE OR REPLACE (VIEW|FUNCTION) ([\w.]+)", re.MULTILINE)
NOT_REPLACEABLE = (
    psycopg2.errors.DependentObjectsStillExist,
    psycopg2.errors.InvalidTableDefinition,  # a view has other columns
    psycopg2.errors.InvalidFunctionDefinition,
    psycopg2.errors.WrongObjectType,
)


def migrate(engine: sa.Engine, db: Path, passfiles: list[Path], lock_seconds: float = LOCK_SECONDS) -> str:
    """Run the missing migrations in one transaction; return the old revision (or "none").

    db: the directory with migrations/ and the SQL files. Raises PypredictError when it does not exist, when
    another transaction locks a table or view for longer than lock_seconds, and when a view or function of the database
    cannot be replaced.
    """
    if not (db / "migrations" / "env.py").is_file():
        raise PypredictError(f"{db} holds no migrations; set the project's db directory with --db")
    try:
        # Of two first migrations, one waits here for the other one, and then finds what that one has made.
        with suppress(sa.exc.IntegrityError), _transaction(engine, lock_seconds) as connection:
            connection.execute(VERSION_TABLE)
        with _transaction(engine, lock_seconds) as connection:
            return _migrate(connection, db, passfiles)
    except (sa.exc.DBAPIError, psycopg2.Error) as error:
        cause = getattr(error, "orig", error)
        if isinstance(cause, NOT_REPLACEABLE):
            raise PypredictError(_explain_not_replaceable(cause)) from error
        if not isinstance(cause, psycopg2.errors.LockNotAvailable):
            raise
        raise PypredictError(
            f"another transaction has locked tables or views for {lock_seconds:g} s; nothing was changed: end that "
            "transaction (pg_stat_activity shows it) and migrate again"
        ) from error


def _explain_not_replaceable(error: psycopg2.Error) -> str:
    """Name the view or function, or, in a migration, its statement's error, and what to do."""
    query = error.cursor.query if error.cursor is not None else None
    found = REPLACED.search((query or b"").decode(errors="replace"))
    if found is None:
        return f"the migration cannot go on ({one_line(error)}); nothing was changed: drop your own views that use it"
    name = f"{found[1].lower()} {found[2]}"
    return (
        f"{name} cannot be replaced ({one_line(error)}); nothing was changed: drop it with CASCADE, which drops the "
        "views that use it, too, migrate again, and make your own views again"
    )


@contextmanager
def _transaction(engine: sa.Engine, lock_seconds: float) -> Iterator[sa.Connection]:
    with engine.begin() as connection:
        connection.execute(
            sa.text("SELECT set_config('lock_timeout', :timeout, true)"), {"timeout": f"{1000 * lock_seconds}ms"}
        )
        connection.execute(PLAIN_BACKSLASHES)
        yield connection


def _migrate(connection: sa.Connection, db: Path, passfiles: list[Path]) -> str:
    connection.execute(LOCK)
    end_reader_sessions(connection, READER_SECONDS)
    config = alembic_config(db, connection)
    before = _revision(connection)
    try:
        alembic.command.upgrade(config, "head")
    except alembic.util.CommandError as error:
        raise PypredictError(
            f"the database has schema revision {before}, which this version does not know; use the version of "
            "pypredict that made it, or start with an empty database"
        ) from error
    driver: Any = connection.connection.driver_connection  # psycopg2's connection
    driver.notices.clear()
    with closing(driver.cursor()) as cursor:
        for name in ("functions.sql", "views.sql", "references.sql", "roles.sql"):
            for statements in SEPARATOR.split((db / name).read_text(encoding="utf-8")):
                cursor.execute(statements)  # without parameters, so that % needs no escape
    for notice in driver.notices:
        if notice.startswith("WARNING"):
            log.warning("%s", one_line(notice.partition(":")[2]))
    for passfile in passfiles:
        _set_passwords(connection, passfile)
    return before or "none"


def alembic_config(db: Path, connection: sa.Connection) -> alembic.config.Config:
    """Configure Alembic for this connection, without an ini file."""
    config = alembic.config.Config()
    config.set_main_option("script_location", str(db / "migrations"))
    config.attributes["connection"] = connection
    return config


def head_revision(db: Path) -> str | None:
    """Return the newest revision in db/migrations."""
    config = alembic.config.Config()
    config.set_main_option("script_location", str(db / "migrations"))
    return ScriptDirectory.from_config(config).get_current_head()


def _revision(connection: sa.Connection) -> str | None:
    context = MigrationContext.configure(connection, opts={"version_table_schema": "ml"})
    return context.get_current_revision()


def _set_passwords(connection: sa.Connection, passfile: Path) -> None:
    """Set the passwords of the logins in a pgpass file (host:port:database:user:password)."""
    try:
        lines = passfile.read_text().splitlines()
    except OSError as error:
        raise PypredictError(f"{passfile} cannot be read ({error.strerror}); it holds the logins' passwords") from error
    driver = connection.connection.driver_connection
    for line in lines:
        fields = line.split(":", 4)
        if len(fields) == 5 and fields[3] in LOGINS:
            verifier = psycopg2.extensions.encrypt_password(fields[4], fields[3], driver, "scram-sha-256")
            connection.exec_driver_sql(f'ALTER ROLE "{fields[3]}" PASSWORD %s', (verifier,))
            log.info("the password of login %s is set", fields[3])
