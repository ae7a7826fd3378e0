"""Store single inputs and wait for their predictions. Without a running daemon, this process predicts them."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from bundle import BundleError
from bundle.inputs.preprocessing import TextPreprocessing
from bundle.messages import shorten
from pypredict import PypredictError, jobs, listen, registry, store
from pypredict.chunk import Chunk
from pypredict.labels import Labelling
from pypredict.load import preparation
from pypredict.source import FILE_SUFFIXES, Preparation, SourceError, TextColumns, read_source, text_chunk
from pypredict.worker import Worker

OUTCOME = sa.text("""
    SELECT m.classes[p.class_no + 1] AS predicted, p.score, e.reason, m.bundle_id AS model
    FROM ml.job j JOIN ml.model m ON m.model_id = j.model_id AND m.state = 'serving' JOIN ml.input i USING (chunk_id)
    LEFT JOIN ml.prediction p ON p.model_id = m.model_id AND p.input_id = i.input_id
    LEFT JOIN ml.prediction_error e ON e.model_id = m.model_id AND e.input_id = i.input_id
    WHERE j.chunk_id = :chunk_id AND j.state = 'done' ORDER BY i.sample_no""")
LAST_ERROR = sa.text("SELECT max(last_error) FROM ml.job WHERE chunk_id = :chunk_id")
LOOK_SECONDS = 0.02


@dataclass(frozen=True)
class Answer:
    """The result for one input: class and probability, or the reason why there is no prediction."""

    item: str
    predicted: str | None
    score: float | None
    reason: str | None
    model: str


class UnansweredError(PypredictError):
    """Some inputs could not be predicted; str() names them and the reasons. answers: the results of the others."""

    def __init__(self, problems: Sequence[str], answers: Sequence[Answer], n_items: int) -> None:
        count = f"{len(problems)} of {n_items} inputs could not be predicted: " if n_items > 1 else ""
        super().__init__(count + "; ".join(dict.fromkeys(problems)))
        self.answers = answers


def predict_items(
    worker: Worker, dataset: str, items: Sequence[str], timeout_seconds: float, *, as_text: bool = False
) -> list[Answer]:
    """Store each item (an image, .npy or .txt file, or a text) as a chunk, and wait for its prediction.

    worker: predicts the items when no daemon is running. as_text: treat every item as a text.

    Raises PypredictError when no model serves, BundleError when a published bundle is invalid, and UnansweredError,
    after all items were tried, when some could not be read, prepared or predicted.
    """
    engine = worker.engine
    with engine.begin() as connection:
        daemon = listen.somebody_listens(connection)
    if not daemon:
        worker.import_new(dataset)
        with engine.begin() as connection:
            if registry.serving_manifest(connection, dataset) is None:
                raise PypredictError(f"no model serves {shorten(dataset)}; train one, or see `pypredict models list`")
    how = preparation(engine, worker.directory, dataset)
    stored: list[tuple[str, Chunk, int]] = []
    answers: list[Answer] = []
    problems: list[str] = []
    for item in items:
        try:
            chunk = _read(how, item, as_text)
            stored.append((item, chunk, _store(engine, chunk)))
        except (BundleError, PypredictError) as error:
            problems.append(str(error))
    for item, chunk, chunk_id in stored:
        try:
            done_here = not daemon and worker.run_chunk(chunk_id, dataset)
            answers += _wait(engine, item, chunk, chunk_id, 0 if done_here else timeout_seconds)
        except (BundleError, PypredictError) as error:
            problems.append(str(error))
            timeout_seconds = 0  # the other items have waited for the same time already
    problems += [f"{answer.item}: {answer.reason}" for answer in answers if answer.predicted is None]
    if problems:
        raise UnansweredError(problems, answers, len(items))
    return answers


def _read(how: Preparation, item: str, as_text: bool) -> Chunk:
    """Read an item as one chunk. Raises SourceError or a BundleError."""
    is_file = os.path.isfile(item)  # noqa: PTH113 - Path.is_file raises for a text too long for a name
    is_text = isinstance(how.manifest.preprocessing, TextPreprocessing) and not is_file
    if as_text or (is_text and not _looks_like_path(item)):
        return text_chunk(item, how, "command line")
    if is_text and not os.path.exists(item):  # noqa: PTH110 - as above
        raise SourceError(f"{item} looks like a file and does not exist; give a file that exists, or --text for a text")
    chunks = list(read_source(Path(item), how, TextColumns(), Labelling(ignore=True)))
    if len(chunks) != 1:
        raise SourceError(f"{item} holds {len(chunks)} chunks of inputs; use `pypredict load` for so many inputs")
    return chunks[0]


def _looks_like_path(item: str) -> bool:
    """Return whether item begins or ends like a path, or is one word with a /; a longer text may contain a /."""
    if item.startswith(("/", "./", "../", "~/")) or Path(item).suffix.lower() in FILE_SUFFIXES:
        return True
    return "/" in item and len(item.split()) == 1


def _store(engine: sa.Engine, chunk: Chunk) -> int:
    with engine.begin() as connection:
        chunk_id, _ = store.load_chunk(connection, chunk)
        jobs.plan_urgent(connection, chunk_id)
    listen.notify(engine, chunk_id)
    return chunk_id


def _wait(engine: sa.Engine, item: str, chunk: Chunk, chunk_id: int, timeout_seconds: float) -> list[Answer]:
    deadline = time.monotonic() + timeout_seconds
    while True:
        with engine.begin() as connection:
            found = list(connection.execute(OUTCOME, {"chunk_id": chunk_id}).mappings())
        if found:
            names = [item if len(found) == 1 else f"{item}, {chunk.name_of(row)}" for row in range(len(found))]
            return [Answer(name, **row) for name, row in zip(names, found, strict=True)]
        if time.monotonic() > deadline:
            with engine.begin() as connection:
                error = connection.execute(LAST_ERROR, {"chunk_id": chunk_id}).scalar()
            why = f": {error}" if error else ""
            raise PypredictError(f"{item} (chunk {chunk_id}) is not predicted{why}; `pypredict status` shows the queue")
        time.sleep(LOOK_SECONDS)
