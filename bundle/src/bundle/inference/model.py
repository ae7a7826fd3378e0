"""Load a bundle's model and call it: the same code for the trainer's evaluation and for serving."""

import gc
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bundle import BundleError
from bundle.manifest import MODEL_FILE
from bundle.publish import file_sha256
from bundle.verify import Bundle, check_h5

if TYPE_CHECKING:
    import keras

Call = Callable[[npt.NDArray[np.generic]], npt.NDArray[np.generic]]

GREETING = (b"before absl::InitializeLog()", b"oneDNN custom operations are on", b"cpu_feature_guard")
BATCH_SIZE = 128  # rows a call; among the fastest of 64 to 1,024 for a small CNN on two cores (docs/benchmarks.md)
# Calls at the same time: each operation waits for its slowest thread, and when the database has taken one of the cores,
# the others are idle without a second call to work on.
CALLS = 2


def start_keras() -> None:
    """Import Keras on TensorFlow (seconds) and keep what they say of themselves off the terminal."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    if "keras" not in sys.modules:
        with _without_greeting(), _without_collection():
            import keras  # noqa: F401
        # Each save calls .h5 "legacy", which is the contract here; a second model in a process is a "retracing".
        for library in ("absl", "tensorflow"):
            logging.getLogger(library).setLevel(logging.ERROR)


@contextmanager
def _without_collection() -> Iterator[None]:
    """Look for no garbage among the half million objects of an import, then or later: a fifth of its time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


@contextmanager
def _without_greeting() -> Iterator[None]:
    """Drop TensorFlow's greeting, which C++ writes to file descriptor 2 before any logger exists; keep all else."""
    sys.stderr.flush()
    shown = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(shown, 2)
            held.seek(0)
            kept = [line for line in held if not any(part in line for part in GREETING)]
            os.write(shown, b"".join(kept))
            os.close(shown)


def load_model(bundle: Bundle) -> "keras.Model":
    """Load model.h5 from a private copy that was verified, and try it on one sample of the manifest's shape.

    Imports Keras (seconds). Raises BundleError when the copy's hash, structure or output is not as promised.
    """
    manifest = bundle.manifest
    with tempfile.TemporaryDirectory(prefix="model-") as directory:
        private = Path(directory) / MODEL_FILE
        try:
            shutil.copyfile(bundle.path / MODEL_FILE, private)
        except OSError as error:
            raise BundleError(
                f"{bundle.path / MODEL_FILE} cannot be copied to {tempfile.gettempdir()} ({error.strerror}); "
                "make room there, or set TMPDIR"
            ) from error
        if file_sha256(private) != bundle.model_sha256:
            raise BundleError(f"{bundle.path / MODEL_FILE} changed while it was being read; restore or retrain it")
        check_h5(private)
        start_keras()
        import keras

        try:
            model = keras.models.load_model(private, compile=False, safe_mode=True)
        except Exception as error:  # Keras raises whatever its layers raise; the file is at fault either way
            raise BundleError(f"{bundle.path / MODEL_FILE} does not load in Keras: {error}") from error
    sample = np.zeros((1, *manifest.input.shape), manifest.input.dtype)
    try:
        predict_probabilities(model, sample, len(manifest.classes))
    except Exception as error:
        raise BundleError(f"{bundle.path / MODEL_FILE} cannot predict {manifest.input}: {error}") from error
    return model


def predict_probabilities(
    model: "keras.Model", arrays: npt.NDArray[np.generic], n_classes: int
) -> npt.NDArray[np.float32]:
    """Predict class probabilities.

    arrays: (n, ...) as the manifest's input says, raw. Returns (n, n_classes) float32; a single sigmoid p becomes
    (1 - p, p). Raises BundleError when the model's output has another width.
    """
    call = _compiled(model, arrays)
    parts = [arrays[start : start + BATCH_SIZE] for start in range(0, len(arrays), BATCH_SIZE)]
    if len(parts) == 1:
        found = [call(parts[0])]  # a thread of its own would cost half a millisecond
    else:
        with ThreadPoolExecutor(CALLS, "predict") as threads:
            found = list(threads.map(call, parts))
    outputs = np.concatenate(found).astype(np.float32, copy=False)
    if n_classes == 2 and outputs.shape[1:] == (1,):
        outputs = np.hstack([1 - outputs, outputs])
    if outputs.shape != (len(arrays), n_classes):
        raise BundleError(
            f"the model gives shape {outputs.shape[1:]} per input, {n_classes} classes need ({n_classes},)"
        )
    return outputs


def _compiled(model: "keras.Model", arrays: npt.NDArray[np.generic]) -> Call:
    """Give the model as one TensorFlow function, traced once for every number of rows, and kept with the model.

    Keras's predict_on_batch gives the same numbers, but traces anew for the first two numbers of rows that it meets,
    and each of its calls costs an eighth of a millisecond more.
    """
    import tensorflow as tf

    wanted = tf.TensorSpec((None, *arrays.shape[1:]), arrays.dtype)
    kept = getattr(model, "_compiled_for", None)
    if kept is None or kept[0] != wanted:
        function = tf.function(lambda rows: model(rows, training=False)).get_concrete_function(wanted)
        kept = model._compiled_for = wanted, lambda part: function(tf.constant(part)).numpy()
    call: Call = kept[1]
    return call
