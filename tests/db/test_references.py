"""db/references.sql refuses what foreign keys would refuse: in one transaction, between two, and after a restore.

Longer than 300 lines, because each kind of statement is tested from both sides.
"""

import subprocess

import psycopg2
import psycopg2.errors
import pytest
import sqlalchemy as sa
from conftest import REPO, Database
from support.sql_sessions import INSERT, ORPHAN, Session, copy_rows, orphans

import postgres_programs
from pypredict import migrate, schema

REFUSED = psycopg2.errors.FeatureNotSupported
# Each of these statements is refused beside the others' rows: a child names model 2 and input 2, a parent removes one.
MOVE = "UPDATE ml.prediction SET model_id = 2, input_id = 2"
ADD_INPUT = (
    r"INSERT INTO ml.input (input_id, chunk_id, sample_no, payload) VALUES (5000, {}, 5000, '\x934e554d50590100')"
)
COPY_INPUT = "COPY ml.input (input_id, chunk_id, sample_no, payload) FROM STDIN\n5000\t2\t5000\t\\\\x934e554d50590100\n"
MOVE_INPUT = "UPDATE ml.input SET chunk_id = 2 WHERE input_id = 7"
CHILDREN = [
    pytest.param("service", INSERT.format(2, 2), id="service-insert"),
    pytest.param("service", copy_rows((2, 2), (2, 3)), id="service-copy"),
    pytest.param("other", INSERT.format(2, 2), id="owner-insert"),
    pytest.param("other", copy_rows((2, 3), (2, 2)), id="owner-copy"),
    pytest.param("other", MOVE, id="owner-update"),
]
JOBS_AND_INPUTS = [
    "DELETE FROM ml.input WHERE input_id = 2",
    "UPDATE ml.input SET input_id = 2002 WHERE input_id = 2",
    "UPDATE ml.input SET chunk_id = 2 WHERE input_id = 2",
    "DELETE FROM ml.job WHERE model_id = 2; SET CONSTRAINTS ALL IMMEDIATE",
]
INPUT_CHILDREN = [
    pytest.param("service", ADD_INPUT.format(2), id="service-insert"),
    pytest.param("service", COPY_INPUT, id="service-copy"),
    pytest.param("other", MOVE_INPUT, id="owner-update"),
]
CHUNKS = [
    "DELETE FROM ml.chunk WHERE chunk_id = 2",
    "UPDATE ml.chunk SET chunk_id = 2002 WHERE chunk_id = 2",
]
PAIRS = [
    pytest.param(*child.values, parent, id=f"{child.id}-{parent}")
    for children, parents in ((CHILDREN, JOBS_AND_INPUTS), (INPUT_CHILDREN, CHUNKS))
    for child in children
    for parent in parents
]
ROLLED_BACK = [*((INSERT.format(2, 2), parent) for parent in JOBS_AND_INPUTS[:-1]), (ADD_INPUT.format(2), CHUNKS[0])]


@pytest.mark.parametrize(("login", "child", "parent"), PAIRS)
def test_a_removal_waits_for_a_new_child_and_is_refused(
    sessions: dict[str, Session], login: str, child: str, parent: str
) -> None:
    owner, writer, watcher = sessions["owner"], sessions[login], sessions["watcher"]
    writer.run(child)
    removal = owner.start(parent, watcher)
    writer.commit()
    with pytest.raises(
        ORPHAN, match=r"(input|chunk) 2 has (predictions|inputs); delete|input [23] has an outcome; delete"
    ):
        removal.result(timeout=30)
    assert orphans(watcher) == 0


@pytest.mark.parametrize(("login", "child", "parent"), PAIRS)
def test_a_new_child_waits_for_a_removal_and_is_refused(
    sessions: dict[str, Session], login: str, child: str, parent: str
) -> None:
    owner, writer, watcher = sessions["owner"], sessions[login], sessions["watcher"]
    owner.run(parent)
    writing = writer.start(child, watcher)
    owner.commit()
    with pytest.raises(ORPHAN, match=r"names (input|chunk) 2, which does not exist|has no job that is done"):
        writing.result(timeout=30)
    assert orphans(watcher) == 0


@pytest.mark.parametrize(("child", "parent"), ROLLED_BACK)
def test_a_removal_goes_on_after_a_rollback_of_the_child(sessions: dict[str, Session], child: str, parent: str) -> None:
    owner, service, watcher = sessions["owner"], sessions["service"], sessions["watcher"]
    service.run(child)
    removal = owner.start(parent, watcher)
    service.connection.rollback()
    assert removal.result(timeout=30) == 1


@pytest.mark.parametrize(("child", "parent"), ROLLED_BACK)
def test_a_child_goes_on_after_a_rollback_of_the_removal(sessions: dict[str, Session], child: str, parent: str) -> None:
    owner, service, watcher = sessions["owner"], sessions["service"], sessions["watcher"]
    owner.run(parent)
    writing = service.start(child, watcher)
    owner.connection.rollback()
    assert writing.result(timeout=30) == 1


TRUNCATED = [
    ("ml.input", "ml.prediction", INSERT.format(2, 2)),
    ("ml.job", "ml.prediction", INSERT.format(2, 2)),
    ("ml.chunk", "ml.input", ADD_INPUT.format(2)),
]


@pytest.mark.parametrize(("parents", "children", "child"), TRUNCATED)
def test_a_truncate_waits_for_a_new_child_and_is_refused(
    sessions: dict[str, Session], parents: str, children: str, child: str
) -> None:
    owner, service, watcher = sessions["owner"], sessions["service"], sessions["watcher"]
    owner.run("DELETE FROM ml.prediction; DELETE FROM ml.input WHERE input_id <> 2")
    owner.commit()
    service.run(child)
    truncate = owner.start(f"TRUNCATE {parents} CASCADE", watcher)
    service.commit()
    with pytest.raises(ORPHAN, match=f"{children} holds rows that name rows of {parents}; truncate both"):
        truncate.result(timeout=30)


@pytest.mark.parametrize(("parents", "children", "child"), TRUNCATED)
def test_a_new_child_waits_for_a_truncate_and_is_refused(
    sessions: dict[str, Session], parents: str, children: str, child: str
) -> None:
    owner, service, watcher = sessions["owner"], sessions["service"], sessions["watcher"]
    owner.run(f"TRUNCATE ml.prediction, {parents}, {children} CASCADE")
    writing = service.start(child, watcher)
    owner.commit()
    with pytest.raises(ORPHAN, match=r"which does not exist|has no job that is done"):
        writing.result(timeout=30)


@pytest.mark.parametrize("login", ["owner", "service"])
@pytest.mark.parametrize(("model", "row"), [(1, 1001), (3, 500)])
def test_an_orphan_amid_a_copy_refuses_all_its_rows(
    sessions: dict[str, Session], login: str, model: int, row: int
) -> None:
    keys = [(1, n) for n in range(2, 1001)]
    keys.insert(500, (model, row))
    refused = r"^an outcome (names input 1001, which does not exist|of model 3 for chunk 1 has no job that is done)\n"
    with pytest.raises(ORPHAN, match=refused):
        sessions[login].run(copy_rows(*keys))
    sessions[login].connection.rollback()
    assert sessions["watcher"].run("SELECT FROM ml.prediction") == 1


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ml.prediction SET input_id = 1001",
        "UPDATE ml.prediction SET model_id = 3",
        "UPDATE ml.input SET chunk_id = 2 WHERE input_id = 1",
        "DELETE FROM ml.job; SET CONSTRAINTS ALL IMMEDIATE",
        "TRUNCATE ml.job CASCADE",
        "INSERT INTO ml.prediction_error (model_id, input_id, reason, detail) VALUES (3, 1, 'corrupt', '')",
        "INSERT INTO ml.job (model_id, chunk_id) VALUES (2, 2); UPDATE ml.input SET chunk_id = 2 WHERE input_id = 7;"
        + INSERT.format(2, 7),
        INSERT.format(3, 1),
        INSERT.format(1, 1001),
        INSERT.format(1, 1) + " ON CONFLICT (model_id, input_id) DO UPDATE SET input_id = 1001",
        "WITH gone AS (DELETE FROM ml.input WHERE input_id = 7) " + INSERT.format(1, 7),
        "WITH gone AS (DELETE FROM ml.model WHERE model_id = 2) " + INSERT.format(2, 7),
        "DELETE FROM ml.input",
        "DELETE FROM ml.model",
        "UPDATE ml.input SET input_id = input_id + 1000, sample_no = sample_no + 1000",
        "UPDATE ml.model SET model_id = model_id + 2",
        "TRUNCATE ml.input CASCADE",
        "TRUNCATE ml.model CASCADE",
        ADD_INPUT.format(3),
        "UPDATE ml.input SET chunk_id = 3 WHERE input_id = 1",
        "WITH gone AS (DELETE FROM ml.chunk WHERE chunk_id = 2) " + ADD_INPUT.format(2),
        "DELETE FROM ml.chunk",
        "UPDATE ml.chunk SET chunk_id = chunk_id + 2",
        "TRUNCATE ml.chunk CASCADE",
    ],
)
def test_a_statement_that_leaves_an_orphan_is_refused(sessions: dict[str, Session], statement: str) -> None:
    with pytest.raises(ORPHAN):
        sessions["owner"].run(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM ml.input WHERE input_id > 1",
        "DELETE FROM ml.job WHERE model_id = 2; DELETE FROM ml.model WHERE model_id = 2",
        "DELETE FROM ml.job; DELETE FROM ml.prediction",
        "UPDATE ml.input SET input_id = input_id + 1000 WHERE input_id > 1",
        "UPDATE ml.input SET input_id = input_id, label_no = 1",
        "UPDATE ml.model SET state = 'retired'",
        "UPDATE ml.prediction SET input_id = 2",
        "TRUNCATE ml.input, ml.prediction CASCADE",
        "TRUNCATE ml.model, ml.prediction CASCADE",
        "TRUNCATE ml.chunk, ml.input, ml.prediction CASCADE",
        "DELETE FROM ml.prediction; DELETE FROM ml.input; DELETE FROM ml.job; DELETE FROM ml.model;"
        "DELETE FROM ml.chunk",
        "DELETE FROM ml.chunk WHERE chunk_id = 2",
        "UPDATE ml.chunk SET source = 'b'",
        MOVE_INPUT,
        "WITH child AS (DELETE FROM ml.prediction) DELETE FROM ml.input",
        "DELETE FROM ml.prediction WHERE model_id = 9",
        INSERT.format(1, 1) + " ON CONFLICT DO NOTHING",
        "WITH new AS (INSERT INTO ml.input (input_id, chunk_id, sample_no, payload)"
        r" VALUES (1001, 1, 1000, '\x934e554d50590100') RETURNING input_id) "
        "INSERT INTO ml.prediction (model_id, input_id, class_no, score, probs)"
        " SELECT 1, input_id, 0, 1, '{1,0}' FROM new",
    ],
)
def test_a_statement_that_leaves_no_orphan_is_accepted(sessions: dict[str, Session], statement: str) -> None:
    sessions["owner"].run(statement)
    sessions["owner"].commit()
    assert orphans(sessions["watcher"]) == 0


def test_a_plain_truncate_of_a_parent_is_refused(sessions: dict[str, Session]) -> None:
    with pytest.raises(REFUSED, match="cannot truncate a table referenced in a foreign key constraint"):
        sessions["owner"].run("TRUNCATE ml.input")


OLD_SNAPSHOT = [
    *(INSERT.format(2, 2), MOVE, ADD_INPUT.format(2), MOVE_INPUT),
    *(*JOBS_AND_INPUTS, *CHUNKS, "TRUNCATE ml.input CASCADE"),
]


@pytest.mark.parametrize("isolation", ["REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize("statement", OLD_SNAPSHOT)
def test_an_old_snapshot_is_refused(sessions: dict[str, Session], isolation: str, statement: str) -> None:
    sessions["owner"].connection.set_session(isolation_level=isolation)
    with pytest.raises(REFUSED, match=r"^inputs and predictions are added, and .* in READ COMMITTED transactions only"):
        sessions["owner"].run(statement)


def test_a_promotion_is_accepted_in_repeatable_read(sessions: dict[str, Session]) -> None:
    sessions["service"].connection.set_session(isolation_level="REPEATABLE READ")
    assert sessions["service"].run("UPDATE ml.model SET state = 'serving' WHERE model_id = 2") == 1


def test_a_login_needs_no_right_to_read_the_parents(sessions: dict[str, Session], db: Database) -> None:
    owner = sessions["owner"]
    owner.run("REVOKE SELECT ON ml.input, ml.job, ml.chunk FROM ml_predictor, ml_loader")
    owner.commit()
    assert sessions["service"].run(INSERT.format(2, 2)) == 1
    assert sessions["service"].run(ADD_INPUT.format(2)) == 1


def test_the_service_cannot_use_the_functions_for_its_own_tables(sessions: dict[str, Session]) -> None:
    sessions["service"].run("CREATE TEMP TABLE mine (model_id bigint, input_id bigint)")
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        sessions["service"].run(
            "CREATE TRIGGER mine AFTER INSERT ON mine REFERENCING NEW TABLE AS new_rows"
            " FOR EACH STATEMENT EXECUTE FUNCTION ml.check_new_outcomes()"
        )


def test_a_temporary_table_does_not_hide_the_parents(sessions: dict[str, Session]) -> None:
    service = sessions["service"]
    service.run("CREATE TEMP TABLE input AS SELECT 1001::bigint AS input_id; SET search_path = pg_temp, ml")
    service.run("CREATE TEMP TABLE new_rows (model_id bigint, input_id bigint)")
    with pytest.raises(ORPHAN, match="input 1001"):
        service.run(INSERT.format(1, 1001))


def test_integrity_names_orphans_that_came_in_without_the_triggers(sessions: dict[str, Session]) -> None:
    owner = sessions["owner"]
    owner.run("ALTER TABLE ml.prediction DISABLE TRIGGER USER; ALTER TABLE ml.input DISABLE TRIGGER USER")
    owner.run(INSERT.format(1, 1001))
    owner.run("UPDATE ml.input SET chunk_id = 3 WHERE input_id = 7")
    with owner.connection.cursor() as cursor:
        cursor.execute("SELECT detail FROM ml.integrity WHERE problem LIKE '%does not exist'")
        assert cursor.fetchall() == [("model 1, input 1001",), ("input 7, chunk 3",)]


def test_the_service_cannot_disable_the_triggers(sessions: dict[str, Session]) -> None:
    with pytest.raises(psycopg2.errors.InsufficientPrivilege, match="must be owner"):
        sessions["service"].run("ALTER TABLE ml.prediction DISABLE TRIGGER USER")
    sessions["service"].connection.rollback()
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        sessions["service"].run("SET session_replication_role = replica")


def test_each_look_up_uses_an_index_from_the_first_row_on(sessions: dict[str, Session]) -> None:
    """A plan that is made for few rows is kept; it must not read whole tables later."""
    sessions["service"].run(INSERT.format(2, 2))
    sessions["service"].run(copy_rows(*((2, n) for n in range(3, 1001))))
    sessions["service"].commit()
    owner = sessions["owner"]
    reads = "SELECT sum(seq_tup_read) FROM pg_stat_xact_user_tables WHERE schemaname = 'ml'"
    owner.run(
        "INSERT INTO ml.input (input_id, chunk_id, sample_no, payload)"
        r" SELECT n, 1, n, '\x934e554d50590100' FROM generate_series(2000, 3000) n"
    )
    owner.run(copy_rows(*((1, n) for n in range(2000, 2100))))
    owner.run("DELETE FROM ml.input WHERE input_id BETWEEN 2500 AND 2600")
    with owner.connection.cursor() as cursor:
        cursor.execute(reads)
        assert cursor.fetchone() == (0,)


@pytest.mark.parametrize("options", [[], ["--data-only"]], ids=["all", "data-only"])
def test_a_restored_dump_holds_the_rows_and_checks_new_ones(
    sessions: dict[str, Session], db: Database, owner: sa.Engine, options: list[str]
) -> None:
    """psql goes on after errors: a dump of the data alone has a row of alembic_version that exists already."""
    programs = postgres_programs.find_binaries(None)  # the newest pg_dump can read every older server
    dump = subprocess.run([programs / "pg_dump", *options, db.url()], check=True, capture_output=True).stdout
    with owner.begin() as connection:
        connection.execute(sa.text("DROP SCHEMA ml CASCADE"))
    if options:
        migrate.migrate(owner, REPO / "db", [])
    subprocess.run([programs / "psql", "-qX", db.url()], input=dump, check=True, capture_output=True)
    restored = sessions["owner"]
    assert restored.run("SELECT FROM ml.input") == 1000
    assert restored.run("SELECT FROM ml.prediction") == 1
    restored.commit()
    with pytest.raises(ORPHAN, match="input 1001"):
        restored.run(INSERT.format(1, 1001))
    restored.connection.rollback()
    with pytest.raises(ORPHAN, match="input 1 has predictions"):
        restored.run("DELETE FROM ml.input")


def test_two_workers_do_not_wait_for_each_other(sessions: dict[str, Session]) -> None:
    sessions["service"].run(copy_rows((1, 2), (2, 2)))
    assert sessions["other"].run(copy_rows((2, 3), (1, 3))) == 2


def test_migrating_again_does_not_wait_for_a_worker(sessions: dict[str, Session], owner: sa.Engine) -> None:
    sessions["service"].run(INSERT.format(2, 2))
    assert migrate.migrate(owner, REPO / "db", [], lock_seconds=1) == schema.REVISION
