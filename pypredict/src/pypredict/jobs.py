"""All SQL about jobs and their outcomes, as named statements and one function for each.

The caller owns the transaction: functions take a connection and never commit. Times are the server's (now()).
"""

import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from bundle.inference.platform import processor, runtime
from pypredict import schema
from pypredict.binary_copy import prediction_stream
from pypredict.store import Inputs, StoredChunk, StoreError, copy_cursor

PLATFORM = {"runtime": runtime(), "processor": processor()}
PLAN = sa.text("""
    INSERT INTO ml.job (model_id, chunk_id)
    SELECT model_id, chunk_id FROM ml.unplanned(:after)
    ORDER BY model_id, chunk_id  -- a fixed order, so that two workers that plan at once cannot deadlock
    ON CONFLICT DO NOTHING""")
PLANNING_STATE = sa.text("""
    SELECT coalesce(max(chunk_id), 0) AS newest,
           ARRAY(SELECT model_id FROM ml.model WHERE state = 'serving' ORDER BY model_id) AS serving
    FROM ml.chunk""")
# The serving models and the chunks that they take. ml.unplanned (db/views.sql) has the same rule.
TAKEN = """ml.model m JOIN ml.chunk c
        ON m.state = 'serving' AND (c.dataset, c.prep_sha256) = (m.dataset, m.prep_sha256)
        AND (c.dtype, c.shape) = (m.input_dtype, m.input_shape)"""
# Plan all chunks without a job of the serving model, also the oldest.
RESCORE = sa.text(f"""
    INSERT INTO ml.job (model_id, chunk_id)
    SELECT m.model_id, c.chunk_id FROM {TAKEN}
    WHERE m.dataset = :dataset
    ON CONFLICT DO NOTHING""")  # noqa: S608
# An urgent chunk, for which a person waits, gets the oldest run_after, so the next claim takes it.
PLAN_URGENT = sa.text(f"""
    INSERT INTO ml.job (model_id, chunk_id, run_after)
    SELECT m.model_id, c.chunk_id, '-infinity' FROM {TAKEN}
    WHERE c.chunk_id = :chunk_id
    ON CONFLICT (model_id, chunk_id) DO UPDATE SET run_after = '-infinity' WHERE ml.job.state = 'pending'""")  # noqa: S608
# Claim the oldest open job without a valid lease. The run_after of a running job is the end of its lease, so one
# condition and one index find pending jobs and jobs with an expired lease. An expired lease counts as a failure.
CLAIM = sa.text("""
    UPDATE ml.job j
    SET state = 'running', attempt = j.attempt + 1, failures = j.failures + (j.state = 'running')::int,
        worker = :worker, in_flight = NULL, lease_until = now() + :lease * interval '1 second',
        run_after = now() + :lease * interval '1 second'
    FROM (SELECT model_id, chunk_id, in_flight, run_after FROM ml.job
          WHERE state <> 'done' AND run_after <= CASE WHEN :urgent THEN '-infinity' ELSE now() END
            AND model_id = ANY(:models) AND chunk_id = coalesce(:chunk_id, chunk_id)
            AND chunk_id <> ALL(CAST(:without AS bigint[]))
          ORDER BY run_after LIMIT 1 FOR UPDATE SKIP LOCKED) open
    JOIN ml.chunk c ON c.chunk_id = open.chunk_id
    WHERE j.model_id = open.model_id AND j.chunk_id = open.chunk_id
    RETURNING j.model_id, j.chunk_id, j.attempt, j.failures, c.n_inputs, c.dtype, c.shape,
              c.classes IS NOT NULL AS labelled, open.in_flight AS died_on, open.run_after = '-infinity' AS urgent""")
# The claim, and a plan in its transaction, do not wait for the disk. A crash of the server may lose them: then the job
# is open again. FINISH stores one result only, also when two workers hold the same attempt (docs/decisions/claim.md).
CLAIM_SOON = sa.text(f"SET LOCAL synchronous_commit = off; {CLAIM.text}")
# Plan and claim a chunk that was just stored, or claim its pending job: one statement, because somebody may wait. A
# chunk that another model has is left to ml.unplanned, which knows the exceptions. A job that a worker has is left out
# by NOT EXISTS, because ON CONFLICT would wait for its row; the last WHERE is for a job that changes after that look.
CLAIM_NEW = sa.text(f"""
    SET LOCAL synchronous_commit = off;
    WITH claimed AS (
        INSERT INTO ml.job AS j (model_id, chunk_id, state, attempt, worker, lease_until, run_after)
        SELECT m.model_id, c.chunk_id, 'running', 1, :worker, now() + :lease * interval '1 second',
               now() + :lease * interval '1 second'
        FROM {TAKEN}
        WHERE c.chunk_id = :chunk_id AND m.model_id = ANY(:models)
          AND NOT EXISTS (SELECT FROM ml.job o WHERE o.chunk_id = c.chunk_id
                          AND (o.model_id <> m.model_id OR o.state <> 'pending' OR o.run_after > now()))
        ON CONFLICT (model_id, chunk_id) DO UPDATE
        SET state = excluded.state, attempt = j.attempt + 1, worker = excluded.worker,
            lease_until = excluded.lease_until, run_after = excluded.run_after
        WHERE j.state = 'pending' AND j.run_after <= now()
        RETURNING j.model_id, j.chunk_id, j.attempt, j.failures)
    SELECT claimed.*, c.n_inputs, c.dtype, c.shape, c.classes IS NOT NULL AS labelled, NULL AS died_on, true AS urgent
    FROM claimed JOIN ml.chunk c USING (chunk_id)""")  # noqa: S608
COUNT_DEATH = sa.text("""
    INSERT INTO ml.suspect (model_id, input_id, deaths) VALUES (:model_id, :input_id, 1)
    ON CONFLICT (model_id, input_id) DO UPDATE SET deaths = ml.suspect.deaths + 1""")
READ_DEATHS = sa.text("""
    SELECT s.input_id, s.deaths FROM ml.suspect s JOIN ml.input i USING (input_id)
    WHERE s.model_id = :model_id AND i.chunk_id = :chunk_id""")
MARK_IN_FLIGHT = sa.text("""
    UPDATE ml.job SET in_flight = :input_id
    WHERE model_id = :model_id AND chunk_id = :chunk_id AND attempt = :attempt AND state = 'running'""")
RENEW = sa.text("""
    UPDATE ml.job SET lease_until = now() + :lease * interval '1 second',
                        run_after = now() + :lease * interval '1 second'
    WHERE model_id = :model_id AND chunk_id = :chunk_id AND attempt = :attempt AND state = 'running'""")
FINISH = sa.text("""
    UPDATE ml.job SET state = 'done', done_at = now(), lease_until = NULL, in_flight = NULL,
                        last_error = NULL, runtime = :runtime, processor = :processor
    WHERE model_id = :model_id AND chunk_id = :chunk_id AND attempt = :attempt AND state = 'running'""")
RELEASE = sa.text("""
    UPDATE ml.job SET state = 'pending', lease_until = NULL, in_flight = NULL, failures = failures + :failed,
                        last_error = :error, run_after = now() + :delay * interval '1 second'
    WHERE model_id = :model_id AND chunk_id = :chunk_id AND attempt = :attempt AND state = 'running'""")
COUNT_WAITING = sa.text("""
    SELECT coalesce(sum(c.n_inputs), 0)::bigint FROM ml.job j JOIN ml.chunk c USING (chunk_id)
    WHERE j.state <> 'done'""")
COUNT_OPEN = sa.text("""
    SELECT count(*) FROM ml.job
    WHERE state <> 'done' AND model_id = ANY(CAST(:models AS bigint[])) AND chunk_id <> ALL(CAST(:without AS bigint[]))
    """)


class LeaseLostError(StoreError):
    """Another worker has claimed the job: the caller must roll back."""


@dataclass(frozen=True)
class Job(StoredChunk):
    """A claimed job: a chunk that one model predicts, and the attempt, which is its fencing token.

    urgent: somebody may wait for its outcomes.
    """

    model_id: int
    attempt: int
    failures: int
    urgent: bool = False


def plan_jobs(connection: sa.Connection, after: int = 0) -> int:
    """Add the missing (model, chunk) pairs for chunks with a number above `after`; return how many were missing."""
    return connection.execute(PLAN, {"after": after}).rowcount


def read_planning_state(connection: sa.Connection) -> tuple[int, list[int]]:
    """Read the number of the newest chunk, and the numbers of the serving models."""
    row = connection.execute(PLANNING_STATE).one()
    return row.newest, row.serving


def rescore(connection: sa.Connection, dataset: str) -> int:
    """Plan all chunks of a dataset that its serving model has no job for; return the number of new jobs."""
    return connection.execute(RESCORE, {"dataset": dataset}).rowcount


def plan_urgent(connection: sa.Connection, chunk_id: int) -> None:
    """Plan a chunk for the serving model, before all other jobs; do nothing when its job is running or done."""
    connection.execute(PLAN_URGENT, {"chunk_id": chunk_id})


def claim_job(
    connection: sa.Connection,
    models: Sequence[int],
    worker: str,
    lease_seconds: float,
    *,
    chunk_id: int | None = None,
    without: Collection[int] = (),
    urgent: bool = False,
) -> Job | None:
    """Claim the oldest open job of these models; None when there is none. The caller must commit at once.

    chunk_id: claim only this chunk. without: do not claim these chunks. urgent: claim only urgent jobs.
    """
    values = {
        "models": list(models),
        "worker": worker,
        "lease": lease_seconds,
        "chunk_id": chunk_id,
        "without": list(without),
        "urgent": urgent,
    }
    return _claimed(connection, connection.execute(CLAIM_SOON, values).first())


def claim_new_chunk(
    connection: sa.Connection, models: Sequence[int], worker: str, lease_seconds: float, chunk_id: int
) -> Job | None:
    """Claim the job of a new chunk for its serving model, and plan it if nobody has; None when this cannot be.

    The caller must commit at once. A chunk without a serving model, and one whose job runs or waits after a failure,
    are left to `claim_job`.
    """
    values = {"models": list(models), "worker": worker, "lease": lease_seconds, "chunk_id": chunk_id}
    return _claimed(connection, connection.execute(CLAIM_NEW, values).first())


def _claimed(connection: sa.Connection, row: sa.Row[Any] | None) -> Job | None:
    if row is None:
        return None
    if row.died_on is not None:  # the last worker died while it predicted this input alone
        connection.execute(COUNT_DEATH, {"model_id": row.model_id, "input_id": row.died_on})
    return Job(
        model_id=row.model_id,
        chunk_id=row.chunk_id,
        attempt=row.attempt,
        failures=row.failures,
        n_inputs=row.n_inputs,
        dtype=row.dtype,
        shape=tuple(row.shape),
        labelled=row.labelled,
        urgent=row.urgent,
    )


def finish_job(
    connection: sa.Connection,
    job: Job,
    inputs: Inputs,
    probabilities: npt.NDArray[np.float32],
    in_training: npt.NDArray[np.bool_] | None = None,
) -> None:
    """Set the job done and add its outcomes, in one transaction of the caller.

    The rows of inputs.input_ids (n,), probabilities (n, k) and in_training (n,) correspond. Raises LeaseLostError when
    another worker has the job, and StoreError unless there is one outcome per input; in both cases roll back.
    """
    found = f"{len(probabilities)} predictions and {len(inputs.errors)} errors"
    if len(probabilities) + len(inputs.errors) != job.n_inputs or len(probabilities) != len(inputs.input_ids):
        raise StoreError(f"chunk {job.chunk_id} got {found} for {job.n_inputs} inputs; nothing was stored")
    if connection.execute(FINISH, _fence(job) | PLATFORM).rowcount != 1:
        raise LeaseLostError(_lease_lost(job))
    if inputs.errors:  # before the COPY, whose lock a deletion of inputs waits for (db/references.sql)
        connection.execute(
            sa.insert(schema.prediction_error), [{"model_id": job.model_id, **vars(error)} for error in inputs.errors]
        )
    if len(inputs.input_ids):
        columns = "model_id, input_id, in_training, class_no, score, probs"
        statement = f"COPY ml.prediction ({columns}) FROM STDIN (FORMAT binary)"
        stream = prediction_stream(job.model_id, inputs.input_ids, probabilities, in_training)
        copy_cursor(connection).copy_expert(statement, io.BytesIO(stream))


def release_job(
    connection: sa.Connection, job: Job, *, failed: bool, error: str | None = None, delay_seconds: float = 0
) -> None:
    """Make a claimed job pending again, to run after delay_seconds. failed: count this attempt as a failure."""
    values = {"failed": int(failed), "error": error, "delay": delay_seconds}
    connection.execute(RELEASE, _fence(job) | values)


def renew_lease(connection: sa.Connection, job: Job, lease_seconds: float) -> None:
    """Extend the lease to lease_seconds from now; do nothing when another worker has the job."""
    connection.execute(RENEW, _fence(job) | {"lease": lease_seconds})


def mark_in_flight(connection: sa.Connection, job: Job, input_id: int | None) -> None:
    """Store which input is predicted alone next; None: none is. Commit it at once. Raises LeaseLostError."""
    if connection.execute(MARK_IN_FLIGHT, _fence(job) | {"input_id": input_id}).rowcount != 1:
        raise LeaseLostError(_lease_lost(job))


def read_deaths(connection: sa.Connection, job: Job) -> dict[int, int]:
    """Return for each suspect input of the job how often a worker died while it predicted this input alone."""
    return {row.input_id: row.deaths for row in connection.execute(READ_DEATHS, _fence(job))}


def count_open(connection: sa.Connection, models: Sequence[int], without: Collection[int] = ()) -> int:
    """Count the jobs of these models that are not done. without: do not count the jobs of these chunks."""
    return int(connection.execute(COUNT_OPEN, {"models": list(models), "without": list(without)}).scalar_one())


def count_waiting(connection: sa.Connection) -> int:
    """Count the inputs of all jobs that are not done. Only open jobs are read, by their index."""
    return int(connection.execute(COUNT_WAITING).scalar_one())


def _lease_lost(job: Job) -> str:
    return f"chunk {job.chunk_id}: attempt {job.attempt} does not hold the job any more; this work is dropped"


def _fence(job: Job) -> dict[str, int]:
    return {"model_id": job.model_id, "chunk_id": job.chunk_id, "attempt": job.attempt}
