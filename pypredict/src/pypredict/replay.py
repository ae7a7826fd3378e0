"""Repeat stored predictions: read the payloads, predict them again with the same model, compare every bit.

LiteRT gives a row the same bits for each number of rows and threads, on the same kind of processor and with the same
version of LiteRT. Probabilities from another processor or another version may differ by TOLERANCE.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from bundle.publish import bundle_path
from bundle.verify import Bundle
from pypredict import PypredictError, jobs, registry, store
from pypredict.chunk import Chunk
from pypredict.models import Predict, load_predict, open_registered
from pypredict.refusals import explain_refusal
from pypredict.store import StoredChunk, StoreError

TOLERANCE = 1e-6
MAX_NAMED = 10  # inputs that one problem names

# Whole chunks, because the content hash covers a whole chunk; in the order of the models, so that one is in memory.
CHOSEN = sa.text("""
    SELECT * FROM (
        SELECT j.model_id, j.chunk_id, j.runtime, j.processor, c.n_inputs, c.dtype, c.shape,
               c.dataset, encode(c.prep_sha256, 'hex') AS prep_sha256, c.classes, c.content_sha256,
               sum(c.n_inputs) OVER (ORDER BY random(), j.chunk_id) - c.n_inputs AS before
        FROM ml.job j JOIN ml.chunk c USING (chunk_id) WHERE j.state = 'done') done
    WHERE CAST(:n AS bigint) IS NULL OR before < :n
    ORDER BY model_id, chunk_id""")
PREDICTIONS = sa.text("""
    SELECT p.input_id, p.class_no, p.score, p.probs
    FROM ml.input i JOIN ml.prediction p USING (input_id)
    WHERE p.model_id = :model_id AND i.chunk_id = :chunk_id ORDER BY i.sample_no""")
LABELS = sa.text("SELECT label_no FROM ml.input WHERE chunk_id = :chunk_id ORDER BY sample_no")
NO_TIMEOUT = sa.text("SET LOCAL idle_in_transaction_session_timeout = 0")


@dataclass
class Replayed:
    """Numbers of predictions that were repeated with equal bits or within TOLERANCE, and a sentence per problem.

    wanted: the number that was asked for, of which whole chunks were taken; None: all.
    elsewhere: the other processors and versions of the runtime that made predictions.
    """

    wanted: int | None = None
    n: int = 0
    n_equal: int = 0
    n_close: int = 0
    elsewhere: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Say how many predictions were repeated."""
        said = f"{self.n_equal} of {self.n} predictions repeated bit for bit"
        if self.wanted is not None:
            said += f" (whole chunks, for at least {self.wanted})"
        if self.elsewhere:
            here = f"{jobs.PLATFORM['runtime']} on {jobs.PLATFORM['processor']}"
            made = ", ".join(sorted(self.elsewhere))
            said += f"; {self.n_close} made with {made} repeated with {here}, with differences of at most {TOLERANCE}"
        return said


def parse_amount(given: str) -> int | None:
    """Return a number of predictions from the command line; None for `all`. Raises PypredictError."""
    if given == "all":
        return None
    if not given.isascii() or not given.isdigit() or int(given) < 1:
        raise PypredictError(f"--replay got {given!r}; give a number of predictions from 1 on, or all")
    return int(given)


@contextmanager
def open_snapshot(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Begin a transaction that only reads: all statements see the same state, and a model may take long between them.

    The timeout of db/roles.sql protects from workers that hold locks on rows; who only reads holds none.
    """
    reading = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    with reading.begin() as connection:
        connection.execute(NO_TIMEOUT)
        yield connection


def replay_predictions(
    connection: sa.Connection, directory: Path, n: int | None, load: Callable[[Bundle], Predict] = load_predict
) -> Replayed:
    """Repeat at least n predictions of chunks chosen at random, or all (None). Reads only; memory: one chunk.

    connection: of open_snapshot, so that no model is new and no input is gone while it works.
    directory: the bundles of the models. A bundle that cannot be loaded, and a payload that changed, is a problem.
    """
    found = Replayed(wanted=n)
    models = {model.model_id: model for model in registry.list_models(connection)}
    model_id, predict = -1, None
    for row in connection.execute(CHOSEN, {"n": n}).all():
        if row.model_id != model_id:
            model_id, predict = row.model_id, None
            try:
                predict = load(open_registered(directory, models[model_id]))
            except Exception as error:  # a bundle that changed may cause any error
                why = explain_refusal(bundle_path(directory, models[model_id].bundle_id), error)
                found.problems.append(f"the predictions of model {model_id} cannot be repeated: {why}")
        if predict is not None:
            _replay_chunk(connection, row, predict, found)
        else:
            found.n += len(connection.execute(PREDICTIONS, _keys(row)).all())
    return found


def _replay_chunk(connection: sa.Connection, row: Any, predict: Predict, found: Replayed) -> None:
    """Repeat the predictions of one job, and add the outcome to `found`."""
    stored = connection.execute(PREDICTIONS, _keys(row)).all()
    found.n += len(stored)
    labelled = row.classes is not None
    try:
        inputs = store.read_inputs(
            connection, StoredChunk(row.chunk_id, row.n_inputs, row.dtype, tuple(row.shape), labelled)
        )
    except StoreError as error:
        found.problems.append(str(error))
        return
    if row.content_sha256 is not None and bytes(row.content_sha256) != _content_sha256(connection, row, inputs.arrays):
        found.problems.append(
            f"chunk {row.chunk_id}: the stored arrays or labels have changed since they were loaded; restore a backup"
        )
    place = {int(input_id): number for number, input_id in enumerate(inputs.input_ids)}
    kept = [one for one in stored if one.input_id in place]
    differing = [one.input_id for one in stored if one.input_id not in place]
    if kept:
        again = predict(inputs.arrays[[place[one.input_id] for one in kept]])
        here = (row.runtime, row.processor) == (jobs.PLATFORM["runtime"], jobs.PLATFORM["processor"])
        good = _compare(kept, again, exactly=here)
        differing += [one.input_id for one, same in zip(kept, good, strict=True) if not same]
        if here:
            found.n_equal += int(good.sum())
        else:
            found.n_close += int(good.sum())
            found.elsewhere.add(f"{row.runtime} on {row.processor}")
    if differing:
        named = ", ".join(map(str, differing[:MAX_NAMED])) + (", ..." if len(differing) > MAX_NAMED else "")
        found.problems.append(
            f"model {row.model_id}, chunk {row.chunk_id}: the model gives other values for {len(differing)} of "
            f"{len(stored)} inputs; input_id {named}"
        )


def _compare(stored: Sequence[Any], again: npt.NDArray[np.float32], *, exactly: bool) -> npt.NDArray[np.bool_]:
    """Compare stored predictions with probabilities (n, k) of the same inputs; (n,). Class and score must fit, too."""
    good = np.zeros(len(stored), np.bool_)
    for number, (one, probabilities) in enumerate(zip(stored, again, strict=True)):
        kept = np.array(one.probs, np.float32)
        if kept.shape != probabilities.shape:
            continue
        if exactly:
            same = kept.tobytes() == probabilities.tobytes()
        else:
            same = bool(np.abs(kept - probabilities).max() <= TOLERANCE)
        good[number] = same and one.class_no == kept.argmax() and np.float32(one.score) == kept.max()
    return good


def _content_sha256(connection: sa.Connection, row: Any, arrays: npt.NDArray[Any]) -> bytes:
    labels = None
    if row.classes is not None:
        numbers = connection.execute(LABELS, {"chunk_id": row.chunk_id}).scalars().all()
        labels = np.array([-1 if number is None else number for number in numbers], np.int32)
    chunk = Chunk(
        dataset=row.dataset,
        prep_sha256=row.prep_sha256,
        first_row=0,
        arrays=arrays,
        labels=labels,
        classes=None if row.classes is None else tuple(row.classes),
        source="",
    )
    return chunk.content_sha256


def _keys(row: Any) -> dict[str, int]:
    return {"model_id": row.model_id, "chunk_id": row.chunk_id}
