"""Arrays to rows: every way stores the same chunks in ml.chunk and ml.input, with one transaction for each chunk."""

import asyncio
import dataclasses
import itertools
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import adbc_driver_postgresql.dbapi
import asyncpg
import psycopg
import psycopg2.extras
import pyarrow as pa
import sqlalchemy as sa

import environment
import timing
from page import Goal, Part
from pypredict import load, schema
from pypredict.binary_copy import input_stream
from pypredict.chunk import Chunk

CHUNK_COLUMNS = "dataset, prep_sha256, first_row, n_inputs, dtype, shape, classes, source, content_sha256".split(", ")
ADD_CHUNK = f"INSERT INTO ml.chunk ({', '.join(CHUNK_COLUMNS)}) VALUES ({{}}) RETURNING chunk_id"
ADD_CHUNK_PSYCOPG = ADD_CHUNK.format(", ".join(["%s"] * 9))
NAMES = ", ".join(environment.COLUMNS)
INSERT = f"INSERT INTO ml.input ({NAMES}) VALUES (%s, %s, %s, %s)"
COPY = f"COPY ml.input ({NAMES}) FROM STDIN (FORMAT binary)"
NAIVE, FIRST = "INSERT per row", "INSERT and COMMIT per row"
ONE, LIMIT = "this, one connection", "psql \\copy of ready bytes"
FIRST_ROWS = 1_000  # measured; the time of all rows is estimated from these

ABOUT = (
    "Every way stores the same chunks of arrays in memory, with at most 1,000 inputs and 8 MiB in a transaction, "
    f"into the same tables with all their constraints. `this` is the way of `pypredict load`, with {load.WRITERS} "
    "connections; all other ways have one. The other programs encode with `np.save`. "
    f"`{NAIVE}` commits once for each chunk. `{FIRST}` is the first script that most people write; it is measured "
    f"on {FIRST_ROWS:,} rows and multiplied. `{LIMIT}` sends files that already hold the COPY stream, so it does "
    "not encode or hash; its time is that of psql's `\\timing`, without start and login."
)


def measure(rounds: int) -> Part:
    """Store the chunks of each shape with every way."""
    part = Part("1. Arrays to rows", ABOUT)
    goals = {"28x28 uint8": (20, 20, 3, 1.5), "128x128x3 uint8": (None, None, 1.1, None)}
    why, most = _server_share(environment.random_arrays(20_000, (28, 28, 1), "uint8"), rounds)
    for name, (shape, dtype, n) in environment.SHAPES.items():
        seconds = _measure_shape(environment.random_arrays(n, shape, dtype), rounds)
        peer = min(seconds.keys() - {"this", ONE, NAIVE, FIRST, LIMIT}, key=lambda way: -timing.rate(seconds[way], n))
        first, naive, best, ready = goals.get(name, (None, None, 1, None))
        for wanted, other in ((first, FIRST), (naive, NAIVE), (best, peer), (ready, LIMIT)):
            if wanted and other in seconds:
                what = f"{name}, beside {'the best other program, ' if other == peer else ''}{other}"
                at_most = most / timing.rate(seconds[other], n)
                limit = f"With all cores always busy, at most {at_most:.2f} ×." if name == "28x28 uint8" else ""
                part.goals.append(Goal(what, wanted, timing.ratio(seconds, "this", other), limit=limit))
        part.tables.append(timing.table(f"{n:,} × {name}", seconds, n))
    part.remarks = [why]
    return part


def _server_share(arrays: Any, rounds: int) -> tuple[str, float]:
    """Say how client and server share the processor time of one connection, with and without the check of the chunk.

    Also returns the rows per second at which all cores would be busy.
    """
    admin, engine, chunks = environment.owner(), environment.service(), environment.chunks_of(arrays)
    spent: list[tuple[float, float]] = []
    with admin.cursor() as cursor:
        for change in ("ENABLE", "DISABLE"):
            cursor.execute(f"ALTER TABLE ml.input {change} TRIGGER USER")
            own = server = 0.0
            for _ in range(1 + rounds):
                environment.clear(admin)
                before = time.process_time(), environment.server_seconds()
                _ours(engine, chunks, 1)
                own, server = own + time.process_time() - before[0], server + environment.server_seconds() - before[1]
            rows = (1 + rounds) * len(arrays)
            spent.append((1e6 * own / rows, 1e6 * server / rows))
        environment.clear(admin)
        cursor.execute("ALTER TABLE ml.input ENABLE TRIGGER USER")
    engine.dispose()
    (own, checked), (_, unchecked) = spent
    said = (
        f"One 28x28 uint8 row on one connection takes {own:.1f} µs of processor time in `pypredict load` and "
        f"{checked:.1f} µs in the server, as with any client. {checked - unchecked:.1f} µs of those check that the "
        "chunk exists."
    )
    return said, 1e6 * (os.cpu_count() or 1) / (own + checked)


def _measure_shape(arrays: Any, rounds: int) -> dict[str, list[float]]:
    admin, engine = environment.owner(), environment.service()
    chunks = environment.chunks_of(arrays)
    with tempfile.TemporaryDirectory() as directory:
        ways: dict[str, timing.Way] = {
            "this": lambda: _ours(engine, chunks, load.WRITERS),
            ONE: lambda: _ours(engine, chunks, 1),
            NAIVE: _psycopg2(chunks, _insert_each),
            "execute_values": _psycopg2(chunks, _insert_values),
            "psycopg 3 COPY": _psycopg3(chunks),
            "asyncpg": _asyncpg(chunks),
            "ADBC": _adbc(chunks),
            "SQLAlchemy": _sqlalchemy(engine, chunks),
        }
        if environment.psql():
            ways[LIMIT] = _psql(chunks, Path(directory))
        stored = set()
        for run in ways.values():  # also the warm-up
            environment.clear(admin)
            run()
            stored.add(_fingerprint(admin))
        if len(stored) != 1:
            raise SystemExit(f"the ways stored different rows: {stored}")
        ways[FIRST] = _first_script(chunks[0], sum(len(chunk.arrays) for chunk in chunks))
        seconds = timing.interleave(ways, rounds, lambda: environment.clear(admin))
    engine.dispose()
    return seconds


def _fingerprint(connection: Any) -> tuple[int, str]:
    """Count the inputs and hash their content."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*), md5(string_agg(md5(payload) || first_row || ',' || sample_no || ',' || label_no, ''"
            " ORDER BY first_row, sample_no)) FROM ml.input JOIN ml.chunk USING (chunk_id)"
        )
        row: tuple[int, str] = cursor.fetchone()
        return row


def _ours(engine: sa.Engine, chunks: list[Chunk], writers: int) -> None:
    fresh = map(dataclasses.replace, chunks)  # a chunk keeps its hash, and each run must compute it
    with mock.patch.object(load, "WRITERS", writers):
        load.load_chunks(engine, "bench", fresh, None)


def _chunk_row(chunk: Chunk) -> tuple[Any, ...]:
    """Return the columns of ml.chunk. The other programs do not hash, so content_sha256 is None."""
    return (
        chunk.dataset,
        bytes.fromhex(chunk.prep_sha256),
        chunk.first_row,
        len(chunk.arrays),
        chunk.arrays.dtype.name,
        list(chunk.arrays.shape[1:]),
        list(chunk.classes or ()),
        chunk.source,
        None,
    )


def _psycopg2(chunks: list[Chunk], insert: Callable[[Any, int, Chunk], None]) -> Callable[[], None]:
    connection = psycopg2.connect("")

    def run() -> None:
        for chunk in chunks:
            with connection, connection.cursor() as cursor:
                cursor.execute(ADD_CHUNK_PSYCOPG, _chunk_row(chunk))
                ((chunk_id,),) = cursor.fetchall()
                insert(cursor, chunk_id, chunk)

    return run


def _first_script(chunk: Chunk, n: int) -> Callable[[], float]:
    """Return a way that stores some rows, each in its own transaction, and returns the estimated seconds for n rows."""
    connection = psycopg2.connect("")

    def run() -> float:
        began = time.perf_counter()
        with connection.cursor() as cursor:
            cursor.execute(ADD_CHUNK_PSYCOPG, _chunk_row(chunk))
            ((chunk_id,),) = cursor.fetchall()
            rows = list(itertools.islice(environment.rows_of(chunk_id, chunk), FIRST_ROWS))
            for row in rows:
                cursor.execute(INSERT, row)
                connection.commit()
        return (time.perf_counter() - began) * n / len(rows)

    return run


def _insert_each(cursor: Any, chunk_id: int, chunk: Chunk) -> None:
    for row in environment.rows_of(chunk_id, chunk):
        cursor.execute(INSERT, row)


def _insert_values(cursor: Any, chunk_id: int, chunk: Chunk) -> None:
    statement = f"INSERT INTO ml.input ({NAMES}) VALUES %s"
    psycopg2.extras.execute_values(cursor, statement, environment.rows_of(chunk_id, chunk), page_size=1000)


def _psycopg3(chunks: list[Chunk]) -> Callable[[], None]:
    connection = psycopg.connect("")

    def run() -> None:
        for chunk in chunks:
            with connection.transaction(), connection.cursor() as cursor:
                cursor.execute(ADD_CHUNK_PSYCOPG, _chunk_row(chunk))
                (chunk_id,) = cursor.fetchone() or (0,)
                with cursor.copy(COPY) as copy:
                    copy.set_types(["int8", "int4", "int4", "bytea"])
                    for row in environment.rows_of(chunk_id, chunk):
                        copy.write_row(row)

    return run


def _asyncpg(chunks: list[Chunk]) -> Callable[[], None]:
    loop = asyncio.new_event_loop()
    connection = loop.run_until_complete(asyncpg.connect())
    add = ADD_CHUNK.format(", ".join(f"${n}" for n in range(1, 10)))

    async def store() -> None:
        for chunk in chunks:
            async with connection.transaction():
                rows = environment.rows_of(await connection.fetchval(add, *_chunk_row(chunk)), chunk)
                await connection.copy_records_to_table(
                    "input", schema_name="ml", columns=environment.COLUMNS, records=rows
                )

    return lambda: loop.run_until_complete(store())


def _adbc(chunks: list[Chunk]) -> Callable[[], None]:
    connection = adbc_driver_postgresql.dbapi.connect("postgresql://")
    add = psycopg2.connect("")  # ADBC has no text[] parameters, so the row of the chunk is committed first
    add.autocommit = True
    types = (pa.int64(), pa.int32(), pa.int32(), pa.binary())

    def run() -> None:
        for chunk in chunks:
            with add.cursor() as cursor:
                cursor.execute(ADD_CHUNK_PSYCOPG, _chunk_row(chunk))
                ((chunk_id,),) = cursor.fetchall()
            columns = zip(*environment.rows_of(chunk_id, chunk), strict=True)
            arrays = [pa.array(column, kind) for column, kind in zip(columns, types, strict=True)]
            with connection.cursor() as cursor:
                batch = pa.RecordBatch.from_arrays(arrays, list(environment.COLUMNS))
                cursor.adbc_ingest("input", batch, mode="append", db_schema_name="ml")
            connection.commit()

    return run


def _sqlalchemy(engine: sa.Engine, chunks: list[Chunk]) -> Callable[[], None]:
    def run() -> None:
        for chunk in chunks:
            with engine.begin() as connection:
                values = dict(zip(CHUNK_COLUMNS, _chunk_row(chunk), strict=True))
                (chunk_id,) = connection.execute(sa.insert(schema.chunk), values).inserted_primary_key or (0,)
                rows = [
                    dict(zip(environment.COLUMNS, row, strict=True)) for row in environment.rows_of(chunk_id, chunk)
                ]
                connection.execute(sa.insert(schema.input_), rows)

    return run


def _psql(chunks: list[Chunk], directory: Path) -> Callable[[], float]:
    lines = ["\\timing on"]
    with psycopg2.connect("") as connection, connection.cursor() as cursor:
        for number, chunk in enumerate(chunks, 1):
            file = directory / str(number)
            file.write_bytes(b"".join(input_stream(number, chunk.arrays, chunk.labels)))
            row = cursor.mogrify(ADD_CHUNK_PSYCOPG, _chunk_row(chunk)).decode()
            lines += ["BEGIN;", f"{row};", f"\\copy ml.input ({NAMES}) from '{file}' (format binary)", "COMMIT;"]
    script = "\n".join(lines)
    command = ["psql", "-XqAt", "-v", "ON_ERROR_STOP=1"]

    def run() -> float:
        done = subprocess.run(command, input=script, capture_output=True, text=True, check=True, env=os.environ)
        return sum(float(ms) for ms in re.findall(r"Time: ([\d.]+) ms", done.stdout)) / 1000

    return run
