"""Forged bundles and pointers: a real service refuses each of them once, by name, and predicts the others meanwhile.

One `pypredict run` gets all of them at once. Its memory stays small, and it obeys SIGTERM within seconds.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from conftest import Database
from support.bundles import forge, publish_bundle
from support.forged_bundles import FORGED, publish_forged, slow_model
from support.tflite_models import fake_model
from support.workers import load, rows, scalar, until

from bundle.verify import open_bundle
from pypredict.models import Models
from pypredict.registry import WantedModel

MEMORY_KIB = 400_000  # of the service, at its peak; the models of the test are small
PREDICTED = "SELECT count(*) FROM ml.prediction"


class Service:
    """A `pypredict run` and its log."""

    def __init__(self, url: str, models: Path, log: Path) -> None:
        environment = os.environ | {"DATABASE_URL": url, "PYPREDICT_POLL_SECONDS": "0.1"}
        self._log = log
        with log.open("wb") as file:
            command = [str(Path(sys.executable).with_name("pypredict")), "run", "--models", str(models)]
            self.process = subprocess.Popen(command, env=environment, stderr=file)

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def peak_kib(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1])

    def stop(self) -> float:
        """Send SIGTERM; return the seconds until the end."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0, self.log
        return time.monotonic() - began


@pytest.fixture
def service(db: Database, tmp_path: Path) -> Iterator[Service]:
    """A service on the models of tmp_path: a good one for `toys`, which serves, and a slow one."""
    publish_bundle(tmp_path, serving=fake_model())
    publish_bundle(tmp_path, "zz-slow", dataset="zz-slow", serving=slow_model())
    for name in FORGED:
        publish_forged(tmp_path, name)
    started = Service(db.url("pypredict"), tmp_path, tmp_path / "log")
    yield started
    started.process.kill()
    started.process.wait()


def test_forged_bundles_are_refused_and_a_good_one_is_predicted(
    service: Service, engine: sa.Engine, tmp_path: Path
) -> None:
    until(lambda: scalar(engine, PREDICTED) == 30 or service.process.poll() is not None)
    until(lambda: "loading zz-slow" in service.log or service.process.poll() is not None, 60)
    assert service.process.poll() is None, service.log
    # Its trial goes on for a minute; an input of another dataset does not wait for it.
    load(engine, open_bundle(tmp_path / "bundles/toy"), np.zeros((5, 4, 4, 1), np.uint8))
    until(lambda: scalar(engine, PREDICTED) == 35, 10)
    refused = [line for line in service.log.splitlines() if " is refused, " in line]
    for name, (_, said) in FORGED.items():
        about = [line for line in refused if f" {name} is refused" in line or f" {name}.json is refused" in line]
        assert [line for line in about if said in line and len(line) < 1_000] == about
        assert len(about) == 1, name
        assert name in about[0].split("does not change: ")[1]
    assert len(refused) == len(FORGED)
    assert "Traceback" not in service.log
    assert rows(engine, "SELECT dataset FROM ml.model WHERE state = 'serving'") == [("toys",)]
    assert service.peak_kib < MEMORY_KIB
    assert service.stop() < 5


def test_a_corrupt_registered_bundle_is_hashed_once(tmp_path: Path) -> None:
    """At each poll the service asks which models can serve. 8 MB of reads are one hash of the file, not fifty."""
    bundle = publish_bundle(tmp_path, weights=bytes(8_000_000), serving=fake_model())
    forge(
        bundle.path,
        files={**bundle.manifest.model_dump()["files"], "model.h5": {"sha256": "0" * 64, "size": 8_000_000}},
    )
    wanted = WantedModel(1, "toys", "toy", bundle.model_sha256, bundle.serving_sha256, serves=True)
    models = Models(tmp_path)
    before = _bytes_read()
    for _ in range(50):
        _, (problem,) = models.servable([wanted], lazily=False)
    assert "the file was changed after it was published" in problem
    assert _bytes_read() - before < 2 * 8_000_000


def _bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])
