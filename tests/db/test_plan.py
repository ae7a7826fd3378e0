"""Planning: which jobs are added; claims and plans use indexes, so that their cost does not grow with the tables."""

import json
import re
from pathlib import Path

import pytest
import sqlalchemy as sa
from conftest import Database
from support.bundles import publish_bundle
from support.workers import rows, worker_for

from pypredict import jobs, promotion, registry, store
from pypredict.source import cut_test_set

DONE = 20_000

FILL = f"""
INSERT INTO ml.model (sha256, serving_sha256, bundle_id, dataset, prep_sha256, name, input_dtype, input_shape, classes,
                      metrics, manifest, state)
VALUES (sha256('m'), sha256('s'), 'm', 'toys', sha256('p'), 'm', 'uint8', '{{1}}', '{{a,b}}', '{{}}', '{{}}',
        'serving');
INSERT INTO ml.chunk (dataset, prep_sha256, first_row, n_inputs, dtype, shape, source, content_sha256)
SELECT 'toys', sha256('p'), n, 1, 'uint8', '{{1}}', 'x', sha256(n::text::bytea) FROM generate_series(1, {DONE}) n;
INSERT INTO ml.job (model_id, chunk_id, state, runtime, processor, done_at)
SELECT 1, chunk_id, CASE WHEN chunk_id <= {DONE} - 5 THEN 'done' ELSE 'pending' END, '', '',
       CASE WHEN chunk_id <= {DONE} - 5 THEN now() END FROM ml.chunk;
"""


@pytest.fixture
def filled(engine: sa.Engine, db: Database) -> sa.Engine:
    """One model, many jobs that are done, and five open jobs."""
    owner = db.engine()
    with owner.begin() as connection:
        connection.exec_driver_sql(FILL)
        connection.exec_driver_sql("ANALYZE ml.job, ml.chunk, ml.model")
    owner.dispose()
    return engine


def indexes_of(engine: sa.Engine, statement: sa.TextClause, **values: object) -> tuple[set[str], set[str]]:
    """Explain a statement; return the indexes that it uses, and the tables that it scans from end to end."""
    with engine.connect() as connection:
        explain = sa.text(f"EXPLAIN (FORMAT json) {statement.text}")
        plan = json.dumps(connection.execute(explain, values).scalar())
    scanned = re.findall(r'"Node Type": "Seq Scan"[^{}]*?"Relation Name": "(\w+)"', plan)
    return set(re.findall(r'"Index Name": "(\w+)"', plan)), set(scanned)


def test_a_claim_uses_the_index_of_open_jobs(filled: sa.Engine) -> None:
    values = {"worker": "w", "lease": 60, "models": [1], "chunk_id": None, "without": []}
    used, scanned = indexes_of(filled, jobs.CLAIM, urgent=False, **values)
    assert indexes_of(filled, jobs.CLAIM, urgent=True, **values) == (used, scanned)
    assert "job_open_idx" in used
    assert "job" not in scanned


def test_a_plan_of_new_chunks_scans_no_whole_table(filled: sa.Engine) -> None:
    used, scanned = indexes_of(filled, jobs.PLAN, after=DONE - 10)
    assert {"chunk_pkey", "job_chunk_id_idx"} <= used
    assert not scanned & {"job", "chunk"}


def test_a_new_model_gets_only_its_own_test_set(engine: sa.Engine, tmp_path: Path) -> None:
    for name, seed in (("first", 1), ("second", 2)):
        bundle = publish_bundle(tmp_path, name, seed=seed)
        with engine.begin() as connection:
            model = registry.register_model(connection, bundle)
            promotion.promote(connection, model)
            ids = [store.load_chunk(connection, chunk)[0] for chunk in cut_test_set(bundle)]
            registry.add_test_set(connection, model.model_id, ids)
        with engine.begin() as connection:
            jobs.plan_jobs(connection)
    with engine.connect() as connection:
        pairs = connection.execute(sa.text("SELECT model_id, chunk_id FROM ml.job ORDER BY 1, 2")).all()
    assert pairs == [(1, 1), (2, 2)]


def test_a_new_model_is_measured_on_a_test_set_that_is_stored(engine: sa.Engine, tmp_path: Path) -> None:
    for name in ("first", "second"):  # with the same test set
        publish_bundle(tmp_path, name)
        assert worker_for(engine, tmp_path).run(until_empty=True) == 30
    assert rows(engine, "SELECT name, n, agrees FROM ml.accuracy") == [("first", 30, True), ("second", 30, True)]


def test_inputs_without_a_model_get_the_first_model(engine: sa.Engine, tmp_path: Path) -> None:
    bundle = publish_bundle(tmp_path)
    with engine.begin() as connection:
        for chunk in cut_test_set(bundle):
            store.load_chunk(connection, chunk)
    with engine.begin() as connection:
        promotion.promote(connection, registry.register_model(connection, bundle))
    with engine.begin() as connection:
        assert jobs.plan_jobs(connection) == 1
        assert jobs.plan_jobs(connection) == 0
