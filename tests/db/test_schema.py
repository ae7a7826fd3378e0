"""The schema keeps its rules by itself, and each role can do its work and nothing else."""

import select
import shutil
from pathlib import Path
from typing import Any

import alembic.command
import psycopg2
import pytest
import sqlalchemy as sa
from conftest import REPO, Cluster, Database
from support.bundles import publish_bundle

from pypredict import PypredictError, database, jobs, migrate, promotion, registry, schema, store
from pypredict.source import cut_test_set


def execute(engine: sa.Engine, statement: str, **values: object) -> sa.CursorResult[Any]:
    with engine.begin() as connection:
        return connection.execute(sa.text(statement), values)


def add_chunk(engine: sa.Engine, n_inputs: int = 1, classes: list[str] | None = None) -> int:
    chunk_id: int = execute(
        engine,
        "INSERT INTO ml.chunk (dataset, prep_sha256, first_row, n_inputs, dtype, shape, classes, source)"
        " VALUES ('toys', :prep, 0, :n, 'uint8', '{3}', :classes, 'a test') RETURNING chunk_id",
        prep=bytes(32),
        n=n_inputs,
        classes=classes,
    ).scalar_one()
    return chunk_id


def test_the_code_needs_the_newest_migration() -> None:
    assert migrate.head_revision(REPO / "db") == schema.REVISION


def test_tables_and_migrations_agree_in_alembic_check(owner: sa.Engine) -> None:
    with owner.begin() as connection:
        alembic.command.check(migrate.alembic_config(REPO / "db", connection))


def test_tables_and_migrations_have_the_same_constraints(owner: sa.Engine) -> None:
    """Compare constraints and indexes, which `alembic check` does not compare."""
    made = (
        "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE connamespace = 'ml'::regnamespace AND conrelid::regclass::text <> 'ml.alembic_version'"
        " AND contype <> 't'"  # a constraint trigger is part of db/references.sql
        " UNION ALL SELECT tablename, indexname, indexdef FROM pg_indexes"
        " WHERE schemaname = 'ml' AND tablename <> 'alembic_version' ORDER BY 1, 2"
    )
    migrated = execute(owner, made).all()
    execute(owner, "DROP SCHEMA ml CASCADE")
    execute(owner, "CREATE SCHEMA ml")
    schema.metadata.create_all(owner)
    assert len(migrated) > 30
    assert execute(owner, made).all() == migrated


def test_migrate_refuses_an_unknown_revision(owner: sa.Engine) -> None:
    execute(owner, "UPDATE ml.alembic_version SET version_num = '0002'")
    with pytest.raises(PypredictError, match="has schema revision 0002, which this version does not know"):
        migrate.migrate(owner, REPO / "db", [])


def test_migrate_gives_up_on_an_open_transaction(owner: sa.Engine, db: Database) -> None:
    reader = db.engine("reader")
    with reader.begin() as connection:
        connection.execute(sa.text("SELECT * FROM ml.accuracy"))  # to replace the view must wait for the end
        with pytest.raises(PypredictError, match=r"for 0.1 s; nothing was changed: end that transaction"):
            migrate.migrate(owner, REPO / "db", [], lock_seconds=0.1)
    reader.dispose()
    assert migrate.migrate(owner, REPO / "db", []) == schema.REVISION


def test_migrating_again_changes_nothing(owner: sa.Engine) -> None:
    assert migrate.migrate(owner, REPO / "db", []) == schema.REVISION


def test_views_and_grants_of_others_survive_a_migration(owner: sa.Engine, db: Database) -> None:
    alice = f"alice_{db.name}"
    objects = ("ml.misclassified", "ml.outcome", "ml.prediction", "ml.server_state()")
    rights = (
        "SELECT has_table_privilege(:alice, 'ml.outcome', 'SELECT'), has_table_privilege(:alice, 'ml.prediction',"
        " 'SELECT'), has_function_privilege(:alice, 'ml.server_state()', 'EXECUTE')"
    )
    execute(owner, f"CREATE ROLE {alice}")
    try:
        execute(owner, f"GRANT SELECT ON ml.outcome, ml.prediction TO {alice}")
        execute(owner, f"GRANT EXECUTE ON FUNCTION ml.server_state() TO {alice}")
        execute(owner, "CREATE SCHEMA team")
        for number, name in enumerate(objects):
            execute(owner, f"CREATE VIEW team.v{number} AS SELECT * FROM {name}")
        migrate.migrate(owner, REPO / "db", [])
        assert tuple(execute(owner, rights, alice=alice).one()) == (True, True, True)
        for number in range(len(objects)):
            execute(owner, f"SELECT * FROM team.v{number}")
    finally:
        execute(owner, f"DROP OWNED BY {alice}")
        execute(owner, f"DROP ROLE {alice}")


def test_rights_that_somebody_gave_to_our_logins_are_taken_back(owner: sa.Engine, db: Database) -> None:
    execute(owner, "GRANT INSERT, DELETE ON ml.input TO reader")
    execute(owner, "GRANT SELECT (payload) ON ml.input TO reader")
    execute(owner, "GRANT DELETE ON ml.prediction TO pypredict")
    execute(owner, "GRANT SELECT ON ml.lineage TO PUBLIC")
    migrate.migrate(owner, REPO / "db", [])
    found = execute(
        owner,
        "SELECT has_table_privilege('reader', 'ml.input', 'INSERT, DELETE'),"
        " has_column_privilege('reader', 'ml.input', 'payload', 'SELECT'),"
        " has_table_privilege('pypredict', 'ml.prediction', 'DELETE'),"
        " EXISTS (SELECT FROM information_schema.table_privileges WHERE grantee = 'PUBLIC' AND table_schema = 'ml')",
    )
    assert tuple(found.one()) == (False, False, False, False)


def test_view_with_other_columns_is_named_and_kept(owner: sa.Engine) -> None:
    execute(owner, "DROP VIEW ml.lineage")
    execute(owner, "CREATE VIEW ml.lineage AS SELECT 1 AS mine")
    with pytest.raises(PypredictError, match=r"^view ml\.lineage cannot be replaced .*; nothing was changed: drop"):
        migrate.migrate(owner, REPO / "db", [])
    assert execute(owner, "SELECT mine FROM ml.lineage").scalar_one() == 1


def test_function_with_other_columns_is_named(owner: sa.Engine) -> None:
    execute(owner, "DROP FUNCTION ml.server_state()")
    execute(owner, "CREATE FUNCTION ml.server_state() RETURNS integer LANGUAGE sql AS 'SELECT 1'")
    with pytest.raises(PypredictError, match=r"^function ml\.server_state cannot be replaced"):
        migrate.migrate(owner, REPO / "db", [])


def test_migration_names_a_view_of_others_that_is_in_its_way(owner: sa.Engine, tmp_path: Path) -> None:
    """A later version drops a view whose columns it changes."""
    changed = shutil.copytree(REPO / "db", tmp_path / "db")
    views = changed / "views.sql"
    views.write_text("DROP VIEW ml.misclassified;\n" + views.read_text(encoding="utf-8"), encoding="utf-8")
    execute(owner, "CREATE SCHEMA team")
    execute(owner, "CREATE VIEW team.mistakes AS SELECT input_id FROM ml.misclassified")
    with pytest.raises(PypredictError, match=r"view team\.mistakes depends on.*nothing was changed: drop"):
        migrate.migrate(owner, changed, [])


def test_every_table_view_and_column_has_a_comment(owner: sa.Engine) -> None:
    bare = execute(
        owner,
        "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = 'ml' AND c.relkind IN ('r', 'v') AND c.relname <> 'alembic_version'"
        " AND obj_description(c.oid) IS NULL UNION ALL"
        " SELECT c.relname || '.' || a.attname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 WHERE n.nspname = 'ml' AND c.relkind = 'r'"
        " AND c.relname <> 'alembic_version' AND col_description(c.oid, a.attnum) IS NULL",
    )
    assert bare.scalars().all() == []


def test_payloads_are_stored_out_of_line_and_uncompressed(owner: sa.Engine) -> None:
    storage = "SELECT attstorage FROM pg_attribute WHERE attrelid = 'ml.input'::regclass AND attname = 'payload'"
    assert execute(owner, storage).scalar_one() in ("e", b"e")


@pytest.mark.parametrize(
    ("payload", "constraint"),
    [(b"PK\x03\x04 an npz", "payload_npy"), (b"\x80\x04\x95 a pickle", "payload_npy"), (b"", "payload_npy")],
)
def test_39_the_schema_refuses_payloads_that_are_not_npy(engine: sa.Engine, payload: bytes, constraint: str) -> None:
    chunk_id = add_chunk(engine)
    with pytest.raises(sa.exc.IntegrityError, match=constraint):
        execute(
            engine,
            "INSERT INTO ml.input (chunk_id, sample_no, payload) VALUES (:chunk, 0, :payload)",
            chunk=chunk_id,
            payload=payload,
        )


def test_only_one_model_serves_a_dataset(engine: sa.Engine, tmp_path: Path) -> None:
    with engine.begin() as connection:
        registry.register_model(connection, publish_bundle(tmp_path, "first", seed=1))
        registry.register_model(connection, publish_bundle(tmp_path, "second", seed=2))
    states = execute(engine, "SELECT name, state FROM ml.model ORDER BY model_id").all()
    assert [tuple(row) for row in states] == [("first", "available"), ("second", "available")]
    with pytest.raises(sa.exc.IntegrityError, match="model_serving_idx"):
        execute(engine, "UPDATE ml.model SET state = 'serving'")


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM ml.prediction",
        "DELETE FROM ml.input",
        "UPDATE ml.input SET label_no = 0",
        "UPDATE ml.prediction SET class_no = 0",
        "UPDATE ml.model SET metrics = '{}'",
        "TRUNCATE ml.chunk",
        "DROP TABLE ml.prediction",
        "ALTER TABLE ml.prediction ADD COLUMN x int",
        "CREATE TABLE ml.mine (x int)",
        "CREATE TABLE public.mine (x int)",
        "DROP VIEW ml.integrity",
        "UPDATE ml.alembic_version SET version_num = 'x'",
    ],
)
def test_20_the_service_may_not_delete_or_change_rows(engine: sa.Engine, statement: str) -> None:
    with pytest.raises(sa.exc.ProgrammingError, match=r"permission denied|must be owner"):
        execute(engine, statement)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT payload FROM ml.input",
        "INSERT INTO ml.ping (line, payload) VALUES ('x', '')",
        "UPDATE ml.job SET worker = 'x'",
    ],
)
def test_the_reader_cannot_read_payloads_or_write(db: Database, statement: str) -> None:
    reader = db.engine("reader")
    with pytest.raises(sa.exc.DBAPIError, match=r"permission denied|read-only transaction"):
        execute(reader, statement)
    reader.dispose()


def test_an_idle_reader_is_disconnected_after_ten_minutes(db: Database) -> None:
    reader = db.engine("reader")
    assert execute(reader, "SHOW idle_in_transaction_session_timeout").scalar_one() == "10min"
    reader.dispose()


def test_the_integrity_view_names_a_chunk_without_inputs(owner: sa.Engine) -> None:
    add_chunk(owner, n_inputs=2)
    problems = execute(owner, "SELECT problem FROM ml.integrity").scalars().all()
    assert problems == ["chunk does not hold the inputs it declares"]


def test_the_integrity_view_finds_a_done_job_without_outcomes(owner: sa.Engine, tmp_path: Path) -> None:
    bundle = publish_bundle(tmp_path)
    with owner.begin() as connection:
        model = registry.register_model(connection, bundle)
        promotion.promote(connection, model)
        for chunk in cut_test_set(bundle):
            store.load_chunk(connection, chunk)
        jobs.plan_jobs(connection)
    assert execute(owner, "SELECT * FROM ml.integrity").all() == []
    execute(owner, "UPDATE ml.job SET state = 'done', done_at = now(), runtime = '', processor = ''")
    assert "job done without" in execute(owner, "SELECT problem FROM ml.integrity").scalar_one()


@pytest.mark.parametrize("shape", ["{}", "{0,4}", "{8,NULL}", "{{8,8},{1,1}}"])
def test_37_the_schema_refuses_a_chunk_of_an_impossible_shape(engine: sa.Engine, shape: str) -> None:
    with pytest.raises(sa.exc.IntegrityError, match="chunk_shape_check"):
        execute(
            engine,
            "INSERT INTO ml.chunk (dataset, prep_sha256, first_row, n_inputs, dtype, shape, source)"
            " VALUES ('toys', :prep, 0, 1, 'uint8', :shape, 'a test')",
            prep=bytes(32),
            shape=shape,
        )


def test_19_an_old_schema_is_refused_with_a_command(owner: sa.Engine, engine: sa.Engine) -> None:
    execute(owner, "UPDATE ml.alembic_version SET version_num = '0000'")
    with (
        engine.connect() as connection,
        pytest.raises(database.DatabaseError, match=r"revision 0000.*pypredict migrate"),
    ):
        database.check_schema(connection)


def test_a_database_without_a_schema_is_refused_with_a_command(cluster: Cluster, owner: sa.Engine) -> None:
    execute(owner, "DROP SCHEMA ml CASCADE")
    with (
        owner.connect() as connection,
        pytest.raises(database.DatabaseError, match=r"revision none.*pypredict migrate"),
    ):
        database.check_schema(connection)


def test_18_the_error_for_a_wrong_password_does_not_show_it(db: Database) -> None:
    url = sa.make_url(db.url("pypredict")).set(password="wrong-secret").render_as_string(hide_password=False)
    with pytest.raises(database.DatabaseError, match="refuses the login") as caught:
        database.connect(url)
    assert "wrong-secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg2://pypredict:S3cret@127.0.0.1/ml",  # pragma: allowlist secret
        "postgresql://pypredict:50%S3cret@127.0.0.1/ml",  # pragma: allowlist secret
        "postgresql://pypredict:S3/cret@127.0.0.1/ml",  # pragma: allowlist secret
        "S3cret",
    ],
)
def test_18_the_error_for_an_invalid_url_hides_the_password(url: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(database.DatabaseError, match="libpq cannot read DATABASE_URL") as caught:
        database.connect(url)
    assert "S3" not in str(caught.value) + caplog.text
    assert caught.value.__context__ is None or "S3" not in str(caught.value.__context__)


def test_17_connect_waits_then_names_the_absent_database() -> None:
    with pytest.raises(database.DatabaseError, match=r"no database answered within 0.5 s .*`make db`.*PGHOST"):
        database.connect("postgresql://x@127.0.0.1:1/x", wait_seconds=0.5)


@pytest.mark.parametrize("closed_by", ["server", "client"])
def test_the_pool_replaces_a_closed_connection(engine: sa.Engine, owner: sa.Engine, closed_by: str) -> None:
    with engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        before = driver.info.backend_pid
    if closed_by == "server":
        execute(owner, "SELECT pg_terminate_backend(:pid)", pid=before)
        assert select.select([driver], [], [], 20)[0] == [driver]
    else:
        driver.close()
    assert execute(engine, "SELECT pg_backend_pid()").scalar() != before


def test_a_missing_db_directory_is_named(owner: sa.Engine, tmp_path: Path) -> None:
    with pytest.raises(PypredictError, match="holds no migrations"):
        migrate.migrate(owner, tmp_path, [])


def test_the_reader_login_needs_its_password(db: Database) -> None:
    url = sa.make_url(db.url("reader"))
    assert url.password
    with pytest.raises(psycopg2.OperationalError, match="password"):
        psycopg2.connect(url.set(password="no").render_as_string(hide_password=False))


@pytest.mark.parametrize(
    ("statement", "constraint"),
    [
        ("UPDATE ml.chunk SET classes = ARRAY['a', repeat('x', 600)]", "chunk_classes_check"),
        ("UPDATE ml.chunk SET source = repeat('x', 5000)", "chunk_source_check"),
        ("INSERT INTO ml.input_name SELECT chunk_id, 0, repeat('x', 5000) FROM ml.chunk", "input_name_name_check"),
        ("UPDATE ml.model SET classes = ARRAY['a', repeat('x', 600)]", "model_classes_check"),
    ],
)
def test_73_schema_refuses_names_that_are_too_long(
    owner: sa.Engine, tmp_path: Path, statement: str, constraint: str
) -> None:
    add_chunk(owner, classes=["a", "b"])
    with owner.begin() as connection:
        registry.register_model(connection, publish_bundle(tmp_path))
    with pytest.raises(sa.exc.IntegrityError, match=constraint):
        execute(owner, statement)


def test_settings_of_the_database_and_the_shell_do_not_stop_the_service(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    db.cluster.execute(f"ALTER DATABASE \"{db.name}\" SET statement_timeout = '1min'")
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    engine = db.engine("pypredict")
    with engine.connect() as connection:
        found = connection.execute(sa.text("SELECT current_setting('statement_timeout'), '日本'")).one()
    engine.dispose()
    assert tuple(found) == ("0", "日本")
