"""Measure what checking references costs the server: COPY of 1,000 rows a transaction into ml.prediction.

    references.py [--bin DIR] [--rounds N]

Prints the server's processor time for each row, the median of the rounds, with foreign keys, with the triggers of
db/references.sql, and without a check; and each without a second index on input_id, too. Behind
docs/decisions/references.md.
"""

import argparse
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import scene
import timing

from pypredict.binary_copy import prediction_stream
from pypredict.load import load_chunks

N, CHUNK, CLASSES = 100_000, 1_000, 10
ADD_MODEL = """
    INSERT INTO ml.model (sha256, bundle_id, dataset, prep_sha256, name, input_dtype, input_shape, classes, metrics,
                          manifest, state)
    VALUES (%s, 'm', 'bench', %s, 'm', 'uint8', '{28,28,1}', '{}', '{}', '{}', 'serving') RETURNING model_id"""
COPY = "COPY ml.prediction (model_id, input_id, in_training, class_no, score, probs) FROM STDIN (FORMAT binary)"
KEY = "ALTER TABLE ml.prediction ADD CONSTRAINT trial_{0} FOREIGN KEY ({0}_id) REFERENCES ml.{0}"
NO_KEY = "ALTER TABLE ml.prediction DROP CONSTRAINT IF EXISTS trial_{0}"
CHECKS = {
    "foreign keys": ["ALTER TABLE ml.prediction DISABLE TRIGGER USER", KEY.format("model"), KEY.format("input")],
    "triggers": ["ALTER TABLE ml.prediction ENABLE TRIGGER USER"],
    "no check": ["ALTER TABLE ml.prediction DISABLE TRIGGER USER"],
}
INDEXES = {
    "primary key and an index on input_id": "CREATE INDEX trial ON ml.prediction (input_id)",
    "primary key only": "DROP INDEX IF EXISTS ml.trial",
}


def main() -> None:
    """Measure every way in turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--bin", type=Path, default=os.environ.get("POSTGRES_BIN") or None, help="PostgreSQL's programs"
    )
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with scene.server(options.bin) as version:
        micros = measure(options.rounds)
    print(f"PostgreSQL {version}, {timing.machine()}, {N:,} rows, median of {options.rounds}")
    for (index, check), values in micros.items():
        low, high = min(values), max(values)
        print(f"{timing.middle(values):5.1f} us a row ({low:.1f} to {high:.1f})  {check}, {index}")


def measure(rounds: int) -> dict[tuple[str, str], list[float]]:
    """Return the server's microseconds for each row, by index and check."""
    admin, engine = scene.owner(), scene.service()
    load_chunks(engine, "bench", iter(scene.chunks_of(scene.random_arrays(N, (28, 28, 1), "uint8"))), None)
    service: Any = engine.raw_connection()
    with admin.cursor() as cursor:
        cursor.execute(ADD_MODEL, (bytes(32), bytes(32)))
        (model_id,) = cursor.fetchone() or (0,)
        cursor.execute("SELECT input_id FROM ml.input ORDER BY input_id")
        input_ids = np.array(cursor.fetchall(), np.int64).reshape(-1, CHUNK)
    probabilities = np.full((CHUNK, CLASSES), 1 / CLASSES, np.float32)
    streams = [prediction_stream(model_id, ids, probabilities, None) for ids in input_ids]
    ways = [(index, check) for index in INDEXES for check in CHECKS]
    micros: dict[tuple[str, str], list[float]] = {way: [] for way in ways}
    for turn in range(rounds + 1):
        for index, check in ways[turn % len(ways) :] + ways[: turn % len(ways)]:
            with admin.cursor() as cursor:
                for statement in ("DROP INDEX IF EXISTS ml.trial", NO_KEY.format("model"), NO_KEY.format("input")):
                    cursor.execute(statement)
                scene.clear(admin, "ml.prediction")
                for statement in [INDEXES[index], *CHECKS[check]]:
                    cursor.execute(statement)
            before = scene.server_seconds()
            for stream in streams:
                service.cursor().copy_expert(COPY, io.BytesIO(stream))
                service.commit()
            if turn:  # the first turn warms up
                micros[index, check].append(1e6 * (scene.server_seconds() - before) / N)
    engine.dispose()
    return micros


if __name__ == "__main__":
    main()
