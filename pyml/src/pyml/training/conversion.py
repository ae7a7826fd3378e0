"""Convert the Keras model that was loaded from model.h5 to a `model.tflite`, and compare their predictions."""

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bundle.inference.signature import ANY_ROWS, FIXED_ROWS, INPUT, OUTPUT
from bundle.manifest import InputSpec
from bundle.messages import one_line
from bundle.quiet import without_stderr
from pyml import PymlError
from pyml.evaluation.metrics import Probabilities
from pyml.keras_library import hide_warnings
from pyml.training.full_disk import explain_full_disk

if TYPE_CHECKING:
    import keras

TOLERANCE = 1e-5  # of a probability; the allowed layers stay within 2e-6 (tests/training/test_layers.py)


def convert_model(model: "keras.Model", spec: InputSpec) -> bytes:
    """Convert a Keras model to the bytes of a model.tflite, for any number of rows, or for the fixed numbers of rows.

    Changes the model: sets the dropout of its recurrent layers to 0. Raises PymlError when LiteRT cannot run the model,
    or when the disk of the temporary files is full.
    """
    import keras
    import tensorflow as tf

    recurrent = False
    for layer in model._flatten_layers():
        recurrent |= isinstance(layer, keras.layers.RNN)
        if hasattr(layer, "recurrent_dropout"):
            # In a prediction, too, Keras draws random masks for a recurrent layer, and then does not use them.
            cell = getattr(layer, "cell", layer)
            cell.dropout = cell.recurrent_dropout = 0
    signatures = {
        name: _frozen(model, tf.TensorSpec((None if rows == -1 else rows, *spec.shape), spec.dtype, name=INPUT))
        for name, rows in (FIXED_ROWS if recurrent else ANY_ROWS).items()
    }
    try:
        with tempfile.TemporaryDirectory() as directory, without_stderr(), explain_full_disk(Path(directory)):
            # The converter of functions takes only one. A saved model may have several, which share their weights.
            options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
            tf.saved_model.save(tf.Module(), directory, signatures=signatures, options=options)
            converter = tf.lite.TFLiteConverter.from_saved_model(directory, signature_keys=list(signatures))
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
            content: bytes = converter.convert()
    except PymlError:
        raise
    except Exception as error:  # the converter raises errors of many kinds
        unknown = re.search(r"TF Select ops: ([\w, ]+)|fused\[\"(\w+):\"", str(error))
        found = f"LiteRT has no {(unknown[1] or unknown[2]).strip()}" if unknown else one_line(error)
        raise PymlError(f"the model cannot be served: {found}; use another layer or other arguments") from error
    finally:
        hide_warnings()  # the converter shows them again
    return content


def _frozen(model: "keras.Model", wanted: Any) -> Any:
    """Return the model as a TensorFlow function for this input, with its weights as constants."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    function = tf.function(lambda inputs: model(inputs, training=False)).get_concrete_function(wanted)
    frozen = convert_variables_to_constants_v2(function)
    return tf.function(lambda inputs: {OUTPUT: frozen(inputs)[0]}).get_concrete_function(wanted)


def check_conversion(kept: Probabilities, served: Probabilities) -> None:
    """Compare the probabilities of Keras and LiteRT for the same samples, both (n, k).

    Raises PymlError when a probability differs by more than TOLERANCE, or when the predicted class differs although the
    two best probabilities are further apart than TOLERANCE.
    """
    difference = np.abs(kept - served)
    both_odd = np.isnan(kept) & np.isnan(served)
    largest = float(np.where(both_odd, 0, difference).max())
    second, best = np.sort(kept, axis=1)[:, -2:].T
    other = (kept.argmax(axis=1) != served.argmax(axis=1)) & (best - second > TOLERANCE)
    if not largest <= TOLERANCE or other.any():
        raise PymlError(
            f"the model cannot be served: LiteRT's probabilities differ from Keras's by {largest:.1e}, at most "
            f"{TOLERANCE:.0e} is allowed; use another layer or other arguments"
        )
