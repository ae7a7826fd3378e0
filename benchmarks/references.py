"""Measure what the checks of references cost the server: COPY of 1,000 rows a transaction. `--help` shows the options.

Prints the server's processor time for each row of ml.prediction and of ml.input, with foreign keys, with the triggers
of db/references.sql, and without a check; for ml.prediction also with a second index, on input_id. These are the
numbers of docs/decisions/references.md.
"""

import argparse
import io
import os
from pathlib import Path
from typing import Any

import numpy as np

import environment
import timing
from pypredict.binary_copy import input_stream, prediction_stream

N, CHUNK, CLASSES = 100_000, 1_000, 10
ADD_MODEL = """
    INSERT INTO ml.model (sha256, serving_sha256, bundle_id, dataset, prep_sha256, name, input_dtype, input_shape,
                          classes, metrics, manifest, state)
    VALUES (%s, %s, 'm', 'bench', %s, 'm', 'uint8', '{28,28,1}', '{}', '{}', '{}', 'available')"""
ADD_CHUNKS = """
    INSERT INTO ml.chunk (dataset, prep_sha256, first_row, n_inputs, dtype, shape, source)
    SELECT 'bench', %s, 0, %s, 'uint8', '{28,28,1}', 'bench' FROM generate_series(1, %s)"""
COPY_PREDICTIONS = (
    "COPY ml.prediction (model_id, input_id, in_training, class_no, score, probs) FROM STDIN (FORMAT binary)"
)
COPY_INPUTS = "COPY ml.input (chunk_id, sample_no, label_no, payload) FROM STDIN (FORMAT binary)"
REFERENCES = {"prediction": ("model", "input"), "input": ("chunk",)}
INDEX = "CREATE INDEX IF NOT EXISTS second ON ml.prediction (input_id)"


def main() -> None:
    """Measure both tables and print one line for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=Path, default=os.environ.get("POSTGRES_BIN") or None)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with environment.server(options.bin) as version:
        print(f"PostgreSQL {version}, {timing.machine()}, {N:,} rows, median of {options.rounds} rounds")
        empty = "TRUNCATE ml.input, ml.prediction CASCADE"
        _show("ml.input", measure("input", COPY_INPUTS, _input_streams(), options.rounds, empty))
        streams = _prediction_streams()
        for name, index in (("ml.prediction", ""), ("ml.prediction with a second index", INDEX)):
            empty = f"TRUNCATE ml.prediction; {index}"
            _show(name, measure("prediction", COPY_PREDICTIONS, streams, options.rounds, empty))


def measure(table: str, copy: str, streams: list[bytes | bytearray], rounds: int, empty: str) -> dict[str, list[float]]:
    """Copy the streams in each way, in turns; return the server's microseconds for each row."""
    admin, service = environment.owner(), environment.service().raw_connection()
    checks = {
        "foreign keys": [f"ALTER TABLE ml.{table} DISABLE TRIGGER USER"]
        + [f"ALTER TABLE ml.{table} ADD FOREIGN KEY ({to}_id) REFERENCES ml.{to}" for to in REFERENCES[table]],
        "triggers": [],
        "no check": [f"ALTER TABLE ml.{table} DISABLE TRIGGER USER"],
    }
    undo = [f"ALTER TABLE ml.{table} DROP CONSTRAINT IF EXISTS {table}_{to}_id_fkey" for to in REFERENCES[table]]
    undo.append(f"ALTER TABLE ml.{table} ENABLE TRIGGER USER")
    micros: dict[str, list[float]] = {check: [] for check in checks}
    with admin.cursor() as cursor:
        for turn in range(rounds + 1):
            for check, statements in checks.items():
                for statement in [empty, *statements, "CHECKPOINT"]:
                    cursor.execute(statement)
                seconds = _copy(service, copy, streams)
                for statement in undo:
                    cursor.execute(statement)
                if turn:  # the first turn warms up
                    micros[check].append(1e6 * seconds / N)
    return micros


def _copy(connection: Any, copy: str, streams: list[bytes | bytearray]) -> float:
    before = environment.server_seconds()
    for stream in streams:
        connection.cursor().copy_expert(copy, io.BytesIO(stream))
        connection.commit()
    return environment.server_seconds() - before


def _input_streams() -> list[bytes | bytearray]:
    with environment.owner() as admin, admin.cursor() as cursor:
        cursor.execute(ADD_CHUNKS, (bytes(32), CHUNK, N // CHUNK))
    arrays = environment.random_arrays(CHUNK, (28, 28, 1), "uint8")
    labels = np.zeros(CHUNK, np.int32)
    return [b"".join(input_stream(number, arrays, labels)) for number in range(1, N // CHUNK + 1)]


def _prediction_streams() -> list[bytes | bytearray]:
    with environment.owner() as admin, admin.cursor() as cursor:
        cursor.execute(ADD_MODEL, (bytes(32), bytes(32), bytes(32)))
        cursor.execute(environment.ADD_DONE_JOBS)
        cursor.execute("SELECT input_id FROM ml.input ORDER BY input_id")
        input_ids = np.array(cursor.fetchall(), np.int64).reshape(-1, CHUNK)
    probabilities = np.full((CHUNK, CLASSES), 1 / CLASSES, np.float32)
    return [prediction_stream(1, ids, probabilities, None) for ids in input_ids]


def _show(table: str, micros: dict[str, list[float]]) -> None:
    for check, values in micros.items():
        print(f"{timing.middle(values):5.1f} us a row ({min(values):.1f} to {max(values):.1f})  {table}, {check}")


if __name__ == "__main__":
    main()
