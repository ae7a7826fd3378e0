"""Ten times the rows: the worker's speed, its claims and its memory at 1e5 and at 1e6 inputs."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import crew
import scene
import timing
from convnet import SHAPE, publish_convnet
from page import Goal, Part

from bundle.verify import Bundle
from pypredict.chunk import Chunk
from pypredict.load import load_chunks

SIZES = 100_000, 1_000_000
BLOCK = 50_000  # arrays made at a time


def measure(rounds: int) -> Part:
    """Load and predict both sizes, in turns, each from empty tables."""
    runs: dict[int, list[crew.Run]] = {size: [] for size in SIZES}
    with tempfile.TemporaryDirectory() as directory:
        bundle = publish_convnet(Path(directory))
        engine, admin = scene.service(), scene.owner()
        for turn in range(rounds):
            for size in SIZES if turn % 2 == 0 else SIZES[::-1]:
                scene.clear(admin)
                load_chunks(engine, "bench", _chunks(bundle, size - bundle.manifest.metrics.n), None)
                run = crew.work(Path(directory), 1, 0)
                if run.predicted != size:
                    raise SystemExit(f"{run.predicted} of {size} inputs were predicted")
                runs[size].append(run)
        engine.dispose()
    return _part(runs)


ABOUT = (
    "One worker with a model that takes no time, so that the database is all there is to wait for; 28x28 uint8, from "
    "empty tables. A claim is the statement alone, without its commit; memory is the worker's peak."
)


def _part(runs: dict[int, list[crew.Run]]) -> Part:
    small, large = SIZES
    seconds = {str(size): [run.seconds / size for run in runs[size]] for size in SIZES}
    claims = {size: timing.middle([timing.middle(run.claim_seconds) for run in runs[size]]) for size in SIZES}
    memory = {size: timing.middle([run.peak_mib for run in runs[size]]) for size in SIZES}
    part = Part("5. Growth", ABOUT)
    part.goals = [
        Goal("rows/s at 1e6 beside 1e5", 0.9, timing.ratio(seconds, str(large), str(small))),
        Goal("a claim at 1e6 beside 1e5", 1.25, claims[large] / claims[small], at_most=True),
        Goal("peak memory at 1e6 beside 1e5", 1.1, memory[large] / memory[small], at_most=True),
    ]
    rows = [
        [
            f"{size:,}",
            f"{timing.rate(seconds[str(size)], 1):,.0f}",
            f"{1e3 * claims[size]:.2f} ms",
            *(f"{1e3 * timing.middle([timing.middle(part) for part in parts]):.2f} ms" for parts in _ends(runs[size])),
            f"{memory[size]:.0f} MiB",
        ]
        for size in SIZES
    ]
    header = ["inputs", "rows/s", "claim, median", "of the first tenth", "of the last tenth", "peak memory"]
    part.tables = [(header, rows)]
    return part


def _ends(runs: list[crew.Run]) -> list[list[list[float]]]:
    """Give the claims of the first tenth of each run, and of the last."""
    tenth = [max(1, len(run.claim_seconds) // 10) for run in runs]
    first = [run.claim_seconds[:n] for run, n in zip(runs, tenth, strict=True)]
    return [first, [run.claim_seconds[-n:] for run, n in zip(runs, tenth, strict=True)]]


def _chunks(bundle: Bundle, n: int) -> Iterator[Chunk]:
    """Make n inputs of noise, no two blocks alike."""
    for start in range(0, n, BLOCK):
        arrays = scene.random_arrays(min(BLOCK, n - start), SHAPE, "uint8", seed=start)
        yield from scene.chunks_of(arrays, bundle)
