"""KEDA's query in deploy/kubernetes, on a real PostgreSQL, with the login that KEDA has."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
import yaml
from conftest import REPO, Database
from support.bundles import publish_bundle
from support.workers import load, scalar

from pypredict import jobs, promotion, registry

SCALED, _ = yaml.safe_load_all((REPO / "deploy/kubernetes/keda/scaledobject.yaml").read_text(encoding="utf-8"))
TRIGGER = SCALED["spec"]["triggers"][0]["metadata"]
DONE = """
UPDATE ml.job SET state = 'done', done_at = now(), runtime = '', processor = '', worker = NULL, lease_until = NULL
WHERE state = 'running'"""


@pytest.fixture
def reader(db: Database) -> Iterator[sa.Engine]:
    engine = db.engine("reader")
    yield engine
    engine.dispose()


def test_keda_counts_waiting_and_running_jobs_and_no_done_one(
    engine: sa.Engine, reader: sa.Engine, tmp_path: Path
) -> None:
    assert scalar(reader, TRIGGER["query"]) == 0
    bundle = publish_bundle(tmp_path)
    with engine.begin() as connection:
        model = registry.register_model(connection, bundle)
        promotion.promote(connection, model)
    for value in (1, 2, 3):
        load(engine, bundle, np.full((2, 4, 4, 1), value, np.uint8))
    assert scalar(reader, TRIGGER["query"]) == 3, "chunks without a job count"
    with engine.begin() as connection:
        jobs.plan_jobs(connection)
    with engine.begin() as connection:
        job = jobs.claim_job(connection, [model.model_id], "tester", 60)
    assert job is not None
    assert scalar(reader, TRIGGER["query"]) == 3, "the running job counts"
    with engine.begin() as connection:
        connection.execute(sa.text(DONE))
    assert scalar(reader, TRIGGER["query"]) == 2
