"""Database -> model -> database: the whole worker beside the bare model in memory, and beside the naive way."""

import functools
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psycopg2
import scene
import timing
from convnet import DIGITS, SHAPE, publish_convnet
from page import Goal, Part

from bundle.inference.model import load_model, predict_probabilities
from pypredict.codec import Array
from pypredict.load import load_chunks
from pypredict.models import Models
from pypredict.source import cut_test_set
from pypredict.worker import Worker

N, NAIVE_ROWS = 50_000, 100
TRIAL = "this, unchecked"


def measure(rounds: int) -> Part:
    """Predict the same inputs by the worker, by the bare model, and row by row."""
    with tempfile.TemporaryDirectory() as directory:
        bundle = publish_convnet(Path(directory))
        engine, admin = scene.service(), scene.owner()
        in_test_set = next(cut_test_set(bundle)).arrays
        arrays = np.concatenate([in_test_set, scene.random_arrays(N - len(in_test_set), SHAPE, "uint8", seed=2)])
        load_chunks(engine, "bench", iter(scene.chunks_of(arrays[len(in_test_set) :], bundle)), None)
        model = load_model(bundle)

        def work() -> None:
            models = Models(Path(directory), lambda _: lambda part: predict_probabilities(model, part, len(DIGITS)))
            if Worker(engine, Path(directory), models, "bench").run(until_empty=True) != N:
                raise SystemExit("the worker did not predict every input once")

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
        seconds = timing.interleave(ways, rounds, lambda: scene.clear(admin, scene.OUTCOMES))
        engine.dispose()
    own, server, alone, unchecked = (timing.middle(spent[key]) for key in ("own", "server", "bare", "unchecked server"))
    split = (
        f"Processor seconds of the worker's run: {own:.2f} in the worker (the bare model alone takes {alone:.2f}) and "
        f"{server:.2f} in the server, which shares the cores with the model here; {server - unchecked:.2f} of those "
        "check that each prediction's model and input exist. The check stays: `unchecked` is a trial."
    )
    part = Part("3. Database to model to database", ABOUT.format(N=N, best=best, rows=NAIVE_ROWS))
    part.goals = [
        Goal("beside the bare model in memory", 0.85, timing.ratio(seconds, "this", "bare model"), limit=split),
        Goal("beside the naive way", 100, timing.ratio(seconds, "this", "naive")),
    ]
    part.tables = [timing.table(f"{N:,} inputs", seconds, N)]
    part.tables.append(
        (["bare model, rows a call", "rows/s"], [[w, f"{10_000 / min(s):,.0f}"] for w, s in sweep.items()])
    )
    part.remarks = [split]
    return part


ABOUT = (
    "Keras's `mnist_convnet` (34,826 parameters, random weights), {N:,} inputs of 28x28 uint8. `this` is the worker: "
    "plan, claim, read, predict, commit, with leases. The bare model predicts the same arrays from memory by {best}, "
    "the fastest of those below, and stores nothing. The naive way is SELECT, `np.load`, `model.predict`, INSERT and "
    "COMMIT for each row, measured on {rows} rows and extrapolated."
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
    """Run, and note the processor seconds of this process and of the server; return the seconds by the clock."""
    began, before, there = time.perf_counter(), time.process_time(), scene.server_seconds()
    run()
    seconds = time.perf_counter() - began
    spent[own].append(time.process_time() - before)
    if server:
        spent[server].append(scene.server_seconds() - there)
    return seconds


def _naive(model: Any, times: float) -> float:
    """Predict some rows as a first script does; return the seconds that all rows would take."""
    with closing(psycopg2.connect("")) as connection, connection.cursor() as cursor:
        began = time.perf_counter()
        cursor.execute("SELECT input_id FROM ml.input ORDER BY input_id LIMIT %s", (NAIVE_ROWS,))
        for (input_id,) in cursor.fetchall():
            cursor.execute("SELECT payload FROM ml.input WHERE input_id = %s", (input_id,))
            array = scene.loaded(cursor.fetchone()[0])
            (probs,) = model.predict(array[None], verbose=0).tolist()
            row = (1, input_id, int(np.argmax(probs)), max(probs), probs)
            cursor.execute(
                "INSERT INTO ml.prediction (model_id, input_id, class_no, score, probs) VALUES (%s, %s, %s, %s, %s)",
                row,
            )
            connection.commit()
        return (time.perf_counter() - began) * times


def _check(connection: Any, model: Any) -> None:
    """Compare what the worker stored with the model's own answers."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT payload, probs FROM ml.prediction JOIN ml.input USING (input_id) WHERE input_id % 97 = 0"
        )
        payloads, probs = zip(*cursor.fetchall(), strict=True)
    wanted = model.predict_on_batch(np.stack([scene.loaded(payload) for payload in payloads]))
    if not np.allclose(np.array(probs, np.float32), wanted, atol=1e-6):
        raise SystemExit("the worker stored other probabilities than the model gives")
