"""One, two and four workers at the same batches, with models that take time and no processor."""

import functools
import os
import tempfile
from pathlib import Path

import crew
import scene
import timing
from convnet import SHAPE, publish_convnet
from page import Goal, Part

from pypredict.load import load_chunks

N = 60_000
CREWS = 1, 2, 4
MODELS = {"100 ms": 0.1, "20 ms": 0.02, "no time": 0.0}  # for 1,000 inputs


def measure(rounds: int) -> Part:
    """Predict the same inputs by every crew with every model, in turns."""
    runs: dict[str, list[crew.Run]] = {}
    with tempfile.TemporaryDirectory() as directory:
        bundle = publish_convnet(Path(directory))
        engine, admin = scene.service(), scene.owner()
        arrays = scene.random_arrays(N - bundle.manifest.metrics.n, SHAPE, "uint8", seed=4)
        load_chunks(engine, "bench", iter(scene.chunks_of(arrays, bundle)), None)

        def run(name: str, workers: int) -> float:
            done = crew.work(Path(directory), workers, MODELS[name])
            if done.predicted != N:
                raise SystemExit(f"{done.predicted} of {N} inputs were predicted")
            runs.setdefault(f"{name} {workers}", []).append(done)
            return done.seconds

        crew.work(Path(directory), 1, 0)  # registers the model and its test set
        ways = {f"{name} {n}": functools.partial(run, name, n) for name in MODELS for n in CREWS}
        seconds = timing.interleave(ways, rounds, lambda: scene.clear(admin, scene.OUTCOMES))
        engine.dispose()
    return _part(seconds, runs)


ABOUT = (
    "{N:,} inputs of 28x28 uint8, pending when all workers start at once. The model sleeps for the time given, for "
    "each 1,000 inputs: it computes elsewhere, as on a GPU. Busy are the machine's cores on average, of {cores}; "
    "what comes near them all is the machine's limit, not the claim's."
)


def _part(seconds: dict[str, list[float]], runs: dict[str, list[crew.Run]]) -> Part:
    part = Part("6. Several workers", ABOUT.format(N=N, cores=os.cpu_count()))
    slow = next(iter(MODELS))
    ratios = {way: timing.ratio(seconds, way, f"{way.rsplit(' ', 1)[0]} 1") for way in seconds}
    part.goals = [Goal(f"two workers beside one, model of {slow}", 1.8, ratios[f"{slow} 2"])]
    header = ["model, for 1,000", "workers", "rows/s", "beside one", "cores busy: workers", "server"]
    rows = []
    for name in MODELS:
        for n in CREWS:
            way = f"{name} {n}"
            busy = [(run.cpu_seconds / run.seconds, run.server_seconds / run.seconds) for run in runs[way]]
            shares = [f"{timing.middle(list(column)):.2f}" for column in zip(*busy, strict=True)]
            rows.append([name, str(n), f"{timing.rate(seconds[way], N):,.0f}", f"{ratios[way]:.2f} ×", *shares])
    part.tables = [(header, rows)]
    return part
