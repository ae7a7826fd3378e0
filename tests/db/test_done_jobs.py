"""A done job stays done and keeps its outcomes, for every login (db/references.sql)."""

import psycopg2
import psycopg2.errors
import pytest
from support.sql_sessions import ORPHAN, Session, orphans


@pytest.mark.parametrize("login", ["owner", "service"])
@pytest.mark.parametrize(
    "statement", ["state = 'pending', done_at = NULL", "state = 'running', done_at = NULL, lease_until = now()"]
)
def test_61_a_done_job_stays_done(sessions: dict[str, Session], login: str, statement: str) -> None:
    with pytest.raises(psycopg2.errors.CheckViolation, match=r"^job of model 1 and chunk 1 is done and stays done\n"):
        sessions[login].run(f"UPDATE ml.job SET {statement} WHERE model_id = 1")


@pytest.mark.parametrize("column", ["model_id = 2, chunk_id = 2", "chunk_id = 2"])
def test_61_a_done_job_keeps_its_model_and_chunk(sessions: dict[str, Session], column: str) -> None:
    with pytest.raises(psycopg2.errors.CheckViolation, match="is done and stays done"):
        sessions["owner"].run(f"UPDATE ml.job SET {column} WHERE model_id = 1")


def test_61_a_job_may_be_deleted_before_its_outcomes_in_one_transaction(sessions: dict[str, Session]) -> None:
    owner = sessions["owner"]
    owner.run("DELETE FROM ml.job WHERE model_id = 1")
    with pytest.raises(ORPHAN, match="the job of model 1 and chunk 1 is deleted, but input 1 has an outcome"):
        owner.commit()
    owner.run("DELETE FROM ml.job WHERE model_id = 1")
    owner.run("DELETE FROM ml.prediction WHERE model_id = 1")
    owner.commit()
    assert orphans(sessions["watcher"]) == 0


@pytest.mark.parametrize("statement", ["DELETE FROM ml.job; SET CONSTRAINTS ALL IMMEDIATE", "TRUNCATE ml.job CASCADE"])
def test_61_a_job_that_has_only_errors_is_kept_too(sessions: dict[str, Session], statement: str) -> None:
    owner = sessions["owner"]
    owner.run("DELETE FROM ml.prediction")
    owner.run("INSERT INTO ml.prediction_error (model_id, input_id, reason, detail) VALUES (2, 7, 'corrupt', '')")
    owner.commit()
    with pytest.raises(ORPHAN, match=r"input 7 has an outcome|prediction_error holds rows"):
        owner.run(statement)
