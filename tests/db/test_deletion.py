"""The deletion of a chunk beside a worker that finishes its job, step by step."""

import itertools
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest
import sqlalchemy as sa
from support.sql_sessions import Session, orphans
from support.workers import until

from pypredict import deletion, jobs, store


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


def after_statement(engine: sa.Engine, number: int, action: Callable[[], None]) -> None:
    """Call the action once, after the statement with this number, from 1, that the engine executes."""
    executed = itertools.count(1)

    @sa.event.listens_for(engine, "after_cursor_execute")
    def count(*_: object) -> None:
        if next(executed) == number:
            action()


def beside(watcher: Session, engine: sa.Engine, run: Callable[[sa.Connection], object]) -> "Future[None]":
    """Start a transaction in a thread; return when it has ended or waits for a lock."""

    def transaction() -> None:
        with engine.begin() as connection:
            run(connection)

    started = ThreadPoolExecutor(1).submit(transaction)
    waits = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    until(lambda: started.done() or watcher.run(waits) == 1)
    return started


def unit_of_chunk_1(connection: sa.Connection) -> tuple[deletion.Selection, deletion.Unit]:
    selection = deletion.select_inputs(connection, dataset="toys")
    return selection, selection.read(connection)[0]


STATEMENTS = 4 + len(deletion.DELETE_OUTCOMES) + len(deletion.DELETE_INPUTS)


@pytest.mark.parametrize("step", range(1, STATEMENTS + 1))
def test_a_worker_finishes_another_job_after_each_step_of_a_deletion(
    sessions: dict[str, Session], owner: sa.Engine, engine: sa.Engine, step: int
) -> None:
    watcher, job = sessions["watcher"], add_jobs(sessions["owner"])
    finishing: list[Future[None]] = []
    with owner.begin() as connection:
        selection, unit = unit_of_chunk_1(connection)
    after_statement(owner, step, lambda: finishing.append(beside(watcher, engine, lambda made: finish(made, job))))
    with owner.begin() as connection:
        assert deletion.delete_unit(connection, selection, unit) is not None
    (finished,) = finishing
    finished.result(timeout=30)
    assert watcher.run("SELECT FROM ml.chunk WHERE chunk_id = 1") == 0
    assert watcher.run("SELECT FROM ml.prediction WHERE input_id = 1001") == 1
    assert orphans(watcher) == 0


@pytest.mark.parametrize("step", [1, 2])
def test_a_deletion_waits_after_each_step_of_a_worker_that_finishes(
    sessions: dict[str, Session], owner: sa.Engine, engine: sa.Engine, step: int
) -> None:
    watcher, job = sessions["watcher"], add_jobs(sessions["owner"])
    deleting: list[Future[None]] = []
    with owner.begin() as connection:
        selection, unit = unit_of_chunk_1(connection)

    def delete(connection: sa.Connection) -> None:
        deletion.delete_unit(connection, selection, unit)

    after_statement(engine, step, lambda: deleting.append(beside(watcher, owner, delete)))
    with engine.begin() as connection:
        finish(connection, job)
        assert not deleting[0].done()
    deleting[0].result(timeout=30)
    assert watcher.run("SELECT FROM ml.chunk WHERE chunk_id = 1") == 0
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
