"""Write the file of a model and load it again, so that the metrics are those of the published file."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bundle import BundleError
from bundle.inference.model import BATCH_SIZE, predict_probabilities
from bundle.messages import one_line
from bundle.verify import check_h5
from pyml import PymlError
from pyml.datasets.dataset import Dataset, Split
from pyml.evaluation.metrics import Probabilities

if TYPE_CHECKING:
    import keras


def save_and_load(model: "keras.Model", path: Path, dataset: Dataset) -> "keras.Model":
    """Write model.h5 and load it as a reader does.

    Raises BundleError if readers would refuse the file. Raises PymlError if the file does not hold the same model:
    Keras's file format loses some arguments without an error, for example lists such as axis=[1, 2].
    """
    import keras

    try:
        model.save(path, include_optimizer=False)
        check_h5(path)
        saved: keras.Model = keras.models.load_model(path, compile=False, safe_mode=True)
    except (BundleError, OSError):
        raise
    except Exception as error:  # Keras, h5py and HDF5 raise errors of many kinds
        raise PymlError(f"the model cannot be written to {path.name}: {one_line(error)}") from error
    sample = Split(dataset.test.x[:BATCH_SIZE], dataset.test.y[:BATCH_SIZE])
    built, loaded = (predict_split(each, sample, len(dataset.classes)) for each in (model, saved))
    if not np.allclose(built, loaded, rtol=0, atol=1e-5, equal_nan=True):
        raise PymlError(
            f"{path.name} gives other predictions than the model that was built, because Keras's file format loses an "
            "argument of one of the layers; write lists such as axis=[1, 2] in another way"
        )
    return saved


def predict_split(model: "keras.Model", split: Split, n_classes: int) -> Probabilities:
    """Predict the samples of a split; (n, n_classes) float32. Raises BundleError if the model has another width."""
    parts = (split.x[start : start + BATCH_SIZE] for start in range(0, len(split.x), BATCH_SIZE))
    return np.concatenate([predict_probabilities(model, part, n_classes) for part in parts])
