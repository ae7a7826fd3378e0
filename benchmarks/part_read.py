"""Rows to arrays: every way reads the same chunks of ml.input and makes one array of each chunk."""

import asyncio
import os
import re
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import adbc_driver_postgresql.dbapi
import asyncpg
import numpy as np
import psycopg
import psycopg2
import sqlalchemy as sa

import environment
import timing
from page import Goal, Part
from pypredict import store
from pypredict.codec import Array
from pypredict.load import load_chunks
from pypredict.store import StoredChunk

SELECT = "SELECT payload FROM ml.input WHERE chunk_id = {:d} ORDER BY sample_no"
COPY = (
    "COPY (SELECT input_id, payload FROM ml.input WHERE chunk_id = {:d} ORDER BY sample_no) TO STDOUT (FORMAT binary)"
)
DRAINS = "COPY drained by psycopg2", "COPY drained by psql"
Chunks = list[Array]

ABOUT = (
    "Every way reads the same chunks, each with at most 1,000 inputs and 8 MiB, and makes one array (n, ...) of "
    "each. The other programs call `np.load` for each row and then `np.stack`. `this` makes a view of the checked "
    "stream, as the worker does. A drained COPY is the same COPY, written to /dev/null without parsing."
)


def measure(rounds: int) -> Part:
    """Read the chunks of each shape with every way."""
    part = Part("2. Rows to arrays", ABOUT)
    for name, (shape, dtype, n) in environment.SHAPES.items():
        seconds = _measure_shape(environment.random_arrays(n, shape, dtype), rounds)
        peer = min(seconds.keys() - {"this", *DRAINS}, key=lambda way: -timing.rate(seconds[way], n))
        drain = max(seconds.keys() & set(DRAINS), key=lambda way: timing.rate(seconds[way], n))
        beside_peer = timing.ratio(seconds, "this", peer)
        wanted = 10 if name == "28x28 uint8" else 1
        limit = f"A drained COPY is {timing.ratio(seconds, drain, peer):.2f} times as fast as that program."
        part.goals.append(Goal(f"{name}, beside the best other program, {peer}", wanted, beside_peer, limit=limit))
        if name == "28x28 uint8":
            beside = timing.ratio(seconds, "this", drain)
            limit = "psycopg2 calls Python for each row of a COPY; psql does not."
            part.goals.append(Goal(f"{name}, beside {drain}", 0.85, beside, limit=limit))
        part.tables.append(timing.table(f"{n:,} × {name}", seconds, n))
    return part


def _measure_shape(arrays: Array, rounds: int) -> dict[str, list[float]]:
    admin, engine = environment.owner(), environment.service()
    environment.clear(admin)
    chunks = environment.chunks_of(arrays)
    ids = load_chunks(engine, "bench", iter(chunks), None)
    with admin.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE ml.input")
    stored = [
        StoredChunk(chunk_id, len(chunk.arrays), arrays.dtype.name, arrays.shape[1:], labelled=True)
        for chunk_id, chunk in zip(ids, chunks, strict=True)
    ]
    ways: dict[str, Callable[[], Chunks]] = {
        "this": lambda: _ours(engine, stored),
        "psycopg2": _psycopg2(ids),
        "psycopg 3, binary": _psycopg3(ids),
        "psycopg 3 COPY": _psycopg3_copy(ids),
        "asyncpg": _asyncpg(ids),
        "ADBC": _adbc(ids),
        "SQLAlchemy": lambda: _sqlalchemy(engine, ids),
    }
    for name, read in ways.items():  # also the warm-up
        if not np.array_equal(np.concatenate(read()), arrays):
            raise SystemExit(f"{name} did not read the arrays that were stored")
    drains: dict[str, timing.Way] = {DRAINS[0]: _drain(ids)}
    if environment.psql():
        drains[DRAINS[1]] = _psql(ids)
    timed: dict[str, timing.Way] = {name: lambda read=read: timing.untimed(read()) for name, read in ways.items()}  # type: ignore[misc]
    seconds = timing.interleave(timed | drains, rounds)
    engine.dispose()
    return seconds


def _ours(engine: sa.Engine, stored: list[StoredChunk]) -> Chunks:
    found = []
    for chunk in stored:
        with engine.begin() as connection:
            found.append(store.read_inputs(connection, chunk).arrays)
    return found


def _stack(payloads: Iterable[bytes | memoryview]) -> Array:
    return np.stack([environment.loaded(payload) for payload in payloads])


def _psycopg2(ids: list[int]) -> Callable[[], Chunks]:
    connection = psycopg2.connect("")
    connection.autocommit = True

    def read(chunk_id: int) -> Array:
        with connection.cursor() as cursor:
            cursor.execute(SELECT.format(chunk_id))
            return _stack(payload for (payload,) in cursor)

    return lambda: [read(chunk_id) for chunk_id in ids]


def _psycopg3(ids: list[int]) -> Callable[[], Chunks]:
    connection = psycopg.connect("", autocommit=True)

    def read(chunk_id: int) -> Array:
        with connection.cursor(binary=True) as cursor:
            return _stack(row[0] for row in cursor.execute(SELECT.format(chunk_id).encode()))

    return lambda: [read(chunk_id) for chunk_id in ids]


def _psycopg3_copy(ids: list[int]) -> Callable[[], Chunks]:
    connection = psycopg.connect("", autocommit=True)

    def read(chunk_id: int) -> Array:
        with connection.cursor() as cursor, cursor.copy(COPY.format(chunk_id).encode()) as copy:
            copy.set_types(["int8", "bytea"])
            return _stack(payload for _, payload in copy.rows())

    return lambda: [read(chunk_id) for chunk_id in ids]


def _asyncpg(ids: list[int]) -> Callable[[], Chunks]:
    loop = asyncio.new_event_loop()
    connection = loop.run_until_complete(asyncpg.connect())

    def read(chunk_id: int) -> Array:
        return _stack(row[0] for row in loop.run_until_complete(connection.fetch(SELECT.format(chunk_id))))

    return lambda: [read(chunk_id) for chunk_id in ids]


def _adbc(ids: list[int]) -> Callable[[], Chunks]:
    connection = adbc_driver_postgresql.dbapi.connect("postgresql://", autocommit=True)

    def read(chunk_id: int) -> Array:
        with connection.cursor() as cursor:
            cursor.execute(SELECT.format(chunk_id))
            return _stack(value.as_buffer() for value in cursor.fetch_arrow_table().column(0))

    return lambda: [read(chunk_id) for chunk_id in ids]


def _sqlalchemy(engine: sa.Engine, ids: list[int]) -> Chunks:
    found = []
    for chunk_id in ids:
        with engine.begin() as connection:
            found.append(_stack(connection.execute(sa.text(SELECT.format(chunk_id))).scalars()))
    return found


def _drain(ids: list[int]) -> Callable[[], None]:
    connection: Any = psycopg2.connect("")
    connection.autocommit = True

    def run() -> None:
        for chunk_id in ids:
            with connection.cursor() as cursor, Path(os.devnull).open("wb") as nowhere:
                cursor.copy_expert(COPY.format(chunk_id), nowhere)

    return run


def _psql(ids: list[int]) -> Callable[[], float]:
    query = COPY.replace("COPY", "\\copy").replace("STDOUT", f"'{os.devnull}'")
    script = "\n".join(["\\timing on"] + [query.format(chunk_id) for chunk_id in ids])

    def run() -> float:
        done = subprocess.run(["psql", "-XqAt"], input=script, capture_output=True, text=True, check=True)
        found = [float(ms) for ms in re.findall(r"Time: ([\d.]+) ms", done.stdout)]
        if len(found) != len(ids):
            raise SystemExit(f"psql: {done.stderr}")
        return sum(found) / 1000

    return run
