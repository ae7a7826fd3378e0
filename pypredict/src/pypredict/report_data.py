"""What an HTML report shows, read from the database and the models volume. It reads only.

The caller owns the transaction. Memory is bounded: at most MAX_VALUES probabilities of a test set, a few payloads, and
counts that the database makes.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa
from pydantic import ValidationError

from bundle import BundleError
from bundle.document import explain
from bundle.history import HISTORY, MAX_HISTORY_BYTES, Epoch
from bundle.manifest import HISTORY_FILE, Manifest
from bundle.split import read_split
from bundle.verify import Bundle
from pypredict import registry
from pypredict.gallery import Shown, show_inputs
from pypredict.models import open_registered
from pypredict.registry import Model
from pypredict.replay import Replayed, replay_predictions
from pypredict.report import ERRORS, UNSERVED, check
from pypredict.report_metrics import McNemar, compare_mcnemar

MAX_VALUES = 20_000_000  # probabilities of one test set in memory: 80 MB
MAX_FETCHED = 1_000_000  # probabilities of one fetch, as Python objects
MAX_RIVALS = 20  # other models of a dataset, the newest ones
MAX_DRIFT_ROWS = 60
PARTS = ("train", "validation", "test")  # of a split
N_MISTAKES, N_RIGHT = 12, 6  # inputs in the gallery

ACCURACY = sa.text("SELECT * FROM ml.accuracy WHERE model_id = :model_id")
MANIFEST = sa.text("SELECT manifest FROM ml.model WHERE model_id = :model_id")
TESTED = sa.text("""
    SELECT i.input_id, c.classes[i.label_no + 1] AS label, p.class_no, p.score, p.probs
    FROM ml.test_set h
    JOIN ml.chunk c USING (chunk_id)
    JOIN ml.input i USING (chunk_id)
    JOIN ml.prediction p ON p.model_id = h.model_id AND p.input_id = i.input_id
    WHERE h.model_id = :model_id
    ORDER BY c.first_row, c.chunk_id, i.sample_no LIMIT :most""")
COUNT_TESTED = sa.text("""
    SELECT coalesce(sum(c.n_inputs), 0)::bigint FROM ml.test_set h JOIN ml.chunk c USING (chunk_id)
    WHERE h.model_id = :model_id""")
OUTCOMES = sa.text("""
    SELECT input_id, name, label, predicted, score FROM ml.outcome
    WHERE model_id = :model_id AND input_id = ANY(:input_ids)""")
DISCORDANT = sa.text("""
    SELECT count(*) AS n,
           count(*) FILTER (WHERE a.is_right AND NOT b.is_right) AS only_first,
           count(*) FILTER (WHERE b.is_right AND NOT a.is_right) AS only_second
    FROM (SELECT input_id, label = predicted AS is_right FROM ml.outcome
          WHERE model_id = :first AND in_test_set AND label IS NOT NULL) a
    JOIN (SELECT input_id, label = predicted AS is_right FROM ml.outcome
          WHERE model_id = :second AND in_test_set AND label IS NOT NULL) b USING (input_id)""")
DRIFT = sa.text("""
    SELECT * FROM ml.drift WHERE model_id = :model_id ORDER BY day DESC, psi DESC, source LIMIT :most""")
# The first job ends at the start of the time that is measured, so its inputs do not count.
SPEED = sa.text("""
    SELECT sum(n_inputs) FILTER (WHERE place > 1) / nullif(extract(epoch FROM max(done_at) - min(done_at)), 0) AS per_s,
           count(*) AS jobs, max(done_at) AS last_done_at
    FROM (SELECT n_inputs, done_at, row_number() OVER (ORDER BY done_at, chunk_id) AS place
          FROM (SELECT c.n_inputs, j.done_at, j.chunk_id FROM ml.job j JOIN ml.chunk c USING (chunk_id)
                WHERE j.model_id = :model_id AND j.state = 'done' ORDER BY j.done_at DESC LIMIT 100) newest) placed""")


@dataclass(frozen=True)
class Predictions:
    """Predictions of a model on its own test set: n of n_all inputs.

    input_ids (n,), labels (n,) and predicted (n,) as numbers of the model's classes; scores (n,) float32;
    probabilities (n, k) float32.
    """

    input_ids: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32]
    n_all: int


@dataclass(frozen=True)
class Example:
    """One input of the gallery with its outcome."""

    input_id: int
    name: str
    label: str
    predicted: str
    score: float
    shown: Shown


@dataclass(frozen=True)
class Rival:
    """Another model of the dataset. test: McNemar's test with the serving model as the first; None: not comparable."""

    model: Model
    manifest: Manifest
    test: McNemar | None


@dataclass(frozen=True)
class DatasetReport:
    """Everything about the model that serves one dataset. problem: why the bundle could not be read; empty: it was.

    training: the number of samples per part of the split and class.
    """

    model: Model
    manifest: Manifest
    accuracies: list[Any]
    tested: Predictions
    mistakes: list[Example]
    right: list[Example]
    problem: str
    epochs: list[Epoch]
    training: dict[str, Counter[str]]
    rivals: list[Rival]
    drift: list[Any]
    speed: Any


@dataclass(frozen=True)
class Report:
    """The whole report. problems: what `pypredict check` finds; replayed: None when no replay was asked for."""

    made_at: datetime
    datasets: list[DatasetReport]
    problems: list[str]
    replayed: Replayed | None
    unserved: list[Any] = field(default_factory=list)
    refused: list[Any] = field(default_factory=list)


def read_report(connection: sa.Connection, directory: Path, replay: int | None = 0) -> Report:
    """Read the report of all serving models. directory: the models volume.

    replay: the number of predictions to repeat, or None for all; 0: no replay.
    """
    models = registry.list_models(connection)
    replayed = replay_predictions(connection, directory, replay) if replay != 0 else None
    return Report(
        made_at=connection.execute(sa.text("SELECT now()")).scalar_one(),
        datasets=[_read_dataset(connection, directory, model, models) for model in models if model.state == "serving"],
        problems=check(connection),
        replayed=replayed,
        unserved=list(connection.execute(UNSERVED)),
        refused=list(connection.execute(ERRORS)),
    )


def _read_dataset(connection: sa.Connection, directory: Path, model: Model, models: list[Model]) -> DatasetReport:
    manifest = _read_manifest(connection, model)
    tested = read_predictions(connection, model.model_id, manifest.classes)
    problem, epochs, training = _read_bundle(lambda: open_registered(directory, model), set(manifest.classes))
    mistaken = tested.labels != tested.predicted
    prepared, kind = bytes.fromhex(manifest.prep_sha256), manifest.preprocessing.kind

    def examples(chosen: npt.NDArray[np.bool_], most: int) -> list[Example]:
        best = np.flatnonzero(chosen)[np.argsort(-tested.scores[chosen], kind="stable")][:most]
        input_ids = tested.input_ids[best].tolist()
        shown = show_inputs(connection, input_ids, kind, prepared)
        rows = {
            row.input_id: row
            for row in connection.execute(OUTCOMES, {"model_id": model.model_id, "input_ids": input_ids})
        }
        return [
            Example(one.input_id, one.name, one.label, one.predicted, one.score, shown[one.input_id])
            for one in (rows[input_id] for input_id in input_ids)
        ]

    rivals = [other for other in reversed(models) if other.dataset == model.dataset and other is not model]
    return DatasetReport(
        model=model,
        manifest=manifest,
        accuracies=list(connection.execute(ACCURACY, {"model_id": model.model_id})),
        tested=tested,
        mistakes=examples(mistaken, N_MISTAKES),
        right=examples(~mistaken, N_RIGHT),
        problem=problem,
        epochs=epochs,
        training=training,
        rivals=[_compare(connection, model, manifest, other) for other in rivals[:MAX_RIVALS]],
        drift=list(connection.execute(DRIFT, {"model_id": model.model_id, "most": MAX_DRIFT_ROWS})),
        speed=connection.execute(SPEED, {"model_id": model.model_id}).one(),
    )


def read_predictions(connection: sa.Connection, model_id: int, classes: tuple[str, ...]) -> Predictions:
    """Read the predictions on the test set in its order, at most MAX_VALUES probabilities; without labels: none."""
    n_all = int(connection.execute(COUNT_TESTED, {"model_id": model_id}).scalar_one())
    k, numbers = len(classes), {name: number for number, name in enumerate(classes)}
    most = min(n_all, MAX_VALUES // k)
    input_ids, labels, predicted = (np.empty(most, np.int64) for _ in range(3))
    scores, probabilities = np.empty(most, np.float32), np.empty((most, k), np.float32)
    n, fetched = 0, max(MAX_FETCHED // k, 1)
    streamed = connection.execution_options(stream_results=True, max_row_buffer=fetched)
    for rows in streamed.execute(TESTED, {"model_id": model_id, "most": most}).partitions(fetched):
        for row in rows:
            if row.label in numbers and len(row.probs) == k:  # ml.integrity names the others
                input_ids[n], labels[n], predicted[n] = row.input_id, numbers[row.label], row.class_no
                scores[n], probabilities[n] = row.score, row.probs
                n += 1
    return Predictions(input_ids[:n], labels[:n], predicted[:n], scores[:n], probabilities[:n], n_all)


def _read_manifest(connection: sa.Connection, model: Model) -> Manifest:
    return Manifest.model_validate(connection.execute(MANIFEST, {"model_id": model.model_id}).scalar_one())


def _read_bundle(open_it: Callable[[], Bundle], classes: set[str]) -> tuple[str, list[Epoch], dict[str, Counter[str]]]:
    """Read the learning curves, and the classes of each part of the split; the first text says why it cannot."""
    training: dict[str, Counter[str]] = {}
    try:
        bundle = open_it()
        for row in read_split(bundle):
            if row.part in PARTS and row.label in classes:
                training.setdefault(row.part, Counter())[row.label] += 1
        entry = bundle.manifest.files.get(HISTORY_FILE)
        if entry is not None and entry.size > MAX_HISTORY_BYTES:
            raise BundleError(f"{HISTORY_FILE} has {entry.size} bytes, at most {MAX_HISTORY_BYTES} are read")
        return "", HISTORY.validate_json(bundle.read(HISTORY_FILE)), training
    except BundleError as error:
        return str(error), [], training
    except ValidationError as error:
        return f"{HISTORY_FILE} is not a history: {explain(error)}", [], training


def _compare(connection: sa.Connection, model: Model, manifest: Manifest, other: Model) -> Rival:
    """Compare the serving model with another one; both must have predicted the whole of the same test set."""
    theirs = _read_manifest(connection, other)
    if theirs.test_sha256 != manifest.test_sha256:
        return Rival(other, theirs, None)
    row = connection.execute(DISCORDANT, {"first": model.model_id, "second": other.model_id}).one()
    whole = row.n == manifest.metrics.n
    return Rival(other, theirs, compare_mcnemar(row.only_first, row.only_second) if whole else None)
