"""The models in the database: register, list, promote, retire, roll back. Old predictions stay, whatever serves.

The caller owns the transaction: functions take a connection and never commit.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from bundle.manifest import Manifest
from bundle.verify import Bundle
from pypredict import PypredictError

# Only one at a time registers a model of a data set: the one that serves changes hands here.
LOCK_DATASET = sa.text("SELECT pg_advisory_xact_lock(hashtext('ml.model'), hashtext(:dataset))")
FIND_MODEL = sa.text("SELECT model_id FROM ml.model WHERE sha256 = :sha256")
FIND_BUNDLE = sa.text("SELECT model_id FROM ml.model WHERE bundle_id = :bundle_id")
RETIRE = sa.text("UPDATE ml.model SET state = 'retired' WHERE dataset = :dataset AND state = 'serving'")
ADD_MODEL = sa.text("""
    INSERT INTO ml.model (sha256, bundle_id, dataset, prep_sha256, name, input_dtype, input_shape, classes, metrics,
                          manifest, state)
    VALUES (:sha256, :bundle_id, :dataset, :prep_sha256, :name, :input_dtype, :input_shape, :classes,
            CAST(:metrics AS jsonb), CAST(:manifest AS jsonb), 'serving')
    RETURNING model_id""")
ADD_VOCABULARY = sa.text(
    "INSERT INTO ml.vocabulary (prep_sha256, words) VALUES (:prep_sha256, :words) ON CONFLICT DO NOTHING"
)
SERVING_MANIFEST = sa.text("""
    SELECT m.manifest, v.words FROM ml.model m LEFT JOIN ml.vocabulary v USING (prep_sha256)
    WHERE m.dataset = :dataset AND m.state = 'serving'""")
ADD_HOLDOUT = sa.text(
    "INSERT INTO ml.holdout (model_id, chunk_id) VALUES (:model_id, :chunk_id) ON CONFLICT DO NOTHING"
)
WANTED_MODELS = sa.text("""
    SELECT m.model_id, m.bundle_id, encode(m.sha256, 'hex') AS sha256
    FROM ml.model m
    WHERE m.state = 'serving'
       OR EXISTS (SELECT FROM ml.batch b WHERE b.model_id = m.model_id AND b.state <> 'done')
    ORDER BY m.model_id""")
LIST = sa.text("""
    SELECT m.model_id, m.dataset, m.name, m.bundle_id, m.state, m.created_at,
           (m.metrics ->> 'accuracy')::double precision AS accuracy
    FROM ml.model m ORDER BY m.dataset, m.model_id""")
FIND = sa.text("SELECT dataset, state FROM ml.model WHERE model_id = :model_id")
PROMOTE = sa.text("UPDATE ml.model SET state = 'serving' WHERE model_id = :model_id")
BEFORE = sa.text("""
    SELECT max(old.model_id) FROM ml.model old JOIN ml.model now USING (dataset)
    WHERE now.dataset = :dataset AND now.state = 'serving' AND old.model_id < now.model_id""")


class RegistryError(PypredictError):
    """There is no such model, or none to go back to."""


@dataclass(frozen=True)
class Model:
    """A registered model as people see it."""

    model_id: int
    dataset: str
    name: str
    bundle_id: str
    state: str
    created_at: datetime
    accuracy: float


def knows_model(connection: sa.Connection, sha256: str) -> bool:
    """Tell whether a model with this hash (hexadecimal) was ever registered."""
    return connection.execute(FIND_MODEL, {"sha256": bytes.fromhex(sha256)}).scalar() is not None


def register_model(connection: sa.Connection, bundle: Bundle) -> tuple[int, bool]:
    """Make a verified bundle the serving model of its data set, once; return its number and whether it is new.

    A model that is known already keeps its state, so a pointer that has not moved never undoes a roll-back. Raises
    RegistryError when another model has the bundle's name.
    """
    manifest = bundle.manifest
    sha256 = bytes.fromhex(bundle.model_sha256)
    connection.execute(LOCK_DATASET, {"dataset": manifest.dataset})
    known = connection.execute(FIND_MODEL, {"sha256": sha256}).scalar()
    if known is not None:
        return int(known), False
    if connection.execute(FIND_BUNDLE, {"bundle_id": manifest.bundle_id}).scalar() is not None:
        raise RegistryError(
            f"bundle {manifest.bundle_id} is registered with another model.h5; restore that one, or give the "
            "experiment another name and train it"
        )
    connection.execute(RETIRE, {"dataset": manifest.dataset})
    row = {
        "sha256": sha256,
        "bundle_id": manifest.bundle_id,
        "dataset": manifest.dataset,
        "prep_sha256": bytes.fromhex(manifest.prep_sha256),
        "name": manifest.name,
        "input_dtype": manifest.input.dtype,
        "input_shape": list(manifest.input.shape),
        "classes": list(manifest.classes),
        "metrics": manifest.metrics.model_dump_json(),
        "manifest": manifest.model_dump_json(),
    }
    return int(connection.execute(ADD_MODEL, row).scalar_one()), True


def add_vocabulary(connection: sa.Connection, prep_sha256: str, words: Sequence[str]) -> None:
    """Store the words of a text preprocessing, by token number, once."""
    connection.execute(ADD_VOCABULARY, {"prep_sha256": bytes.fromhex(prep_sha256), "words": list(words)})


def serving_manifest(connection: sa.Connection, dataset: str) -> tuple[Manifest, list[str]] | None:
    """Read the manifest of the model that serves a data set, and its vocabulary; None when none serves."""
    row = connection.execute(SERVING_MANIFEST, {"dataset": dataset}).first()
    return None if row is None else (Manifest.model_validate(row.manifest), row.words or [])


def add_holdout(connection: sa.Connection, model_id: int, chunk_ids: Iterable[int]) -> None:
    """Say which chunks are a model's own held-out set."""
    for chunk_id in chunk_ids:
        connection.execute(ADD_HOLDOUT, {"model_id": model_id, "chunk_id": chunk_id})


def wanted_models(connection: sa.Connection) -> list[tuple[int, str, str]]:
    """List (model_id, bundle_id, sha256) of the models that serve or have open batches."""
    return [(row.model_id, row.bundle_id, row.sha256) for row in connection.execute(WANTED_MODELS)]


def list_models(connection: sa.Connection) -> list[Model]:
    """List every model that was ever registered, by data set."""
    return [Model(**row) for row in connection.execute(LIST).mappings()]


def promote(connection: sa.Connection, model_id: int) -> str:
    """Let a model serve its data set and retire the one that did; return the data set. Raises RegistryError."""
    dataset = _dataset(connection, model_id)
    connection.execute(LOCK_DATASET, {"dataset": dataset})
    connection.execute(RETIRE, {"dataset": dataset})
    connection.execute(PROMOTE, {"model_id": model_id})
    return dataset


def retire(connection: sa.Connection, model_id: int) -> str:
    """Let a model serve no longer; its open batches are still done. Returns the data set. Raises RegistryError."""
    dataset = _dataset(connection, model_id)
    if connection.execute(FIND, {"model_id": model_id}).one().state != "serving":
        raise RegistryError(f"model {model_id} does not serve {dataset}; `pypredict models list` shows which does")
    connection.execute(RETIRE, {"dataset": dataset})
    return dataset


def roll_back(connection: sa.Connection, dataset: str) -> int:
    """Let the model before the present one serve; return its number. Raises RegistryError when there is none."""
    before = connection.execute(BEFORE, {"dataset": dataset}).scalar()
    if before is None:
        raise RegistryError(
            f"data set {dataset} has no model before the serving one; `pypredict models list` shows all"
        )
    promote(connection, int(before))
    return int(before)


def _dataset(connection: sa.Connection, model_id: int) -> str:
    row = connection.execute(FIND, {"model_id": model_id}).first()
    if row is None:
        raise RegistryError(f"there is no model {model_id}; `pypredict models list` shows which there are")
    return str(row.dataset)
