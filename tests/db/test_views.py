"""The views: integrity names each kind of error, and accuracy agrees with the manifest only if both numbers do."""

from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from support.bundles import publish_bundle
from support.workers import load, rows, worker_for

from pypredict import jobs

JOB, OPEN = "job done without exactly one outcome per input", "outcome of a job that is not done"
CHUNK, LABEL = "chunk does not hold the inputs it declares", "label does not fit the classes of its chunk"
PREDICTION = "prediction does not fit the classes of its model"
NO_MODEL = "prediction of a model or an input that does not exist"
NO_CHUNK = "input of a chunk that does not exist"
PREPARATION = "model has a job or test set with another preparation"


@pytest.fixture
def predicted(engine: sa.Engine, tmp_path: Path) -> sa.Engine:
    """One model and the 30 predictions of its test set, in one chunk."""
    publish_bundle(tmp_path)
    worker_for(engine, tmp_path).run(until_empty=True)
    return engine


def damage(owner: sa.Engine, statement: str) -> None:
    """Run a statement that the triggers and the foreign keys would refuse."""
    with owner.begin() as connection:
        connection.execute(sa.text("SET LOCAL session_replication_role = replica"))
        assert connection.execute(sa.text(statement)).rowcount > 0


@pytest.mark.parametrize(
    ("statement", "problems"),
    [
        ("UPDATE ml.input SET sample_no = 99 WHERE sample_no = 29", [CHUNK]),
        ("DELETE FROM ml.input WHERE sample_no = 5", [CHUNK, JOB, NO_MODEL]),
        (
            "INSERT INTO ml.prediction_error (model_id, input_id, reason, detail)"
            " SELECT 1, input_id, 'corrupt', 'x' FROM ml.input WHERE sample_no = 5",
            [JOB],
        ),
        ("DELETE FROM ml.prediction WHERE input_id = (SELECT max(input_id) FROM ml.input)", [JOB]),
        ("UPDATE ml.job SET state = 'pending', done_at = NULL", [OPEN]),
        ("DELETE FROM ml.job", [OPEN]),
        ("UPDATE ml.chunk SET classes = NULL", [LABEL]),
        ("UPDATE ml.input SET label_no = NULL WHERE sample_no = 5", [LABEL]),
        ("UPDATE ml.input SET label_no = 3 WHERE sample_no = 5", [LABEL]),
        ("UPDATE ml.prediction SET probs = probs || 0::real", [PREDICTION]),
        ("UPDATE ml.prediction SET score = 0.5", [PREDICTION]),
        ("UPDATE ml.prediction SET class_no = 3", [PREDICTION]),
        ("UPDATE ml.prediction SET model_id = 9", [JOB, OPEN, NO_MODEL]),
        ("INSERT INTO ml.input (chunk_id, sample_no, payload) SELECT 9, 0, payload FROM ml.input LIMIT 1", [NO_CHUNK]),
        ("UPDATE ml.chunk SET prep_sha256 = sha256('x')", [PREPARATION]),
        ("UPDATE ml.chunk SET dataset = 'other'", [PREPARATION]),
    ],
)
def test_integrity_names_the_error(predicted: sa.Engine, owner: sa.Engine, statement: str, problems: list[str]) -> None:
    assert rows(predicted, "SELECT * FROM ml.integrity") == []
    damage(owner, statement)
    assert rows(predicted, "SELECT DISTINCT problem FROM ml.integrity ORDER BY 1") == [
        (text,) for text in sorted(problems)
    ]


@pytest.mark.parametrize(("key", "value"), [("n", "31"), ("accuracy", "0.5")])
def test_accuracy_agrees_only_if_number_and_accuracy_do(
    predicted: sa.Engine, owner: sa.Engine, key: str, value: str
) -> None:
    assert rows(predicted, "SELECT agrees FROM ml.accuracy") == [(True,)]
    damage(owner, f"UPDATE ml.model SET metrics = jsonb_set(metrics, '{{{key}}}', '{value}')")
    assert rows(predicted, "SELECT agrees FROM ml.accuracy") == [(False,)]


def test_the_latest_prediction_is_that_of_the_newest_model(engine: sa.Engine, tmp_path: Path) -> None:
    bundle = publish_bundle(tmp_path, "old", seed=1)
    worker_for(engine, tmp_path).run(until_empty=True)
    load(engine, bundle, np.zeros((1, 4, 4, 1), np.uint8))
    worker_for(engine, tmp_path).run(until_empty=True)
    publish_bundle(tmp_path, "new", seed=2)
    worker_for(engine, tmp_path).run(until_empty=True)
    with engine.begin() as connection:
        jobs.rescore(connection, "toys")
    worker_for(engine, tmp_path).run(until_empty=True)
    assert rows(engine, "SELECT model_id FROM ml.prediction JOIN ml.input USING (input_id) WHERE label_no IS NULL") == [
        (1,),
        (2,),
    ]
    assert rows(engine, "SELECT model_id FROM ml.latest_predictions WHERE label IS NULL") == [(2,)]
