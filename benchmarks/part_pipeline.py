"""Database to model to database: the worker beside the bare models in memory, and beside the naive way."""

import functools
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import psycopg2
from ai_edge_litert.interpreter import Interpreter

import environment
import timing
from benchmark_model import KINDS, publish_model
from bundle.inference import model as inference
from bundle.inference.load import load_model
from bundle.inference.signature import FIXED_ROWS, INPUT, OUTPUT, ROWS
from bundle.manifest import MODEL_FILE, SERVING_FILE
from bundle.verify import Bundle
from page import Goal, Part
from pyml.keras_library import start_keras
from pypredict.codec import Array
from pypredict.load import load_chunks
from pypredict.models import Models
from pypredict.source import cut_test_set
from pypredict.worker import Worker

KERAS, LITERT, NAIVE = "Keras in memory", "LiteRT in memory", "naive"
GOALS: dict[str, dict[str, float]] = {
    "mnist_cnn": {KERAS: 1, LITERT: 0.7, NAIVE: 100},
    "imdb_cnn": {KERAS: 1, LITERT: 0.7},
    "lstm": {KERAS: 3},
}
NAIVE_ROWS = 100
SWEEP_ROUNDS = 3
SMALL_CALLS = 32, ROWS, 128, 256

Run = Callable[[], None]


@dataclass
class Spent:
    """The processor seconds of the runs of one way: of this process, and of the server."""

    own: list[float] = field(default_factory=list)
    server: list[float] = field(default_factory=list)


@dataclass
class Result:
    """What was measured for one model: seconds by way, processor seconds by way, the fastest bare ways."""

    seconds: dict[str, list[float]]
    spent: dict[str, Spent]
    best: dict[str, str]
    calls: list[float]  # rows/s of our own call, by SMALL_CALLS; empty: the numbers of rows are fixed


def measure(rounds: int) -> Part:
    """Predict the inputs of each model with the worker, with the bare models, and row by row."""
    results = {}
    for name in KINDS:
        with tempfile.TemporaryDirectory() as directory:
            results[name] = _measure_model(publish_model(Path(directory), name), Path(directory), rounds)
    part = Part("3. Database to model to database", ABOUT)
    calls = []
    for name, result in results.items():
        for other, wanted in GOALS[name].items():
            beside = timing.ratio(result.seconds, "this", other)
            part.goals.append(Goal(f"{name}, beside {other}", wanted, beside, limit=_limit(result, other)))
        part.tables.append(_table(name, result))
        if result.calls:
            calls.append([name, *(f"{rate:,.0f}" for rate in result.calls)])
    part.tables.append((["rows/s by rows a call", *map(str, SMALL_CALLS)], calls))
    part.remarks = [_remark(name, result) for name, result in results.items()]
    return part


ABOUT = (
    "Models with random weights predict inputs of noise: `mnist_cnn` and `imdb_cnn` are those of `experiments/`, "
    "`lstm` is Embedding(5000, 32), LSTM(32) and Dense(2) on 100 tokens. `this` is the worker: plan, claim, read, "
    "predict, commit, with leases. The bare models predict the same arrays in memory and store nothing: the `.h5` file "
    "as a TensorFlow graph or with `predict_on_batch`, the `.tflite` file in one LiteRT interpreter. Their calls, "
    "threads and rows a call are the fastest of a sweep. The naive way is SELECT, `np.load`, Keras's `model.predict`, "
    f"INSERT and COMMIT for each row; it is measured on {NAIVE_ROWS} rows and multiplied. The last table is the "
    f"service's own call without a database, with other numbers of rows than the service's {ROWS}."
)


def _measure_model(bundle: Bundle, directory: Path, rounds: int) -> Result:
    engine, admin = environment.service(), environment.owner()
    environment.clear(admin)
    kind = KINDS[bundle.manifest.name]
    in_test_set = next(cut_test_set(bundle)).arrays
    noise = environment.random_arrays(kind.n - len(in_test_set), kind.input.shape, kind.input.dtype, seed=2)
    arrays, sample = np.concatenate([in_test_set, noise]), noise[: kind.n // 5]
    load_chunks(engine, "bench", iter(environment.chunks_of(noise, bundle)), None)
    start_keras()
    import keras

    model = keras.models.load_model(bundle.path / MODEL_FILE, compile=False)
    predict = load_model(bundle).predict

    def work() -> None:
        models = Models(directory, lambda _: predict)
        if Worker(engine, directory, models, "bench").run(until_empty=True) != kind.n:
            raise SystemExit(f"the worker did not predict each of {kind.n} inputs once")

    work()
    _check(admin, model)
    best = {
        KERAS: _fastest(functools.partial(_keras_ways, model), sample),
        LITERT: _fastest(functools.partial(_litert_ways, bundle), sample),
    }
    spent = {name: Spent() for name in ("this", *best)}
    bare = {KERAS: _keras_ways(model, arrays)[best[KERAS]], LITERT: _litert_ways(bundle, arrays)[best[LITERT]]}
    ways: dict[str, timing.Way] = {
        name: functools.partial(_note, spent[name], run) for name, run in {"this": work, **bare}.items()
    }
    if NAIVE in GOALS[bundle.manifest.name]:
        ways[NAIVE] = lambda: _naive(model, kind.n / NAIVE_ROWS)
    seconds = timing.interleave(ways, rounds, lambda: environment.clear(admin, environment.OUTCOMES))
    calls = [] if bundle.manifest.serving.rows else _small_calls(predict, sample)
    engine.dispose()
    return Result(seconds, spent, best, calls)


def _fastest(ways: Callable[[Array], Mapping[str, Run]], sample: Array) -> str:
    sweep = timing.interleave(ways(sample), SWEEP_ROUNDS)
    return min(sweep, key=lambda way: min(sweep[way]))


def _small_calls(predict: Callable[[Array], Any], sample: Array) -> list[float]:
    """Return the rows/s of the service's own call with each number of rows."""

    def run(rows: int) -> None:
        with mock.patch.object(inference, "ROWS", rows):
            predict(sample)

    seconds = timing.interleave({str(rows): functools.partial(run, rows) for rows in SMALL_CALLS}, 1 + SWEEP_ROUNDS)
    return [len(sample) / min(seconds[str(rows)]) for rows in SMALL_CALLS]


def _table(name: str, result: Result) -> tuple[list[str], list[list[str]]]:
    header, rows = timing.table(f"{name}, {KINDS[name].n:,} inputs", result.seconds, KINDS[name].n)
    for row in rows:
        way = row[0]
        spent = result.spent.get(way, Spent())
        row.append(result.best.get(way, ""))
        row += [f"{timing.middle(seconds):.2f} s" if seconds else "" for seconds in (spent.own, spent.server)]
    return [*header, "call", "processor", "server's processor"], rows


def _limit(result: Result, other: str) -> str:
    """Say how much processor time is there to be saved, and what the model alone reaches."""
    if other not in result.spent:
        return ""
    ours, bare = result.spent["this"], timing.middle(result.spent[other].own)
    both = timing.middle(ours.own) + timing.middle(ours.server)
    said = f"Worker and server take {both:.2f} s of processor time, {other} takes {bare:.2f} s."
    if other == LITERT:
        return said
    return f"{said} {LITERT} is {timing.ratio(result.seconds, LITERT, other):.2f} × as fast as {other}."


def _remark(name: str, result: Result) -> str:
    own, server, model = (
        timing.middle(values)
        for values in (result.spent["this"].own, result.spent["this"].server, result.spent[LITERT].own)
    )
    return (
        f"Processor seconds of one run of {name}: {own:.2f} in the worker (LiteRT alone takes {model:.2f}) and "
        f"{server:.2f} in the server, which uses the same cores."
    )


def _keras_ways(model: Any, arrays: Array) -> dict[str, Run]:
    import tensorflow as tf

    rows = tf.TensorSpec((None, *arrays.shape[1:]), arrays.dtype)
    graph = tf.function(lambda x: model(x, training=False)).get_concrete_function(rows)
    calls = {"predict_on_batch": model.predict_on_batch, "graph": lambda part: graph(tf.constant(part)).numpy()}
    return {
        f"{name}, {size} rows": functools.partial(_predict_all, call, arrays, size)
        for name, call in calls.items()
        for size in (64, 128, 256, 512, 1024)
    }


def _litert_ways(bundle: Bundle, arrays: Array) -> dict[str, Run]:
    content, fixed = (bundle.path / SERVING_FILE).read_bytes(), bundle.manifest.serving.rows is not None
    ways: dict[str, Run] = {}
    for threads in (1, 2):
        interpreter = Interpreter(model_content=content, num_threads=threads)
        runner = interpreter.get_signature_runner("rows_64" if fixed else "rows")
        call = functools.partial(_call_litert, runner, FIXED_ROWS["rows_64"] if fixed else 0)
        for size in (FIXED_ROWS["rows_64"],) if fixed else (64, 128, 256, 512):
            way = f"{threads} {'thread' if threads == 1 else 'threads'}, {size} rows"
            ways[way] = functools.partial(_predict_all, call, arrays, size)
    return ways


def _call_litert(runner: Any, rows: int, part: Array) -> Any:
    """Predict the rows of one call; fill up to the number of rows that the model has, if it has one."""
    if rows > len(part):
        part = np.concatenate([part, np.zeros((rows - len(part), *part.shape[1:]), part.dtype)])
    return runner(**{INPUT: part})[OUTPUT]


def _predict_all(call: Callable[[Array], Any], arrays: Array, size: int) -> None:
    np.concatenate([call(arrays[at : at + size]) for at in range(0, len(arrays), size)])


def _note(spent: Spent, run: Run) -> float:
    """Run, note the processor seconds of this process and of the server; return the wall-clock seconds."""
    began, before, there = time.perf_counter(), time.process_time(), environment.server_seconds()
    run()
    seconds = time.perf_counter() - began
    spent.own.append(time.process_time() - before)
    spent.server.append(environment.server_seconds() - there)
    return seconds


def _naive(model: Any, times: float) -> float:
    """Predict some rows as a first script does; return the estimated seconds for all rows.

    The time does not include the job that the database needs for each outcome.
    """
    with closing(psycopg2.connect("")) as connection, connection.cursor() as cursor:
        cursor.execute(environment.ADD_DONE_JOBS)
        connection.commit()
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
    """Compare the stored probabilities with those of the Keras model."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT payload, probs FROM ml.prediction JOIN ml.input USING (input_id) WHERE input_id % 97 = 0"
        )
        payloads, probs = zip(*cursor.fetchall(), strict=True)
    kept = model.predict_on_batch(np.stack([environment.loaded(payload) for payload in payloads]))
    wanted = inference.as_probabilities(kept, len(probs[0]))
    if not np.allclose(np.array(probs, np.float32), wanted, atol=1e-5):
        raise SystemExit("the stored probabilities differ from those of the model")
