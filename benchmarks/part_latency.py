"""Latency: the time from one new input to its visible prediction, with a running service, all commits included."""

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

import environment
import timing
from benchmark_model import SHAPE, publish_model
from bundle.verify import Bundle
from page import Goal, Part
from pypredict import store

SAMPLES, WARM_UP = 100, 20  # inputs in a round
LOOK_SECONDS = 0.0005
SEEN = sa.text("SELECT count(*) FROM ml.prediction JOIN ml.input USING (input_id) WHERE chunk_id = :chunk_id")


def measure(rounds: int) -> Part:
    """Store inputs one by one at random moments, and query until the prediction is visible."""
    with tempfile.TemporaryDirectory() as directory:
        bundle = publish_model(Path(directory))
        engine = environment.service()
        with running_service(Path(directory)):
            samples = [_sample(engine, bundle, seed) for seed in range(WARM_UP + rounds * SAMPLES)][WARM_UP:]
        engine.dispose()
    whole, stored = ([1e3 * value for value in column] for column in zip(*samples, strict=True))
    part = Part("4. One new input", ABOUT)
    part.goals = [
        Goal("half of the predictions are visible within", 10, timing.percentile(whole, 0.5), "ms", at_most=True),
        Goal("99 % of the predictions are visible within", 50, timing.percentile(whole, 0.99), "ms", at_most=True),
    ]
    shares = (0.5, 0.9, 0.99, 1)
    rows = [
        [name] + [f"{timing.percentile(values, share):.2f} ms" for share in shares]
        for name, values in (("stored and committed", stored), ("prediction visible", whole))
    ]
    part.tables = [(["since the start of storing", "median", "90 %", "99 %", "slowest"], rows)]
    return part


ABOUT = (
    "`pypredict run` with Keras's `mnist_convnet` has nothing else to do. Inputs of 28x28 uint8, "
    f"{SAMPLES} in each round, are stored one by one at random moments. The time begins before the INSERT of the input "
    f"and ends when another connection, which queries every {1e3 * LOOK_SECONDS:g} ms, finds the committed prediction."
)


@contextmanager
def running_service(models: Path) -> Iterator[None]:
    """Run `pypredict run`; if it dies, print its log."""
    command = [str(Path(sys.executable).with_name("pypredict")), "run", "--models", str(models)]
    with tempfile.TemporaryFile() as log, subprocess.Popen(command, stderr=log, env=os.environ) as process:
        try:
            yield
        finally:
            if process.poll() is not None:
                log.seek(0)
                print(log.read().decode(), file=sys.stderr)
            process.terminate()


def _sample(engine: sa.Engine, bundle: Bundle, seed: int) -> tuple[float, float]:
    """Return the seconds until the prediction is visible, and until the input is stored."""
    time.sleep(random.uniform(0.005, 0.03))  # noqa: S311 - a random moment, no secret
    began = time.perf_counter()
    chunk_id = store_one(engine, bundle, seed)
    stored = time.perf_counter() - began
    wait_for(engine, chunk_id)
    return time.perf_counter() - began, stored


def store_one(engine: sa.Engine, bundle: Bundle, seed: int) -> int:
    """Store a chunk of one input of noise and commit it; return its chunk_id."""
    (chunk,) = environment.chunks_of(environment.random_arrays(1, SHAPE, "uint8", seed=1_000 + seed), bundle)
    with engine.begin() as connection:
        return store.load_chunk(connection, chunk)[0]


def wait_for(engine: sa.Engine, chunk_id: int, seconds: float = 60) -> None:
    """Query until the prediction of this chunk's input is visible."""
    end = time.monotonic() + seconds
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while not connection.execute(SEEN, {"chunk_id": chunk_id}).scalar():
            if time.monotonic() > end:
                raise SystemExit(f"the service predicted nothing in {seconds:g} s")
            time.sleep(LOOK_SECONDS)
