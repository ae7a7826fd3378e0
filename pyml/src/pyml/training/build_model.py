"""The Keras model of an experiment. Keras's own complaints become one sentence that names the layer."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bundle.messages import one_line
from pyml import PymlError
from pyml.datasets.dataset import Dataset
from pyml.experiment.experiment import Experiment, Loss, Metric

if TYPE_CHECKING:
    import keras


# Batches between two returns to Python: makes an epoch of mnist_cnn a tenth faster, while Ctrl-C is still obeyed soon.
STEPS = 16


def build_model(experiment: Experiment, dataset: Dataset) -> "keras.Model":
    """Build and compile the model, with raw samples as its input.

    Layers are added one by one to a known input shape, so an argument that Keras does not know, or a pooling that
    leaves nothing, is found here and not in the first epoch. Layers are named by their position: Keras's own counters
    would give a second model in the same process other names, and model.h5 other bytes.
    """
    import keras

    model = keras.Sequential(name="model")
    model.add(keras.Input(dataset.input.shape, dtype=dataset.input.dtype, name="input"))
    for index, layer in enumerate(experiment.layers):
        arguments = {"name": f"layer{index}_{layer.layer.lower()}", **layer.arguments}
        try:
            model.add(getattr(keras.layers, layer.layer)(**arguments))
        except Exception as error:  # Keras raises whatever its layers raise; the experiment is at fault either way
            raise PymlError(f"layers.{index}, {layer}: {one_line(error)}") from error
        if 0 in model.output_shape:
            raise PymlError(f"layers.{index}, {layer}: leaves nothing, its output has shape {model.output_shape[1:]}")
    units = experiment.layers[-1].arguments.get("units")
    if model.output_shape != (None, units):
        raise PymlError(
            f"the model gives shape {model.output_shape[1:]} per sample, ({units},) is "
            "needed; flatten or pool before the last layers"
        )
    name, arguments = experiment.optimizer.name, experiment.optimizer.arguments
    try:
        optimizer = getattr(keras.optimizers, name)(experiment.optimizer.learning_rate, **arguments)
    except Exception as error:
        raise PymlError(f"optimizer {name}: {one_line(error)}") from error
    model.compile(
        optimizer, experiment.loss, metrics=[_metric(name) for name in experiment.metrics], steps_per_execution=STEPS
    )
    return model


def _metric(name: Metric) -> "str | keras.metrics.Metric":
    import keras

    return name if name == "accuracy" else getattr(keras.metrics, name)(name=name.lower())


def encode_labels(y: npt.NDArray[np.int64], loss: Loss, n_classes: int) -> npt.NDArray[np.generic]:
    """Encode labels as the loss wants them; a wrong encoding would train without an error, and learn nothing.

    y: (n,) int64. Returns (n,) int64 for sparse, (n, n_classes) float32 for categorical, (n, 1) float32 for binary.
    """
    if loss == "categorical_crossentropy":
        return np.eye(n_classes, dtype=np.float32)[y]
    if loss == "binary_crossentropy":
        return y[:, np.newaxis].astype(np.float32)
    return y
