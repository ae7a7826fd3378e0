"""Row-by-row prediction of a job that failed three times. Inputs that kill the worker are in tests/faults."""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from support.bundles import CLASSES, fake_predict, publish_bundle
from support.workers import load, rows, scalar, worker_for

from pypredict import jobs


def test_an_input_that_raises_is_isolated(engine: sa.Engine, tmp_path: Path, no_backoff: None) -> None:
    bundle = publish_bundle(tmp_path)
    worker_for(engine, tmp_path).run(until_empty=True)
    arrays = np.arange(8, dtype=np.uint8).repeat(16).reshape(8, 4, 4, 1)
    load(engine, bundle, arrays)

    def predict(job: np.ndarray) -> np.ndarray:
        if (job[:, 0, 0, 0] == 5).any():
            raise RuntimeError("I do not like a five")
        return fake_predict(job)

    worker_for(engine, tmp_path, predict).run(until_empty=True)
    assert rows(engine, "SELECT reason, detail FROM ml.prediction_error") == [
        ("model_error", "RuntimeError: I do not like a five")
    ]
    assert scalar(engine, "SELECT count(*) FROM ml.outcome WHERE NOT in_test_set") == 7
    assert scalar(engine, "SELECT count(*) FROM ml.integrity") == 0


def test_a_job_of_which_each_input_raises_is_done(
    engine: sa.Engine, tmp_path: Path, no_backoff: None, caplog: pytest.LogCaptureFixture
) -> None:
    publish_bundle(tmp_path, n=2)

    def predict(_: np.ndarray) -> np.ndarray:
        raise RuntimeError("I like no number")

    assert worker_for(engine, tmp_path, predict).run(until_empty=True) == 0
    assert rows(engine, "SELECT reason, count(*) FROM ml.prediction_error GROUP BY 1") == [("model_error", 2)]
    assert rows(engine, "SELECT * FROM ml.integrity") == []
    assert caplog.text.count("gets no prediction: model_error, RuntimeError: I like no number") == 2


def test_suspects_are_predicted_last_and_marked_before(
    engine: sa.Engine, owner: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = publish_bundle(tmp_path)
    worker_for(engine, tmp_path).run(until_empty=True)
    load(engine, bundle, np.arange(4, dtype=np.uint8).repeat(16).reshape(4, 4, 4, 1))
    with engine.begin() as connection:
        jobs.plan_jobs(connection)
    ids = [number for (number,) in rows(engine, "SELECT input_id FROM ml.input WHERE chunk_id = 2 ORDER BY sample_no")]
    with owner.begin() as connection:
        connection.execute(sa.text("UPDATE ml.job SET failures = 3 WHERE chunk_id = 2"))
        suspects = sa.text("INSERT INTO ml.suspect (model_id, input_id, deaths) VALUES (1, :input_id, 1)")
        connection.execute(suspects, [{"input_id": ids[0]}, {"input_id": ids[2]}])
    order: list[tuple[int, object]] = []
    flown: list[object] = []
    finish = jobs.finish_job

    def look_and_finish(*arguments: Any) -> None:
        flown.append(scalar(engine, "SELECT in_flight FROM ml.job WHERE chunk_id = 2"))
        finish(*arguments)

    monkeypatch.setattr(jobs, "finish_job", look_and_finish)

    def predict(arrays: np.ndarray) -> np.ndarray:
        order.append((int(arrays[0, 0, 0, 0]), scalar(engine, "SELECT in_flight FROM ml.job WHERE chunk_id = 2")))
        return fake_predict(arrays)

    worker_for(engine, tmp_path, predict).run(until_empty=True)
    assert order == [(1, ids[1]), (3, ids[3]), (0, ids[0]), (2, ids[2])]
    assert flown == [None]  # a death from here on is not the last input's
    found = rows(engine, "SELECT predicted FROM ml.outcome WHERE chunk_id = 2 ORDER BY sample_no")
    assert found == [(CLASSES[number % 3],) for number in range(4)]


def test_a_worker_shows_between_two_inputs_that_it_is_alive(
    engine: sa.Engine, tmp_path: Path, no_backoff: None
) -> None:
    publish_bundle(tmp_path, n=3)
    beat, ages = tmp_path / "beat", []

    def predict(arrays: np.ndarray) -> np.ndarray:
        if len(arrays) > 1:
            raise RuntimeError("one by one")
        ages.append(time.time() - beat.stat().st_mtime)
        os.utime(beat, (0, 0))
        return fake_predict(arrays)

    assert worker_for(engine, tmp_path, predict, health_file=beat).run(until_empty=True) == 3
    assert len(ages) == 3
    assert max(ages) < 3600


def test_an_input_with_two_deaths_is_not_tried_again(engine: sa.Engine, owner: sa.Engine, tmp_path: Path) -> None:
    bundle = publish_bundle(tmp_path)
    worker_for(engine, tmp_path).run(until_empty=True)
    load(engine, bundle, np.arange(3, dtype=np.uint8).repeat(16).reshape(3, 4, 4, 1))
    with engine.begin() as connection:
        jobs.plan_jobs(connection)
    with owner.begin() as connection:
        connection.execute(sa.text("UPDATE ml.job SET failures = 3 WHERE chunk_id = 2"))
        deaths = "INSERT INTO ml.suspect SELECT 1, input_id, sample_no + 1 FROM ml.input WHERE chunk_id = 2"
        connection.execute(sa.text(deaths))
    worker_for(engine, tmp_path).run(until_empty=True)
    found = rows(engine, "SELECT sample_no, reason, detail FROM ml.prediction_error JOIN ml.input USING (input_id)")
    assert sorted(found) == [
        (1, "crash", "2 workers died on this input alone"),
        (2, "crash", "3 workers died on this input alone"),
    ]
    assert rows(engine, "SELECT * FROM ml.integrity") == []
