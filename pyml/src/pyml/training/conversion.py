"""`model.tflite`: the model as LiteRT serves it, made from the Keras model that model.h5 gives back.

What the service will do with the model is decided here: the same interpreter measures it on the test set.
"""

import re
import tempfile
from typing import TYPE_CHECKING, Any

import numpy as np

from bundle.inference.signature import ANY_ROWS, FIXED_ROWS, INPUT, OUTPUT
from bundle.manifest import InputSpec
from bundle.messages import one_line
from bundle.quiet import without_stderr
from pyml import PymlError
from pyml.evaluation.metrics import Probabilities
from pyml.keras_library import hide_warnings

if TYPE_CHECKING:
    import keras

TOLERANCE = 1e-5  # of a probability; the allowed layers stay within 2e-6 (tests/training/test_layers.py)


def convert_model(model: "keras.Model", spec: InputSpec) -> bytes:
    """Convert a Keras model to the bytes of a model.tflite, for any number of rows, or for fixed ones.

    Changes the model: dropout of its recurrent layers is gone. Raises PymlError where LiteRT cannot run the model.
    """
    import keras
    import tensorflow as tf

    recurrent = False
    for layer in model._flatten_layers():
        recurrent |= isinstance(layer, keras.layers.RNN)
        if hasattr(layer, "recurrent_dropout"):
            # Keras draws the masks of a recurrent layer in inference, too, and does not use them.
            cell = getattr(layer, "cell", layer)
            cell.dropout = cell.recurrent_dropout = 0
    signatures = {
        name: _frozen(model, tf.TensorSpec((None if rows == -1 else rows, *spec.shape), spec.dtype, name=INPUT))
        for name, rows in (FIXED_ROWS if recurrent else ANY_ROWS).items()
    }
    try:
        with tempfile.TemporaryDirectory() as directory, without_stderr():
            # A converter of functions takes one; a saved model may hold several, which share their weights.
            options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
            tf.saved_model.save(tf.Module(), directory, signatures=signatures, options=options)
            converter = tf.lite.TFLiteConverter.from_saved_model(directory, signature_keys=list(signatures))
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
            content: bytes = converter.convert()
    except Exception as error:  # the converter raises errors of many kinds
        unknown = re.search(r"TF Select ops: ([\w, ]+)|fused\[\"(\w+):\"", str(error))
        found = f"LiteRT has no {(unknown[1] or unknown[2]).strip()}" if unknown else one_line(error)
        raise PymlError(f"the model cannot be served: {found}; use another layer or other arguments") from error
    finally:
        hide_warnings()  # the converter shows them again
    return content


def _frozen(model: "keras.Model", wanted: Any) -> Any:
    """Give the model as a TensorFlow function of the wanted input, its weights made constants."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    function = tf.function(lambda inputs: model(inputs, training=False)).get_concrete_function(wanted)
    frozen = convert_variables_to_constants_v2(function)
    return tf.function(lambda inputs: {OUTPUT: frozen(inputs)[0]}).get_concrete_function(wanted)


def check_conversion(kept: Probabilities, served: Probabilities) -> None:
    """Compare what Keras and LiteRT say of the same samples, both (n, k).

    Raises PymlError where a probability differs by more than TOLERANCE, or a class does and the two best of its
    probabilities do not lie within TOLERANCE.
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
