"""What a person with the password of `reader` can do: while they try, loads, predictions and promotions go on."""

import contextlib
import secrets
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psycopg2
import psycopg2.errors
import pytest
import sqlalchemy as sa
from conftest import REPO, Cluster, Database, given_binaries
from support.bundles import publish_bundle
from support.workers import daemon, listens, load, rows, scalar, until, worker_for

import embedded
from bundle.verify import Bundle
from pypredict import database, listen, migrate, promotion, registry, schema, sessions
from pypredict.cli_context import explain_error

DENIED = psycopg2.errors.InsufficientPrivilege
ENDED = r"terminating connection|server closed the connection"


READABLE = """
    SELECT relname FROM pg_class
    WHERE relnamespace = 'ml'::regnamespace AND relkind IN ('r', 'v') AND has_table_privilege(oid, 'SELECT')"""
FLOOD = "SELECT count(pg_notify('mine', repeat('x', 7000) || n)) FROM generate_series(1, 400) n"


class Attacker:
    """Connections with a login's password, and without the settings that the login should have."""

    def __init__(self, db: Database, login: str = "reader") -> None:
        self.url, self.held = db.url(login), contextlib.ExitStack()

    def connect(self, dbname: str | None = None) -> Any:
        options = "-c statement_timeout=0 -c idle_in_transaction_session_timeout=0 -c default_transaction_read_only=off"
        url = sa.make_url(self.url) if dbname is None else sa.make_url(self.url).set(database=dbname)
        connection = psycopg2.connect(url.render_as_string(hide_password=False), options=options)
        self.held.enter_context(closing(connection))
        return connection

    def take_all_connections(self) -> None:
        for _ in range(100):
            self.connect()

    def run(self, statement: str) -> Any:
        """Run a statement in an open transaction of a new connection; return its cursor."""
        cursor = self.connect().cursor()
        cursor.execute(statement)
        return cursor


@pytest.fixture
def attacker(db: Database, owner: sa.Engine) -> Iterator[Attacker]:
    """The reader, on a database that was migrated itself: a copy does not have the rights of its template."""
    migrate.migrate(owner, REPO / "db", [])
    attacker = Attacker(db)
    with attacker.held:
        yield attacker


def work(engine: sa.Engine, bundle: Bundle, number: int) -> None:
    """Load one input and wait until the running daemon has predicted it."""
    before = scalar(engine, "SELECT count(*) FROM ml.prediction")
    load(engine, bundle, np.full((1, 4, 4, 1), number, np.uint8))
    assert isinstance(before, int)
    until(lambda: scalar(engine, "SELECT count(*) FROM ml.prediction") == before + 1)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT pg_advisory_lock(1)",
        "SELECT pg_try_advisory_xact_lock_shared(1, 2)",
        "SELECT model_id FROM ml.model FOR UPDATE",
        "SELECT chunk_id FROM ml.chunk FOR KEY SHARE",
        "LOCK TABLE ml.alembic_version IN ROW EXCLUSIVE MODE",
        "LOCK TABLE ml.model IN SHARE MODE",
        "CREATE TEMP TABLE mine AS SELECT 1",
        "CREATE TABLE public.mine (x int)",
        "CREATE SCHEMA mine",
        "SELECT lo_create(0)",
        "SELECT lo_from_bytea(0, 'x')",
        "SELECT lowrite(0, 'x')",
        "SELECT pg_logical_emit_message(false, 'x', 'y')",
        "SET temp_file_limit = -1",
        "SELECT ml.end_reader_sessions(0)",
        "SELECT pg_reload_conf()",
        "INSERT INTO ml.promotion (dataset, action, why) VALUES ('toys', 'retired', '')",
    ],
)
def test_64_65_the_reader_has_no_right_to(attacker: Attacker, statement: str) -> None:
    with pytest.raises(DENIED):
        attacker.run(statement)


@pytest.mark.parametrize("name", ["postgres", "template1"])
def test_65_the_reader_cannot_use_the_other_databases(attacker: Attacker, name: str) -> None:
    with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
        attacker.connect(name)


def test_65_temporary_files_of_the_reader_are_limited(attacker: Attacker) -> None:
    assert attacker.run("SHOW temp_file_limit").fetchone() == ("1GB",)


def test_64_the_reader_cannot_take_all_connections(attacker: Attacker, engine: sa.Engine, tmp_path: Path) -> None:
    bundle = publish_bundle(tmp_path)
    with daemon(engine, tmp_path):
        with pytest.raises(psycopg2.OperationalError, match='too many connections for role "reader"'):
            attacker.take_all_connections()
        work(engine, bundle, 1)


def test_64_open_transactions_of_the_reader_stop_nobody(
    attacker: Attacker, engine: sa.Engine, owner: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They hold each lock that a reader can get, while inputs are loaded, a model is promoted and a schema migrated."""
    bundle = publish_bundle(tmp_path, "first")
    with daemon(engine, tmp_path):
        until(lambda: scalar(engine, "SELECT count(*) FROM ml.prediction") == 30)
        readable = [name for (name,) in attacker.run(READABLE).fetchall()]
        assert len(readable) > 15
        held = attacker.run("BEGIN; " + "; ".join(f"LOCK TABLE ml.{name} IN ACCESS SHARE MODE" for name in readable))
        work(engine, bundle, 1)
        publish_bundle(tmp_path, "second", seed=2)
        until(lambda: scalar(engine, "SELECT name FROM ml.model WHERE state = 'serving'") == "second")
        monkeypatch.setattr(migrate, "READER_SECONDS", 0)
        assert migrate.migrate(owner, REPO / "db", [], lock_seconds=5) == schema.REVISION
        with pytest.raises(psycopg2.OperationalError, match=ENDED):
            held.execute("SELECT 1")
        load(engine, publish_bundle(tmp_path, "third", seed=3), np.full((1, 4, 4, 1), 2, np.uint8))
        until(lambda: scalar(engine, "SELECT count(*) FROM ml.job WHERE state <> 'done'") == 0)


def test_64_the_worker_ends_old_transactions_of_the_reader_only(
    attacker: Attacker,
    engine: sa.Engine,
    owner: sa.Engine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("pypredict.worker.MAX_READER_SECONDS", 0)
    old = attacker.run("SELECT count(*) FROM ml.model")
    idle = attacker.connect()  # without a transaction
    with engine.connect() as service, owner.connect() as person:
        service.execute(sa.text("SELECT 1"))
        person.execute(sa.text("SELECT 1"))
        worker_for(engine, tmp_path).run(until_empty=True)
        assert service.execute(sa.text("SELECT 1")).scalar() == 1
        assert person.execute(sa.text("SELECT 1")).scalar() == 1
    idle.cursor().execute("SELECT 1")
    with pytest.raises(psycopg2.OperationalError, match=ENDED):
        old.execute("SELECT 1")
    assert "1 sessions of readers were ended: their transactions were older than 0 s" in caplog.text


def test_the_service_may_end_no_session_but_those_of_readers(engine: sa.Engine, owner: sa.Engine) -> None:
    with owner.connect() as person, engine.begin() as service:
        person.execute(sa.text("SELECT 1"))
        sessions.end_reader_sessions(service, 0)
        assert person.execute(sa.text("SELECT 1")).scalar() == 1


def test_67_each_migration_undoes_what_the_reader_did_to_its_login(
    attacker: Attacker, owner: sa.Engine, cluster: Cluster, tmp_path: Path
) -> None:
    with attacker.connect() as mine:
        mine.cursor().execute(f"ALTER ROLE reader PASSWORD '{secrets.token_hex(8)}'")
        mine.cursor().execute("ALTER ROLE reader SET statement_timeout = 0")
        mine.cursor().execute("ALTER ROLE reader SET search_path = nowhere")
        mine.cursor().execute("ALTER ROLE reader SET enable_sort = off")
        mine.cursor().execute(f'ALTER ROLE reader IN DATABASE "{mine.info.dbname}" SET row_security = off')
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        attacker.connect()
    passfile = tmp_path / "pgpass"
    passfile.write_text(f"*:*:*:reader:{cluster.passwords['reader']}\n")
    migrate.migrate(owner, REPO / "db", [passfile])
    with closing(psycopg2.connect(attacker.url)) as restored, restored.cursor() as cursor:
        cursor.execute("SHOW statement_timeout")
        assert cursor.fetchone() == ("1min",)
        cursor.execute("SHOW search_path")
        assert cursor.fetchone() == ("ml",)
        cursor.execute("SHOW enable_sort")
        assert cursor.fetchone() == ("on",)
        cursor.execute("SHOW row_security")
        assert cursor.fetchone() == ("on",)


def test_another_login_cannot_pretend_to_be_a_daemon(attacker: Attacker, engine: sa.Engine) -> None:
    attacker.run(f"SET application_name = '{listen.DAEMON}'; LISTEN {listen.CHANNEL}; COMMIT")
    assert not listens(engine)


def test_68_a_lock_of_somebody_else_ends_a_load_with_a_sentence(db: Database, owner: sa.Engine, tmp_path: Path) -> None:
    bundle = publish_bundle(tmp_path)
    impatient = sa.create_engine(
        "postgresql+psycopg2://", creator=lambda: psycopg2.connect(db.url("pypredict"), options="-c lock_timeout=100")
    )
    with owner.begin() as connection:
        connection.execute(sa.text("LOCK TABLE ml.chunk"))
        with pytest.raises(sa.exc.OperationalError) as caught:
            load(impatient, bundle, np.full((1, 4, 4, 1), 1, np.uint8))
    impatient.dispose()
    assert explain_error(caught.value) == (
        "another transaction locks what this command needs; end it (pg_stat_activity shows it) and run again"
    )


def test_68_the_service_waits_for_no_lock_for_ever(engine: sa.Engine) -> None:
    assert scalar(engine, "SHOW lock_timeout") == "30s"


def test_a_promotion_waits_for_another_one_of_its_dataset(engine: sa.Engine, tmp_path: Path) -> None:
    bundle = publish_bundle(tmp_path)
    with engine.begin() as connection:
        model = registry.register_model(connection, bundle)
    with engine.begin() as first, engine.begin() as second:
        promotion.promote(first, model)
        second.execute(sa.text("SET LOCAL lock_timeout = '100ms'"))
        with pytest.raises(sa.exc.OperationalError, match="lock timeout"):
            promotion.promote(second, model)


@pytest.fixture(scope="module")
def small_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[embedded.Server]:
    """A server with a small queue of notifications, which needs PostgreSQL 17; before, the queue holds 8 GB."""
    state = tmp_path_factory.mktemp("server") / "state"
    yield embedded.start(state, settings={"fsync": "off", "max_notify_queue_pages": "64"})
    embedded.destroy(state)


def fill_queue(connection: Any) -> None:
    """Send up to 28 MB of notifications."""
    for _ in range(10):
        connection.cursor().execute(FLOOD)
        connection.commit()


def test_66_a_full_queue_of_notifications_stops_no_load(small_server: embedded.Server, tmp_path: Path) -> None:
    owner = database.connect(small_server.url(), wait_seconds=5)
    migrate.migrate(owner, REPO / "db", [small_server.passfile])
    engine = database.connect(small_server.url("pypredict"), wait_seconds=5)
    bundle = publish_bundle(tmp_path)
    with (
        daemon(engine, tmp_path),
        closing(psycopg2.connect(small_server.url("reader"))) as listener,
        closing(psycopg2.connect(small_server.url("reader"))) as flooding,
    ):
        until(lambda: listens(engine))
        listener.cursor().execute("LISTEN mine; COMMIT; BEGIN; SELECT 1")  # this transaction keeps all notifications
        with pytest.raises(psycopg2.Error, match="too many notifications"):
            fill_queue(flooding)
        load(engine, bundle, np.full((1, 4, 4, 1), 1, np.uint8))
        until(lambda: scalar(engine, "SELECT count(*) FROM ml.prediction") == 31)
    for one in (owner, engine):
        one.dispose()


def test_an_owner_without_superuser_rights_is_told_what_is_left(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As on a managed server: the owner of the database may create roles, and is no superuser."""
    state = tmp_path_factory.mktemp("managed") / "state"
    server = embedded.start(state, bin=given_binaries(), settings={"fsync": "off"})
    try:
        password = secrets.token_hex(8)
        superuser = database.connect(server.url(database="postgres"), wait_seconds=5)
        with superuser.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            connection.execute(sa.text(f"CREATE ROLE tenant LOGIN CREATEROLE PASSWORD '{password}'"))
            connection.execute(sa.text("CREATE DATABASE managed OWNER tenant"))
        superuser.dispose()
        url = sa.make_url(server.url(database="managed"))
        tenant = database.connect(url.set(username="tenant", password=password).render_as_string(hide_password=False))
        migrate.migrate(tenant, REPO / "db", [server.passfile])
        assert "the login reader can still " in caplog.text
        assert "call lo_creat and pg_advisory_lock and pg_logical_emit_message, write temporary files" in caplog.text
        assert "no warning about WAL and the size of the server can be given: a superuser can GRANT" in caplog.text
        caplog.clear()
        assert migrate.migrate(tenant, REPO / "db", [server.passfile]) == schema.REVISION
        engine = database.connect(server.url("pypredict", "managed"), wait_seconds=5)
        publish_bundle(tmp_path)
        with closing(psycopg2.connect(server.url("reader", "managed"))) as reader, reader.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM ml.model")
            assert worker_for(engine, tmp_path).run(until_empty=True) == 30
            with engine.begin() as connection:
                sessions.end_reader_sessions(connection, 0)
            with pytest.raises(psycopg2.OperationalError, match=ENDED):
                cursor.execute("SELECT 1")
        assert rows(engine, "SELECT agrees FROM ml.accuracy") == [(True,)]
        seen = "SELECT connections > 0, max_connections > 0, wal_bytes, slot_wal_bytes, database_bytes > 0"
        assert rows(engine, f"{seen} FROM ml.server_state()") == [(True, True, None, 0, None)]
        superuser = database.connect(server.url(), wait_seconds=5)
        with superuser.begin() as connection:
            connection.execute(sa.text("GRANT pg_monitor TO tenant"))
        superuser.dispose()
        assert rows(engine, f"{seen} FROM ml.server_state()")[0][4] is True
        for one in (tenant, engine):
            one.dispose()
    finally:
        embedded.destroy(state)
