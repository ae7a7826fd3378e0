"""Several workers: one, two and four workers on the same chunks, with models that take time but no processor."""

import functools
import tempfile
from pathlib import Path

import environment
import timing
import worker_pool
from benchmark_model import SHAPE, publish_model
from page import Goal, Part
from pypredict.load import load_chunks

N = 60_000
WORKERS = 1, 2, 4
MODELS = {"100 ms": 0.1, "20 ms": 0.02, "no time": 0.0}  # for 1,000 inputs


def measure(rounds: int) -> Part:
    """Predict the same inputs with each number of workers and each model, in turns."""
    runs: dict[str, list[worker_pool.Run]] = {}
    with tempfile.TemporaryDirectory() as directory:
        bundle = publish_model(Path(directory))
        engine, admin = environment.service(), environment.owner()
        arrays = environment.random_arrays(N - bundle.manifest.metrics.n, SHAPE, "uint8", seed=4)
        load_chunks(engine, "bench", iter(environment.chunks_of(arrays, bundle)), None)

        def run(name: str, workers: int) -> float:
            done = worker_pool.work(Path(directory), workers, MODELS[name])
            if done.predicted != N:
                raise SystemExit(f"{done.predicted} of {N} inputs were predicted")
            runs.setdefault(f"{name} {workers}", []).append(done)
            return done.seconds

        worker_pool.work(Path(directory), 1, 0)  # registers the model and its test set
        ways = {f"{name} {n}": functools.partial(run, name, n) for name in MODELS for n in WORKERS}
        seconds = timing.interleave(ways, rounds, lambda: environment.clear(admin, environment.OUTCOMES))
        engine.dispose()
    return _part(seconds, runs)


ABOUT = (
    f"{N:,} inputs of 28x28 uint8 are pending when all workers start together. The model sleeps for the given time for "
    "each 1,000 inputs, like a model on a GPU. `cores busy` is the average number of cores in use. If the workers and "
    "the server together use almost all cores, then the machine is the limit, not the queue."
)


def _part(seconds: dict[str, list[float]], runs: dict[str, list[worker_pool.Run]]) -> Part:
    part = Part("6. Several workers", ABOUT)
    slow = next(iter(MODELS))
    ratios = {way: timing.ratio(seconds, way, f"{way.rsplit(' ', 1)[0]} 1") for way in seconds}
    part.goals = [Goal(f"two workers beside one, model of {slow}", 1.8, ratios[f"{slow} 2"])]
    header = ["model, for 1,000", "workers", "rows/s", "beside one", "cores busy: workers", "server"]
    rows = []
    for name in MODELS:
        for n in WORKERS:
            way = f"{name} {n}"
            busy = [(run.cpu_seconds / run.seconds, run.server_seconds / run.seconds) for run in runs[way]]
            shares = [f"{timing.middle(list(column)):.2f}" for column in zip(*busy, strict=True)]
            rows.append([name, str(n), f"{timing.rate(seconds[way], N):,.0f}", f"{ratios[way]:.2f} ×", *shares])
    part.tables = [(header, rows)]
    return part
