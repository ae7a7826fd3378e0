"""Sessions of several logins on one database, whose statements can wait for each other, and rows to begin with."""

import io
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import psycopg2
import psycopg2.errors
from conftest import Database

from support.workers import until

ORPHAN = psycopg2.errors.ForeignKeyViolation
STORE = """
    INSERT INTO ml.model (model_id, sha256, serving_sha256, bundle_id, dataset, prep_sha256, name, input_dtype,
                          input_shape, classes, metrics, manifest, state)
    SELECT n, sha256(n::text::bytea), sha256('s'), n, 'toys', sha256('p'), n, 'uint8', '{3}', '{a,b}', '{}', '{}',
           'available'
    FROM generate_series(1, 2) n;
    INSERT INTO ml.chunk (chunk_id, dataset, prep_sha256, first_row, n_inputs, dtype, shape, source)
    SELECT n, 'toys', sha256('p'), 0, 1000, 'uint8', '{3}', 'a test' FROM generate_series(1, 2) n;
    INSERT INTO ml.input (input_id, chunk_id, sample_no, payload)
    SELECT n, 1, n - 1, '\\x934e554d50590100' FROM generate_series(1, 1000) n;
    INSERT INTO ml.job (model_id, chunk_id, state, done_at, runtime, processor)
    SELECT n, 1, 'done', now(), '', '' FROM generate_series(1, 2) n;
"""
INSERT = "INSERT INTO ml.prediction (model_id, input_id, class_no, score, probs) VALUES ({}, {}, 0, 1, '{{1,0}}')"
COPY = "COPY ml.prediction (model_id, input_id, class_no, score, probs) FROM STDIN"


class Session:
    """A connection whose statements can run in a thread, so that another session can let them wait."""

    def __init__(self, db: Database, login: str | None) -> None:
        self.connection = psycopg2.connect(db.url(login))
        self.thread = ThreadPoolExecutor(1)

    def run(self, statement: str) -> int:
        """Run a statement; a COPY gets the rows that follow its line."""
        with self.connection.cursor() as cursor:
            head, _, rows = statement.partition("\n")
            if head.startswith("COPY"):
                cursor.copy_expert(head, io.StringIO(rows))
            else:
                cursor.execute(statement)
            return cursor.rowcount

    def commit(self) -> None:
        self.connection.commit()

    def start(self, statement: str, watcher: "Session") -> "Future[int]":
        """Run a statement in the thread, and return when it waits for a lock. It must not end before."""
        started = self.thread.submit(self.run, statement)
        waits = f"SELECT FROM pg_stat_activity WHERE pid = {self.pid} AND wait_event_type = 'Lock'"
        until(lambda: started.done() or watcher.run(waits) == 1)
        assert not started.done(), "the statement did not wait"
        return started

    @property
    def pid(self) -> int:
        return self.connection.info.backend_pid

    def close(self) -> None:
        if not self.connection.closed:
            self.connection.cancel()
        self.thread.shutdown()
        self.connection.close()


@contextmanager
def open_sessions(db: Database) -> Iterator[dict[str, Session]]:
    """Two models with a done job each for the first of two chunks, its 1,000 inputs, the prediction (1, 1).

    Gives a session for each login.
    """
    made = {name: Session(db, login) for name, login in (("owner", None), ("other", None), ("service", "pypredict"))}
    made["watcher"] = Session(db, None)
    made["watcher"].connection.autocommit = True
    made["owner"].run(STORE)
    made["owner"].run(INSERT.format(1, 1))
    made["owner"].commit()
    yield made
    for session in made.values():
        session.close()


def copy_rows(*keys: tuple[int, int]) -> str:
    return "\n".join([COPY, *(f"{model}\t{row}\t0\t1\t{{1,0}}" for model, row in keys)]) + "\n"


def orphans(session: Session) -> int:
    return session.run(
        "SELECT FROM ml.prediction p LEFT JOIN ml.input i USING (input_id)"
        " LEFT JOIN ml.job j ON j.model_id = p.model_id AND j.chunk_id = i.chunk_id AND j.state = 'done'"
        " WHERE i.input_id IS NULL OR j.chunk_id IS NULL"
        " UNION ALL SELECT FROM ml.input i LEFT JOIN ml.chunk c USING (chunk_id) WHERE c.chunk_id IS NULL"
    )
