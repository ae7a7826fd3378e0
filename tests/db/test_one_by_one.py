"""Row-by-row prediction of a job that failed three times. Inputs that kill the worker are in tests/faults."""

from pathlib import Path

import numpy as np
import sqlalchemy as sa
from support.bundles import fake_predict, publish_bundle
from support.workers import load, rows, scalar, worker_for


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
