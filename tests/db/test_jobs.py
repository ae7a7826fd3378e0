"""Jobs: a worker that lost its job cannot change it; claims, deaths and the order of planning. See also test_store."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from support.bundles import publish_bundle
from support.workers import load, overlap, rows, scalar

from bundle.verify import Bundle
from pypredict import jobs, promotion, registry
from pypredict.jobs import Job
from pypredict.store import read_inputs

JOB = "SELECT state, attempt, failures, lease_until, in_flight, run_after FROM ml.job"


@pytest.fixture
def bundle(engine: sa.Engine, tmp_path: Path) -> Bundle:
    """A serving model without jobs."""
    published = publish_bundle(tmp_path)
    with engine.begin() as connection:
        promotion.promote(connection, registry.register_model(connection, published))
    return published


def plan(engine: sa.Engine, bundle: Bundle, value: int) -> None:
    """Store two inputs of this value, and plan their job."""
    load(engine, bundle, np.full((2, 4, 4, 1), value, np.uint8))
    with engine.begin() as connection:
        jobs.plan_jobs(connection)


def claimed(engine: sa.Engine, lease_seconds: float = 60) -> Job:
    """Claim a job and commit; lease_seconds=0: the next claim takes the same job."""
    with engine.begin() as connection:
        job = jobs.claim_job(connection, [1], "tester", lease_seconds)
    assert job is not None
    return job


def first_input(engine: sa.Engine) -> Any:
    return scalar(engine, "SELECT min(input_id) FROM ml.input")


@pytest.fixture
def lost(engine: sa.Engine, bundle: Bundle) -> Job:
    """A job that another worker has claimed after its lease."""
    plan(engine, bundle, 1)
    job = claimed(engine, lease_seconds=0)
    claimed(engine)
    return job


@pytest.mark.parametrize(
    "change",
    [
        lambda connection, job: jobs.release_job(connection, job, failed=True, error="late"),
        lambda connection, job: jobs.renew_lease(connection, job, 3600),
    ],
    ids=["release", "renew"],
)
def test_a_lost_job_is_neither_released_nor_renewed(
    engine: sa.Engine, lost: Job, change: Callable[[sa.Connection, Job], None]
) -> None:
    before = rows(engine, JOB)
    with engine.begin() as connection:
        change(connection, lost)
    assert rows(engine, JOB) == before


def test_a_worker_without_its_lease_marks_no_input(engine: sa.Engine, lost: Job) -> None:
    with engine.begin() as connection, pytest.raises(jobs.LeaseLostError, match="does not hold the job any more"):
        jobs.mark_in_flight(connection, lost, first_input(engine))
    assert rows(engine, "SELECT state, attempt, in_flight FROM ml.job") == [("running", 2, None)]


def test_the_oldest_job_is_claimed_first(engine: sa.Engine, bundle: Bundle) -> None:
    for value in (1, 2, 3):
        plan(engine, bundle, value)
    assert [claimed(engine).chunk_id for _ in range(3)] == [1, 2, 3]


def claim_new(engine: sa.Engine, chunk_id: int, lease_seconds: float = 60) -> Job | None:
    with engine.begin() as connection:
        return jobs.claim_new_chunk(connection, [1], "tester", lease_seconds, chunk_id)


def test_a_new_chunk_is_planned_and_claimed_in_one_step(engine: sa.Engine, bundle: Bundle) -> None:
    for value in (1, 2):
        load(engine, bundle, np.full((2, 4, 4, 1), value, np.uint8))
    job = claim_new(engine, 2)
    assert job is not None
    with engine.begin() as connection:
        jobs.release_job(connection, job, failed=False)
        jobs.plan_jobs(connection)
        same = jobs.claim_job(connection, [1], "tester", 60, chunk_id=2)
    assert same == replace(job, attempt=2, urgent=False)
    assert (job.attempt, job.failures, job.n_inputs, job.dtype, job.shape) == (1, 0, 2, "uint8", (4, 4, 1))
    assert not job.labelled


def test_a_planned_new_chunk_is_claimed_once(engine: sa.Engine, bundle: Bundle, owner: sa.Engine) -> None:
    plan(engine, bundle, 1)
    job = claim_new(engine, 1, lease_seconds=0)
    assert job is not None
    assert job.attempt == 1
    assert claim_new(engine, 1) is None  # its lease has ended: this is for claim_job, which counts the failure
    with engine.begin() as connection:
        jobs.release_job(connection, job, failed=True, delay_seconds=60)
    assert claim_new(engine, 1) is None  # it waits after a failure
    with owner.begin() as connection:
        connection.execute(sa.text("UPDATE ml.job SET run_after = now()"))
    again = claim_new(engine, 1)
    assert again is not None
    assert (again.attempt, again.failures) == (2, 1)
    with engine.begin() as connection:
        inputs = read_inputs(connection, again)
        jobs.finish_job(connection, again, inputs, np.full((2, 3), 1 / 3, np.float32))
    assert claim_new(engine, 1) is None


def test_of_two_workers_one_gets_a_new_chunk(engine: sa.Engine, bundle: Bundle) -> None:
    load(engine, bundle, np.ones((2, 4, 4, 1), np.uint8))
    got = []

    def claim(connection: sa.Connection) -> Job | None:
        got.append(jobs.claim_new_chunk(connection, [1], "tester", 60, 1))
        return got[-1]

    assert overlap(engine, claim, claim) is None
    assert [job is None for job in got] == [False, True]
    assert rows(engine, "SELECT attempt, failures FROM ml.job") == [(1, 0)]


def test_a_new_chunk_is_not_claimed_for_a_model_that_the_worker_does_not_serve(
    engine: sa.Engine, bundle: Bundle
) -> None:
    load(engine, bundle, np.ones((2, 4, 4, 1), np.uint8))
    with engine.begin() as connection:
        assert jobs.claim_new_chunk(connection, [], "tester", 60, 1) is None
        assert jobs.claim_new_chunk(connection, [2], "tester", 60, 1) is None
    assert rows(engine, "SELECT 1 FROM ml.job") == []


def test_a_claim_of_a_new_chunk_does_not_wait_for_the_worker_that_has_it(engine: sa.Engine, bundle: Bundle) -> None:
    plan(engine, bundle, 1)
    job = claimed(engine)
    with engine.begin() as connection:
        inputs = read_inputs(connection, job)
        jobs.finish_job(connection, job, inputs, np.full((2, 3), 1 / 3, np.float32))
        assert claim_new(engine, 1) is None  # while the row of the job is locked


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE ml.model SET state = 'retired'",
        "UPDATE ml.chunk SET dtype = 'int32'",
        "UPDATE ml.chunk SET prep_sha256 = sha256('other')",
        "UPDATE ml.chunk SET dataset = 'other'",
    ],
)
def test_a_new_chunk_that_no_model_serves_is_not_claimed(
    engine: sa.Engine, owner: sa.Engine, bundle: Bundle, change: str
) -> None:
    load(engine, bundle, np.ones((2, 4, 4, 1), np.uint8))
    with owner.begin() as connection:
        connection.execute(sa.text(change))
    assert claim_new(engine, 1) is None
    assert claim_new(engine, 7) is None  # there is no such chunk
    assert rows(engine, "SELECT 1 FROM ml.job") == []


def test_a_new_chunk_of_another_model_is_not_claimed(engine: sa.Engine, bundle: Bundle, tmp_path: Path) -> None:
    plan(engine, bundle, 1)
    newer = publish_bundle(tmp_path, "newer", seed=2)
    with engine.begin() as connection:
        promotion.promote(connection, registry.register_model(connection, newer))
        assert jobs.claim_new_chunk(connection, [1, 2], "tester", 60, 1) is None
    assert rows(engine, "SELECT model_id, state FROM ml.job") == [(1, "pending")]


def test_each_death_on_an_input_is_counted_once(engine: sa.Engine, bundle: Bundle) -> None:
    plan(engine, bundle, 1)
    for marks in (True, True, False, False):
        job = claimed(engine, lease_seconds=0)
        if marks:
            with engine.begin() as connection:
                jobs.mark_in_flight(connection, job, first_input(engine))
    with engine.begin() as connection:
        assert jobs.read_deaths(connection, job) == {first_input(engine): 2}


def test_jobs_are_planned_in_the_order_of_their_numbers(engine: sa.Engine, bundle: Bundle, owner: sa.Engine) -> None:
    """Two workers that plan the same jobs at once in two orders wait for each other: a deadlock."""
    for value in range(20):
        load(engine, bundle, np.full((1, 4, 4, 1), value, np.uint8))
    newest_first = """
        CREATE OR REPLACE FUNCTION ml.unplanned(after bigint) RETURNS TABLE (model_id bigint, chunk_id bigint)
        LANGUAGE sql STABLE AS 'SELECT 1::bigint, chunk_id FROM ml.chunk ORDER BY chunk_id DESC'"""
    with owner.begin() as connection:
        connection.execute(sa.text(newest_first))
    with engine.begin() as connection:
        assert jobs.plan_jobs(connection) == 20
    assert rows(engine, "SELECT chunk_id FROM ml.job ORDER BY ctid") == [(number,) for number in range(1, 21)]
