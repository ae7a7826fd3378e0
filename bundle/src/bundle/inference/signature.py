"""What a `model.tflite` takes and gives, for its writer and its readers."""

from dataclasses import dataclass

ROWS = 64  # rows a call; among the fastest of 32 to 256 (docs/benchmarks.md)
INPUT, OUTPUT = "inputs", "probabilities"
# The signatures of a file by name, with the numbers of rows that they take; -1 is any number. A recurrent layer works
# in the interpreter only with a fixed number of rows.
ANY_ROWS = {"rows": -1}
FIXED_ROWS = {"rows_64": ROWS, "rows_1": 1}


@dataclass(frozen=True)
class Signature:
    """What a model takes and gives: dtype and shape of one input (without the batch axis), and its classes."""

    dtype: str
    shape: tuple[int, ...]
    n_classes: int
