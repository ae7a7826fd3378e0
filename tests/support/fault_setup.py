"""A database with one published model, the worker processes that a test starts, and the check that all is exact."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import sqlalchemy as sa
from conftest import REPO

from bundle.verify import Bundle
from pypredict import store
from pypredict.chunk import cut


class FaultSetup:
    """url is what the workers connect with; engine is for looking."""

    def __init__(self, url: str, models: Path, engine: sa.Engine, bundle: Bundle) -> None:
        self.url, self.models, self.engine, self.bundle = url, models, engine, bundle
        self.processes: list[subprocess.Popen[str]] = []
        self.prefix: list[str] = []  # put before each worker's command line

    def start(self, *options: str) -> subprocess.Popen[str]:
        command = [
            *self.prefix,
            sys.executable,
            "-m",
            "support.fake_worker",
            self.url,
            str(self.models),
            *options,
        ]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(command, text=True, env=os.environ | {"PYTHONPATH": str(REPO / "tests")}, **pipes)
        self.processes.append(process)
        return process

    def finish(self, *options: str, seconds: float = 60) -> str:
        """Let one worker do what is left; return what it logged."""
        process = self.start(*options)
        _, errors = process.communicate(timeout=seconds)
        assert process.returncode == 0, errors
        return errors

    def end(self) -> None:
        """Kill what is still there, frozen or not."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()

    def rows(self, statement: str) -> list[tuple]:
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(sa.text(statement))]

    def assert_exact(self, inputs: int) -> None:
        """Integrity is empty, each of the inputs has exactly one outcome, SQL accuracy is the manifest's."""
        assert self.rows("SELECT * FROM ml.integrity") == []
        counts = "SELECT (SELECT count(*) FROM ml.prediction), (SELECT count(*) FROM ml.prediction_error)"
        assert sum(self.rows(counts)[0]) == inputs
        assert self.rows("SELECT DISTINCT state FROM ml.job") == [("done",)]
        assert self.rows("SELECT DISTINCT agrees FROM ml.accuracy WHERE in_test_set") == [(True,)]

    def load(self, arrays: np.ndarray) -> None:
        manifest = self.bundle.manifest
        identity = {"dataset": manifest.dataset, "prep_sha256": manifest.prep_sha256}
        for chunk in cut(arrays, None, classes=None, source="a test", **identity):
            with self.engine.begin() as connection:
                store.load_chunk(connection, chunk)


def reach(process: subprocess.Popen[str], point: str) -> None:
    """Wait until the worker stands at its point."""
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    assert line == point, process.communicate()[1]
