"""What the parts share: a server, its logins, empty tables, arrays, chunks, rows."""

import io
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psycopg2
import psycopg2.extensions
import sqlalchemy as sa

from bundle.verify import Bundle
from pypredict import database, migrate
from pypredict.chunk import Chunk, Identity, cut
from pypredict.codec import Array
from pypredict.source import Preparation

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO / "db"))
import embedded  # noqa: E402 - db/ is no package

SHAPES: dict[str, tuple[tuple[int, ...], str, int]] = {  # name -> shape, dtype, inputs
    "28x28 uint8": ((28, 28, 1), "uint8", 20_000),
    "28x28 float32": ((28, 28, 1), "float32", 10_000),
    "128x128x3 uint8": ((128, 128, 3), "uint8", 2_000),
}
TOKENS = 5_000  # an int32 array holds token numbers below this one
NO_MODEL: Identity = {"dataset": "bench", "prep_sha256": "0" * 64}
OUTCOMES = "ml.prediction, ml.prediction_error, ml.suspect, ml.job"
TABLES = f"{OUTCOMES}, ml.test_set, ml.input, ml.chunk, ml.model"
COLUMNS = ("chunk_id", "sample_no", "label_no", "payload")


@contextmanager
def server(binaries: Path | None) -> Iterator[str]:
    """Run a fresh migrated server; set PG* for this process and its subprocesses; yield the server's version."""
    state = Path(tempfile.mkdtemp(prefix="bench-"))
    for name in embedded.FOREIGN:
        os.environ.pop(name, None)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # Python compiles our modules once, as it did those of the peers
    try:
        started = embedded.start(state, bin=binaries)
        engine = database.connect(started.url(), wait_seconds=10)
        migrate.migrate(engine, REPO / "db", [started.passfile])
        with engine.connect() as connection:
            version = str(connection.execute(sa.text("SHOW server_version")).scalar_one()).split()[0]
        engine.dispose()
        os.environ |= started.environment() | {"POSTMASTER": str(started.data / "postmaster.pid")}
        yield version
    finally:
        embedded.destroy(state)
        shutil.rmtree(state, ignore_errors=True)


# Each outcome needs a done job. Ways that store outcomes without a worker begin with these jobs.
ADD_DONE_JOBS = """
    INSERT INTO ml.job (model_id, chunk_id, state, done_at, runtime, processor)
    SELECT 1, chunk_id, 'done', now(), '', '' FROM ml.chunk"""


def service() -> sa.Engine:
    """Connect as pypredict, the login of the predict service."""
    return database.connect(None, wait_seconds=5)


def owner() -> psycopg2.extensions.connection:
    """Connect as the owner, who may empty and alter tables; autocommit."""
    connection = psycopg2.connect(user="ml_owner")
    connection.autocommit = True
    return connection


def clear(connection: psycopg2.extensions.connection, tables: str = TABLES) -> None:
    """Empty the tables, start their ids at 1 again, and write a checkpoint, so that no run pays for another."""
    with connection.cursor() as cursor:
        cursor.execute(f"TRUNCATE {tables} RESTART IDENTITY CASCADE")
        cursor.execute("CHECKPOINT")


def random_arrays(n: int, shape: tuple[int, ...], dtype: str, seed: int = 0) -> Array:
    """Make n arrays of noise, (n, *shape); noise cannot be compressed."""
    generator = np.random.default_rng(seed)
    if dtype == "int32":
        return generator.integers(0, TOKENS, (n, *shape), np.int32)
    noise = generator.integers(0, 256, (n, *shape), np.uint8)
    return noise if dtype == "uint8" else (noise / np.float32(255)).astype(dtype)


def chunks_of(arrays: Array, bundle: Bundle | None = None) -> list[Chunk]:
    """Cut arrays as `pypredict load` does, with labels: for the bundle's model, or for no model with ten classes."""
    identity = NO_MODEL if bundle is None else Preparation(bundle.manifest).identity
    classes = tuple("0123456789") if bundle is None else bundle.manifest.classes
    labels = (np.arange(len(arrays)) % len(classes)).astype(np.int32)
    return list(cut(arrays, labels, classes=classes, source="bench", **identity))


def saved(array: Array) -> bytes:
    """Encode an array with np.save, as most programs do."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def loaded(payload: bytes | memoryview) -> Array:
    """Decode an array with np.load, as most programs do."""
    array: Array = np.load(io.BytesIO(payload))
    return array


def rows_of(chunk_id: int, chunk: Chunk) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield a chunk's rows of ml.input as Python values; np.save encodes the payloads."""
    assert chunk.labels is not None  # noqa: S101 - for the type checker
    for sample_no, (array, label) in enumerate(zip(chunk.arrays, chunk.labels.tolist(), strict=True)):
        yield chunk_id, sample_no, label, saved(array)


def psql() -> str | None:
    """Find psql; if it is missing, print that the ways with psql are left out."""
    found = shutil.which("psql")
    if found is None:
        print(
            "psql (package postgresql-client) is missing: the ways that need it are left out",
            file=sys.stderr,
        )
    return found


def server_seconds() -> float:
    """Add up the processor seconds of all processes of the server, also of those that ended (Linux)."""
    postmaster = Path(os.environ["POSTMASTER"]).read_text().split()[0]
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            fields = path.read_text().rsplit(")", 1)[1].split()  # from field 3 of proc(5) on
            if path.parent.name == postmaster:
                ticks += sum(map(int, fields[11:15]))  # its own, and those of its processes that ended
            elif fields[1] == postmaster:
                ticks += sum(map(int, fields[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")
