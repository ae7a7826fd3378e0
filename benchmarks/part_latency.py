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

import psycopg2
import psycopg2.extensions
import sqlalchemy as sa

import environment
import timing
from benchmark_model import SHAPE, publish_model
from bundle.inference.load import load_model
from bundle.verify import Bundle
from page import Goal, Part
from pypredict import jobs, listen, store
from pypredict.chunk import Chunk
from pypredict.load import load_chunks

SAMPLES, WARM_UP = 100, 20  # inputs in a round
OTHERS, FIRST = 100_000, 200_000  # at least OTHERS wait; each round begins with FIRST
CHUNK = 1_000  # inputs in each chunk of the others
LOOK_SECONDS = 0.0005
SEEN = "SELECT count(*) FROM ml.prediction JOIN ml.input USING (input_id) WHERE chunk_id = %s"
MODEL_ID = 1  # of the only model
WAITING = sa.text("SELECT count(*) FILTER (WHERE state <> 'done'), count(*) FROM ml.job")
# The worker commits one chunk after the other; chunks of another size, and the chunks after them, do not count.
CHUNK_SECONDS = sa.text("""
    SELECT extract(epoch FROM done_at - lag(done_at) OVER by_time)::float8 AS seconds,
           least(n_inputs, lag(n_inputs) OVER by_time) AS n_inputs
    FROM ml.job JOIN ml.chunk USING (chunk_id) WHERE state = 'done' WINDOW by_time AS (ORDER BY done_at)""")

Sample = tuple[float, float]  # seconds until the prediction is visible, and until the input is stored


def measure(rounds: int) -> Part:
    """Store inputs one by one at random moments, and query until the prediction is visible."""
    busy: list[Sample] = []
    chunk_seconds: list[float] = []
    with tempfile.TemporaryDirectory() as directory:
        bundle = publish_model(Path(directory))
        engine, admin, look = environment.service(), environment.owner(), watcher()
        with running_service(Path(directory)):
            idle = [_sample(engine, look, bundle, seed) for seed in range(WARM_UP + rounds * SAMPLES)][WARM_UP:]
        steps = _steps(engine, bundle)
        for turn in range(rounds):
            environment.clear(admin)
            arrays = environment.random_arrays(FIRST, SHAPE, "uint8", seed=10 + turn)
            load_chunks(engine, "bench", iter(environment.chunks_of(arrays, bundle)), None)
            with running_service(Path(directory)):
                busy += _samples_beside_others(engine, look, bundle, turn)
            chunk_seconds += _chunk_seconds(engine)
        engine.dispose()
    return _part(idle, busy, timing.middle(chunk_seconds), steps)


ABOUT = (
    "`pypredict run` with `mnist_cnn`. Inputs of 28x28 uint8 are stored one by one at random moments: "
    f"{SAMPLES} in each round while nothing else waits, then as many as there is time for while at least {OTHERS:,} "
    "others wait. There each input is planned as urgent in the transaction that stores it, as by `pypredict predict`. "
    "The time begins before the INSERT of the input and ends when another connection, which queries every "
    f"{1e3 * LOOK_SECONDS:g} ms, finds the committed prediction. The time of one chunk is the median time between two "
    f"commits of the worker, of chunks with {CHUNK:,} inputs, by `ml.job.done_at`. The second table has the same "
    "steps in one process, one after the other, after the same pauses."
)


def _part(idle: list[Sample], busy: list[Sample], chunk_seconds: float, steps: dict[str, list[float]]) -> Part:
    part = Part("4. One new input", ABOUT)
    sums = [1e3 * sum(one) for one in zip(*steps.values(), strict=True)]
    in_steps = [f"In one process, its steps take {timing.percentile(sums, share):.2f} ms." for share in (0.5, 0.99)]
    half, most = (1e3 * timing.percentile([whole for whole, _ in idle], share) for share in (0.5, 0.99))
    half_beside = 1e3 * timing.percentile([whole for whole, _ in busy], 0.5)
    chunk = 1e3 * chunk_seconds
    part.goals = [
        Goal("half of the predictions are visible within", 4, half, "ms", at_most=True, limit=in_steps[0]),
        Goal("99 % of the predictions are visible within", 10, most, "ms", at_most=True, limit=in_steps[1]),
        Goal(f"half while {OTHERS:,} wait, beside idle + one chunk", 1, half_beside / (half + chunk), at_most=True),
    ]
    shares = (0.5, 0.9, 0.99, 1)
    rows = []
    for name, samples in (("idle", idle), (f"{OTHERS:,} others wait", busy)):
        whole, stored = ([1e3 * value for value in column] for column in zip(*samples, strict=True))
        for what, values in (("stored and committed", stored), ("prediction visible", whole)):
            rows.append([f"{name}: {what}", *(f"{timing.percentile(values, share):.2f} ms" for share in shares)])
    part.tables = [
        (["since the start of storing", "median", "90 %", "99 %", "slowest"], rows),
        (
            ["step of one input", "median"],
            [[name, f"{1e3 * timing.middle(seconds):.2f} ms"] for name, seconds in steps.items()],
        ),
    ]
    part.remarks = [f"One chunk takes {chunk:.1f} ms. {len(busy)} inputs were measured while others waited."]
    return part


def _steps(engine: sa.Engine, bundle: Bundle) -> dict[str, list[float]]:
    """Return the seconds of each step from one input to its prediction, all in this process, without other work."""
    steps: dict[str, list[float]] = {}

    @contextmanager
    def step(name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        steps.setdefault(name, []).append(time.perf_counter() - began)

    predict = load_model(bundle).predict
    for number in range(WARM_UP + SAMPLES):
        chunk = noise(bundle, 500_000 + number)
        _pause()
        with step("store the input, commit"), engine.begin() as connection:
            chunk_id, _ = store.load_chunk(connection, chunk)
        with step("notify"):
            listen.notify(engine, chunk_id)
        with engine.connect() as connection:
            with step("plan and claim, commit without a wait for the disk"):
                job = jobs.claim_new_chunk(connection, [MODEL_ID], "bench", 60, chunk_id)
                connection.commit()
            if job is None:
                raise SystemExit("the input that was stored could not be claimed")
            with step("read"):
                inputs = store.read_inputs(connection, job)
                connection.commit()
        with step("predict"):
            probabilities = predict(inputs.arrays)
        with step("store the prediction, commit"), engine.begin() as connection:
            jobs.finish_job(connection, job, inputs, probabilities)
    return {name: seconds[WARM_UP:] for name, seconds in steps.items()}


def _samples_beside_others(
    engine: sa.Engine, look: psycopg2.extensions.cursor, bundle: Bundle, turn: int
) -> list[Sample]:
    """Store urgent inputs as long as OTHERS wait, from the first commit of the worker on."""
    samples: list[Sample] = []
    while True:
        with engine.begin() as connection:
            waiting, planned = connection.execute(WAITING).one()
        if planned < FIRST // CHUNK or waiting == planned:
            time.sleep(LOOK_SECONDS)
        elif waiting * CHUNK < OTHERS:
            return samples
        else:
            samples.append(_sample(engine, look, bundle, seed=1_000_000 * (1 + turn) + len(samples), urgent=True))


def _chunk_seconds(engine: sa.Engine) -> list[float]:
    with engine.begin() as connection:
        return [row.seconds for row in connection.execute(CHUNK_SECONDS) if row.n_inputs == CHUNK and row.seconds]


@contextmanager
def running_service(models: Path) -> Iterator[int]:
    """Run `pypredict run`, yield its process id; if it dies, print its log."""
    command = [str(Path(sys.executable).with_name("pypredict")), "run", "--models", str(models)]
    with tempfile.TemporaryFile() as log, subprocess.Popen(command, stderr=log, env=os.environ) as process:
        try:
            yield process.pid
        finally:
            if process.poll() is not None:
                log.seek(0)
                print(log.read().decode(), file=sys.stderr)
            process.terminate()


def _sample(
    engine: sa.Engine, look: psycopg2.extensions.cursor, bundle: Bundle, seed: int, *, urgent: bool = False
) -> Sample:
    chunk = noise(bundle, seed)
    _pause()
    began = time.perf_counter()
    chunk_id = store_one(engine, chunk, urgent=urgent)
    stored = time.perf_counter() - began
    wait_for(look, chunk_id)
    return time.perf_counter() - began, stored


def _pause() -> None:
    """Wait for a random moment; the processors become idle meanwhile, and the first steps after it are slower."""
    time.sleep(random.uniform(0.005, 0.03))  # noqa: S311 - no secret


def noise(bundle: Bundle, seed: int) -> Chunk:
    """Make a chunk of one input of noise."""
    (chunk,) = environment.chunks_of(environment.random_arrays(1, SHAPE, "uint8", seed=1_000 + seed), bundle)
    return chunk


def store_one(engine: sa.Engine, chunk: Chunk, *, urgent: bool = False) -> int:
    """Store a chunk and commit it; return its chunk_id."""
    with engine.begin() as connection:
        chunk_id, _ = store.load_chunk(connection, chunk)
        if urgent:
            jobs.plan_urgent(connection, chunk_id)
    listen.notify(engine, chunk_id)
    return chunk_id


def watcher() -> psycopg2.extensions.cursor:
    """Open a connection of its own that looks for predictions, without SQLAlchemy: it takes less of the processors."""
    connection = psycopg2.connect("")
    connection.autocommit = True
    return connection.cursor()


def wait_for(cursor: psycopg2.extensions.cursor, chunk_id: int, seconds: float = 60) -> None:
    """Query with a watcher's cursor until the prediction of this chunk's input is visible."""
    end = time.monotonic() + seconds
    while True:
        cursor.execute(SEEN, (chunk_id,))
        if cursor.fetchone() != (0,):
            return
        if time.monotonic() > end:
            raise SystemExit(f"the service predicted nothing in {seconds:g} s")
        time.sleep(LOOK_SECONDS)
