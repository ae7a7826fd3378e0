"""Start: the time of `pypredict run` until its first prediction, beside a script with Keras alone."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import environment
import part_latency
import timing
import worker_pool
from benchmark_model import publish_model
from bundle.manifest import MODEL_FILE
from page import Goal, Part

BARE = """
import sys, keras, numpy
model = keras.models.load_model(sys.argv[1], compile=False)
model.predict_on_batch(numpy.zeros((1, 28, 28, 1), "uint8"))
print("ready", flush=True)
"""
ABOUT = (
    "`this` is the start of `pypredict run` while one input waits: imports, login, schema check, the checks of the "
    "bundle's hashes and structure, load, test prediction and claim, until the prediction is visible in the database. "
    "The bare script imports Keras, loads the same `.h5` and predicts one input; it checks and stores nothing. All "
    "files are in the page cache."
)


def measure(rounds: int) -> Part:
    """Start both in turns."""
    with tempfile.TemporaryDirectory() as directory:
        models = Path(directory)
        bundle = publish_model(models)
        worker_pool.work(models, 1, 0)  # registers the model and predicts its test set, as before a restart
        engine = environment.service()
        waiting: list[int] = []

        def store_input() -> None:
            waiting.append(part_latency.store_one(engine, bundle, seed=len(waiting)))

        def start() -> float:
            began = time.perf_counter()
            with part_latency.running_service(models):
                part_latency.wait_for(engine, waiting[-1])
                return time.perf_counter() - began  # before the signal to stop

        bare = [sys.executable, "-c", BARE, str(bundle.path / MODEL_FILE)]
        ways: dict[str, timing.Way] = {
            "this": start,
            "bare": lambda: _seconds_until_ready(bare),
        }
        seconds = timing.interleave(ways, rounds, store_input)
        engine.dispose()
    part = Part("7. Ready", ABOUT)
    beside = 1 / timing.ratio(seconds, "this", "bare")
    part.goals = [Goal("`pypredict run` beside a bare import and load", 1.1, beside, at_most=True)]
    part.tables = [(["way", "seconds"], [[way, f"{timing.middle(seconds[way]):.2f}"] for way in seconds])]
    return part


def _seconds_until_ready(command: list[str]) -> float:
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        if process.stdout is None or process.stdout.readline() != b"ready\n":
            raise SystemExit("the bare script failed")
        return time.perf_counter() - began  # before it ends
