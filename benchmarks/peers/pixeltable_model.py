"""The function of the computed column, in a module of its own, as Pixeltable wants it."""

import functools
import os
from typing import Any

import numpy as np
import pixeltable as pxt
from ai_edge_litert.interpreter import Interpreter


@functools.cache
def runner() -> Any:
    """Load the model once."""
    return Interpreter(os.environ["MODEL"], num_threads=2).get_signature_runner()


@pxt.udf(batch_size=64)  # type: ignore[untyped-decorator]
def predict(
    images: pxt.func.Batch[pxt.Array[(28, 28, 1), np.uint8]],
) -> pxt.func.Batch[pxt.Array[(10,), np.float32]]:
    """Predict a batch of images."""
    return list(runner()(inputs=np.stack(images))["probabilities"])
