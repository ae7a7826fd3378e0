"""Input, output and numbers of rows of a `model.tflite`: the trainer writes it, the readers check it."""

from dataclasses import dataclass

ROWS = 64  # in one call; of 32 to 256 one of the fastest (docs/benchmarks.md)
INPUT, OUTPUT = "inputs", "probabilities"
# The signatures of a file: name and number of rows in a call; -1 is any number. A recurrent layer works in the
# interpreter only with a fixed number of rows.
ANY_ROWS = {"rows": -1}
FIXED_ROWS = {"rows_64": ROWS, "rows_1": 1}


@dataclass(frozen=True)
class Signature:
    """Dtype and shape of one input (without the batch axis), and the number of classes."""

    dtype: str
    shape: tuple[int, ...]
    n_classes: int
