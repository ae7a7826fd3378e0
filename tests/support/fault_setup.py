"""A database with one published model, worker processes that a test starts, and a check of all outcomes."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from conftest import REPO

from bundle.verify import Bundle
from pypredict import listen, store
from pypredict.chunk import cut
from pypredict.replay import replay_predictions
from pypredict.source import Preparation


class FaultSetup:
    """The setup of one fault test. The workers connect with url; the test reads with engine."""

    def __init__(self, url: str, models: Path, engine: sa.Engine, bundle: Bundle) -> None:
        self.url, self.models, self.engine, self.bundle = url, models, engine, bundle
        self.processes: list[subprocess.Popen[str]] = []
        self.prefix: list[str] = []  # words before each worker's command line

    def start(self, *options: str) -> subprocess.Popen[str]:
        command = [
            *self.prefix,
            sys.executable,
            "-m",
            "support.fault_worker",
            self.url,
            str(self.models),
            *options,
        ]
        process = subprocess.Popen(
            command,
            text=True,
            env=os.environ | {"PYTHONPATH": str(REPO / "tests")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.processes.append(process)
        return process

    def finish(self, *options: str, seconds: float = 60) -> str:
        """Let one worker do all open jobs; return its log."""
        process = self.start(*options)
        _, errors = process.communicate(timeout=seconds)
        assert process.returncode == 0, errors
        return errors

    def end(self) -> None:
        """Kill the processes that still run, also frozen ones."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(sa.text(statement))]

    def assert_exact(self, inputs: int) -> None:
        """Check that ml.integrity is empty, each input has exactly one outcome, and accuracy equals the manifest's."""
        assert self.rows("SELECT * FROM ml.integrity") == []
        counts = "SELECT (SELECT count(*) FROM ml.prediction), (SELECT count(*) FROM ml.prediction_error)"
        assert sum(self.rows(counts)[0]) == inputs
        assert self.rows("SELECT DISTINCT state FROM ml.job") == [("done",)]
        assert self.rows("SELECT DISTINCT agrees FROM ml.accuracy WHERE in_test_set") == [(True,)]
        with self.engine.begin() as connection:
            replayed = replay_predictions(connection, self.models, None)
        assert replayed.problems == []
        assert replayed.n == replayed.n_equal == self.rows("SELECT count(*) FROM ml.prediction")[0][0]

    def load(self, arrays: np.ndarray) -> None:
        for chunk in cut(
            arrays,
            None,
            classes=None,
            **Preparation(self.bundle.manifest).identity,
            source="a test",
        ):
            with self.engine.begin() as connection:
                chunk_id, _ = store.load_chunk(connection, chunk)
            listen.notify(self.engine, chunk_id)

    def listens(self) -> bool:
        with self.engine.begin() as connection:
            return listen.somebody_listens(connection)


def reach(process: subprocess.Popen[str], point: str) -> None:
    """Wait until the worker waits at its point."""
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    assert line == point, process.communicate()[1]
