"""Build the Keras model of an experiment. An error of Keras becomes one sentence that names the layer."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bundle.messages import one_line
from pyml import PymlError
from pyml.datasets.dataset import Dataset
from pyml.experiment.experiment import Experiment, Layer, Loss, Metric

if TYPE_CHECKING:
    import keras


# Batches per call of TensorFlow. 16 makes an epoch of mnist_cnn 10 % faster, and Ctrl-C still works soon.
STEPS = 16


def build_model(experiment: Experiment, dataset: Dataset) -> "keras.Model":
    """Build and compile the model. Its input are raw samples. Raises PymlError.

    Layers are added one by one to a known input shape. So an unknown argument, or a pooling layer with an empty output,
    is found here and not in the first epoch. The layers' names contain their positions. Keras's own names contain a
    counter of the process, so a second model would have other names, and model.h5 other bytes.
    """
    import keras

    model = keras.Sequential(name="model")
    model.add(keras.Input(dataset.input.shape, dtype=dataset.input.dtype, name="input"))
    for index, layer in enumerate(experiment.layers):
        try:
            model.add(_build_layer(layer, f"layer{index}"))
        except Exception as error:  # layers raise errors of many kinds; the cause is always the experiment
            raise PymlError(f"layers.{index}, {layer}: {one_line(error)}") from error
        if 0 in model.output_shape:
            raise PymlError(f"layers.{index}, {layer}: its output is empty, with shape {model.output_shape[1:]}")
    units = experiment.layers[-1].arguments.get("units")
    if model.output_shape != (None, units):
        raise PymlError(
            f"the model's output has shape {model.output_shape[1:]} per sample, ({units},) is needed; flatten or pool "
            "before the last layers"
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


def _build_layer(layer: Layer, place: str) -> "keras.layers.Layer":
    import keras

    name = f"{place}_{layer.layer.lower()}"
    inner = [] if layer.inner is None else [_build_layer(layer.inner, name)]
    built: keras.layers.Layer = getattr(keras.layers, layer.layer)(*inner, **{"name": name, **layer.arguments})
    return built


def _metric(name: Metric) -> "str | keras.metrics.Metric":
    import keras

    return name if name == "accuracy" else getattr(keras.metrics, name)(name=name.lower())


def encode_labels(y: npt.NDArray[np.int64], loss: Loss, n_classes: int) -> npt.NDArray[np.generic]:
    """Encode labels for the loss. With a wrong encoding a model would train without an error and learn nothing.

    y: (n,) int64. Returns (n,) int64 for sparse, (n, n_classes) float32 for categorical, (n, 1) float32 for binary.
    """
    if loss == "categorical_crossentropy":
        return np.eye(n_classes, dtype=np.float32)[y]
    if loss == "binary_crossentropy":
        return y[:, np.newaxis].astype(np.float32)
    return y
