"""Unit costs: processor time, WAL and disk of one input and of one prediction, to calculate with (docs/scaling.md)."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psycopg2.extensions

import environment
import timing
import worker_pool
from benchmark_model import SHAPE, publish_model
from page import Part
from pypredict.load import load_chunks

TYPES = (("28x28 uint8", SHAPE, 50_000), ("128x128x3 uint8", (128, 128, 3), 2_000))  # the inputs of each run
WAL = "SELECT pg_current_wal_insert_lsn() - '0/0'"
DISK = "SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relnamespace = 'ml'::regnamespace AND relkind = 'r'"


@dataclass(frozen=True)
class Cost:
    """What one row costs: microseconds of our process and of the server, bytes of WAL and on disk."""

    own: float
    server: float
    wal: float
    disk: float

    def row(self, name: str) -> list[str]:
        """Return the cells of the table."""
        bytes_ = (f"{value:,.0f} bytes" for value in (self.wal, self.disk))
        return [name, f"{self.own:.1f} µs", f"{self.server:.1f} µs", *bytes_]


ABOUT = (
    "The processor time, not the time on the clock, so other work on the machine changes little. Loading is "
    "`pypredict load` of arrays in memory. A prediction is read, stored with ten probabilities and committed by one "
    "worker whose model takes no time. Disk is the growth of all tables and indexes of the schema `ml`. WAL is what "
    "the server writes for a crash, a standby or an archive; it is recycled, not kept."
)


def measure(rounds: int) -> Part:
    """Load inputs of each type, predict those of the first type, and divide by their number."""
    with tempfile.TemporaryDirectory() as directory:
        bundle = publish_model(Path(directory))
        engine, admin = environment.service(), environment.owner()
        loaded: dict[str, list[Cost]] = {name: [] for name, *_ in TYPES}
        predicted: list[Cost] = []
        for turn in range(rounds):
            for name, shape, n in TYPES:
                environment.clear(admin)
                chunks = environment.chunks_of(
                    environment.random_arrays(n, shape, "uint8", seed=turn), bundle if shape == SHAPE else None
                )
                before, own = _state(admin), time.process_time()
                load_chunks(engine, "bench", iter(chunks), None)
                loaded[name].append(_cost(before, _state(admin), time.process_time() - own, n))
                if shape == SHAPE:
                    before = _state(admin)
                    run = worker_pool.work(Path(directory), 1, 0)
                    predicted.append(_cost(before, _state(admin), run.cpu_seconds, run.predicted))
        engine.dispose()
    part = Part("9. Unit costs", ABOUT)
    rows = [_middle(costs).row(f"load one input, {name}") for name, costs in loaded.items()]
    rows.append(_middle(predicted).row("predict one input, 28x28 uint8, without the model"))
    part.tables = [(["to", "our process", "server", "WAL", "disk"], rows)]
    return part


def _state(admin: psycopg2.extensions.connection) -> tuple[float, float, float]:
    """Return the server's processor seconds, its WAL position in bytes, and the bytes of the tables."""
    with admin.cursor() as cursor:
        cursor.execute(WAL)
        (wal,) = cursor.fetchone() or (0,)
        cursor.execute(DISK)
        (disk,) = cursor.fetchone() or (0,)
    return environment.server_seconds(), float(wal), float(disk)


def _cost(before: tuple[float, float, float], after: tuple[float, float, float], own: float, n: int) -> Cost:
    server, wal, disk = (later - earlier for earlier, later in zip(before, after, strict=True))
    return Cost(1e6 * own / n, 1e6 * server / n, wal / n, disk / n)


def _middle(costs: list[Cost]) -> Cost:
    return Cost(*(timing.middle([getattr(cost, name) for cost in costs]) for name in Cost.__dataclass_fields__))
