"""Growth: the worker's speed, its claims and its memory with 1e5 and with 1e6 inputs."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import environment
import timing
import worker_pool
from benchmark_model import SHAPE, publish_model
from bundle.verify import Bundle
from page import Goal, Part
from pypredict.chunk import Chunk
from pypredict.load import load_chunks

SIZES = 100_000, 1_000_000
BLOCK = 50_000  # arrays made at once


def measure(rounds: int) -> Part:
    """Load and predict both sizes in turns; the tables are empty before each run."""
    runs: dict[int, list[worker_pool.Run]] = {size: [] for size in SIZES}
    with tempfile.TemporaryDirectory() as directory:
        bundle = publish_model(Path(directory))
        engine, admin = environment.service(), environment.owner()
        for turn in range(rounds):
            for size in SIZES if turn % 2 == 0 else SIZES[::-1]:
                environment.clear(admin)
                load_chunks(engine, "bench", _chunks(bundle, size - bundle.manifest.metrics.n), None)
                run = worker_pool.work(Path(directory), 1, 0)
                if run.predicted != size:
                    raise SystemExit(f"{run.predicted} of {size} inputs were predicted")
                runs[size].append(run)
        engine.dispose()
    return _part(runs)


ABOUT = (
    "One worker has a model that takes no time, so only the database takes time. The inputs are 28x28 uint8, and the "
    "tables are empty before each run. The time of a claim is that of its statement, without the commit. Memory is the "
    "peak of the worker process."
)


def _part(runs: dict[int, list[worker_pool.Run]]) -> Part:
    small, large = SIZES
    seconds = {str(size): [run.seconds / size for run in runs[size]] for size in SIZES}
    claims = {size: timing.middle([timing.middle(run.claim_seconds) for run in runs[size]]) for size in SIZES}
    memory = {size: timing.middle([run.peak_mib for run in runs[size]]) for size in SIZES}
    part = Part("5. Growth", ABOUT)
    part.goals = [
        Goal("rows/s at 1e6 beside 1e5", 0.9, timing.ratio(seconds, str(large), str(small))),
        Goal("time of a claim at 1e6 beside 1e5", 1.25, claims[large] / claims[small], at_most=True),
        Goal("peak memory at 1e6 beside 1e5", 1.1, memory[large] / memory[small], at_most=True),
    ]
    rows = []
    for size in SIZES:
        row = [f"{size:,}", f"{timing.rate(seconds[str(size)], 1):,.0f}", f"{1e3 * claims[size]:.2f} ms"]
        for tenth in _first_and_last_tenth(runs[size]):
            row.append(f"{1e3 * timing.middle([timing.middle(values) for values in tenth]):.2f} ms")
        rows.append([*row, f"{memory[size]:.0f} MiB"])
    header = ["inputs", "rows/s", "claim, median", "of the first tenth", "of the last tenth", "peak memory"]
    part.tables = [(header, rows)]
    return part


def _first_and_last_tenth(runs: list[worker_pool.Run]) -> list[list[list[float]]]:
    """Return the claims of the first tenth of each run, and those of the last tenth."""
    tenth = [max(1, len(run.claim_seconds) // 10) for run in runs]
    first = [run.claim_seconds[:n] for run, n in zip(runs, tenth, strict=True)]
    return [first, [run.claim_seconds[-n:] for run, n in zip(runs, tenth, strict=True)]]


def _chunks(bundle: Bundle, n: int) -> Iterator[Chunk]:
    """Make n inputs of noise; all blocks differ."""
    for start in range(0, n, BLOCK):
        arrays = environment.random_arrays(min(BLOCK, n - start), SHAPE, "uint8", seed=start)
        yield from environment.chunks_of(arrays, bundle)
