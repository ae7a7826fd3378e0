"""Decide which model serves a dataset: accept or decline the trainer's proposal, promote, retire, roll back.

Each change and each declined proposal is a row of ml.promotion. The caller owns the transaction: functions take a
connection and never commit. A lock on the dataset lets only one transaction at a time change its serving model.
"""

import logging
from dataclasses import dataclass

import sqlalchemy as sa

from bundle.manifest import Manifest
from bundle.messages import shorten
from bundle.promotion import compare_accuracy, is_worse
from bundle.publish import Pointer
from bundle.terminal import log_fields
from pypredict import PypredictError, registry
from pypredict.registry import Model

log = logging.getLogger(__name__)

# A row of the dataset's own: a login that only reads cannot lock it. Foreign keys to a model do not wait for this lock.
LOCK_DATASET = sa.text("""
    SELECT model_id FROM ml.model WHERE dataset = :dataset ORDER BY model_id FOR NO KEY UPDATE""")
SERVING = sa.text("SELECT model_id FROM ml.model WHERE dataset = :dataset AND state = 'serving'")
RETIRE = sa.text("UPDATE ml.model SET state = 'retired' WHERE dataset = :dataset AND state = 'serving'")
SERVE = sa.text("UPDATE ml.model SET state = 'serving' WHERE model_id = :model_id")
ADD_ENTRY = sa.text("""
    INSERT INTO ml.promotion (dataset, action, from_model_id, to_model_id, why, proposed_at)
    VALUES (:dataset, :action, :from_model_id, :to_model_id, :why, :proposed_at)""")
KNOWN_PROPOSAL = sa.text("""
    SELECT count(*) FROM ml.promotion WHERE to_model_id = :model_id AND proposed_at = :proposed_at""")
HISTORY = sa.text("""
    SELECT action, to_model_id FROM ml.promotion
    WHERE dataset = :dataset AND action <> 'declined' ORDER BY promotion_id""")


class PromotionError(PypredictError):
    """A model does not serve its dataset, or no other model served before."""


@dataclass(frozen=True)
class Proposal:
    """A registered model that the trainer's pointer names."""

    model: Model
    manifest: Manifest
    pointer: Pointer


def is_known(connection: sa.Connection, proposal: Proposal) -> bool:
    """Return whether a proposal was promoted or declined before; so an old pointer does not undo a roll-back."""
    values = {"model_id": proposal.model.model_id, "proposed_at": proposal.pointer.proposed_at}
    return bool(connection.execute(KNOWN_PROPOSAL, values).scalar_one())


def objection(connection: sa.Connection, proposal: Proposal) -> str | None:
    """Return why a proposal must not be promoted: its accuracy is lower on the same test set. None: no objection."""
    serving = registry.serving_manifest(connection, proposal.model.dataset)
    if serving is None or proposal.pointer.promote or not is_worse(proposal.manifest, serving):
        return None
    return compare_accuracy(proposal.manifest, serving)


def decline(connection: sa.Connection, proposal: Proposal, why: str) -> None:
    """Store and log that a proposal is not promoted; do nothing if another process has decided already."""
    model = proposal.model
    _lock(connection, model.dataset)
    if not is_known(connection, proposal):
        _add(connection, model.dataset, "declined", model, why=why, pointer=proposal.pointer)
        log.warning(
            "model %d (%s) is not promoted: %s; to promote it anyway: pypredict models promote %d",
            model.model_id,
            model.bundle_id,
            why,
            model.model_id,
            extra=log_fields(dataset=model.dataset, model=model.model_id, bundle=model.bundle_id),
        )


def accept(connection: sa.Connection, proposal: Proposal) -> None:
    """Let a proposed model serve its dataset, if there is still no objection and no other process has decided."""
    model = proposal.model
    _lock(connection, model.dataset)
    objected = objection(connection, proposal)
    if objected is not None:
        decline(connection, proposal, objected)
    elif not is_known(connection, proposal):
        serving = registry.serving_manifest(connection, model.dataset)
        why = "proposed with --promote" if proposal.pointer.promote else "proposed by the trainer"
        if serving is None:
            why += "; no model served before"
        elif serving.bundle_id == model.bundle_id:
            why += " again; it serves already"
        else:
            why += f": {compare_accuracy(proposal.manifest, serving)}"
        _serve(connection, "promoted", model, why, proposal.pointer)
        extra = log_fields(dataset=model.dataset, model=model.model_id, bundle=model.bundle_id)
        log.info("model %d (%s) now serves %s, %s", model.model_id, model.bundle_id, model.dataset, why, extra=extra)


def promote(connection: sa.Connection, model: Model) -> None:
    """Let a model serve its dataset, and retire the model that served until now."""
    _serve(connection, "promoted", model, "by `pypredict models promote`")


def roll_back(connection: sa.Connection, model: Model) -> None:
    """Let the model that `served_before` returned serve again."""
    _serve(connection, "rolled back", model, "by `pypredict models rollback`")


def retire(connection: sa.Connection, model: Model) -> None:
    """Retire a serving model; its open jobs are still predicted. Raises PromotionError when it does not serve."""
    _lock(connection, model.dataset)
    if connection.execute(SERVING, {"dataset": model.dataset}).scalar() != model.model_id:
        raise PromotionError(
            f"model {model.model_id} does not serve {model.dataset}; `pypredict models list` shows the serving model"
        )
    _add(connection, model.dataset, "retired", None, why="by `pypredict models retire`")
    connection.execute(RETIRE, {"dataset": model.dataset})


def served_before(connection: sa.Connection, dataset: str) -> int:
    """Return the model that served a dataset before the present one; if none serves now, the last that served.

    Each roll-back goes one step further back. Raises PromotionError when there is no such model, and RegistryError for
    an unknown dataset.
    """
    registry.check_dataset(connection, dataset)
    served: list[int | None] = []
    for action, model_id in connection.execute(HISTORY, {"dataset": dataset}):
        if action == "rolled back":
            while served and served[-1] != model_id:
                served.pop()
        else:
            served.append(model_id)
    present = served.pop() if served else None
    while served and served[-1] in (None, present):
        served.pop()
    if not served or served[-1] is None:
        raise PromotionError(
            f"no model served {shorten(dataset)} before the present one; `pypredict models list` shows all models"
        )
    return served[-1]


def _lock(connection: sa.Connection, dataset: str) -> None:
    """Keep other transactions from changing the serving model of a dataset until this transaction ends."""
    connection.execute(LOCK_DATASET, {"dataset": dataset})


def _serve(connection: sa.Connection, action: str, model: Model, why: str, pointer: Pointer | None = None) -> None:
    _lock(connection, model.dataset)
    _add(connection, model.dataset, action, model, why=why, pointer=pointer)
    connection.execute(RETIRE, {"dataset": model.dataset})
    connection.execute(SERVE, {"model_id": model.model_id})


def _add(
    connection: sa.Connection,
    dataset: str,
    action: str,
    model: Model | None,
    *,
    why: str,
    pointer: Pointer | None = None,
) -> None:
    row = {
        "dataset": dataset,
        "action": action,
        "from_model_id": connection.execute(SERVING, {"dataset": dataset}).scalar(),
        "to_model_id": None if model is None else model.model_id,
        "why": why,
        "proposed_at": None if pointer is None else pointer.proposed_at,
    }
    connection.execute(ADD_ENTRY, row)
