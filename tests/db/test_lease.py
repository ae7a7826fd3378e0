"""The worker renews the lease of its job while the model computes."""

import threading
from pathlib import Path

import numpy as np
import sqlalchemy as sa
from support.bundles import fake_predict, publish_bundle
from support.workers import scalar, until, worker_for


def test_a_lease_is_renewed_while_the_model_computes(engine: sa.Engine, tmp_path: Path) -> None:
    publish_bundle(tmp_path)
    renewed = threading.Event()

    def slow(arrays: np.ndarray) -> np.ndarray:
        before = scalar(engine, "SELECT lease_until FROM ml.job")
        until(lambda: scalar(engine, "SELECT lease_until FROM ml.job") != before)
        renewed.set()
        return fake_predict(arrays)

    assert worker_for(engine, tmp_path, slow, lease_seconds=0.6).run(until_empty=True) == 30
    assert renewed.is_set()
    assert scalar(engine, "SELECT attempt FROM ml.job") == 1
