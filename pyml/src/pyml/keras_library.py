"""Import Keras on TensorFlow, and hide their start-up lines and warnings."""

import gc
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from bundle.quiet import without_stderr

GREETING = (b"before absl::InitializeLog()", b"oneDNN custom operations are on", b"cpu_feature_guard")


def start_keras() -> None:
    """Import Keras on TensorFlow (seconds)."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    if "keras" not in sys.modules:
        with without_stderr(GREETING), _without_collection():
            import keras  # noqa: F401
        hide_warnings()


def hide_warnings() -> None:
    """Hide warnings that our users cannot act on: each save calls .h5 "legacy", a second model is a "retracing"."""
    for library in ("absl", "tensorflow"):
        logging.getLogger(library).setLevel(logging.ERROR)


@contextmanager
def _without_collection() -> Iterator[None]:
    """Stop the garbage collector during an import, and exclude its half million objects later: saves a fifth."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
