"""Ray Data: read arrays from PostgreSQL with read_sql, predict them with map_batches, store them with write_sql.

    MODEL=model.tflite PGHOST=... ray_data.py

Reads ml.input, and writes a table of its own without any constraint. Prints the seconds, and what is stored, as JSON.
The start of Ray does not count.
"""

import io
import json
import os
import time
from typing import Any

import numpy as np
import psycopg2
import ray
from ai_edge_litert.interpreter import Interpreter


class Predictor:
    """An actor with the model."""

    def __init__(self) -> None:
        self.runner = Interpreter(os.environ["MODEL"], num_threads=1).get_signature_runner()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Predict a batch of rows."""
        images = np.stack([np.load(io.BytesIO(payload)) for payload in batch["payload"]])
        probabilities = self.runner(inputs=images)["probabilities"]
        return {
            "input_id": batch["input_id"],
            "class_no": probabilities.argmax(axis=1),
            "score": probabilities.max(axis=1),
            "probs": probabilities.tolist(),
        }


def connect() -> Any:
    """Connect as the owner of the database, by PGHOST and the other variables."""
    return psycopg2.connect(user="ml_owner")


def run(sql: str) -> Any:
    """Run one statement and return its first row, if it has rows."""
    with connect() as connection, connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone() if cursor.description else None


if __name__ == "__main__":
    run("DROP TABLE IF EXISTS ray_prediction")
    run("CREATE TABLE ray_prediction (input_id bigint, class_no int, score real, probs real[])")
    ray.init(num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False)
    began = time.perf_counter()
    dataset = ray.data.read_sql("SELECT input_id, payload FROM ml.input", connect)
    predicted = dataset.map_batches(Predictor, batch_size=256, compute=ray.data.ActorPoolStrategy(size=1))
    predicted.write_sql("INSERT INTO ray_prediction VALUES (%s, %s, %s, %s)", connect)
    seconds = time.perf_counter() - began
    rows, first_class = run("SELECT count(*), sum(probs[1]) FROM ray_prediction")
    print(json.dumps({"predict": seconds, "rows": rows, "first_class": first_class}))
