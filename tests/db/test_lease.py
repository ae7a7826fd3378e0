"""The worker renews the lease of its job while the model computes, and lets the lease of a lost job expire."""

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from conftest import Cluster, Database
from support.bundles import fake_predict, publish_bundle
from support.workers import daemon, rows, scalar, until, worker_for

from pypredict import jobs, store


def lease_end(engine: sa.Engine) -> datetime:
    found = scalar(engine, "SELECT lease_until FROM ml.job")
    assert isinstance(found, datetime)
    return found


def renewal(engine: sa.Engine, lease: timedelta) -> timedelta:
    """Wait for the next renewal of this lease; return how long before the lease's end it came."""
    end = lease_end(engine)
    until(lambda: lease_end(engine) != end)
    return end - (lease_end(engine) - lease)


def test_a_lease_is_renewed_while_the_model_computes(engine: sa.Engine, tmp_path: Path) -> None:
    publish_bundle(tmp_path)
    left: list[timedelta] = []

    def slow(arrays: np.ndarray) -> np.ndarray:
        left.append(renewal(engine, timedelta(seconds=3)))
        return fake_predict(arrays)

    assert worker_for(engine, tmp_path, slow, lease_seconds=3).run(until_empty=True) == 30
    assert left[0] > timedelta(0)
    assert scalar(engine, "SELECT attempt FROM ml.job") == 1


def test_a_lease_is_renewed_in_time_after_one_failed_renewal(
    engine: sa.Engine, db: Database, cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish_bundle(tmp_path)
    left: list[timedelta] = []

    def slow(arrays: np.ndarray) -> np.ndarray:
        cluster.execute(
            f'ALTER DATABASE "{db.name}" ALLOW_CONNECTIONS false',
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{db.name}'",
        )
        until(lambda: "leases could not be renewed" in caplog.text)
        cluster.execute(f'ALTER DATABASE "{db.name}" ALLOW_CONNECTIONS true')
        left.append(renewal(engine, timedelta(seconds=12)))
        return fake_predict(arrays)

    assert worker_for(engine, tmp_path, slow, lease_seconds=12).run(until_empty=True) == 30
    assert left[0] > timedelta(seconds=1)  # the renewals come every 4 s
    assert scalar(engine, "SELECT attempt FROM ml.job") == 1


def test_a_lease_is_renewed_after_all_connections_were_in_use(
    engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_bundle(tmp_path)
    renew = jobs.renew_lease
    refused: list[jobs.Job] = []

    def refuse_once(connection: sa.Connection, job: jobs.Job, seconds: float) -> None:
        if not refused:
            refused.append(job)
            raise sa.exc.TimeoutError("QueuePool limit of size 4 overflow 10 reached")
        renew(connection, job, seconds)

    monkeypatch.setattr(jobs, "renew_lease", refuse_once)

    def slow(arrays: np.ndarray) -> np.ndarray:
        renewal(engine, timedelta(seconds=6))
        return fake_predict(arrays)

    assert worker_for(engine, tmp_path, slow, lease_seconds=6).run(until_empty=True) == 30
    assert refused


def test_the_lease_of_a_job_that_could_not_be_read_expires(
    engine: sa.Engine, owner: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_backoff: None
) -> None:
    publish_bundle(tmp_path)
    read = store.read_inputs
    lost: list[int] = []

    def read_or_lose(connection: sa.Connection, job: jobs.Job) -> store.Inputs:
        if not lost:
            lost.append(job.chunk_id)
            pid = connection.execute(sa.text("SELECT pg_backend_pid()")).scalar()
            with owner.connect() as other:
                other.execute(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
        return read(connection, job)

    monkeypatch.setattr(store, "read_inputs", read_or_lose)
    with daemon(engine, tmp_path, lease_seconds=1):
        until(lambda: rows(engine, "SELECT state, attempt FROM ml.job") == [("done", 2)], seconds=15)
