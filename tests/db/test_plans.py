"""The ways to the rows, pinned: looking for work costs the same however much is done already."""

import json
import re

import pytest
import sqlalchemy as sa
from conftest import Database

from pypredict import store

DONE = 20_000

FILL = f"""
INSERT INTO ml.model (sha256, bundle_id, dataset, prep_sha256, name, input_dtype, input_shape, classes, metrics,
                      manifest, state)
VALUES (sha256('m'), 'm', 'toys', sha256('p'), 'm', 'uint8', '{{1}}', '{{a,b}}', '{{}}', '{{}}', 'serving');
INSERT INTO ml.chunk (dataset, prep_sha256, first_row, n_inputs, dtype, shape, source, content_sha256)
SELECT 'toys', sha256('p'), n, 1, 'uint8', '{{1}}', 'x', sha256(n::text::bytea) FROM generate_series(1, {DONE}) n;
INSERT INTO ml.job (model_id, chunk_id, state, done_at)
SELECT 1, chunk_id, CASE WHEN chunk_id <= {DONE} - 5 THEN 'done' ELSE 'pending' END,
       CASE WHEN chunk_id <= {DONE} - 5 THEN now() END FROM ml.chunk;
"""


@pytest.fixture
def filled(engine: sa.Engine, db: Database) -> sa.Engine:
    """One model, many jobs done, five open."""
    owner = db.engine()
    with owner.begin() as connection:
        connection.exec_driver_sql(FILL)
        connection.exec_driver_sql("ANALYZE ml.job, ml.chunk, ml.model")
    owner.dispose()
    return engine


def indexes_of(engine: sa.Engine, statement: sa.TextClause, **values: object) -> tuple[set[str], set[str]]:
    """Explain; give the indexes that are used, and the tables that are read from end to end."""
    with engine.connect() as connection:
        explain = sa.text(f"EXPLAIN (FORMAT json) {statement.text}")
        plan = json.dumps(connection.execute(explain, values).scalar())
    scanned = re.findall(r'"Node Type": "Seq Scan"[^{}]*?"Relation Name": "(\w+)"', plan)
    return set(re.findall(r'"Index Name": "(\w+)"', plan)), set(scanned)


def test_a_claim_looks_into_the_index_of_open_jobs(filled: sa.Engine) -> None:
    values = {"worker": "w", "lease": 60, "models": [1], "chunk_id": None, "without": []}
    used, scanned = indexes_of(filled, store.CLAIM, rushed=False, **values)
    assert indexes_of(filled, store.CLAIM, rushed=True, **values) == (used, scanned)
    assert "job_open_idx" in used
    assert "job" not in scanned


def test_a_plan_of_the_newest_chunks_reads_no_table_from_end_to_end(filled: sa.Engine) -> None:
    used, scanned = indexes_of(filled, store.PLAN, after=DONE - 10)
    assert {"chunk_pkey", "job_chunk_id_idx"} <= used
    assert not scanned & {"job", "chunk"}
