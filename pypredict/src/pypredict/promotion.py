"""Which model serves a dataset: taken from the trainer's proposal, promoted, retired or rolled back by a person.

Each change, and each proposal that was declined, is a row of ml.promotion. The caller owns the transaction: functions
take a connection and never commit; a lock on the dataset lets only one transaction at a time change what serves it.
"""

import logging
from dataclasses import dataclass

import sqlalchemy as sa

from bundle.manifest import Manifest
from bundle.promotion import compare_accuracy, is_worse
from bundle.publish import Pointer
from pypredict import PypredictError, registry
from pypredict.registry import Model

log = logging.getLogger(__name__)

LOCK_DATASET = sa.text("SELECT pg_advisory_xact_lock(hashtext('ml.model'), hashtext(:dataset))")
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
    """No model serves, or none served before."""


@dataclass(frozen=True)
class Proposal:
    """A registered model that the trainer's pointer names."""

    model: Model
    manifest: Manifest
    pointer: Pointer


def is_known(connection: sa.Connection, proposal: Proposal) -> bool:
    """Tell whether a proposal was promoted or declined before: a pointer that has not moved undoes no roll-back."""
    values = {"model_id": proposal.model.model_id, "proposed_at": proposal.pointer.proposed_at}
    return bool(connection.execute(KNOWN_PROPOSAL, values).scalar_one())


def objection(connection: sa.Connection, proposal: Proposal) -> str | None:
    """Say why a proposal is not to be promoted: what serves has a higher accuracy on the same test set. None: it is."""
    serving = registry.serving_manifest(connection, proposal.model.dataset)
    if serving is None or proposal.pointer.promote or not is_worse(proposal.manifest, serving):
        return None
    return compare_accuracy(proposal.manifest, serving)


def decline(connection: sa.Connection, proposal: Proposal, why: str) -> None:
    """Note and log that a proposal is not promoted; once, whoever else decides meanwhile."""
    model = proposal.model
    _lock(connection, model.dataset)
    if not is_known(connection, proposal):
        _add(connection, model.dataset, "declined", model, why=why, pointer=proposal.pointer)
        log.warning(
            "model %d (%s) is not promoted: %s; `pypredict models promote %d` does it all the same",
            model.model_id,
            model.bundle_id,
            why,
            model.model_id,
        )


def accept(connection: sa.Connection, proposal: Proposal) -> None:
    """Let a proposed model serve its dataset, if there is still no objection; once, whoever else decides meanwhile."""
    model = proposal.model
    _lock(connection, model.dataset)
    objected = objection(connection, proposal)
    if objected is not None:
        decline(connection, proposal, objected)
    elif not is_known(connection, proposal):
        serving = registry.serving_manifest(connection, model.dataset)
        why = "proposed with --promote" if proposal.pointer.promote else "proposed by the trainer"
        why += f": {compare_accuracy(proposal.manifest, serving)}" if serving else "; no model served"
        _serve(connection, "promoted", model, why, proposal.pointer)
        log.info("model %d (%s) now serves %s, %s", model.model_id, model.bundle_id, model.dataset, why)


def promote(connection: sa.Connection, model: Model) -> None:
    """Let a model serve its dataset, and retire the one that did."""
    _serve(connection, "promoted", model, "by `pypredict models promote`")


def roll_back(connection: sa.Connection, model: Model) -> None:
    """Let a model that `served_before` gave serve again."""
    _serve(connection, "rolled back", model, "by `pypredict models rollback`")


def retire(connection: sa.Connection, model: Model) -> None:
    """Let a model serve no longer; its open jobs are still done. Raises PromotionError when it does not serve."""
    _lock(connection, model.dataset)
    if connection.execute(SERVING, {"dataset": model.dataset}).scalar() != model.model_id:
        raise PromotionError(
            f"model {model.model_id} does not serve {model.dataset}; `pypredict models list` shows which does"
        )
    _add(connection, model.dataset, "retired", None, why="by `pypredict models retire`")
    connection.execute(RETIRE, {"dataset": model.dataset})


def served_before(connection: sa.Connection, dataset: str) -> int:
    """Tell which model served a dataset before the present one, or last, where none serves.

    Each roll-back goes one step further back. Raises PromotionError when there is none, RegistryError for an unknown
    dataset.
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
        raise PromotionError(f"no model served {dataset} before the present one; `pypredict models list` shows all")
    return served[-1]


def _lock(connection: sa.Connection, dataset: str) -> None:
    """Let nobody else change what serves a dataset until this transaction ends."""
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
