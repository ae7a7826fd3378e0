"""All SQL that deletes: chunks with their inputs and outcomes, and the outcomes of retired models.

Only the owner may delete. A unit is what one transaction deletes: a chunk with all that belongs to it, or the outcomes
of one model for one chunk, with their job. So a killed deletion leaves whole units, and a second one deletes the rest.

Each transaction first locks the tables in the order in which loads and workers write them, so nobody waits in a circle.
Loads, plans, claims and commits wait until it ends, then look again: none of them names a row that is gone. Readers do
not wait.
"""

from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa

from bundle.messages import list_names
from pypredict import PypredictError, registry

LOCK_SECONDS = 10  # how long a deletion waits for other transactions, while new ones wait for it

MAY_DELETE = sa.text("""
    SELECT current_user AS login, pg_get_userbyid(relowner) AS owner, pg_has_role(relowner, 'USAGE') AS may
    FROM pg_class WHERE oid = 'ml.chunk'::regclass""")
SOURCES = sa.text("SELECT source FROM ml.chunk GROUP BY source ORDER BY max(chunk_id) DESC")
# These settings hold until the end of the transaction. FIX_PLAN and OUTCOMES_OF fix the query plan, independent of the
# statistics: the outcomes of a chunk lie in a range of the primary key, because a load numbers its inputs in sequence;
# each row within is checked by one look-up. OFFSET 0 keeps min and max from a search through all inputs.
FIX_PLAN = sa.text("SELECT set_config('enable_seqscan', 'off', true)")
LOCK_TIMEOUT = sa.text("SELECT set_config('lock_timeout', :timeout, true)")
LOCK = sa.text("LOCK TABLE ml.chunk, ml.input, ml.job, ml.prediction IN SHARE ROW EXCLUSIVE MODE")
OUTCOMES_OF = """
    o.model_id = ANY (ARRAY(SELECT d.model_id FROM ml.job d
                            WHERE d.chunk_id = {chunk_id} AND d.model_id = coalesce({model_id}, d.model_id)))
    AND o.input_id BETWEEN
        (SELECT min(input_id) FROM (SELECT input_id FROM ml.input WHERE chunk_id = {chunk_id} OFFSET 0) i)
        AND (SELECT max(input_id) FROM (SELECT input_id FROM ml.input WHERE chunk_id = {chunk_id} OFFSET 0) i)
    AND (SELECT i.chunk_id FROM ml.input i WHERE i.input_id = o.input_id) = {chunk_id}"""
# Bytes of the rows as they are stored, without indexes and page headers.
PAYLOAD_BYTES = "(SELECT coalesce(sum(pg_column_size(i.payload)), 0) FROM ml.input i WHERE i.chunk_id = c.chunk_id)"
PREDICTION_BYTES = f"(SELECT coalesce(sum(pg_column_size(o)), 0) FROM ml.prediction o WHERE {OUTCOMES_OF})"  # noqa: S608
CHUNKS = sa.text(f"""
    SELECT c.chunk_id, CAST(NULL AS bigint) AS model_id, c.dataset, c.source AS name, c.n_inputs AS inputs,
           c.n_inputs * (SELECT count(*) FROM ml.job j WHERE j.chunk_id = c.chunk_id AND j.state = 'done') AS outcomes,
           {PAYLOAD_BYTES} + {PREDICTION_BYTES.format(chunk_id="c.chunk_id", model_id="NULL")} AS bytes, false AS only,
           CASE WHEN EXISTS (SELECT FROM ml.job j WHERE j.chunk_id = c.chunk_id AND j.lease_until > now())
                THEN 'a worker predicts them now; run the command again later'
                WHEN t.serves THEN format('the test set of model %s, which serves', t.model_id)
                WHEN t.model_id IS NOT NULL AND NOT :test_sets
                THEN format('the test set of model %s; --test-sets deletes it, too', t.model_id)
           END AS kept
    FROM ml.chunk c
    LEFT JOIN LATERAL (SELECT m.model_id, m.state = 'serving' AS serves
                       FROM ml.test_set h JOIN ml.model m USING (model_id) WHERE h.chunk_id = c.chunk_id
                       ORDER BY m.state = 'serving' DESC, m.model_id DESC LIMIT 1) t ON true
    WHERE c.chunk_id = coalesce(:chunk_id, c.chunk_id) AND c.dataset = coalesce(:dataset, c.dataset)
      AND c.source = coalesce(:source, c.source)
      AND (CAST(:age AS interval) IS NULL OR c.created_at < now() - CAST(:age AS interval))
    ORDER BY c.chunk_id""")  # noqa: S608 - no values
# A retired model keeps its predictions of its own test set: without them, the worker would make them again.
RETIRED = sa.text(f"""
    SELECT j.chunk_id, j.model_id, m.dataset, m.bundle_id AS name, c.n_inputs AS inputs, c.n_inputs AS outcomes,
           {PREDICTION_BYTES.format(chunk_id="j.chunk_id", model_id="j.model_id")} AS bytes,
           NOT EXISTS (SELECT FROM ml.job o JOIN ml.model p USING (model_id)
                       WHERE o.chunk_id = j.chunk_id AND o.model_id <> j.model_id
                         AND (p.state <> 'retired' OR o.state <> 'done' OR EXISTS (
                              SELECT FROM ml.test_set h WHERE h.model_id = o.model_id AND h.chunk_id = o.chunk_id)))
               AS only,
           CASE WHEN EXISTS (SELECT FROM ml.test_set h WHERE h.model_id = j.model_id AND h.chunk_id = j.chunk_id)
                THEN format('the test set of model %s, which measures it', j.model_id) END AS kept
    FROM ml.job j JOIN ml.model m USING (model_id) JOIN ml.chunk c USING (chunk_id)
    WHERE m.state = 'retired' AND j.state = 'done' AND m.dataset = coalesce(:dataset, m.dataset)
      AND j.chunk_id = coalesce(:chunk_id, j.chunk_id) AND j.model_id = coalesce(:model_id, j.model_id)
    ORDER BY j.model_id, j.chunk_id""")  # noqa: S608 - no values
OUTCOMES = OUTCOMES_OF.format(chunk_id=":chunk_id", model_id=":model_id")
DELETE_OUTCOMES = [
    sa.text(f"DELETE FROM ml.{table} o WHERE {OUTCOMES}")  # noqa: S608 - no values
    for table in ("prediction", "prediction_error", "suspect")
] + [sa.text("DELETE FROM ml.job WHERE chunk_id = :chunk_id AND model_id = coalesce(:model_id, model_id)")]
# A test set that loses a chunk measures its model no more, so its other chunks become plain ones.
DELETE_INPUTS = [
    sa.text("""
    DELETE FROM ml.test_set WHERE model_id IN (SELECT model_id FROM ml.test_set WHERE chunk_id = :chunk_id)""")
] + [
    sa.text(f"DELETE FROM ml.{table} WHERE chunk_id = :chunk_id")  # noqa: S608 - no values
    for table in ("input_name", "input", "chunk")
]


@dataclass(frozen=True)
class Unit:
    """What one transaction deletes: a chunk, or if model_id is set, the outcomes of this model for the chunk.

    name: the source of the chunk, or the bundle of the model. only: no model whose outcomes stay has predicted the
    chunk. kept: why the unit is not deleted; None: it is.
    """

    chunk_id: int
    model_id: int | None
    dataset: str
    name: str
    inputs: int
    outcomes: int
    bytes: int
    only: bool
    kept: str | None


@dataclass(frozen=True)
class Selection:
    """Which units to delete: a query, and the values that a person gave."""

    query: sa.TextClause
    values: dict[str, object]

    def read(self, connection: sa.Connection, chunk_id: int | None = None, model_id: int | None = None) -> list[Unit]:
        """List the selected units, or the one with these numbers if it is still selected."""
        connection.execute(FIX_PLAN)
        found = connection.execute(self.query, {**self.values, "chunk_id": chunk_id, "model_id": model_id})
        return [Unit(**row) for row in found.mappings()]


def select_inputs(
    connection: sa.Connection,
    *,
    source: str | None = None,
    dataset: str | None = None,
    age: timedelta | None = None,
    test_sets: bool = False,
) -> Selection:
    """Select chunks that fit all criteria. Raises PypredictError without a criterion, and for an unknown name.

    test_sets: also the test sets of models that do not serve.
    """
    if source is None and dataset is None and age is None:
        raise PypredictError("which inputs? give --source NAME, --dataset NAME or --older-than AGE, or several of them")
    if dataset is not None:
        registry.check_dataset(connection, dataset)
    if source is not None:
        known = connection.execute(SOURCES).scalars().all()
        if source not in known:
            raise PypredictError(
                f"no input has the source {source}; the newest sources are: {list_names(known) or 'none'}"
            )
    return Selection(CHUNKS, {"source": source, "dataset": dataset, "age": age, "test_sets": test_sets})


def select_retired(connection: sa.Connection, dataset: str | None = None) -> Selection:
    """Select the outcomes of retired models, of all datasets or of one. Raises RegistryError for an unknown dataset."""
    if dataset is not None:
        registry.check_dataset(connection, dataset)
    return Selection(RETIRED, {"dataset": dataset})


def check_owner(connection: sa.Connection) -> None:
    """Refuse a login that does not own the tables. Raises PypredictError, which names the owner."""
    row = connection.execute(MAY_DELETE).one()
    if not row.may:
        raise PypredictError(
            f"the login {row.login} may not delete; log in as {row.owner} (PGUSER={row.owner}; see docs/retention.md)"
        )


def delete_unit(connection: sa.Connection, selection: Selection, unit: Unit) -> Unit | None:
    """Delete a unit in a transaction of the caller, who commits at once; return what was deleted.

    Returns None when the unit is gone or selected no more, and deletes nothing when the result has a reason in `kept`.
    """
    connection.execute(LOCK_TIMEOUT, {"timeout": f"{LOCK_SECONDS}s"})
    connection.execute(LOCK)
    found = selection.read(connection, unit.chunk_id, unit.model_id)
    if not found or found[0].kept is not None:
        return found[0] if found else None
    for statement in DELETE_OUTCOMES if unit.model_id is not None else DELETE_OUTCOMES + DELETE_INPUTS:
        connection.execute(statement, {"chunk_id": unit.chunk_id, "model_id": unit.model_id})
    return found[0]
