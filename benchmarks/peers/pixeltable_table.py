"""Pixeltable: insert arrays into a table, then predict them in a computed column.

    MODEL=model.tflite PIXELTABLE_HOME=DIR pixeltable_table.py ARRAYS.npy

Prints the seconds of both, and what is stored, as JSON. The start of its database does not count.
"""

import json
import sys
import time

import numpy as np
import pixeltable as pxt
from pixeltable_model import predict, runner  # type: ignore[import-not-found]

images = np.load(sys.argv[1])
runner()
table = pxt.create_table("bench", {"image": pxt.Array[(28, 28, 1), np.uint8]})

began = time.perf_counter()
table.insert([{"image": image} for image in images])
inserted = time.perf_counter()
table.add_computed_column(probabilities=predict(table.image))
predicted = time.perf_counter()

stored = table.select(table.probabilities).collect()
result = {
    "load": inserted - began,
    "predict": predicted - inserted,
    "rows": len(stored),
    "first_class": float(sum(row["probabilities"][0] for row in stored)),
}
print(json.dumps(result))
