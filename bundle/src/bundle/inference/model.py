"""Load a bundle's model and call it. The trainer's evaluation and the predict service use the same code."""

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

STARTUP_LINES = (b"before absl::InitializeLog()", b"oneDNN custom operations are on", b"cpu_feature_guard")
BATCH_SIZE = 128  # rows per call; one of the fastest sizes for a small CNN on two cores (docs/benchmarks.md)
# Calls at the same time. Each operation waits for its slowest thread. When the database uses one of the cores, the
# other cores have no work unless there is a second call.
PARALLEL_CALLS = 2


def start_keras() -> None:
    """Import Keras on TensorFlow (this takes seconds) and hide their start-up lines."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    if "keras" not in sys.modules:
        with _without_startup_lines(), _without_collection():
            import keras  # noqa: F401
        # They warn at each save that .h5 is "legacy" (it is our contract), and at a second model about "retracing".
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


@contextmanager
def _without_startup_lines() -> Iterator[None]:
    """Hide TensorFlow's start-up lines; C++ writes them to file descriptor 2 before any logger exists."""
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
            kept = [line for line in held if not any(part in line for part in STARTUP_LINES)]
            os.write(shown, b"".join(kept))
            os.close(shown)


def load_model(bundle: Bundle) -> "keras.Model":
    """Copy model.h5, verify the copy, load it, and predict one sample of the manifest's shape.

    Imports Keras (this takes seconds). Raises BundleError when the hash, the structure or the output is wrong.
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
        except Exception as error:  # layers raise errors of any class; the cause is always the file
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

    arrays: (n, ...) raw, with the shape and dtype of the manifest's input. Returns (n, n_classes) float32. A single
    sigmoid output p becomes (1 - p, p). Raises BundleError when the model's output has another width.
    """
    call = _compiled(model, arrays)
    parts = [arrays[start : start + BATCH_SIZE] for start in range(0, len(arrays), BATCH_SIZE)]
    if len(parts) == 1:
        found = [call(parts[0])]  # a thread costs half a millisecond
    else:
        with ThreadPoolExecutor(PARALLEL_CALLS, "predict") as threads:
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
    """Return the model as one TensorFlow function. It is traced once for all numbers of rows, and kept in the model.

    Keras's predict_on_batch gives the same probabilities, but it is slower: it traces again for the first two numbers
    of rows, and each call takes an eighth of a millisecond more.
    """
    import tensorflow as tf

    wanted = tf.TensorSpec((None, *arrays.shape[1:]), arrays.dtype)
    kept = getattr(model, "_compiled_for", None)
    if kept is None or kept[0] != wanted:
        function = tf.function(lambda rows: model(rows, training=False)).get_concrete_function(wanted)
        kept = model._compiled_for = wanted, lambda part: function(tf.constant(part)).numpy()
    call: Call = kept[1]
    return call
