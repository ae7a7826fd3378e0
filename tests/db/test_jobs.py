"""Jobs: a worker that lost its job cannot change it; claims, deaths and the order of planning. See also test_store."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from support.bundles import publish_bundle
from support.workers import load, rows, scalar

from bundle.verify import Bundle
from pypredict import jobs, promotion, registry
from pypredict.jobs import Job

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
