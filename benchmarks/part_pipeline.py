"""Database to model to database: the worker beside the bare model in memory, and beside the naive way."""

import functools
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psycopg2

import environment
import timing
from benchmark_model import SHAPE, publish_model
from bundle.inference.load import load_model
from bundle.manifest import MODEL_FILE
from page import Goal, Part
from pyml.keras_library import start_keras
from pypredict.codec import Array
from pypredict.load import load_chunks
from pypredict.models import Models
from pypredict.source import cut_test_set
from pypredict.worker import Worker

N, NAIVE_ROWS = 50_000, 100
TRIAL = "this, unchecked"


def measure(rounds: int) -> Part:
    """Predict the same inputs with the worker, with the bare model, and row by row."""
    with tempfile.TemporaryDirectory() as directory:
        bundle = publish_model(Path(directory))
        engine, admin = environment.service(), environment.owner()
        in_test_set = next(cut_test_set(bundle)).arrays
        arrays = np.concatenate([in_test_set, environment.random_arrays(N - len(in_test_set), SHAPE, "uint8", seed=2)])
        load_chunks(engine, "bench", iter(environment.chunks_of(arrays[len(in_test_set) :], bundle)), None)
        start_keras()
        import keras

        model = keras.models.load_model(bundle.path / MODEL_FILE, compile=False)
        predict = load_model(bundle).predict

        def work() -> None:
            models = Models(Path(directory), lambda _: predict)
            if Worker(engine, Path(directory), models, "bench").run(until_empty=True) != N:
                raise SystemExit(f"the worker did not predict each of {N} inputs once")

        work()
        _check(admin, model)
        sweep = timing.interleave(_bare_ways(model, arrays[:10_000]), 3)
        best = min(sweep, key=lambda way: min(sweep[way]))
        bare = _bare_ways(model, arrays)[best]
        spent: dict[str, list[float]] = {"own": [], "server": [], "bare": [], "unchecked": [], "unchecked server": []}
        ways: dict[str, timing.Way] = {
            "this": lambda: _note(spent, work, "own", "server"),
            TRIAL: lambda: _unchecked(admin, lambda: _note(spent, work, "unchecked", "unchecked server")),
            "bare model": lambda: _note(spent, bare, "bare"),
            "naive": lambda: _naive(model, N / NAIVE_ROWS),
        }
        seconds = timing.interleave(ways, rounds, lambda: environment.clear(admin, environment.OUTCOMES))
        engine.dispose()
    own, server, alone, unchecked = (timing.middle(spent[key]) for key in ("own", "server", "bare", "unchecked server"))
    split = (
        f"Processor seconds of one run: {own:.2f} in the worker (the bare model alone takes {alone:.2f}) and "
        f"{server:.2f} in the server, which uses the same cores as the model here; {server - unchecked:.2f} of those "
        "check that each prediction's model and input exist. The check stays: `unchecked` is a trial."
    )
    part = Part("3. Database to model to database", ABOUT)
    part.goals = [
        Goal("beside the bare model in memory", 0.85, timing.ratio(seconds, "this", "bare model")),
        Goal("beside the naive way", 100, timing.ratio(seconds, "this", "naive")),
    ]
    part.tables = [timing.table(f"{N:,} inputs", seconds, N)]
    part.tables.append(
        (["bare model, rows a call", "rows/s"], [[w, f"{10_000 / min(s):,.0f}"] for w, s in sweep.items()])
    )
    part.remarks = [split]
    return part


ABOUT = (
    f"Keras's `mnist_convnet` (34,826 parameters, random weights) predicts {N:,} inputs of 28x28 uint8. `this` is the "
    "worker: plan, claim, read, predict, commit, with leases. The bare model predicts the same arrays from memory and "
    "stores nothing; its call and its number of rows for one call are the fastest of those in the table. The naive way "
    "is SELECT, `np.load`, `model.predict`, INSERT and COMMIT for each row; it is measured on "
    f"{NAIVE_ROWS} rows and multiplied."
)


def _unchecked(connection: Any, run: Callable[[], float]) -> float:
    """Run without the checks of db/references.sql for ml.prediction, and turn them on again."""
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE ml.prediction DISABLE TRIGGER USER")
        seconds = run()
        cursor.execute("ALTER TABLE ml.prediction ENABLE TRIGGER USER")
    return seconds


def _bare_ways(model: Any, arrays: Array) -> dict[str, Callable[[], None]]:
    import tensorflow as tf

    rows = tf.TensorSpec((None, *SHAPE), tf.uint8)
    graph = tf.function(lambda x: model(x, training=False)).get_concrete_function(rows)
    calls = {"predict_on_batch": model.predict_on_batch, "graph": lambda part: graph(tf.constant(part)).numpy()}

    return {
        f"{name}, {size}": functools.partial(_predict_all, call, arrays, size)
        for name, call in calls.items()
        for size in (64, 128, 256, 512, 1024)
    }


def _predict_all(call: Callable[[Array], Any], arrays: Array, size: int) -> None:
    np.concatenate([call(arrays[at : at + size]) for at in range(0, len(arrays), size)])


def _note(spent: dict[str, list[float]], run: Callable[[], None], own: str, server: str | None = None) -> float:
    """Run, add the processor seconds of this process and of the server to `spent`; return the wall-clock seconds."""
    began, before, there = time.perf_counter(), time.process_time(), environment.server_seconds()
    run()
    seconds = time.perf_counter() - began
    spent[own].append(time.process_time() - before)
    if server:
        spent[server].append(environment.server_seconds() - there)
    return seconds


def _naive(model: Any, times: float) -> float:
    """Predict some rows as a first script does; return the estimated seconds for all rows."""
    with closing(psycopg2.connect("")) as connection, connection.cursor() as cursor:
        began = time.perf_counter()
        cursor.execute("SELECT input_id FROM ml.input ORDER BY input_id LIMIT %s", (NAIVE_ROWS,))
        for (input_id,) in cursor.fetchall():
            cursor.execute("SELECT payload FROM ml.input WHERE input_id = %s", (input_id,))
            ((payload,),) = cursor.fetchall()
            array = environment.loaded(payload)
            (probs,) = model.predict(array[None], verbose=0).tolist()
            row = (1, input_id, int(np.argmax(probs)), max(probs), probs)
            cursor.execute(
                "INSERT INTO ml.prediction (model_id, input_id, class_no, score, probs) VALUES (%s, %s, %s, %s, %s)",
                row,
            )
            connection.commit()
        return (time.perf_counter() - began) * times


def _check(connection: Any, model: Any) -> None:
    """Compare the stored probabilities with those of the model."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT payload, probs FROM ml.prediction JOIN ml.input USING (input_id) WHERE input_id % 97 = 0"
        )
        payloads, probs = zip(*cursor.fetchall(), strict=True)
    wanted = model.predict_on_batch(np.stack([environment.loaded(payload) for payload in payloads]))
    if not np.allclose(np.array(probs, np.float32), wanted, atol=1e-6):
        raise SystemExit("the stored probabilities differ from those of the model")
