"""Shared fixtures: a real PostgreSQL server for the run, and a new migrated database for each test.

If TEST_DATABASE_URL is set, the tests use that server (its user must be a superuser). Otherwise an embedded server is
started, from the binaries in POSTGRES_BIN if that is set.
"""

import importlib.util
import os
import secrets
import signal
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg2
import pytest
import sqlalchemy as sa

import embedded
from pypredict import database, migrate

REPO = Path(__file__).resolve().parent.parent
LOGINS = ("pypredict", "reader")

# A run in the background ignores Ctrl-C. The processes that a test starts would ignore it too, so we enable it again.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """Refuse TensorFlow if WITHOUT_TENSORFLOW is set, and several processes with one TEST_DATABASE_URL."""
    found = [name for name in ("tensorflow", "keras", "h5py") if importlib.util.find_spec(name)]
    if os.environ.get("WITHOUT_TENSORFLOW") and found:
        pytest.exit(f"this environment has {', '.join(found)}; the service must run without", returncode=2)
    if os.environ.get("TEST_DATABASE_URL") and config.getoption("numprocesses", None):
        # The logins and their settings belong to the whole server.
        pytest.exit('TEST_DATABASE_URL needs one process of pytest: add PYTEST="--numprocesses 0"', returncode=2)


@dataclass(frozen=True)
class Cluster:
    """A server: the URL of its superuser, and a template database with the current schema."""

    url: sa.URL
    template: str
    passwords: dict[str, str]

    def execute(self, *statements: str) -> None:
        """Run statements outside a transaction, as the superuser."""
        connection = psycopg2.connect(self.url.render_as_string(hide_password=False))
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
        connection.close()

    def drop(self, name: str) -> None:
        self.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'",
            f'DROP DATABASE "{name}"',
        )


@dataclass(frozen=True)
class Database:
    """The database of one test. url(login) returns libpq's URL for one of the logins, url() for the owner."""

    cluster: Cluster
    name: str

    def url(self, login: str | None = None) -> str:
        url = self.cluster.url.set(database=self.name)
        if login is not None:
            url = url.set(username=login, password=self.cluster.passwords[login])
        return url.render_as_string(hide_password=False)

    def engine(self, login: str | None = None) -> sa.Engine:
        return database.connect(self.url(login), wait_seconds=5)


def given_binaries() -> Path | None:
    """Return the directory of the PostgreSQL that POSTGRES_BIN names; None: the one of the embedded server."""
    given = os.environ.get("POSTGRES_BIN")
    return Path(given) if given else None


@pytest.fixture(scope="session")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        yield given
        return
    state = tmp_path_factory.mktemp("server") / "state"
    server = embedded.start(
        state,
        bin=given_binaries(),
        settings={"fsync": "off", "full_page_writes": "off", "max_connections": "100"},
    )
    try:
        yield server.url()
    finally:
        embedded.destroy(state)


@pytest.fixture(scope="session")
def cluster(server_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    passwords = {login: secrets.token_hex(16) for login in LOGINS}
    passfile = tmp_path_factory.mktemp("passwords") / "pgpass"
    passfile.write_text("".join(f"*:*:*:{login}:{password}\n" for login, password in passwords.items()))
    made = Cluster(sa.make_url(server_url), f"template_{uuid.uuid4().hex[:12]}", passwords)
    made.execute(f'CREATE DATABASE "{made.template}"')
    engine = database.connect(Database(made, made.template).url(), wait_seconds=5)
    migrate.migrate(engine, REPO / "db", [passfile])
    engine.dispose()
    yield made
    made.drop(made.template)


@contextmanager
def new_database(cluster: Cluster, template: str = "") -> Iterator[Database]:
    """Make a database like the migrated one, or like another template; drop it at the end of the block."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    cluster.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template or cluster.template}"')
    try:
        yield Database(cluster, name)
    finally:
        cluster.drop(name)


@pytest.fixture
def db(cluster: Cluster) -> Iterator[Database]:
    with new_database(cluster) as made:
        yield made


@pytest.fixture
def engine(db: Database) -> Iterator[sa.Engine]:
    """An engine with the service's login, so that tests have only the rights of the service."""
    engine = db.engine("pypredict")
    yield engine
    engine.dispose()


@pytest.fixture
def owner(db: Database) -> Iterator[sa.Engine]:
    engine = db.engine()
    yield engine
    engine.dispose()


@pytest.fixture
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the worker try again almost at once."""
    monkeypatch.setattr("pypredict.worker.BACKOFF_SECONDS", (0.01,) * 6)
