"""From nothing to the first prediction: `pypredict run` beside a script that imports Keras, loads and predicts once."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import crew
import part_latency
import scene
import timing
from convnet import publish_convnet
from page import Goal, Part

from bundle.manifest import MODEL_FILE

BARE = """
import sys, keras, numpy
model = keras.models.load_model(sys.argv[1], compile=False)
model.predict_on_batch(numpy.zeros((1, 28, 28, 1), "uint8"))
print("ready", flush=True)
"""
ABOUT = (
    "`this` is a started `pypredict run` with one input waiting: imports, login, schema check, the bundle's hashes and "
    "structure, load, trial, claim, until the prediction is visible in the database. The bare script imports Keras, "
    "loads the same `.h5`, predicts one input, and verifies and stores nothing. Files are in the page cache."
)


def measure(rounds: int) -> Part:
    """Start both in turns."""
    with tempfile.TemporaryDirectory() as directory:
        models = Path(directory)
        bundle = publish_convnet(models)
        crew.work(models, 1, 0)  # registers the model and does its test set: what a restart finds
        engine = scene.service()
        waiting: list[int] = []

        def put_one() -> None:
            waiting.append(part_latency.store_one(engine, bundle, seed=len(waiting)))

        def start() -> float:
            began = time.perf_counter()
            with part_latency.daemon(models):
                part_latency.wait_for(engine, waiting[-1])
                return time.perf_counter() - began  # before it is told to end

        bare = [sys.executable, "-c", BARE, str(bundle.path / MODEL_FILE)]
        ways: dict[str, timing.Way] = {
            "this": start,
            "bare": lambda: _seconds_until_ready(bare),
        }
        seconds = timing.interleave(ways, rounds, put_one)
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
