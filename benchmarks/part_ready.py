"""Start and memory: `pypredict run` beside a script with Keras alone, `pypredict predict` without a daemon."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psycopg2.extensions
import sqlalchemy as sa

import environment
import part_latency
import timing
import worker_pool
from benchmark_model import DATASET, SHAPE, publish_model
from bundle.inference.signature import Signature
from bundle.inference.trial import try_model
from bundle.manifest import MODEL_FILE, SERVING_FILE
from bundle.verify import Bundle
from page import Goal, Part
from pypredict.load import load_chunks

N = 100_000  # inputs that are predicted before the memory is read
RUN, PREDICT, KERAS = "pypredict run", "pypredict predict FILE", "bare Keras"
IMPORTS, TRIAL = "the imports of pypredict run alone", "the trial of the model alone"
BARE = """
import sys, keras, numpy
model = keras.models.load_model(sys.argv[1], compile=False)
model.predict_on_batch(numpy.zeros((1, 28, 28, 1), "uint8"))
print("ready", flush=True)
"""
IMPORT = """
import pypredict.cli, pypredict.database, pypredict.status, pypredict.worker, bundle.inference.load
print("ready", flush=True)
"""
ABOUT = (
    "`pypredict run` is started while one input waits: imports, login, schema check, the checks of the bundle's hashes "
    "and structure, load, test prediction and claim, until the prediction is visible in the database. "
    "`pypredict predict FILE` runs without a daemon, from its start to its end: it stores the input of a `.npy` file, "
    "predicts it, stores and prints the prediction. The bare script imports Keras, loads the `.h5` file of the same "
    "model and predicts one input; it checks and stores nothing. The last two rows are parts of the first. All files "
    f"are in the page cache. Memory is the resident memory of `pypredict run` after {N:,} predictions of `mnist_cnn`."
)


def measure(rounds: int) -> Part:
    """Start both in turns."""
    with tempfile.TemporaryDirectory() as directory:
        models = Path(directory)
        bundle = publish_model(models)
        worker_pool.work(models, 1, 0)  # registers the model and predicts its test set, as before a restart
        engine, look = environment.service(), part_latency.watcher()
        waiting: list[int] = []

        def store_input() -> None:
            waiting.append(part_latency.store_one(engine, part_latency.noise(bundle, len(waiting))))

        def start() -> float:
            began = time.perf_counter()
            with part_latency.running_service(models):
                part_latency.wait_for(look, waiting[-1])
                return time.perf_counter() - began  # before the signal to stop

        bare = [sys.executable, "-c", BARE, str(bundle.path / MODEL_FILE)]
        file = models / "input.npy"
        signature = Signature("uint8", SHAPE, len(bundle.manifest.classes))

        def prepare() -> None:
            store_input()
            np.save(file, environment.random_arrays(1, SHAPE, "uint8", seed=2_000_000 + len(waiting))[0])

        def predict() -> None:
            command = [str(Path(sys.executable).with_name("pypredict")), "predict", str(file), "--dataset", DATASET]
            subprocess.run([*command, "--models", directory], check=True, capture_output=True)

        ways: dict[str, timing.Way] = {
            RUN: start,
            PREDICT: predict,
            KERAS: lambda: _seconds_until_ready(bare),
            IMPORTS: lambda: _seconds_until_ready([sys.executable, "-c", IMPORT]),
            TRIAL: lambda: try_model(bundle.read(SERVING_FILE), signature),
        }
        seconds = timing.interleave(ways, rounds, prepare)
        resident = _resident_mb(engine, look, bundle, models)
        engine.dispose()
    part = Part("7. Ready", ABOUT)
    beside, imports, trial = (1 / timing.ratio(seconds, way, KERAS) for way in (RUN, IMPORTS, TRIAL))
    limit = f"The imports alone take {imports:.2f} ×, and the trial of the model takes {trial:.2f} ×."
    part.goals = [
        Goal(f"`{RUN}` beside a bare import and load of Keras", 0.15, beside, at_most=True, limit=limit),
        Goal(f"`{PREDICT}` without a daemon", 1, timing.middle(seconds[PREDICT]), "s", at_most=True),
        Goal(f"resident memory after {N:,} predictions", 150, resident, "MB", at_most=True),
    ]
    part.tables = [(["way", "seconds"], [[way, f"{timing.middle(seconds[way]):.2f}"] for way in seconds])]
    return part


def _resident_mb(engine: sa.Engine, look: psycopg2.extensions.cursor, bundle: Bundle, models: Path) -> float:
    """Return the resident memory of a worker, in MB of 10^6 bytes, after it has predicted N inputs (Linux)."""
    ids = load_chunks(
        engine, DATASET, iter(environment.chunks_of(environment.random_arrays(N, SHAPE, "uint8", seed=6), bundle)), None
    )
    with part_latency.running_service(models) as process_id:
        for chunk_id in ids:
            part_latency.wait_for(look, chunk_id)
        status = Path(f"/proc/{process_id}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024 / 1e6


def _seconds_until_ready(command: list[str]) -> float:
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        if process.stdout is None or process.stdout.readline() != b"ready\n":
            raise SystemExit("the bare script failed")
        return time.perf_counter() - began  # before it ends
