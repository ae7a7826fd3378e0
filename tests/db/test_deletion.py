"""The deletion of old inputs, as docs/retention.md has it, beside a worker that finishes its job."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import sqlalchemy as sa
from conftest import REPO
from support.sql_sessions import Session, orphans
from support.workers import until

from pypredict import jobs, store


def deletion() -> list[str]:
    """Read the statements of docs/retention.md that delete old inputs."""
    page = (REPO / "docs" / "retention.md").read_text().split("## Delete old inputs")[1]
    begin, *statements, commit, _ = page.split("```sql")[1].split("```")[0].replace("90 days", "0 days").split(";")
    assert (begin.strip(), commit.strip()) == ("BEGIN", "COMMIT")
    return statements


def add_jobs(session: Session) -> jobs.Job:
    """Add chunk 3, newer than all old ones, with two inputs and a running job."""
    session.run(
        "INSERT INTO ml.chunk (chunk_id, dataset, prep_sha256, first_row, n_inputs, dtype, shape, source, created_at)"
        " VALUES (3, 'toys', sha256('p'), 0, 2, 'uint8', '{3}', 'a test', now() + interval '1 day');"
        "INSERT INTO ml.input (input_id, chunk_id, sample_no, payload)"
        r" SELECT n, 3, n - 1001, '\x934e554d50590100' FROM generate_series(1001, 1002) n;"
        "INSERT INTO ml.job (model_id, chunk_id, state, attempt, lease_until)"
        " VALUES (1, 3, 'running', 1, now() + interval '1 hour')"
    )
    session.commit()
    return jobs.Job(
        model_id=1, chunk_id=3, attempt=1, failures=0, n_inputs=2, dtype="uint8", shape=(3,), labelled=False
    )


def finish(connection: sa.Connection, job: jobs.Job) -> None:
    """Store a prediction of input 1001 and an error of input 1002."""
    errors = [store.InputError(1002, "corrupt", "a test")]
    inputs = store.Inputs(np.array([1001]), np.zeros((1, 3), np.uint8), errors)
    jobs.finish_job(connection, job, inputs, np.array([[0.9, 0.1]], np.float32))


@pytest.mark.parametrize("steps", range(1, 9))
def test_the_deletion_of_old_inputs_and_a_worker_wait_but_both_end(
    sessions: dict[str, Session], engine: sa.Engine, steps: int
) -> None:
    """The worker finishes its job after each of the steps of the deletion, in turn, and the deletion goes on."""
    owner, watcher, job = sessions["owner"], sessions["watcher"], add_jobs(sessions["owner"])
    statements = deletion()
    assert len(statements) == 8
    for statement in statements[:steps]:
        owner.run(statement)
    with ThreadPoolExecutor(1) as thread, engine.connect() as connection:
        pid = connection.connection.driver_connection.info.backend_pid  # type: ignore[union-attr]
        finishing = thread.submit(finish, connection, job)
        waits = f"SELECT FROM pg_stat_activity WHERE pid = {pid} AND wait_event_type = 'Lock'"
        until(lambda: finishing.done() or watcher.run(waits) == 1)
        for statement in statements[steps:]:
            if finishing.done() and "DELETE FROM ml.input\n" in statement:
                removal = owner.start(statement, watcher)  # it waits for the worker's commit
                connection.commit()
                removal.result(timeout=30)
            else:
                owner.run(statement)
        owner.commit()
        finishing.result(timeout=30)
        connection.commit()
    assert watcher.run("SELECT FROM ml.chunk") == 1
    assert watcher.run("SELECT FROM ml.prediction WHERE input_id = 1001") == 1
    assert orphans(watcher) == 0


def test_errors_are_stored_before_the_predictions_are_locked(sessions: dict[str, Session], engine: sa.Engine) -> None:
    """Or else a person who deletes inputs of a running job and its worker would wait for each other."""
    owner, watcher, job = sessions["owner"], sessions["watcher"], add_jobs(sessions["owner"])
    owner.run("LOCK TABLE ml.prediction_error")
    with ThreadPoolExecutor(1) as thread, engine.connect() as connection:
        finishing = thread.submit(finish, connection, job)
        waiting = "SELECT pid FROM pg_locks WHERE relation = 'ml.prediction_error'::regclass AND NOT granted"
        until(lambda: watcher.run(waiting) == 1)
        assert (
            watcher.run(f"SELECT FROM pg_locks WHERE relation = 'ml.prediction'::regclass AND pid = ({waiting})") == 0
        )
        owner.connection.rollback()
        finishing.result(timeout=30)
        connection.commit()
