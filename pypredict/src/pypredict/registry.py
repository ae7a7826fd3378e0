"""The models in the database: register, find and list them, with their test sets and vocabularies.

A model's identity is its bundle: two bundles may hold equal weights. `promotion` decides which model serves. The caller
owns the transaction: functions take a connection and never commit.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from bundle import BundleError
from bundle.manifest import MODEL_FILE, SERVING_FILE, Manifest
from bundle.messages import shorten
from bundle.verify import Bundle
from pypredict import PypredictError

ADD_MODEL = sa.text("""
    INSERT INTO ml.model (sha256, serving_sha256, bundle_id, dataset, prep_sha256, name, input_dtype, input_shape,
                          classes, metrics, manifest, state)
    VALUES (:sha256, :serving_sha256, :bundle_id, :dataset, :prep_sha256, :name, :input_dtype, :input_shape, :classes,
            CAST(:metrics AS jsonb), CAST(:manifest AS jsonb), 'available')
    ON CONFLICT (bundle_id) DO NOTHING""")
ADD_VOCABULARY = sa.text(
    "INSERT INTO ml.vocabulary (prep_sha256, words) VALUES (:prep_sha256, :words) ON CONFLICT DO NOTHING"
)
SERVING_MANIFEST = sa.text("""
    SELECT manifest FROM ml.model WHERE dataset = :dataset AND state = 'serving'""")
ADD_TEST_SET = sa.text(
    "INSERT INTO ml.test_set (model_id, chunk_id) VALUES (:model_id, :chunk_id) ON CONFLICT DO NOTHING"
)
WANTED_MODELS = sa.text("""
    SELECT m.model_id, m.dataset, m.bundle_id, encode(m.sha256, 'hex') AS sha256,
           encode(m.serving_sha256, 'hex') AS serving_sha256, m.state = 'serving' AS serves
    FROM ml.model m
    WHERE m.state = 'serving'
       OR EXISTS (SELECT FROM ml.job j WHERE j.model_id = m.model_id AND j.state <> 'done')
    ORDER BY m.model_id""")
LIST = sa.text("""
    SELECT m.model_id, m.dataset, m.name, m.bundle_id, encode(m.sha256, 'hex') AS sha256,
           encode(m.serving_sha256, 'hex') AS serving_sha256, m.state, m.created_at,
           (m.metrics ->> 'accuracy')::double precision AS accuracy
    FROM ml.model m ORDER BY m.dataset, m.model_id""")
BUNDLES = sa.text("SELECT bundle_id FROM ml.model")
DATASETS = sa.text("SELECT DISTINCT dataset FROM ml.model UNION SELECT DISTINCT dataset FROM ml.chunk ORDER BY 1")


class RegistryError(PypredictError):
    """A model or dataset does not exist, or a bundle differs from the registered one."""


@dataclass(frozen=True)
class Model:
    """A registered model. sha256, serving_sha256: the hashes of model.h5 and model.tflite, as hexadecimal text."""

    model_id: int
    dataset: str
    name: str
    bundle_id: str
    sha256: str
    serving_sha256: str
    state: str
    created_at: datetime
    accuracy: float


@dataclass(frozen=True)
class WantedModel:
    """A model that serves or has open jobs. The hashes of its model.h5 and model.tflite are hexadecimal texts."""

    model_id: int
    dataset: str
    bundle_id: str
    sha256: str
    serving_sha256: str
    serves: bool


def register_model(connection: sa.Connection, bundle: Bundle) -> Model:
    """Register a verified bundle as available, unless it is registered already.

    Raises RegistryError when a bundle with the same id and another model.h5 or model.tflite is registered.
    """
    manifest = bundle.manifest
    row = {
        "sha256": bytes.fromhex(bundle.model_sha256),
        "serving_sha256": bytes.fromhex(bundle.serving_sha256),
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
    if manifest.bundle_id not in registered_bundles(connection):
        connection.execute(ADD_MODEL, row)
        if not bundle.path.is_dir():  # it was deleted while the INSERT waited (pypredict prune bundles)
            raise BundleError(f"bundle {manifest.bundle_id} is not on the models volume any more; it is not registered")
    known = find_model(connection, manifest.bundle_id)
    for file, registered, found in (
        (MODEL_FILE, known.sha256, bundle.model_sha256),
        (SERVING_FILE, known.serving_sha256, bundle.serving_sha256),
    ):
        if registered != found:
            raise RegistryError(
                f"bundle {manifest.bundle_id} is registered with another {file}; restore that file, or train the "
                "experiment under another name"
            )
    return known


def registered_bundles(connection: sa.Connection, *, hold: bool = False) -> set[str]:
    """Return the ids of all registered bundles. hold: nobody registers another one until the transaction ends."""
    if hold:
        connection.execute(sa.text("LOCK TABLE ml.model IN SHARE MODE"))
    return set(connection.execute(BUNDLES).scalars())


def add_vocabulary(connection: sa.Connection, prep_sha256: str, words: Sequence[str]) -> None:
    """Store the words of a text preprocessing, in the order of their token numbers, once."""
    connection.execute(ADD_VOCABULARY, {"prep_sha256": bytes.fromhex(prep_sha256), "words": list(words)})


def serving_manifest(connection: sa.Connection, dataset: str) -> Manifest | None:
    """Read the manifest of the model that serves a dataset; None when none serves."""
    found = connection.execute(SERVING_MANIFEST, {"dataset": dataset}).scalar()
    return None if found is None else Manifest.model_validate(found)


def add_test_set(connection: sa.Connection, model_id: int, chunk_ids: Iterable[int]) -> None:
    """Store which chunks are the test set of a model."""
    for chunk_id in chunk_ids:
        connection.execute(ADD_TEST_SET, {"model_id": model_id, "chunk_id": chunk_id})


def wanted_models(connection: sa.Connection) -> list[WantedModel]:
    """List the models that serve or have open jobs."""
    return [WantedModel(**row) for row in connection.execute(WANTED_MODELS).mappings()]


def list_models(connection: sa.Connection) -> list[Model]:
    """List every registered model, by dataset."""
    return [Model(**row) for row in connection.execute(LIST).mappings()]


def find_model(connection: sa.Connection, given: str) -> Model:
    """Find a model by its number or its bundle's id. Raises RegistryError, which names the newest models."""
    models = list_models(connection)
    for model in models:
        if given in (str(model.model_id), model.bundle_id):
            return model
    known = ", ".join(f"{model.model_id} ({model.bundle_id})" for model in models[-10:]) or "none"
    raise RegistryError(f"there is no model {given}; the newest are {known}, `pypredict models list` shows all")


def check_dataset(connection: sa.Connection, dataset: str) -> None:
    """Raise RegistryError for a dataset without a model and without an input; it names the known datasets."""
    known = connection.execute(DATASETS).scalars().all()
    if dataset not in known:
        raise RegistryError(
            f"there is no dataset {shorten(dataset)}; the known datasets are: {', '.join(known) or 'none'}"
        )
