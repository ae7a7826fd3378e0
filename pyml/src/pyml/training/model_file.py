"""Write the files of a model and load them again, so that the metrics are those of the published files."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bundle.inference.load import start_model
from bundle.inference.model import as_probabilities
from bundle.manifest import MODEL_FILE, SERVING_FILE, Serving
from bundle.messages import one_line
from pyml import PymlError
from pyml.datasets.dataset import Dataset, Split
from pyml.evaluation.metrics import Probabilities
from pyml.training.conversion import TOLERANCE, check_conversion, convert_model
from pyml.training.full_disk import explain_full_disk

if TYPE_CHECKING:
    import keras

BATCH_SIZE = 256  # samples a call of Keras, where no gradients are needed


@dataclass(frozen=True)
class Served:
    """How model.tflite predicts, and its probabilities (n, n_classes) for the samples of `write_model`."""

    serving: Serving
    probabilities: Probabilities


def write_model(model: "keras.Model", directory: Path, dataset: Dataset, samples: Split) -> Served:
    """Write model.h5, load it, convert the loaded model to model.tflite, and predict the samples with that file.

    Raises PymlError if model.h5 does not hold the same model (Keras's file format loses some arguments without an
    error, for example lists such as axis=[1, 2]), or if model.tflite predicts other probabilities than Keras.
    Raises it, or OSError, if a file cannot be written.
    """
    import keras

    path, n_classes = directory / MODEL_FILE, len(dataset.classes)
    try:
        with explain_full_disk(directory):
            model.save(path, include_optimizer=False)
            saved: keras.Model = keras.models.load_model(path, compile=False, safe_mode=True)
    except (OSError, PymlError):
        raise
    except Exception as error:  # Keras, h5py and HDF5 raise errors of many kinds
        raise PymlError(f"the model cannot be written to {path.name}: {one_line(error)}") from error
    some = Split(samples.x[:BATCH_SIZE], samples.y[:BATCH_SIZE])
    built, loaded = (predict_split(each, some, n_classes) for each in (model, saved))
    if not np.allclose(built, loaded, rtol=0, atol=TOLERANCE, equal_nan=True):
        raise PymlError(
            f"{path.name} gives other predictions than the model that was built, because Keras's file format loses an "
            "argument of one of the layers; write lists such as axis=[1, 2] in another way"
        )
    probabilities = predict_split(saved, samples, n_classes)
    content = convert_model(saved, dataset.input)
    with explain_full_disk(directory):
        (directory / SERVING_FILE).write_bytes(content)
    serving = start_model(content, dataset.input, n_classes)
    served = np.concatenate([serving.predict(part) for part in _parts(samples)])
    check_conversion(probabilities, served)
    return Served(Serving(rows=serving.rows), served)


def predict_split(model: "keras.Model", split: Split, n_classes: int) -> Probabilities:
    """Predict the samples of a split with Keras; (n, n_classes) float32. Raises BundleError for another width."""
    outputs = np.concatenate([model.predict_on_batch(part) for part in _parts(split)])
    return as_probabilities(outputs, n_classes)


def _parts(split: Split) -> Iterator[npt.NDArray[np.generic]]:
    return (split.x[start : start + BATCH_SIZE] for start in range(0, len(split.x), BATCH_SIZE))
