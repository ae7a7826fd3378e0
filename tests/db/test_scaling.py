"""The query of KEDA's ScaledObject, as the login `reader`: open and running jobs count, done jobs do not."""

from pathlib import Path

import numpy as np
import sqlalchemy as sa
import yaml
from conftest import REPO, Database
from support.bundles import publish_bundle
from support.workers import load, worker_for

from pypredict import jobs

SCALED = next(yaml.safe_load_all((REPO / "deploy/kubernetes/keda/scaledobject.yaml").read_text(encoding="utf-8")))
QUERY = sa.text(SCALED["spec"]["triggers"][0]["metadata"]["query"].replace("::", "\\:\\:"))


def counted(reader: sa.Engine) -> float:
    with reader.begin() as connection:
        return float(connection.execute(QUERY).scalar_one())


def test_the_scaling_query_counts_open_and_running_jobs(db: Database, engine: sa.Engine, tmp_path: Path) -> None:
    reader = db.engine("reader")
    bundle = publish_bundle(tmp_path)
    worker_for(engine, tmp_path).run(until_empty=True)
    assert counted(reader) == 0
    inputs = np.random.default_rng(0).integers(0, 256, (3000, 4, 4, 1), np.uint8)
    load(engine, bundle, inputs)
    assert counted(reader) == 3
    with engine.begin() as connection:
        jobs.plan_jobs(connection)
        models = list(connection.execute(sa.text("SELECT model_id FROM ml.model")).scalars())
        assert jobs.claim_job(connection, models, "worker", 60) is not None
    assert counted(reader) == 3  # two wait, one runs
    reader.dispose()
