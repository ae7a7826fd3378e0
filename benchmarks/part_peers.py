"""Other programs for the same work: Pixeltable and Ray Data, with the same arrays and the same LiteRT model."""

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

import environment
import timing
from benchmark_model import SHAPE, publish_model
from bundle.inference.load import load_model
from bundle.manifest import SERVING_FILE
from page import Goal, Part
from pypredict.load import load_chunks
from pypredict.models import Models
from pypredict.worker import Worker

N = 20_000
PYTHON = environment.REPO / ".local" / "peers-venv" / "bin" / "python"
PROGRAMS = environment.REPO / "benchmarks" / "peers"
PIXELTABLE, RAY, ALONE = "Pixeltable", "Ray Data", "the model alone, in memory"
DATA = "ml.prediction, ml.prediction_error, ml.suspect, ml.job, ml.test_set, ml.input, ml.chunk"
LIMIT_SECONDS, STOP_SECONDS = 300, 10

ABOUT = (
    f"The same {N:,} inputs of 28x28 uint8, and the `.tflite` file of `mnist_cnn`. Pixeltable has a PostgreSQL of its "
    "own: `insert` of arrays, then a computed column whose function takes batches. Ray Data reads the rows of "
    "`ml.input` with `read_sql`, predicts in `map_batches`, and stores into a table without constraints with "
    "`write_sql`. `this` is `pypredict load` and then the worker. The start of each program does not count. Number and "
    "sum of the stored probabilities are compared. The model alone predicts the same arrays in memory and stores "
    "nothing."
)


def measure(rounds: int) -> Part:
    """Store and predict the same inputs with each program, in turns."""
    load: dict[str, list[float]] = {"this": [], PIXELTABLE: []}
    spent: list[float] = []  # processor seconds of each load, in this process and in the server
    with tempfile.TemporaryDirectory() as directory:
        bundle = publish_model(Path(directory))
        engine, admin = environment.service(), environment.owner()
        arrays = environment.random_arrays(N, SHAPE, "uint8", seed=5)
        np.save(Path(directory) / "arrays.npy", arrays)
        predict = load_model(bundle).predict
        first_class = float(predict(arrays)[:, 0].sum(dtype=float))

        def worker() -> Worker:
            return Worker(engine, Path(directory), Models(Path(directory), lambda _: predict), "bench")

        def reset() -> None:
            environment.clear(admin, DATA)
            began, before = time.perf_counter(), time.process_time() + environment.server_seconds()
            load_chunks(engine, "bench", iter(environment.chunks_of(arrays, bundle)), None)
            load["this"].append(time.perf_counter() - began)
            spent.append(time.process_time() + environment.server_seconds() - before)

        def work() -> None:
            if worker().run(until_empty=True) != N:
                raise SystemExit(f"the worker did not predict each of {N} inputs once")

        def run(name: str, program: str) -> float:
            with tempfile.TemporaryDirectory() as home:
                variables = {"MODEL": str(bundle.path / SERVING_FILE), "PIXELTABLE_HOME": home}
                command = [str(PYTHON), str(PROGRAMS / program), str(Path(directory) / "arrays.npy")]
                environ, log = os.environ | variables, Path(home) / "log"
                with log.open("w") as errors:
                    done = subprocess.run(
                        command,
                        stdout=subprocess.PIPE,
                        stderr=errors,
                        text=True,
                        env=environ,
                        timeout=LIMIT_SECONDS,
                        check=False,
                    )
                _stop_server(Path(home))
                if done.returncode:
                    raise SystemExit(f"{name} failed: {log.read_text()}")
            result = json.loads(done.stdout.splitlines()[-1])
            if result["rows"] != N or abs(result["first_class"] - first_class) > 1e-4 * N:
                raise SystemExit(f"{name} stored other probabilities: {result}")
            if "load" in result:
                load[name].append(result["load"])
            return float(result["predict"])

        worker().run(until_empty=True)  # registers the model and predicts its test set
        ways: dict[str, timing.Way] = {
            "this": work,
            PIXELTABLE: lambda: run(PIXELTABLE, "pixeltable_table.py"),
            RAY: lambda: run(RAY, "ray_data.py"),
            ALONE: lambda: timing.untimed(predict(arrays)),
        }
        seconds = timing.interleave(ways, rounds, reset)
        engine.dispose()
    part = Part("8. Other programs", ABOUT)
    load["this"] = load["this"][:: len(ways)]
    why = f"The model alone, in memory, is {timing.ratio(seconds, ALONE, PIXELTABLE):.2f} × as fast as Pixeltable."
    at_most = timing.middle(load[PIXELTABLE]) * (os.cpu_count() or 1) / timing.middle(spent)
    busy = f"With all cores always busy, it would be at most {at_most:.2f} ×."
    part.goals = [
        Goal(f"load, beside {PIXELTABLE}'s insert", 15, timing.ratio(load, "this", PIXELTABLE), limit=busy),
        Goal(f"read, predict and store, beside {PIXELTABLE}", 5, timing.ratio(seconds, "this", PIXELTABLE), limit=why),
        Goal(f"read, predict and store, beside {RAY}", 9, timing.ratio(seconds, "this", RAY)),
    ]
    part.tables = [timing.table("load", load, N), timing.table("read, predict and store", seconds, N)]
    return part


def _stop_server(home: Path) -> None:
    """Stop Pixeltable's server, which goes on when its program ends, and wait until it has ended."""
    pid_file = home / "pgdata" / "postmaster.pid"
    if pid_file.exists():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            os.kill(int(pid_file.read_text().split()[0]), signal.SIGINT)
        end = time.monotonic() + STOP_SECONDS
        while pid_file.exists() and time.monotonic() < end:
            time.sleep(0.05)
