"""Which model serves a data set: list, promote, retire, roll back. Old predictions stay, whatever serves."""

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from pypredict import PypredictError, store

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


def list_models(connection: sa.Connection) -> list[Model]:
    """List every model that was ever registered, by data set."""
    return [Model(**row) for row in connection.execute(LIST).mappings()]


def promote(connection: sa.Connection, model_id: int) -> str:
    """Let a model serve its data set and retire the one that did; return the data set. Raises RegistryError."""
    dataset = _dataset(connection, model_id)
    connection.execute(store.LOCK_DATASET, {"dataset": dataset})
    connection.execute(store.RETIRE, {"dataset": dataset})
    connection.execute(PROMOTE, {"model_id": model_id})
    return dataset


def retire(connection: sa.Connection, model_id: int) -> str:
    """Let a model serve no longer; its open batches are still done. Returns the data set. Raises RegistryError."""
    dataset = _dataset(connection, model_id)
    if connection.execute(FIND, {"model_id": model_id}).one().state != "serving":
        raise RegistryError(f"model {model_id} does not serve {dataset}; `pypredict models list` shows which does")
    connection.execute(store.RETIRE, {"dataset": dataset})
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
