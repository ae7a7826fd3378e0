"""One new input -> visible prediction, by the running daemon, on an idle system; all commits included."""

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import scene
import sqlalchemy as sa
import timing
from convnet import SHAPE, publish_convnet
from page import Goal, Part

from bundle.verify import Bundle
from pypredict import store

SAMPLES, WARM_UP = 100, 20  # samples a round
LOOK_SECONDS = 0.0005
SEEN = sa.text("SELECT count(*) FROM ml.prediction JOIN ml.input USING (input_id) WHERE chunk_id = :chunk_id")


def measure(rounds: int) -> Part:
    """Store inputs one by one, at random moments, and look until each one's prediction is there."""
    with tempfile.TemporaryDirectory() as directory:
        bundle = publish_convnet(Path(directory))
        engine = scene.service()
        with daemon(Path(directory)):
            samples = [_sample(engine, bundle, seed) for seed in range(WARM_UP + rounds * SAMPLES)][WARM_UP:]
        engine.dispose()
    whole, stored = ([1e3 * value for value in column] for column in zip(*samples, strict=True))
    part = Part("4. One new input", ABOUT.format(n=len(samples), look=1e3 * LOOK_SECONDS))
    part.goals = [
        Goal("half of the predictions are visible within", 10, timing.percentile(whole, 0.5), "ms", at_most=True),
        Goal("99 % within", 50, timing.percentile(whole, 0.99), "ms", at_most=True),
    ]
    shares = (0.5, 0.9, 0.99, 1)
    rows = [
        [name, *(f"{timing.percentile(values, share):.2f} ms" for share in shares)]
        for name, values in (("stored and committed", stored), ("prediction visible", whole))
    ]
    part.tables = [(["since the start of storing", *("median", "90 %", "99 %", "slowest")], rows)]
    return part


ABOUT = (
    "Keras's `mnist_convnet` in `pypredict run`, a process of its own that is otherwise idle; {n} inputs of 28x28 "
    "uint8, one after the other at random moments. The clock runs from before the input's INSERT to the moment when "
    "another connection, which looks every {look:g} ms, finds the committed prediction."
)


@contextmanager
def daemon(models: Path) -> Iterator[None]:
    """Run `pypredict run`; its log goes to a file that is shown when it dies."""
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
    """Give the seconds until the prediction is visible, and until the input is stored."""
    time.sleep(random.uniform(0.005, 0.03))  # noqa: S311 - a random moment of the daemon's, no secret
    began = time.perf_counter()
    chunk_id = store_one(engine, bundle, seed)
    stored = time.perf_counter() - began
    wait_for(engine, chunk_id)
    return time.perf_counter() - began, stored


def store_one(engine: sa.Engine, bundle: Bundle, seed: int) -> int:
    """Store a chunk of one input of noise and commit it; return the chunk's number."""
    (chunk,) = scene.chunks_of(scene.random_arrays(1, SHAPE, "uint8", seed=1_000 + seed), bundle)
    with engine.begin() as connection:
        return store.load_chunk(connection, chunk)[0]


def wait_for(engine: sa.Engine, chunk_id: int, seconds: float = 60) -> None:
    """Look until a prediction for this chunk's input is visible."""
    end = time.monotonic() + seconds
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while not connection.execute(SEEN, {"chunk_id": chunk_id}).scalar():
            if time.monotonic() > end:
                raise SystemExit("the daemon does not predict")
            time.sleep(LOOK_SECONDS)
