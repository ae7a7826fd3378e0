"""Single inputs: stored like any other, predicted by the running daemon, or by this process when none is there."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from bundle.preprocessing import TextPreprocessing
from pypredict import PypredictError, registry, store
from pypredict.chunk import cut
from pypredict.intake import preparation
from pypredict.listen import somebody_listens
from pypredict.source import Preparation, TextColumns, prepare_texts, read_source
from pypredict.worker import Worker

OUTCOME = sa.text("""
    SELECT m.classes[p.class_no + 1] AS predicted, p.score, e.reason, m.bundle_id AS model
    FROM ml.batch b JOIN ml.model m ON m.model_id = b.model_id AND m.state = 'serving' JOIN ml.input i USING (chunk_id)
    LEFT JOIN ml.prediction p ON p.model_id = m.model_id AND p.input_id = i.input_id
    LEFT JOIN ml.prediction_error e ON e.model_id = m.model_id AND e.input_id = i.input_id
    WHERE b.chunk_id = :chunk_id AND b.state = 'done' ORDER BY i.sample_no""")
LAST_ERROR = sa.text("SELECT max(last_error) FROM ml.batch WHERE chunk_id = :chunk_id")
LOOK_SECONDS = 0.02


@dataclass(frozen=True)
class Answer:
    """What the serving model says of one input: class and probability, or the reason why not."""

    item: str
    predicted: str | None
    score: float | None
    reason: str | None
    model: str


def predict_items(worker: Worker, dataset: str, items: Sequence[str], timeout_seconds: float) -> list[Answer]:
    """Store each item (an image or .npy file, or a text) as a chunk and wait for its prediction.

    worker predicts them when no daemon is there.

    Raises PypredictError when no model serves or nobody predicts in time, and what reading and preparing raise.
    """
    engine = worker.engine
    with engine.begin() as connection:
        daemon = somebody_listens(connection)
    if not daemon:
        worker.take_in(dataset)
        with engine.begin() as connection:
            if registry.serving_manifest(connection, dataset) is None:
                raise PypredictError(f"no model serves {dataset}; train one, or see `pypredict models list`")
    how = preparation(engine, worker.directory, dataset)
    answers: list[Answer] = []
    for item in items:
        chunk_id = _store(engine, how, item)
        done_here = not daemon and worker.run_chunk(chunk_id, dataset)
        answers += _wait(engine, item, chunk_id, 0 if done_here else timeout_seconds)
    return answers


def _store(engine: sa.Engine, how: Preparation, item: str) -> int:
    path = Path(item)
    is_text = isinstance(how.manifest.preprocessing, TextPreprocessing)
    if not is_text or os.path.isfile(item):  # noqa: PTH113 - Path.is_file raises for a text too long for a name
        chunks = list(read_source(path, how, TextColumns()))
    else:
        arrays = prepare_texts([item], how)
        manifest = how.manifest
        chunks = list(
            cut(
                arrays,
                None,
                classes=None,
                dataset=manifest.dataset,
                prep_sha256=manifest.prep_sha256,
                source="command line",
            )
        )
    if len(chunks) != 1:
        raise PypredictError(f"{item} holds {len(chunks)} chunks of inputs; use `pypredict load` for so many")
    with engine.begin() as connection:
        chunk_id, _ = store.load_chunk(connection, chunks[0])
        store.rush(connection, chunk_id)
    return chunk_id


def _wait(engine: sa.Engine, item: str, chunk_id: int, timeout_seconds: float) -> list[Answer]:
    deadline = time.monotonic() + timeout_seconds
    while True:
        with engine.begin() as connection:
            answers = [Answer(item, **row) for row in connection.execute(OUTCOME, {"chunk_id": chunk_id}).mappings()]
        if answers:
            return answers
        if time.monotonic() > deadline:
            with engine.begin() as connection:
                error = connection.execute(LAST_ERROR, {"chunk_id": chunk_id}).scalar()
            why = f": {error}" if error else ""
            raise PypredictError(f"{item} (chunk {chunk_id}) is not predicted{why}; `pypredict status` shows the queue")
        time.sleep(LOOK_SECONDS)
